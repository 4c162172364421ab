"""Annotations as people really have them: `data verify` agrees with what reading, training and scoring do.

Fields are left out, added and mistyped, drawn by a seed. Whatever verification accepts is trained on for two steps and
scored; whatever it refuses is refused before a detector is built.
"""

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from annotation_kinds import COCO_KINDS, TRAIN, VAL, VOC_KINDS, maskless_image, object_of_coco, object_of_voc
from detection_samples import data_of, narrow, planned, prepared, scenes_as
from detectron2.data import DatasetMapper
from detectron2.evaluation import inference_on_dataset
from detectron2.evaluation.pascal_voc_evaluation import parse_rec
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL import __version__ as PILLOW
from pycocotools import mask as coco_mask
from scene_samples import copied, spoil_text
from torch import nn

from downstream.detection.data import DetectionData, map_record
from downstream.detection.evaluation import average_precisions
from downstream.detection.ground_truth import CocoGroundTruth
from downstream.detection.model import build_network
from downstream.detection.task import quiet_detectron2
from repro.data.annotations import coco, voc
from repro.data.annotations.masks import decoded_runs
from repro.data.verification.checks import verify
from repro.errors import UserError
from repro.settings.detection import COCO, VOC


class ManyBoxes(nn.Module):
    """A detector with predictions for every image and class."""

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
        """What happens with a root: "" if two training steps and the scoring work, else why it is refused."""
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
        """The problems that the verification lists, and what happens with the root."""
        problems = verify(self.task, root, workers=1).problems
        return "; ".join(f"{problem.path}: {problem.message}" for problem in problems), self.outcome(root)


def bench(task: str, folder: Path) -> Bench:
    root = scenes_as("voc" if task == VOC else "coco", folder / "data", train=4, test=2)
    run, run_folder = prepared(folder / "runs", {"detection.min_size": 32, "detection.rois": 4})
    cfg = narrow(planned(run, run_folder, data_of(task, root), task)[0].cfg)
    torch.manual_seed(0)
    return Bench(task, root, cfg, build_network(cfg).train())


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
    """Changes one field of one annotation; returns a description of the change."""
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
    """Changes one field of one entry; returns a description of the change."""
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


@pytest.mark.parametrize("seed", range(8))
def test_the_verdict_on_voc_is_what_becomes_of_it(voc_bench: Bench, seed: int, tmp_path: Path) -> None:
    try_seed(voc_bench, spoil_voc, seed, tmp_path)


@pytest.mark.parametrize("seed", range(10))
def test_the_verdict_on_coco_is_what_becomes_of_it(coco_bench: Bench, seed: int, tmp_path: Path) -> None:
    try_seed(coco_bench, spoil_coco, seed, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(8, 208))
def test_more_verdicts_on_voc(voc_bench: Bench, seed: int, tmp_path: Path) -> None:
    try_seed(voc_bench, spoil_voc, seed, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(10, 310))
def test_more_verdicts_on_coco(coco_bench: Bench, seed: int, tmp_path: Path) -> None:
    try_seed(coco_bench, spoil_coco, seed, tmp_path)


# What people's files have, one by one: annotation_kinds.py


@pytest.mark.parametrize("kind", VOC_KINDS)
def test_kinds_of_voc(voc_bench: Bench, kind: str, tmp_path: Path) -> None:
    assert_kind(voc_bench, *VOC_KINDS[kind], tmp_path)


@pytest.mark.parametrize("kind", COCO_KINDS)
def test_kinds_of_coco(coco_bench: Bench, kind: str, tmp_path: Path) -> None:
    assert_kind(coco_bench, *COCO_KINDS[kind], tmp_path)


def assert_kind(bench: Bench, change: Callable[[Path], object], reason: str, folder: Path) -> None:
    """Asserts that a changed data set can be used, or that both refuse it with this reason."""
    root = copied(bench.root, folder / "data")
    change(root)
    problems, refusal = bench.verdicts(root)
    assert (reason in problems, reason in refusal) == (True, True)
    assert (bool(problems), bool(refusal)) == (bool(reason), bool(reason)), f"{problems} {refusal}"


