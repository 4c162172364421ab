"""Annotations as people really have them: `data verify` says of each what reading, training and scoring do with it.

Fields are left out, added and mistyped, drawn by a seed; whatever the verification passes is trained on for two steps
and scored, and whatever it refuses is refused before a detector is built.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from detection_samples import data_of, planned, prepared, scenes_as
from detectron2.data import DatasetMapper
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from pycocotools import mask as coco_mask
from scene_samples import copied
from torch import nn

from downstream.detection.data import DetectionData, map_record
from downstream.detection.evaluation import average_precisions
from downstream.detection.model import build_detector
from downstream.detection.task import quiet_detectron2
from repro.data.annotations import coco
from repro.data.verification.checks import verify
from repro.errors import UserError
from repro.runs.detection import COCO, VOC

TRAIN, VAL = (f"annotations/instances_{split}.json" for split in coco.SPLITS)


class ManyBoxes(nn.Module):
    """A detector that has something to say of every image and class."""

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        outputs = []
        for item in batch:
            boxes = torch.tensor([[4.0 * step, 4.0 * step, 4.0 * step + 20, 4.0 * step + 20] for step in range(8)])
            instances = Instances((item["height"], item["width"]))
            instances.pred_boxes, instances.scores = Boxes(boxes), torch.linspace(0.9, 0.1, 8)
            instances.pred_classes = torch.arange(8) % 4
            instances.pred_masks = torch.zeros(8, item["height"], item["width"], dtype=torch.bool)
            for mask, (x0, y0, x1, y1) in zip(instances.pred_masks, boxes.int().tolist(), strict=True):
                mask[y0:y1, x0:x1] = True
            outputs.append({"instances": instances})
        return outputs


@dataclass(frozen=True)
class Bench:
    """A small data set in a task's layout, four images to train on and two to score on, and a detector for it."""

    task: str
    root: Path
    cfg: Any
    model: GeneralizedRCNN

    def outcome(self, root: Path) -> str:
        """What becomes of a root: "" where two steps are trained and a score comes out, or why it is refused."""
        try:
            data = data_of(self.task, root)
        except UserError as error:
            return str(error)
        with quiet_detectron2():
            self.train_two_steps(data)
            scores = inference_on_dataset(ManyBoxes(), [[record] for record in data.test], data.evaluator())
        tasks = ["bbox"] if self.task == VOC else ["bbox", "segm"]
        assert all(0 <= value <= 100 for value in average_precisions(scores, tasks, detections=1).values())
        return ""

    def train_two_steps(self, data: DetectionData) -> None:
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.INPUT.MASK_FORMAT = data.mask_format
        mappers = [DatasetMapper(cfg, is_train=train) for train in (True, False)]
        mapped = [map_record(mappers[0], record) for record in data.train]
        for record in data.test:
            map_record(mappers[1], record)
        optimizer = torch.optim.SGD(self.model.parameters(), 1e-4)
        with EventStorage():
            for batch in (mapped[:2], mapped[2:] or mapped):
                loss = sum(self.model(batch).values())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                assert loss.isfinite()

    def verdicts(self, root: Path) -> tuple[str, str]:
        """The problems that the verification lists, and what becomes of the root."""
        problems = verify(self.task, root, workers=1).problems
        return "; ".join(f"{problem.path}: {problem.message}" for problem in problems), self.outcome(root)


def bench(task: str, folder: Path) -> Bench:
    root = scenes_as("voc" if task == VOC else "coco", folder / "data", train=4, test=2)
    run, run_folder = prepared(folder / "runs")
    trial, backbone = planned(run, run_folder, data_of(task, root), task)
    torch.manual_seed(0)
    return Bench(task, root, trial.cfg, build_detector(trial.cfg, backbone, high_passed=False).train())


@pytest.fixture(scope="module")
def voc_bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(VOC, tmp_path_factory.mktemp("voc"))


@pytest.fixture(scope="module")
def coco_bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(COCO, tmp_path_factory.mktemp("coco"))


def assert_agreed(bench: Bench, root: Path) -> bool:
    """Asserts that both verdicts are the same; returns whether the root can be used."""
    problems, refusal = bench.verdicts(root)
    assert bool(problems) == bool(refusal), f"verify says {problems!r}, but the task {refusal!r}"
    if refusal:
        assert str(root) in refusal
    return not refusal


# Drawn by a seed

