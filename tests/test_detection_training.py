"""Detectors that are trained: exact on resume, whatever ends them, and the rows that come of it."""

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from detection_samples import SETTINGS, data_of, planned, prepared
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.modeling import GeneralizedRCNN
from training_samples import CPU, assert_same, refused, salmask, with_random_backbone
from waiting import wait_until

from downstream.detection import training as detection_training
from downstream.detection.cost import Cost, peak_memory_gib
from downstream.detection.model import build_detector
from downstream.detection.resume import Saver, Stopwatch, load_trained, restore
from downstream.detection.task import carry_out, quiet_detectron2
from downstream.detection.training import train
from downstream.detection.trial import Trial
from repro.backbones.checkpoint import Backbone
from repro.data.annotations.scenes_export import write_coco
from repro.errors import UserError
from repro.runs.detection import COCO, COSTS, VOC
from repro.runs.folder import RunFolder
from repro.runs.records import read
from repro.runs.stopping import STOP
from repro.scenes.dataset import Scenes
from repro.training.hooks import DivergenceError
from repro.training.resume import checkpoints
from results.collect import collect
from results.tables import render

ROOT = Path(__file__).parent.parent


def begin(trial: Trial, backbone: Backbone) -> GeneralizedRCNN:
    trial.path.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    return build_detector(trial.cfg, backbone, high_passed=False)