# Values that stand in for missing ones


def test_missing_areas_are_those_of_the_masks(coco_bench: Bench, tmp_path: Path) -> None:
    """The written areas are those of the masks, so that scores are the same without them."""
    root = copied(coco_bench.root, tmp_path / "data")
    object_of_coco(every=True, area=...)(root)
    before, after = (ground_truth(path) for path in (coco_bench.root, root))
    assert before.content == after.content
    object_of_coco(every=True, area=..., segmentation=[[10, 10, 20, 10, 20, 30, 10, 30]])(copied(root, tmp_path / "b"))
    assert {entry["area"] for entry in ground_truth(tmp_path / "b").content["annotations"]} == {200.0}


def ground_truth(root: Path) -> CocoGroundTruth:
    folder = coco.check_layout(root)
    return CocoGroundTruth("test", folder.classes, folder.instances["val2017"])


def test_floats_are_cut_off_to_score_and_kept_to_train(voc_bench: Bench, tmp_path: Path) -> None:
    root = copied(voc_bench.root, tmp_path / "data")
    corners = "<xmin>3.7</xmin><ymin>4.2</ymin><xmax>30.9</xmax><ymax>31</ymax>"
    for where in ("test", "trainval"):
        object_of_voc("<xmin>(.|\n)*?</ymax>", corners, where)(root)
    data = data_of(VOC, root)
    evaluator = data.evaluator()
    scored = parse_rec(evaluator._anno_file_template.format(data.test[0]["image_id"]))
    assert scored[0]["bbox"] == [3, 4, 30, 31]
    assert data.train[0]["annotations"][0]["bbox"] == pytest.approx([2.7, 3.2, 30.9, 31])
    folder = Path(evaluator._image_set_path).parents[2]
    assert folder.is_dir()
    del evaluator
    assert not folder.exists()


def test_objects_without_a_mask_are_left_out_and_said(coco_bench: Bench, tmp_path: Path) -> None:
    root = copied(coco_bench.root, tmp_path / "data")
    maskless_image(root)
    images = len({entry["image_id"] for entry in json.loads((root / TRAIN).read_text())["annotations"]})
    assert len(data_of(COCO, root).train) == images - 1
    warnings = verify(COCO, root, workers=1).warnings
    assert any(re.fullmatch(r"train2017: \d+ objects? left out of the training: no mask", w) for w in warnings)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("listed", ["upright", "stored"])
def test_an_image_is_turned_by_its_exif_orientation(
    voc_bench: Bench, tmp_path: Path, orientation: int, listed: str
) -> None:
    """Annotations refer to the upright image, as detectron2 reads it; those of the stored image are refused."""
    root = copied(voc_bench.root, tmp_path / "data")
    first = (root / "VOC2007/ImageSets/Main/test.txt").read_text().split()[0]
    exif = Image.Exif()
    exif[274] = orientation
    size = {"upright": (64, 80), "stored": (80, 64) if orientation == 6 else (64, 80)}
    Image.new("RGB", size["stored"], "red").save(root / f"VOC2007/JPEGImages/{first}.jpg", exif=exif)
    width, height = size[listed]
    spoil_text(root / f"VOC2007/Annotations/{first}.xml", "<width>64", f"<width>{width}")
    spoil_text(root / f"VOC2007/Annotations/{first}.xml", "<height>64", f"<height>{height}")
    problems, refusal = voc_bench.verdicts(root)
    if orientation == 6 and listed == "stored":
        reason = "64×80 pixels upright (its EXIF orientation turns it), where its annotation says 80×64"
        assert reason in problems
        assert reason in refusal
    else:
        assert (problems, refusal) == ("", "")