TEXTS = ("", "Unspecified", "0", "1", "2", "-1", " 7 ", "12.5", "64.0", "nan", "1e400", "x", "true", "300")
FIELDS = ("name", "pose", "truncated", "difficult", "bndbox", *(f"bndbox/{side}" for side in ("xmin", "ymax", "xmax")))
VALUES = (None, "", "3", 3, 3.0, 3.5, -1, 1e400, float("nan"), True, [], {}, "x", [1, 2, 3], [1, 2, 30, 30], 2**60)
MASKS: tuple[Any, ...] = (
    [],
    [[]],
    [[1, 2, 3, 4]],
    [1, 2, 30, 2, 30, 30],
    [[1, 2, 30, 2, 30, 30]],
    [[1, 2, 30, 2, 30, 30], [5, 5]],
    [[1, 2, "3", 4, 5, 6]],
    [[1, 2, None, 4, 5, 6]],
    [[-1e9, 2, 1e9, 4, 5, 6]],
    {"counts": [100, 500, 3496], "size": [64, 64]},
    {"counts": [100, 500, 3496], "size": [64, 32]},
    {"counts": [100, 500], "size": [64, 64]},
    {"counts": [4096], "size": [64, 64]},
    {"counts": [-1, 4097], "size": [64, 64]},
    {"counts": "zzz", "size": [64, 64]},
    {"counts": coco_mask.encode(np.asfortranarray(np.eye(64, dtype=np.uint8)))["counts"].decode(), "size": [64, 64]},
    {"size": [64, 64]},
)


def spoil_voc(root: Path, draw: np.random.Generator) -> str:
    """Changes one field of one annotation; returns what was done."""
    paths = sorted(root.glob("VOC*/Annotations/*.xml"))
    path = paths[draw.integers(len(paths))]
    tree = ElementTree.parse(path)
    if draw.random() < 0.25:
        parent, field = tree.getroot(), str(draw.choice(["size", "size/width", "size/height", "object", "segmented"]))
    else:
        objects = tree.findall("object")
        parent, field = objects[draw.integers(len(objects))] if objects else tree.getroot(), str(draw.choice(FIELDS))
    action = str(draw.choice(["remove", "change", "add"]))
    holder, tag = parent.find(field.rpartition("/")[0] or "."), field.rpartition("/")[2]
    if holder is None or holder.find(tag) is None:
        return "nothing"
    text = str(draw.choice(TEXTS))
    if action == "remove":
        holder.remove(holder.find(tag))
    elif action == "change":
        holder.find(tag).text = text
    else:
        ElementTree.SubElement(holder, str(draw.choice(["score", "occluded", tag]))).text = text
    tree.write(path)
    return f"{path.name}: {action} {field} {text!r}"


def spoil_coco(root: Path, draw: np.random.Generator) -> str:
    """Changes one field of one entry; returns what was done."""
    path = root / str(draw.choice([TRAIN, VAL]))
    content = json.loads(path.read_text())
    name = str(draw.choice(["annotations", "annotations", "annotations", "images", "categories"]))
    entry = content[name][draw.integers(len(content[name]))]
    field = str(
        draw.choice([*entry, *(["segmentation", "area", "iscrowd", "ignore"] if name == "annotations" else ())])
    )
    if draw.random() < 0.3:
        value = entry.pop(field, "nothing")
        action = f"without {field}"
    else:
        values = MASKS if field == "segmentation" and draw.random() < 0.8 else VALUES
        value = entry[field] = values[draw.integers(len(values))]
        action = f"{field} {str(value)[:60]}"
    path.write_text(json.dumps(content))
    return f"{path.name}: {name} {entry.get('id')} {action}"


def try_seed(bench: Bench, spoil: Callable[[Path, np.random.Generator], str], seed: int, folder: Path) -> None:
    root, draw = copied(bench.root, folder / "data"), np.random.default_rng(seed)
    changes = [spoil(root, draw) for _ in range(draw.integers(1, 4))]
    try:
        assert_agreed(bench, root)
    except Exception as error:
        raise AssertionError(f"seed {seed}: {'; '.join(changes)}") from error


@pytest.mark.parametrize("seed", range(12))
def test_the_verdict_on_voc_is_what_becomes_of_it(voc_bench: Bench, seed: int, tmp_path: Path) -> None:
    try_seed(voc_bench, spoil_voc, seed, tmp_path)


@pytest.mark.parametrize("seed", range(16))
def test_the_verdict_on_coco_is_what_becomes_of_it(coco_bench: Bench, seed: int, tmp_path: Path) -> None:
    try_seed(coco_bench, spoil_coco, seed, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(12, 212))
def test_more_verdicts_on_voc(voc_bench: Bench, seed: int, tmp_path: Path) -> None:
    try_seed(voc_bench, spoil_voc, seed, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(16, 316))
def test_more_verdicts_on_coco(coco_bench: Bench, seed: int, tmp_path: Path) -> None:
    try_seed(coco_bench, spoil_coco, seed, tmp_path)
