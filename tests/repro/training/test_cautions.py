"""Warnings before a training begins; no run is refused for them."""

import logging
from pathlib import Path

import pytest
import torch
from training_samples import CPU, OURS, tiny

from baselines import build_learner, resolve
from repro.runs.folder import RunFolder
from repro.settings.cautions import queue_caution
from repro.settings.choices import Precision
from repro.training.pretraining import pretrain
from repro.training.steps.precision import precision_caution
from slurm.planning.sweep import expand, load


def test_the_papers_own_queue_is_over_half_of_the_images() -> None:
    line = queue_caution(resolve("mocov2"), 126_689)
    assert line.startswith("moco.queue=65536 is 52% of the 126689 training images")
    assert "up to 0.52 epochs ago" in line
    assert not queue_caution(resolve("mocov2", {"moco.queue": 16384}), 126_689)


def test_a_queue_as_long_as_the_data_reaches_back_an_epoch() -> None:
    assert "up to 1 epoch ago" in queue_caution(resolve("mocov2"), 65_536)


def test_a_queue_of_thousands_of_epochs_is_said_in_digits() -> None:
    line = queue_caution(resolve("mocov2"), 5)
    assert "is 1,310,720% of the 5 training images" in line
    assert "up to 13,107 epochs ago" in line


@pytest.mark.parametrize(
    ("queue", "images", "said"), [(32, 64, True), (32, 65, False), (32, 20, True), (32, None, False)]
)
def test_half_of_the_images_is_large(queue: int, images: int | None, said: bool) -> None:
    assert bool(queue_caution(tiny(OURS, {"moco.queue": queue}), images)) == said
    assert not queue_caution(tiny("simclr"), images)


@pytest.mark.parametrize(
    ("precision", "device", "has_instructions", "said"),
    [
        (Precision.bf16, "cpu", False, True),
        (Precision.bf16, "cpu", True, False),
        (Precision.fp32, "cpu", False, False),
        (Precision.bf16, "cuda", False, False),
    ],
)
def test_bf16_is_slow_on_a_cpu_without_instructions_for_it(
    precision: Precision, device: str, has_instructions: bool, said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of the demo took five times as long on such a CPU, which many laptops have, and nothing said why."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_instructions)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    line = precision_caution(precision, torch.device(device))
    assert line.endswith("; mend: optimization.precision=fp32") == bool(line) == said


def test_the_demo_is_in_fp32_for_the_sake_of_such_cpus(tmp_path: Path) -> None:
    jobs = expand(load("demo"), tmp_path, resolve, {}).jobs
    assert {job.run.optimization.precision for job in jobs if job.run} == {Precision.fp32}


def test_a_training_says_it_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tiny("mocov2", {"encoder.width": 8, "optimization.epochs": 1})
    with caplog.at_level(logging.WARNING, "salmask"):
        pretrain(run, RunFolder.of(run, tmp_path), CPU, build_learner)
    assert [record.message for record in caplog.records if "moco.queue" in record.message] == [queue_caution(run, 20)]
