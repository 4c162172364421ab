"""Detection as a task: what is refused, with an estimate, before anything is written."""

import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from detection_samples import backbone_of, config, data_of, planned, prepared, scenes_as
from scene_samples import spoil_json, spoil_text
from torch import nn
from training_samples import CPU, files_below

from downstream.detection import estimate
from downstream.detection.data import open_coco, open_voc
from downstream.detection.task import DetectionTask, detections_by_metric, open_data, require_detectron2
from downstream.measurement import Target
from repro.backbones.backbone import load_backbone
from repro.errors import UserError
from repro.filesystem.files import write_bytes
from repro.settings.departures import scale_of
from repro.settings.detection import COCO, VOC, DetectionSettings


def test_other_classes_are_not_taken_for_the_real_thing(voc_root: Path, coco_root: Path) -> None:
    with pytest.raises(UserError, match=r"4 classes are not VOC's 20"):
        open_voc(voc_root)
    with pytest.raises(UserError, match=r"has 4 classes, COCO has 80"):
        open_coco(coco_root)


def test_broken_data_are_refused_before_anything_is_written(voc_root: Path, tmp_path: Path) -> None:
    run, folder = prepared(tmp_path / "runs")
    before = files_below(folder.path)
    root = tmp_path / "VOCdevkit"
    (root / "VOC2007").mkdir(parents=True)
    with pytest.raises(UserError, match="VOC2007"):
        DetectionTask(VOC).measure(run, folder, Target(VOC, root, run.data.scenes), CPU)
    with pytest.raises(UserError, match=r"voc07\+12 cannot be done on imagenet100, which has no boxes"):
        open_data(VOC, run, Target("imagenet100", None, run.data.scenes))
    assert files_below(folder.path) == before


@pytest.mark.parametrize(
    ("task", "there", "message"),
    [
        (VOC, "other", "holds neither VOCdevkit"),
        (VOC, "VOC2007", "VOC2007/ImageSets/Main/trainval.txt: the list of images is missing"),
        (COCO, "other", "holds neither annotations/"),
        (COCO, "annotations", "train2017: the folder of images is missing"),
    ],
)
def test_another_folder_than_the_data_sets_is_refused_before_any_task_begins(
    task: str, there: str, message: str, tmp_path: Path
) -> None:
    """It used to be refused when the data were opened, after earlier tasks had run and weights had been adopted."""
    run, folder = prepared(tmp_path / "runs")
    (tmp_path / there).mkdir()
    with pytest.raises(UserError, match=message):
        DetectionTask(task).check(run, Target(task, tmp_path, run.data.scenes), load_backbone(folder.backbone))