def trained_detector(trial: Trial, backbone: Backbone) -> dict[str, Any]:
    with quiet_detectron2():
        train(trial, begin(trial, backbone))
    return torch.load(trial.final, weights_only=True)


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
    torch.rand(3)  # what else drew numbers has no say
    content = trained_detector(trial, backbone)
    assert_same(content["model"], undisturbed["model"])
    assert not checkpoints(trial.path)
    lines = [json.loads(line) for line in (trial.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(line["total_loss"] > 0 and line["lr"] > 0 for line in lines)


def test_everything_that_trains_moved_and_norms_were_estimated_anew(
    undisturbed: dict[str, Any], voc_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = prepared(tmp_path)
    trial, backbone = planned(run, folder, data_of(VOC, voc_root))
    before = begin(trial, backbone).state_dict()
    after = undisturbed["model"]
    unchanged = {key for key in before if torch.equal(after[key], before[key])}
    assert {"backbone.stem.conv1.weight", "roi_heads.res5.norm.weight"} <= set(after) - unchanged
    assert not [key for key in unchanged if key.startswith(("backbone.", "roi_heads.res5."))]
    monkeypatch.setattr(detection_training, "estimate_norms", lambda trial, model: None)
    plain = trained_detector(trial, backbone)["model"]
    differing = {key for key in plain if not torch.equal(plain[key], undisturbed["model"][key])}
    assert {key.rpartition(".")[2] for key in differing} <= {"running_mean", "running_var", "num_batches_tracked"}
    assert "backbone.stem.conv1.norm.running_mean" in differing
    assert "roi_heads.res5.norm.running_var" in differing


def test_trials_and_seeds_differ(voc_root: Path, tmp_path: Path) -> None:
    run, folder = prepared(tmp_path, {"detection.trials": 2})
    from downstream.detection.task import DetectionTask

    first, second = DetectionTask(VOC).plan(
        run, folder, planned(run, folder, data_of(VOC, voc_root))[1], data_of(VOC, voc_root), CPU
    )
    assert first.seed != second.seed
    assert first.path.parent == second.path.parent
    assert [trial.path.name for trial in (first, second)] == ["trial0", "trial1"]


def saver_of(trial: Trial, model: GeneralizedRCNN) -> tuple[Saver, torch.optim.Optimizer, Any]:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    return Saver(trial, trial.identity(), model, optimizer, scheduler, Stopwatch(5.0)), optimizer, scheduler


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
    """USR2 comes between two checkpoints: the detector goes on from this step, and not from the last of them."""
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


def test_a_torn_checkpoint_gives_way_to_the_one_before(voc_root: Path, tmp_path: Path) -> None:
    run, folder = prepared(tmp_path, {"machine.checkpoint_every": 1})
    trial, backbone = planned(run, folder, data_of(VOC, voc_root))
    model = begin(trial, backbone)
    saver, optimizer, scheduler = saver_of(trial, model)
    for step in (1, 2):
        save(saver, step)
    newest = checkpoints(trial.path)[0]
    newest.write_bytes(newest.read_bytes()[:-1000])
    (trial.path / ".step_00000003.pth.x").write_bytes(b"torn")
    step, seconds = restore(trial, model, optimizer, scheduler)
    assert (step, seconds >= 5.0) == (1, True)
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
    torch.save({**trial.identity(), "model": model.state_dict(), "seconds": 1.0}, trial.final)
    assert load_trained(trial, model) == Cost(1.0, None)
    trial_on_less = replace(trial, data=replace(data, train=data.train[:-1]))
    message = r"is of another training: its train_data is .* to start anew, or restore the data"
    with pytest.raises(UserError, match=message):
        load_trained(trial_on_less, model)


def mended(root: Path, folder: Path) -> Path:
    """A copy of VOC in which the first object to score on is difficult."""
    shutil.copytree(root, folder)
    year = folder / "VOC2007"
    path = year / "Annotations" / f"{(year / 'ImageSets/Main/test.txt').read_text().split()[0]}.xml"
    path.write_text(path.read_text().replace("<difficult>0", "<difficult>1", 1))
    return folder


def test_annotations_to_score_on_are_no_part_of_what_was_trained(voc_root: Path, tmp_path: Path) -> None:
    """Where one is corrected, the detector is scored again, and not trained again."""
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


def test_what_an_older_version_trained_and_scored_is_known(voc_root: Path, tmp_path: Path) -> None:
    """It wrote one fingerprint of all images, those to score on among them."""
    run, folder = prepared(tmp_path)
    data = data_of(VOC, voc_root)
    trial, backbone = planned(run, folder, data)
    model = begin(trial, backbone)
    identity = {"run_id": run.id, "trial": 0, "data": data.fingerprint}
    torch.save({**identity, "model": model.state_dict(), "seconds": 1.0}, trial.final)
    trial.scores.write_text(json.dumps({**identity, "scores": {"bbox_AP": 5.0}}))
    assert load_trained(trial, model) == Cost(1.0, None)
    assert trial.recorded_scores() == {"bbox_AP": 5.0}
    on_less = replace(trial, data=replace(data, test=data.test[:-1]))
    assert on_less.recorded_scores() == {}
    with pytest.raises(UserError, match=rf"its data is {data.fingerprint}, not [0-9a-f]+; mend: delete"):
        load_trained(on_less, model)


def test_what_was_trained_before_masks_counted_is_known(coco_root: Path, tmp_path: Path) -> None:
    run, folder = prepared(tmp_path)
    data = data_of(COCO, coco_root)
    trial, _ = planned(run, folder, data)
    older = {**trial.identity(), "train_data": data.train_fingerprint_of_boxes}
    assert older != trial.identity()
    assert trial.difference(older) == ""
    assert trial.difference({**older, "train_data": "0"}).startswith("its train_data is 0, not ")


def test_a_training_that_diverges_leaves_no_checkpoint(voc_root: Path, tmp_path: Path) -> None:
    run, folder = prepared(tmp_path, {"detection.base_lr": 1e30, "machine.checkpoint_every": 1})
    trial, backbone = planned(run, folder, data_of(VOC, voc_root))
    with quiet_detectron2(), pytest.raises(DivergenceError, match=r"mend: a lower detection.base_lr"):
        train(trial, begin(trial, backbone))
    for path in checkpoints(trial.path):
        state = torch.load(path, weights_only=True)["model"]
        assert all(bool(value.isfinite().all()) for value in state.values())


def test_memory_is_that_of_this_process() -> None:
    ballast = torch.ones(2**28 // 4)  # a quarter of a GiB
    assert 0.25 < peak_memory_gib(CPU) < 64
    assert ballast.numel()


def test_only_evaluating_needs_a_trained_detector(voc_root: Path, tmp_path: Path) -> None:
    run, folder = prepared(tmp_path, {"detection.evaluate_only": True})
    trial, backbone = planned(run, folder, data_of(VOC, voc_root))
    with pytest.raises(UserError, match=r"has no trained detector; mend: leave out detection.evaluate_only"):
        carry_out(trial, backbone, run.detection)
    assert not trial.path.exists()


def words() -> list[str]:
    return [f"{key}={value}" for key, value in SETTINGS.items() if key.startswith(("detection.", "machine."))]


def test_the_whole_of_table_2_without_a_download(tmp_path: Path) -> None:
    """Both tasks on scenes, through the command, and again at no cost; the table shows them as tiny."""
    _, folder = prepared(tmp_path / "runs" / "sweep")
    outputs = {}
    for task in (VOC, COCO):
        command = salmask("eval", str(folder.path), "--task", task, "--data", "scenes", *words())
        assert command.code == 0, command.err
        outputs[task] = command.out
    rows, warnings = read(folder.results)
    assert not warnings
    values = {(row.task, row.metric): row.value for row in rows}
    assert {metric for task, metric in values if task == VOC} == {
        *("bbox_AP", "bbox_AP50", "bbox_AP75"),
        *("seconds_per_iteration", "peak_memory_gib", "training_seconds"),
    }
    assert {metric for task, metric in values if task == COCO and "AP" in metric} == {
        *("bbox_AP", "bbox_AP50", "bbox_AP75", "mask_AP", "mask_AP50", "mask_AP75"),
    }
    assert all(0 <= value <= 100 for (_, metric), value in values.items() if "AP" in metric)
    assert values[VOC, "training_seconds"] == pytest.approx(4 * values[VOC, "seconds_per_iteration"])
    protocols = {row.task: (row.protocol, row.dataset, row.split) for row in rows}
    assert protocols == {
        VOC: ("voc-frcnn-c4-24k-v1[batch=2,iterations=4,min_size=64,rois=8,trials=1]", "scenes", "test"),
        COCO: ("coco-mrcnn-c4-2x-v1[batch=2,iterations=4,min_size=64,rois=8]", "scenes", "val2017"),
    }
    assert all("detection of 4 iterations, 64 px, 8 regions" in row.scale for row in rows)
    detections = {
        task: next(row for row in rows if (row.task, row.metric) == (task, "bbox_AP")) for task in (VOC, COCO)
    }
    for task, row in detections.items():
        content = (folder.path / row.predictions).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row.predictions_sha256
        entries = json.loads(gzip.decompress(content))
        assert entries
        assert {"image_id", "category_id", "bbox", "score"} <= set(entries[0])
        assert ("segmentation" in entries[0]) == (task == COCO)
    assert {row.metric for row in rows if not row.predictions} == set(COSTS)
    pictures = sorted(path.name.partition("-v1")[0] for path in folder.gallery.iterdir())
    assert pictures == ["objects-scenes-coco-mrcnn-c4-2x", "objects-scenes-voc-frcnn-c4-24k"]
    table = render("table2", collect([tmp_path / "runs"]))
    assert table.watermark.startswith("TINY MODE")
    assert "not comparable" in table.watermark
    lines = table.records.to_dict("records")
    kinds = {"voc": ("VOC07+12 detection",), "coco": ("COCO detection", "COCO instance segmentation")}
    beside = {(line["protocol"].partition("-")[0], line["published_column"]) for line in lines}
    assert beside == {(task, f"{kind} {ap}") for task in kinds for kind in kinds[task] for ap in ("AP", "AP50", "AP75")}
    # A second call reads; without the rows it scores what is trained; without the scores as well.
    before = folder.results.read_bytes()
    started = time.monotonic()
    again = salmask("eval", str(folder.path), "--task", VOC, "--data", "scenes", *words())
    assert (again.out, folder.results.read_bytes()) == (outputs[VOC], before)
    assert time.monotonic() - started < 10
    folder.results.unlink()
    scores = next(folder.path.glob("detection/*voc*/trial0/scores.json"))
    scores.unlink()
    final = scores.with_name("model_final.pth")
    stamp = final.stat().st_mtime_ns
    assert salmask("eval", str(folder.path), "--task", VOC, *words(), "detection.evaluate_only=true").code == 0
    fresh = {row.metric: row.value for row in read(folder.results)[0]}
    assert {name: values[VOC, name] for name in fresh if "AP" in name} == {n: v for n, v in fresh.items() if "AP" in n}
    assert final.stat().st_mtime_ns == stamp
    # Rows whose detections are lost, as older versions kept none, are scored again with --again, and stay.
    kept, rows_before = folder.path / detections[VOC].predictions, folder.results.read_text()
    content = kept.read_bytes()
    kept.unlink()
    more = salmask("eval", str(folder.path), "--task", VOC, "--data", "scenes", "--again", *words())
    assert f"bbox_AP {fresh['bbox_AP']:.2f} of " in more.err
    assert (kept.read_bytes(), final.stat().st_mtime_ns) == (content, stamp)
    assert folder.results.read_text().startswith(rows_before)


def test_bad_input_ends_in_one_line(tmp_path: Path) -> None:
    _, folder = prepared(tmp_path)
    at = str(folder.path)
    nowhere = str(tmp_path / "nowhere")
    assert "nowhere" in refused("eval", at, "--task", VOC, "--data", VOC, "--root", nowhere)
    (tmp_path / "empty").mkdir()
    assert "empty" in refused("eval", at, "--task", COCO, "--data", COCO, "--root", str(tmp_path / "empty"))
    assert "detection.coco_schedule=3x is unknown; mend: one of" in refused(
        "eval", at, "--task", COCO, "detection.coco_schedule=3x"
    )
    assert "detection.min_size=8 is out of range; mend: 0, or 32 or more" in refused(
        "eval", at, "--task", VOC, "detection.min_size=8"
    )
    assert "imagenet100, which has no boxes" in refused(
        "eval", at, "--task", VOC, "--data", "imagenet100", "--root", at
    )


CHILD = """
import sys
sys.path[:0] = [{tests!r}]
from repro.cli import main
sys.argv = ["salmask", "eval", {folder!r}, "--task", "voc07+12", *{words!r}]
main()
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_training_goes_on_and_ends_in_the_same_bits(tmp_path: Path) -> None:
    """kill -9 at any moment after the first checkpoint."""
    changes = {"detection.iterations": 12, "machine.checkpoint_every": 2}
    run, undisturbed = prepared(tmp_path / "undisturbed", changes)
    killed = with_random_backbone(run, tmp_path / "killed")
    settings = [*words(), *(f"{key}={value}" for key, value in changes.items())]
    assert salmask("eval", str(undisturbed.path), "--task", VOC, *settings).code == 0
    script = CHILD.format(tests=str(ROOT / "tests"), folder=str(killed.path), words=settings)
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


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_detector_learns_what_it_is_shown(tmp_path: Path) -> None:
    """Boxes and masks of four pictures, which are scored again: 96 % AP50 of either when this was written."""
    same = Scenes("train", count=4, classes=4, size=64, seed=0, objects=2)
    root = write_coco(tmp_path / "coco", same, same)
    changes = {"detection.iterations": 120, "detection.min_size": 96, "detection.rois": 16, "detection.base_lr": 0.08}
    run, folder = prepared(tmp_path / "runs", changes)
    trial, backbone = planned(run, folder, data_of(COCO, root), COCO)
    with quiet_detectron2():
        scores = carry_out(trial, backbone, run.detection)
    assert min(scores["bbox_AP50"], scores["mask_AP50"]) > 80


def rows_of(folder: RunFolder) -> dict[str, float]:
    return {row.metric: row.value for row in read(folder.results)[0]}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("task", [VOC, COCO])
def test_two_processes_train_one_detector(task: str, tmp_path: Path) -> None:
    _, folder = prepared(tmp_path)
    arguments = ["-m", "repro.cli", "eval", str(folder.path), "--task", task, *words(), "detection.batch=4"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments]
    process = subprocess.run(launch, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    assert "2 device(s), batch 4" in process.stderr
    assert 0 <= rows_of(folder)["bbox_AP"] <= 100
    config = next(folder.path.glob("detection/*/config.yaml")).read_text()
    assert "NORM: naiveSyncBN" in config


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("task", [VOC, COCO])
@pytest.mark.parametrize("head", ["c4", "fpn"])
def test_a_real_resnet_50(task: str, head: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The paper's detectors, a few iterations."""
    caplog.set_level("INFO", "salmask")
    changes = {"encoder.arch": "resnet50", "detection.head": head, "detection.iterations": 2}
    _, folder = prepared(tmp_path, changes)
    settings = [*words(), *(f"{key}={value}" for key, value in changes.items() if key.startswith("detection."))]
    command = salmask("eval", str(folder.path), "--task", task, *settings)
    assert command.code == 0, command.err
    assert "all 318 tensors of the backbone loaded" in caplog.text
    assert 0 <= rows_of(folder)["bbox_AP"] <= 100
