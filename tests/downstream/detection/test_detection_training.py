"""Detectors that are trained: which parts change, divergence, and what trials and processes add."""

import errno
import logging
import os
import resource
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from detection_samples import begin, data_of, planned, prepared, trained_detector
from torch import nn
from training_samples import CPU

from downstream.detection import training as detection_training
from downstream.detection.cost import peak_memory_gib
from downstream.detection.task import carry_out, quiet_detectron2
from downstream.detection.training import train
from downstream.detection.trial import Trial
from downstream.progress import reported
from repro.command_line.progress import ProgressBars
from repro.data.annotations.scenes_export import write_coco
from repro.errors import UserError
from repro.filesystem.files import write_bytes, write_json
from repro.randomness import Purpose, stream_seed
from repro.runs.folder import RunFolder
from repro.runs.step_files import checkpoints
from repro.scenes.dataset import Scenes
from repro.settings.choices import InputFilter
from repro.settings.detection import COCO, VOC
from repro.training.watching.hooks import DivergenceError


@pytest.mark.end_to_end
def test_everything_that_trains_moved_and_norms_were_estimated_anew(
    voc_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = prepared(tmp_path)
    trial, backbone = planned(run, folder, data_of(VOC, voc_root))
    before = begin(trial, backbone).state_dict()
    trained: dict[str, torch.Tensor] = {}
    estimate_norms = detection_training.estimate_norms

    def estimate(trial: Trial, model: nn.Module) -> None:
        trained.update({key: value.clone() for key, value in model.state_dict().items()})
        estimate_norms(trial, model)

    monkeypatch.setattr(detection_training, "estimate_norms", estimate)
    after = trained_detector(trial, backbone)["model"]
    unchanged = {key for key in before if torch.equal(after[key], before[key])}
    assert {"backbone.stem.conv1.weight", "roi_heads.res5.norm.weight"} <= set(after) - unchanged
    assert not [key for key in unchanged if key.startswith(("backbone.", "roi_heads.res5."))]
    assert trained.keys() == after.keys()
    differing = {key for key in trained if not torch.equal(trained[key], after[key])}
    assert {key.rpartition(".")[2] for key in differing} <= {"running_mean", "running_var", "num_batches_tracked"}
    assert "backbone.stem.conv1.norm.running_mean" in differing
    assert "roi_heads.res5.norm.running_var" in differing


def test_norms_are_estimated_on_batches_that_no_step_has_drawn(
    voc_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, _ = planned(*prepared(tmp_path), data_of(VOC, voc_root))
    starts: list[int] = []
    seeds: list[int] = []

    def batches(_: Trial, start: int) -> list[str]:
        starts.append(start)
        return ["first", "second"]

    def update(_: nn.Module, given: Iterable[str], count: int) -> None:
        assert count == trial.cfg.TEST.PRECISE_BN.NUM_ITER
        seeds.extend(torch.initial_seed() for _ in given)

    monkeypatch.setattr(detection_training, "training_batches", batches)
    monkeypatch.setattr(detection_training, "update_bn_stats", update)
    detection_training.estimate_norms(trial, nn.Identity())
    assert starts == [4]  # the training has steps 0 to 3
    assert seeds == [stream_seed(trial.seed, Purpose.regions, step, 0) for step in (4, 5)]


def test_trials_and_seeds_differ(voc_root: Path, tmp_path: Path) -> None:
    run, folder = prepared(tmp_path, {"detection.trials": 2})
    from downstream.detection.task import DetectionTask

    first, second = DetectionTask(VOC).plan(
        run, folder, planned(run, folder, data_of(VOC, voc_root))[1], data_of(VOC, voc_root), CPU
    )
    assert first.seed != second.seed
    other, _ = planned(replace(run, seed=5), folder, first.data)
    assert other.seed not in (first.seed, second.seed)
    assert first.path.parent == second.path.parent
    assert [trial.path.name for trial in (first, second)] == ["trial0", "trial1"]


def test_what_a_detector_begins_with_and_when_a_trained_one_is_scored_again(
    voc_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = prepared(tmp_path)
    trial, backbone = planned(run, folder, data_of(VOC, voc_root))
    begun: list[tuple[bool, int]] = []

    def build(*_: object, high_passed: bool) -> None:
        begun.append((high_passed, torch.initial_seed()))
        raise KeyboardInterrupt

    monkeypatch.setattr("downstream.detection.model.build_detector", build)
    cases = [(InputFilter(name), asked) for name in ("none", "high_pass") for asked in (False, True)]
    for input_filter, asked in cases:
        of_filter, settings = (
            replace(backbone, input_filter=input_filter),
            replace(run.detection, high_pass_input=asked),
        )
        with pytest.raises(KeyboardInterrupt):
            carry_out(trial, of_filter, settings)
    assert [high_passed for high_passed, _ in begun] == [False, False, False, True]
    assert {seed for _, seed in begun} == {stream_seed(trial.seed, Purpose.initialisation)}
    write_json(trial.scores, {**trial.scored_identity(), "scores": {"bbox_AP": 50.0}})
    assert carry_out(trial, backbone, run.detection) == {"bbox_AP": 50.0}  # without a detector to score again
    trial.final.touch()
    with pytest.raises(KeyboardInterrupt):
        carry_out(trial, backbone, run.detection)
    write_bytes(trial.detections, b"")
    assert carry_out(trial, backbone, run.detection) == {"bbox_AP": 50.0}


def test_a_training_that_diverges_leaves_no_checkpoint(voc_root: Path, tmp_path: Path) -> None:
    run, folder = prepared(tmp_path, {"detection.base_lr": 1e30, "machine.checkpoint_every": 1})
    trial, backbone = planned(run, folder, data_of(VOC, voc_root))
    with quiet_detectron2(), pytest.raises(DivergenceError, match=r"mend: a lower detection.base_lr"):
        train(trial, begin(trial, backbone))
    for path in checkpoints(trial.path):
        state = torch.load(path, weights_only=True)["model"]
        assert all(bool(value.isfinite().all()) for value in state.values())


def reporter_of(folder: Path, metrics: Path) -> detection_training.Reporter:
    """The reporter of a training that has made three of nine steps."""
    trial: Any = SimpleNamespace(
        task=VOC, index=0, folder=RunFolder(folder), machine=SimpleNamespace(log_every=1), metrics=metrics
    )
    reporter = detection_training.Reporter(trial, ProgressBars(shown=False))
    latest = {"total_loss": (1.5, 2)}
    reporter.trainer = SimpleNamespace(iter=1, max_iter=9, storage=SimpleNamespace(latest=lambda: latest))
    reporter.before_train()
    reporter.trainer.iter = 2
    return reporter


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_metrics_that_a_full_disk_keeps_out_are_told_in_one_line(tmp_path: Path) -> None:
    """The same as in a pretraining; it used to be told as a fault of salmask's own."""
    reporter_of(tmp_path, tmp_path / "metrics.jsonl").after_step()
    assert '"total_loss": 1.5' in (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match=r"cannot write /dev/full: No space left on device; mend: free some space"):
        reporter_of(tmp_path, Path("/dev/full")).after_step()


def test_a_status_that_cannot_be_written_is_no_reason_to_lose_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(path: Path, content: object) -> None:
        raise UserError(f"cannot write {path}", mend="") from OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr("repro.runs.status.write_json", away)
    with caplog.at_level(logging.WARNING, "salmask"):
        reporter_of(tmp_path, tmp_path / "metrics.jsonl").after_step()
        with reported(RunFolder(tmp_path), "knn", "features", 2, "batches") as tell:
            tell(2)
    status = "cannot write {}; the {} goes on"
    assert caplog.messages == [
        status.format(tmp_path / "status-voc07+12.json", "training"),
        *[status.format(tmp_path / "status-knn.json", "evaluation")] * 2,
    ]


def test_memory_is_that_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    # The system's maximum survives an exec: a launcher's memory would count as the training's.
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=2**31))
    ballast = torch.ones(2**28 // 4)  # a quarter of a GiB
    assert 0.25 < peak_memory_gib(CPU) < 64
    assert ballast.numel()


def test_only_evaluating_needs_a_trained_detector(voc_root: Path, tmp_path: Path) -> None:
    run, folder = prepared(tmp_path, {"detection.evaluate_only": True})
    trial, backbone = planned(run, folder, data_of(VOC, voc_root))
    with pytest.raises(UserError, match=r"has no trained detector; mend: leave out detection.evaluate_only"):
        carry_out(trial, backbone, run.detection)
    assert not trial.path.exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_detector_learns_what_it_is_shown(tmp_path: Path) -> None:
    """Boxes and masks of four pictures, which are also scored: AP50 was 96 % for either when this was written."""
    same = Scenes("train", count=4, classes=4, size=64, seed=0, objects=2)
    root = write_coco(tmp_path / "coco", same, same)
    changes = {"detection.iterations": 120, "detection.min_size": 96, "detection.rois": 16, "detection.base_lr": 0.08}
    run, folder = prepared(tmp_path / "runs", changes)
    trial, backbone = planned(run, folder, data_of(COCO, root), COCO)
    with quiet_detectron2():
        scores = carry_out(trial, backbone, run.detection)
    assert min(scores["bbox_AP50"], scores["mask_AP50"]) > 80
