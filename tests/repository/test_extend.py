"""The examples of docs/extend.md, run as they are printed there."""

import ast
import re
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_samples import write_image
from places import DOCS
from training_samples import CPU, tiny, with_random_backbone

import baselines
from baselines import TABLE1, ablations
from downstream import tasks
from downstream.detection.task import DetectionTask, open_data
from downstream.features import FeatureStore, labels_of
from downstream.measurement import Target, measurements
from repro.backbones.backbone import load_backbone_of
from repro.data import catalogue
from repro.data.annotations import voc
from repro.data.sizes import train_images
from repro.data.verification.checks import verify
from repro.errors import UserError
from repro.masking import strategies
from repro.masking.patches import Mode
from repro.runs import evaluation
from repro.settings.comparison import departures
from repro.settings.detection import COCO, VOC
from repro.settings.sections import MaskingSettings, ScenesSettings

PAGE = DOCS / "extend.md"
METHOD, STRATEGY, DATASET, WITH_BOXES, TASK = re.findall(
    r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL
)


def test_the_method_is_a_row_in_which_one_thing_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    ((name, ablation),) = eval(f"{{{METHOD}}}", dict(vars(ablations))).items()
    assert name not in ablations.ON_THE_HEADLINE
    monkeypatch.setitem(baselines.METHODS, "example", TABLE1[ablation.row].but(ablation.settings))
    run, original = baselines.resolve("example"), baselines.resolve(ablation.row)
    assert (run.masking.ratio_min, run.masking.ratio_max) == (0.02, 0.1)
    assert {departure.what for departure in departures(run, original)} == {"masking.ratio_min", "masking.ratio_max"}


def test_the_strategy_takes_the_colours_of_masked_patches_and_of_no_others() -> None:
    names = dict(vars(strategies))
    exec(compile(ast.parse(STRATEGY), str(PAGE), "exec"), names)
    settings, generator = MaskingSettings(ratio_min=0.25, ratio_max=0.25), torch.Generator().manual_seed(0)
    views, foreground = torch.randn(6, 3, 32, 32, generator=generator), torch.ones(6, 4, 4, dtype=torch.bool)
    mode = Mode.positive(settings)
    masked = names["GreyFill"]().mask(views, views, foreground, mode, generator)
    grey = (masked == masked[:, :1]).all(1)
    assert grey.float().mean((1, 2)).tolist() == [0.25] * 6  # four whole patches of sixteen
    assert torch.equal(masked[:, 0][grey], views.mean(1)[grey])
    assert torch.equal(masked.movedim(1, -1)[~grey], views.movedim(1, -1)[~grey])


def test_the_data_set_opens_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = eval(DATASET, dict(vars(catalogue)))
    monkeypatch.setitem(catalogue.DATASETS, entry.name, entry)
    for split, count in (("train", 3), ("val", 1)):
        for wnid in ("n01440764", "n02102040"):
            for number in range(count):
                write_image(tmp_path / split / wnid / f"{number}.jpg", number)
    train, val = (catalogue.open_images("imagenette", split, tmp_path, ScenesSettings()) for split in ("train", "val"))
    assert (len(train), len(val), list(train.classes)) == (6, 2, ["n01440764", "n02102040"])
    # A plan counts its images, and for a wrong folder the entry's own mend is told.
    assert replace(entry, root_names=()).root_names == ("imagenette",)
    assert train_images(tiny(changes={"data.dataset": "imagenette", "machine.data_root": str(tmp_path)})) == 6
    with pytest.raises(UserError, match=r"mend: unpack its archive, and name the folder by --root$"):
        catalogue.open_images("imagenette", "train", tmp_path.parent, ScenesSettings())