@pytest.mark.parametrize(("orientation", "refused"), [(1, False), (3, True), (6, True)])
def test_a_tiff_that_would_be_turned_twice_is_refused(
    voc_bench: Bench, tmp_path: Path, orientation: int, refused: bool
) -> None:
    root = copied(voc_bench.root, tmp_path / "data")
    first = (root / "VOC2007/ImageSets/Main/test.txt").read_text().split()[0]
    exif = Image.Exif()
    exif[274] = orientation
    stored = (80, 64) if orientation == 6 else (64, 80)
    Image.new("RGB", stored, "red").save(root / f"VOC2007/JPEGImages/{first}.jpg", "TIFF", exif=exif)
    spoil_text(root / f"VOC2007/Annotations/{first}.xml", "<height>64", "<height>80")
    problems, refusal = voc_bench.verdicts(root)
    assert ("save it upright" in problems, "save it upright" in refusal) == (refused, refused)


def test_an_image_that_is_torn_is_named_by_training_and_scoring(voc_bench: Bench, tmp_path: Path) -> None:
    """Verification decodes all images; a task without it ends in one line that names the file."""
    root = copied(voc_bench.root, tmp_path / "data")
    data = data_of(VOC, root)
    path = Path(data.test[0]["file_name"])
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UserError, match=f"^{path}: cannot be read .*; mend: replace it"):
        map_record(DatasetMapper(voc_bench.cfg, is_train=False), data.test[0])


@pytest.mark.skipif(tuple(map(int, PILLOW.split(".")[:2])) < (12, 2), reason="older Pillow reads such an image")
def test_whatever_a_decoder_raises_names_the_image(voc_bench: Bench, tmp_path: Path) -> None:
    root = copied(voc_bench.root, tmp_path / "data")
    record = data_of(VOC, root).test[0]
    path, mapper = Path(record["file_name"]), DatasetMapper(voc_bench.cfg, is_train=False)
    content = io.BytesIO()
    Image.new("P", (record["width"], record["height"])).save(content, "GIF")
    raw = bytearray(content.getvalue())
    raw[raw.index(b",\0\0\0\0") + 5] = 0  # the frame's width, for which Pillow raises a ValueError
    path.write_bytes(raw)
    with pytest.raises(UserError, match=f"^{path}: cannot be read "):
        map_record(mapper, record)


def test_a_fault_that_is_not_the_images_is_no_bad_input(voc_bench: Bench) -> None:
    record = data_of(VOC, voc_bench.root).test[0]

    def broken(record: Any) -> Any:
        raise KeyError("annotations")

    with pytest.raises(KeyError):
        map_record(broken, record)


def test_refusals_list_several_and_count_the_rest(voc_bench: Bench, tmp_path: Path) -> None:
    root = copied(voc_bench.root, tmp_path / "data")
    paths = sorted(root.glob("VOC*/Annotations/*.xml"))
    for path in paths:
        path.write_text(path.read_text().replace("<xmin>", "<xmin>x").replace("<width>64", "<width>0"))
    with pytest.raises(UserError) as error:
        voc.check_layout(root)
    for path in paths:
        assert f"{path}: <size><width> is 0, which is below 1; object 1: <bndbox><xmin> is 'x" in error.value.what


SIDES = st.tuples(st.integers(1, 80), st.integers(1, 80))


@given(size=SIDES, share=st.floats(0, 1), seed=st.integers(0, 2**31), blocks=st.booleans())
def test_compressed_masks_are_decoded_as_pycocotools_encodes_them(
    size: tuple[int, int], share: float, seed: int, blocks: bool
) -> None:
    mask = np.random.default_rng(seed).random(size) < share
    mask = np.kron(mask, np.ones((9, 9), bool)) if blocks else mask  # runs of more than 31 need two letters
    runs = decoded_runs(coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode())
    assert np.array_equal(np.repeat(np.arange(len(runs)) % 2, runs), mask.ravel(order="F"))