@pytest.mark.parametrize(("task", "split"), [(VOC, "VOC2007 test"), (COCO, "val2017")])
def test_a_class_without_a_test_object_that_counts_is_said(
    task: str, split: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A class whose objects are all difficult counted 0 in VOC's AP, and nobody was told."""
    root = scenes_as("voc" if task == VOC else "coco", tmp_path / "data", train=8, test=2)
    first, *others = (item["category_id"] for record in data_of(task, root).test for item in record["annotations"])
    assert (first in others, len(others)) == (False, 2)
    assert f"1 of 4 classes have no object in {split} that counts" in caplog.text
    if task == VOC:
        name = (root / "VOC2007/ImageSets/Main/test.txt").read_text().split()[0]
        spoil_text(root / f"VOC2007/Annotations/{name}.xml", "<difficult>0", "<difficult>1")
    else:
        spoil_json(root / "annotations/instances_val2017.json", lambda all_: all_["annotations"][0].update(iscrowd=1))
    data_of(task, root)
    assert f"2 of 4 classes have no object in {split} that counts" in caplog.text


def test_each_task_has_its_schedule_and_other_data_than_its_own_are_a_departure(voc_root: Path) -> None:
    def steps(task: str, **settings: str) -> tuple[int, ...]:
        asked = DetectionSettings(batch=16, **settings)  # type: ignore[arg-type]  # only the schedule's name
        parts = {"classes": 4, "mask_format": "polygon", "device": CPU}
        return DetectionTask(task)._config(asked, backbone_of("resnet18"), **parts)[1].steps

    assert steps(VOC) == steps(VOC, coco_schedule="1x") == (18000, 22000)
    assert steps(COCO) == (120000, 160000)
    assert steps(COCO, coco_schedule="1x") == (60000, 80000)
    data = data_of(VOC, voc_root)
    departures = DetectionTask(VOC).departures(DetectionSettings(), data)
    assert scale_of(departures) == "voc07+12 on scenes (4 classes, 10 images)"
    assert DetectionTask(VOC).departures(DetectionSettings(), replace(data, name=VOC)) == ()


def test_scenes_have_as_many_objects_as_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALMASK_CACHE", str(tmp_path / "cache"))
    run, _ = prepared(tmp_path / "runs")
    for most in (1, 3):
        asked = replace(run, detection=replace(run.detection, scene_objects=most))
        data = open_data(VOC, asked, Target("scenes", None, run.data.scenes))
        assert max(len(record["annotations"]) for record in data.train + data.test) == most


def test_an_ap_names_the_detections_that_it_can_be_computed_from(voc_root: Path, tmp_path: Path) -> None:
    """A mean over trials has no such file."""
    first, _ = planned(*prepared(tmp_path), data_of(VOC, voc_root))
    trials = [replace(first, index=index, path=first.path.with_name(f"trial{index}")) for index in range(2)]
    for trial in trials:
        write_bytes(trial.detections, str(trial.index).encode())
    names = [f"predictions/{trial.detections.name}" for trial in trials]
    metrics = ("bbox_AP", "bbox_AP50", "bbox_AP_std", "bbox_AP@trial=0", "bbox_AP@trial=1", "training_seconds")
    expected = {1: [names[0], names[0], None, names[0], None, None], 2: [None, None, None, *names, None]}
    for count, of_metrics in expected.items():
        found = [detections_by_metric(trials[:count])(metric) for metric in metrics]
        assert [each and each.name for each in found] == of_metrics


def test_a_full_schedule_on_a_cpu_is_refused_with_an_estimate_before_any_task_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to be refused when the data were opened, after earlier tasks had run and weights had been adopted."""
    run, folder = prepared(tmp_path, {"detection.iterations": 0, "detection.trials": 0, "machine.device": "cpu"})
    monkeypatch.setattr("downstream.detection.estimate.seconds_per_image", lambda cfg: 1.5)
    scenes, backbone = Target("scenes", None, run.data.scenes), load_backbone(folder.backbone)
    with pytest.raises(
        UserError,
        match=r"no GPU: 5 trainings of 192000 iterations at about 3\.0 s each would take 33\.3 days here; mend",
    ):
        DetectionTask(VOC).check(run, scenes, backbone)
    with monkeypatch.context() as patch:
        patch.setattr("downstream.detection.estimate.world_size", lambda: 2)
        with pytest.raises(UserError, match=r"at about 1\.5 s each would take 16\.7 days here; mend"):
            DetectionTask(VOC).check(run, scenes, backbone)
    for setting in ("force", "evaluate_only"):
        detection = replace(run.detection, **{setting: True})
        DetectionTask(VOC).check(replace(run, detection=detection), scenes, backbone)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    DetectionTask(VOC).check(replace(run, machine=replace(run.machine, device="auto")), scenes, backbone)


@pytest.mark.slow
def test_the_estimate_knows_our_parts_of_a_detector() -> None:
    """Run in a process that has imported nothing else of detection, as detectron2 finds parts by registered names."""
    script = (
        "from pathlib import Path\n"
        "from detectron2.config import get_cfg\n"
        "from downstream.detection.estimate import seconds_per_image\n"
        "cfg = get_cfg()\n"
        "cfg.MODEL.DEVICE, cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 'cpu', 18, 64\n"
        "cfg.MODEL.RESNETS.NORM, cfg.MODEL.ROI_HEADS.NAME = 'BN', 'Res5HeadExtraNorm'\n"
        "print(seconds_per_image(cfg))"
    )
    process = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    assert 0 < float(process.stdout) < 1000


def test_the_estimate_is_of_all_sizes_that_images_are_trained_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """An estimate for the largest size alone would be half as long again for VOC."""
    cfg, _ = config(DetectionSettings(rois=512), arch="resnet18", devices=1)
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (448, 672), 672
    monkeypatch.setattr(estimate, "build_network", lambda cfg: nn.Identity())
    # An image of 224 × 224 takes two seconds, and each region a hundredth of a second.
    monkeypatch.setattr(estimate, "_seconds", lambda network, regions: 2 + regions / 100)
    # For 448 px the long side is a third longer; for 672 px it is already at its limit.
    pixels = (448 * 448 * 4 / 3 + 672 * 672) / 2
    assert estimate.seconds_per_image(cfg) == pytest.approx(2 * pixels / 224**2 + 512 / 100)
    # On a busy machine, more regions may seem to take less time.
    monkeypatch.setattr(estimate, "_seconds", lambda network, regions: 2 - regions / 100)
    assert estimate.seconds_per_image(cfg) == pytest.approx((2 - 8 / 100) * pixels / 224**2)
    monkeypatch.setattr(estimate, "_seconds", lambda network, regions: regions / 4 - 1)
    assert estimate.seconds_per_image(cfg) == pytest.approx(512 / 4)


@pytest.mark.parametrize(("seconds", "refused"), [(1.79, False), (1.81, True)])
def test_twelve_hours_are_the_limit(seconds: float, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, _ = config(DetectionSettings(iterations=2000), arch="resnet18", devices=1)
    monkeypatch.setattr("downstream.detection.estimate.seconds_per_image", lambda cfg: seconds)
    with pytest.raises(UserError, match="no GPU: 6 training") if refused else nullcontext():
        estimate.refuse_endless(cfg, 6)  # 6 x 2000 steps of two images


def test_without_detectron2_the_message_names_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"need detectron2, which is not installed; mend: make setup"):
        require_detectron2()


def test_the_config_is_kept_beside_the_checkpoints(voc_root: Path, tmp_path: Path) -> None:
    run, folder = prepared(tmp_path)
    trial, _ = planned(run, folder, data_of(VOC, voc_root))
    from detectron2.config import get_cfg

    cfg = get_cfg()
    cfg.merge_from_file(str(trial.path.parent / "config.yaml"))
    assert yaml.safe_load(cfg.dump()) == yaml.safe_load(trial.cfg.dump())
    assert trial.path.parent.name == "scenes-voc-frcnn-c4-24k-v1[batch=2,iterations=4,min_size=32,rois=8]"
    assert json.loads(json.dumps(trial.identity()))["run_id"] == run.id