def test_the_data_set_with_boxes_is_verified_and_opened_by_its_task(
    coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = eval(WITH_BOXES, dict(vars(catalogue)))
    monkeypatch.setitem(catalogue.DATASETS, entry.name, entry)
    report = verify(entry.name, coco_root, workers=1)
    assert (report.problems, report.warnings) == ([], [])
    run = tiny(changes={"encoder.width": 64, "detection.iterations": 4})
    target, task = Target(entry.name, coco_root, run.data.scenes), DetectionTask(COCO)
    backbone = load_backbone_of(run, with_random_backbone(run, tmp_path))
    task.check(run, target, backbone)
    data = open_data(COCO, run, target)
    assert (data.name, data.split, len(data.classes)) == ("pets", "val2017", 4)
    # Its runs are never taken for runs of COCO.
    assert "detection data" in {departure.what for departure in task.departures(run.detection, data)}
    with pytest.raises(UserError, match=r"^voc07\+12 cannot be done on pets, which has another layout; mend: "):
        open_data(VOC, run, target)
    (tmp_path / "annotations").mkdir()
    with pytest.raises(
        UserError, match=r"train2017: the folder of images is missing or empty .*; mend: .* or correct your files$"
    ):
        task.check(run, replace(target, root=tmp_path), backbone)


def test_a_data_set_in_vocs_layout_has_the_classes_that_have_lists(
    voc_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the page says, the lists may be empty, and the second year may be a link to the first."""
    shutil.copytree(voc_root / "VOC2007", tmp_path / "VOC2007")
    (tmp_path / "VOC2012").symlink_to("VOC2007")
    for path in (tmp_path / "VOC2007/ImageSets/Main").glob("*_trainval.txt"):
        path.write_text("")
    names = dict(vars(catalogue))
    entry = eval(
        WITH_BOXES.replace("coco.survey_root", "voc.survey_root").replace("coco.require_parts", "voc.require_lists"),
        names,
    )
    monkeypatch.setitem(catalogue.DATASETS, entry.name, entry)
    report = verify(entry.name, tmp_path, workers=1)
    assert (report.problems, report.warnings) == ([], [])
    data = open_data(VOC, tiny(), Target(entry.name, tmp_path, ScenesSettings()))
    listed = voc.image_ids(tmp_path, voc.TRAIN[0])
    assert (data.classes, len(data.train)) == (voc.class_names(voc_root), 2 * len(listed))


def test_no_data_set_takes_the_name_of_another() -> None:
    # The later of two entries would replace the first one, also for runs that mean the first.
    tree = ast.parse(Path(catalogue.__file__).read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Dataset"]
    names = [ast.literal_eval(word.value) for call in calls for word in call.keywords if word.arg == "name"]
    assert names == list(catalogue.DATASETS)


def test_the_task_measures_by_the_nearest_class_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny()
    folder = with_random_backbone(run, tmp_path)
    names: dict[str, Any] = {}
    exec(compile(ast.parse(TASK), str(PAGE), "exec"), names)
    target = Target("scenes", None, run.data.scenes)
    # Carried out as the tasks of `TASKS` are, so that the page's task has all that the code calls of one.
    monkeypatch.setitem(sys.modules, "class_means", types.SimpleNamespace(**names))
    monkeypatch.setattr(tasks, "TASKS", {"knn": "class_means"})
    assert tasks.prepare_evaluation(run, folder, "knn", CPU) is not None
    rows = names["measure"](run, folder, target, CPU)
    (line,) = re.findall(r'`("class-means": lambda [^`]*)`', PAGE.read_text())
    (protocol,) = eval(f"{{{line}}}", dict(vars(evaluation)))["class-means"](run, "scenes")
    assert {row.protocol for row in rows} == {protocol.name}
    top1 = {row.metric: row.value for row in rows}["top1"]
    # the same, image by image, in numpy
    store = FeatureStore.of(run, folder, torch.device("cpu"), "means")
    train, val = target.open_both()
    fitted, scored = store(train).astype(float), store(val).astype(float)
    means = np.stack([fitted[labels_of(train) == label].mean(0) for label in range(len(train.classes))])
    hits = [
        int(np.linalg.norm(means - feature, axis=1).argmin() == label)
        for feature, label in zip(scored, labels_of(val), strict=True)
    ]
    assert top1 == pytest.approx(100 * np.mean(hits))


def test_a_task_that_measures_by_another_protocol_than_is_looked_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # If the version is raised in only one of two places, each call appends rows, and no call finds them.
    run = tiny()
    folder = with_random_backbone(run, tmp_path)
    rows = measurements("class-means-v2", "val", {"top1": 50.0})
    task = types.SimpleNamespace(check=lambda *_: None, measure=lambda *_: rows)
    monkeypatch.setitem(sys.modules, "class_means", task)
    monkeypatch.setattr(tasks, "TASKS", {"class-means": "class_means"})
    protocols = {"class-means": lambda *_: (evaluation.EvaluationProtocol("class-means-v1"),)}
    monkeypatch.setattr(evaluation, "PROTOCOLS", protocols)
    with pytest.raises(UserError) as refusal:
        tasks.evaluate(run, folder, "class-means", CPU)
    assert str(refusal.value) == (
        "class_means measured by class-means-v2, and PROTOCOLS (repro/runs/evaluation.py) says "
        "it is by class-means-v1; mend: the same names in both"
    )
    assert not folder.results.exists()
