"""Detectors resume bit by bit, and a checkpoint that does not fit is never used."""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from detection_samples import begin, data_of, detection_words, planned, prepared, trained_detector
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.modeling import GeneralizedRCNN
from json_rows import read_rows
from places import ROOT
from training_samples import assert_same, salmask, with_random_backbone
from waiting import wait_until

from downstream.detection.cost import Cost
from downstream.detection.resume import Saver, Stopwatch, load_trained, restore
from downstream.detection.task import carry_out, quiet_detectron2
from downstream.detection.training import train
from downstream.detection.trial import Trial
from repro.errors import UserError
from repro.filesystem.files import write_json
from repro.runs.step_files import checkpoints
from repro.runs.stopping import STOP
from repro.settings.detection import VOC
from repro.training.watching.hooks import DivergenceError


@pytest.fixture(scope="module")
def undisturbed(voc_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run, folder = prepared(tmp_path_factory.mktemp("undisturbed"))
    return trained_detector(*planned(run, folder, data_of(VOC, voc_root)))


class StopBefore(HookBase):
    def __init__(self, step: int) -> None:
        self.step = step

    def before_step(self) -> None:
        if self.trainer.iter + 1 == self.step:
            raise KeyboardInterrupt


@pytest.mark.end_to_end
def test_a_resumed_training_ends_in_the_same_bits(
    undisturbed: dict[str, Any], voc_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = prepared(tmp_path)
    trial, backbone = planned(run, folder, data_of(VOC, voc_root))
    model = begin(trial, backbone)
    register = SimpleTrainer.register_hooks
    with monkeypatch.context() as patched:
        patched.setattr(SimpleTrainer, "register_hooks", lambda self, hooks: register(self, [StopBefore(4), *hooks]))
        with quiet_detectron2(), pytest.raises(KeyboardInterrupt):
            train(trial, model)
    assert [path.name for path in checkpoints(trial.path)] == ["step_00000002.pth"]
    (checkpoint,) = checkpoints(trial.path)
    torch.save({**torch.load(checkpoint, weights_only=True), "seconds": 1000.0}, checkpoint)
    torch.rand(3)  # other random draws have no influence
    with quiet_detectron2():
        cost = train(trial, begin(trial, backbone))
    content = torch.load(trial.final, weights_only=True)
    assert_same(content["model"], undisturbed["model"])
    assert 1000.0 < content["seconds"] <= cost.seconds < 1600.0  # of both attempts
    assert not checkpoints(trial.path)
    status = folder.status(trial.task)
    assert (status and status.resumed_at) == 2
    lines = read_rows(trial.path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(line["total_loss"] > 0 and line["lr"] > 0 for line in lines)


def saver_of(trial: Trial, model: GeneralizedRCNN) -> tuple[Saver, torch.optim.Optimizer, Any]:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    return Saver(trial, model, optimizer, scheduler, Stopwatch(5.0)), optimizer, scheduler


def save(saver: Saver, step: int) -> None:
    saver.trainer = type("At", (), {"iter": step - 1, "max_iter": 9})()
    saver.after_step()


def test_weights_that_are_not_finite_are_never_saved(voc_root: Path, tmp_path: Path) -> None:
    run, folder = prepared(tmp_path, {"machine.checkpoint_every": 1})
    trial, backbone = planned(run, folder, data_of(VOC, voc_root))
    model = begin(trial, backbone)
    saver, _, _ = saver_of(trial, model)
    save(saver, 1)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[0] = torch.nan
    with pytest.raises(DivergenceError, match=r"a weight of step 2 is not finite; the checkpoint of step 1 is kept"):
        save(saver, 2)
    assert [path.name for path in checkpoints(trial.path)] == ["step_00000001.pth"]


def test_a_training_that_is_asked_to_stop_saves_the_step_it_is_at(
    voc_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """USR2 comes between two checkpoints: the detector resumes from this step, not from the last checkpoint."""
    run, folder = prepared(tmp_path, {"machine.checkpoint_every": 10**6})
    trial, backbone = planned(run, folder, data_of(VOC, voc_root))
    saver, _, _ = saver_of(trial, begin(trial, backbone))
    save(saver, 2)
    assert checkpoints(trial.path) == []
    monkeypatch.setattr(STOP, "signal", int(signal.SIGUSR2))
    with pytest.raises(SystemExit) as end:
        save(saver, 3)
    assert end.value.code == 128 + signal.SIGUSR2
    assert [path.name for path in checkpoints(trial.path)] == ["step_00000003.pth"]
    save(saver, 9)  # the last one: the detector is finished and scored
    assert checkpoints(trial.path)[0].name == "step_00000009.pth"


def test_a_torn_checkpoint_gives_way_to_the_one_before(voc_root: Path, tmp_path: Path) -> None:
    run, folder = prepared(tmp_path, {"machine.checkpoint_every": 1})
    trial, backbone = planned(run, folder, data_of(VOC, voc_root))
    model = begin(trial, backbone)
    saver, optimizer, scheduler = saver_of(trial, model)
    saver.clock.started -= 100.0  # as if this attempt had begun earlier
    for step in (1, 2):
        save(saver, step)
    newest = checkpoints(trial.path)[0]
    newest.write_bytes(newest.read_bytes()[:-1000])
    (trial.path / ".step_00000003.pth.x").write_bytes(b"torn")
    step, seconds = restore(trial, model, optimizer, scheduler)
    assert (step, 105.0 <= seconds < 135.0) == (1, True)  # of earlier attempts and this one
    assert not list(trial.path.glob(".step_*"))
    for path in checkpoints(trial.path):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read; mend: delete the folder"):
        restore(trial, model, optimizer, scheduler)


def test_a_checkpoint_of_other_data_is_refused(voc_root: Path, tmp_path: Path) -> None:
    run, folder = prepared(tmp_path)
    data = data_of(VOC, voc_root)
    trial, backbone = planned(run, folder, data)
    model = begin(trial, backbone)
    content = {**trial.identity(), "model": model.state_dict(), "seconds": 1.0, "peak_memory_gib": 2.0}
    torch.save(content, trial.final)
    assert load_trained(trial, model) == Cost(1.0, 2.0)
    trial_on_less = replace(trial, data=replace(data, train=data.train[:-1]))
    message = r"is of another training: its train_data is .* to start anew, or restore the data"
    with pytest.raises(UserError, match=message):
        load_trained(trial_on_less, model)
    saver, optimizer, scheduler = saver_of(trial, model)
    save(saver, 9)
    assert restore(trial, model, optimizer, scheduler)[0] == 9
    with pytest.raises(UserError, match=message):
        restore(trial_on_less, model, optimizer, scheduler)
    write_json(trial.scores, {**trial.scored_identity(), "scores": {"bbox_AP": 50.0}})
    assert (trial.recorded_scores(), trial_on_less.recorded_scores()) == ({"bbox_AP": 50.0}, {})
    write_json(trial.scores, {**trial.scored_identity(), "scores": {"bbox_AP": None}})
    with pytest.raises(UserError, match=r"scores\.json: its score 'bbox_AP' .*; mend: remove it; the"):
        trial.recorded_scores()


NOT_TRAINED: dict[str, Callable[[dict[str, Any]], object]] = {
    "has no field 'model'": lambda content: content.pop("model"),
    "has no field 'seconds'": lambda content: content.pop("seconds"),
    "does not fit its training: Error": lambda content: content["model"].pop("backbone.stem.conv1.weight"),
    "weights that are not finite: 1 (backbone.stem.conv1.weight)": lambda content: content["model"][
        "backbone.stem.conv1.weight"
    ].fill_(torch.nan),
}


def test_a_file_that_holds_no_trained_detector_is_one_line(voc_root: Path, tmp_path: Path) -> None:
    """Some of these files used to end in a traceback, and NaN in an AP of 0."""
    run, folder = prepared(tmp_path, {"machine.checkpoint_every": 1})
    trial, backbone = planned(run, folder, data_of(VOC, voc_root))
    model = begin(trial, backbone)
    saver, optimizer, scheduler = saver_of(trial, model)
    save(saver, 1)
    (checkpoint,) = checkpoints(trial.path)
    whole = checkpoint.read_bytes()
    for said, change in NOT_TRAINED.items():
        checkpoint.write_bytes(whole)
        content = torch.load(checkpoint, weights_only=True)
        change(content)
        torch.save(content, checkpoint)
        torch.save({**content, "peak_memory_gib": 2.0}, trial.final)
        with pytest.raises(UserError, match=re.escape(said)) as refused:
            restore(trial, model, optimizer, scheduler)
        assert refused.value.mend == "remove it: the training begins anew"
        with pytest.raises(UserError, match=re.escape(said)) as refused:
            load_trained(trial, model)
        assert refused.value.mend == "remove it: the detector is trained again"


def mended(root: Path, folder: Path) -> Path:
    """A copy of VOC in which the first object of the test split is difficult."""
    shutil.copytree(root, folder)
    year = folder / "VOC2007"
    path = year / "Annotations" / f"{(year / 'ImageSets/Main/test.txt').read_text().split()[0]}.xml"
    path.write_text(path.read_text().replace("<difficult>0", "<difficult>1", 1))
    return folder


@pytest.mark.slow
def test_annotations_to_score_on_are_no_part_of_what_was_trained(voc_root: Path, tmp_path: Path) -> None:
    """If one of them is corrected, the detector is scored again, but not trained again."""
    run, folder = prepared(tmp_path / "runs")
    original, corrected = data_of(VOC, voc_root), data_of(VOC, mended(voc_root, tmp_path / "VOCdevkit"))
    trial, backbone = planned(run, folder, original)
    content = {**trial.identity(), "model": begin(trial, backbone).state_dict()}
    torch.save({**content, "seconds": 7.0, "peak_memory_gib": 99.0}, trial.final)
    stamp = trial.final.stat().st_mtime_ns
    with quiet_detectron2():
        scores = carry_out(trial, backbone, run.detection)
    assert trial.recorded_scores() == scores
    trial_corrected = replace(trial, data=corrected)
    assert trial_corrected.recorded_scores() == {}
    with quiet_detectron2():
        again = carry_out(trial_corrected, backbone, run.detection)
    assert trial.final.stat().st_mtime_ns == stamp
    assert again["training_seconds"] == scores["training_seconds"] == 7.0
    assert again["peak_memory_gib"] == scores["peak_memory_gib"] == 99.0  # not that of scoring
    assert trial_corrected.recorded_scores() == again
    assert trial.recorded_scores() == {}


CHILD = """
import sys
from repro.cli import main
sys.argv = ["salmask", "eval", {folder!r}, "--task", "voc07+12", *{words!r}]
main()
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_training_goes_on_and_ends_in_the_same_bits(tmp_path: Path) -> None:
    """It is killed by kill -9 at any moment after its first checkpoint."""
    changes = {"detection.iterations": 12, "machine.checkpoint_every": 2}
    run, undisturbed = prepared(tmp_path / "undisturbed", changes)
    killed = with_random_backbone(run, tmp_path / "killed")
    settings = [*detection_words(), *(f"{key}={value}" for key, value in changes.items())]
    assert salmask("eval", str(undisturbed.path), "--task", VOC, *settings).code == 0
    script = CHILD.format(folder=str(killed.path), words=settings)
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL)
    detection_folder = killed.path / "detection"
    wait_until(lambda: list(detection_folder.glob("*/trial0/step_*.pth")), "a checkpoint", seconds=240, every=0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(detection_folder.glob("*/trial0/step_*.pth"))
    assert not list(detection_folder.glob("*/trial0/model_final.pth"))
    assert salmask("eval", str(killed.path), "--task", VOC, *settings).code == 0
    detectors = [
        torch.load(next(folder.path.glob("detection/*/trial0/model_final.pth")), weights_only=True)["model"]
        for folder in (undisturbed, killed)
    ]
    assert_same(*detectors)
