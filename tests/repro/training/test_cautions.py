"""Warnings before a training begins; no run is refused for them."""

import logging
from pathlib import Path

import pytest
from training_samples import CPU, OURS, tiny

from baselines import build_learner, resolve
from repro.runs.cautions import queue_caution
from repro.runs.folder import RunFolder
from repro.training.pretraining import pretrain


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


def test_a_training_says_it_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tiny("mocov2", {"encoder.width": 8, "optimization.epochs": 1})
    with caplog.at_level(logging.WARNING, "salmask"):
        pretrain(run, RunFolder.of(run, tmp_path), CPU, build_learner)
    assert [record.message for record in caplog.records if "moco.queue" in record.message] == [queue_caution(run, 20)]
