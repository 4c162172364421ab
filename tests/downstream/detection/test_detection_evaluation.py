"""Average precisions: ground truth scores a hundred, no detection scores zero, trials are averaged."""

import gzip
import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detection_samples import data_of, planned, prepared
from detectron2.evaluation import coco_evaluation, inference_on_dataset
from detectron2.structures import BitMasks, Boxes, Instances
from PIL import Image
from scene_samples import copied, spoil_json
from torch import nn

from downstream.detection.evaluation import Detections, Sample, average_precisions, evaluate_detector, make_test_loader
from downstream.detection.ground_truth import VocGroundTruth, _voc_xml
from downstream.detection.task import quiet_detectron2, summary
from repro.data.annotations import voc
from repro.data.annotations.voc_annotation import Annotation, VocObject
from repro.errors import UserError
from repro.settings.detection import COCO, VOC


def named(record: dict[str, Any]) -> tuple[int, str]:
    return os.getpid(), record["file_name"]


def test_processes_that_score_leave_signals_to_the_main_one_and_are_not_warned_of(
    recwarn: pytest.WarningsRecorder,
) -> None:
    """Ending a group of processes during the scoring used to print a traceback of torch's loader."""
    records = [{"file_name": f"{index}.jpg"} for index in range(40)]
    names = []
    for [(process, name)] in make_test_loader(records, named, workers=1):
        if not names:
            assert process != os.getpid()
            os.kill(process, signal.SIGTERM)
        names.append(name)
    assert names == [record["file_name"] for record in records]
    assert not [text for text in map(str, recwarn.list) if "worker processes" in text]


class GroundTruth(nn.Module):
    """A detector that returns the ground truth."""

    def __init__(self, records: list[dict[str, Any]], *, masks: bool, shift: float = 0.0) -> None:
        super().__init__()
        self.records = {record["file_name"]: record for record in records}
        self.masks, self.shift = masks, shift

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        outputs = []
        for item in batch:
            record = self.records[item["file_name"]]
            size = (record["height"], record["width"])
            objects = record["annotations"]
            boxes = torch.tensor([annotation["bbox"] for annotation in objects]).float().reshape(-1, 4)
            if objects and objects[0]["bbox_mode"].name == "XYWH_ABS":
                boxes[:, 2:] += boxes[:, :2]
            instances = Instances(size)
            instances.pred_boxes = Boxes(boxes + self.shift)
            instances.scores = torch.ones(len(objects))
            labels = [annotation["category_id"] for annotation in objects]
            instances.pred_classes = torch.tensor(labels, dtype=torch.long)
            if self.masks:
                from pycocotools import mask as coco_mask

                masks = [coco_mask.decode(annotation["segmentation"]) for annotation in objects]
                instances.pred_masks = BitMasks(torch.stack([torch.from_numpy(mask).bool() for mask in masks])).tensor
            outputs.append({"instances": instances})
        return outputs


def outcome_of(data: Any, detector: nn.Module) -> Any:
    batches = [[record] for record in data.test]
    return inference_on_dataset(detector, batches, data.evaluator())


def test_ground_truth_scores_a_hundred_on_coco(coco_root: Path) -> None:
    data = data_of(COCO, coco_root)
    assert data.mask_format == "bitmask"
    tasks = ["bbox", "segm"]
    scores = average_precisions(outcome_of(data, GroundTruth(data.test, masks=True)), tasks, detections=9)
    assert set(scores) == {f"{kind}_{ap}" for kind in ("bbox", "mask") for ap in ("AP", "AP50", "AP75")}
    assert list(scores.values()) == pytest.approx([100.0] * 6)
    shifted_boxes = outcome_of(data, GroundTruth(data.test, masks=True, shift=6.0))
    scores = average_precisions(shifted_boxes, tasks, detections=9)
    assert scores["bbox_AP"] < 60
    assert scores["mask_AP"] == pytest.approx(100.0)


def test_ground_truth_scores_a_hundred_on_voc(voc_root: Path) -> None:
    data = data_of(VOC, voc_root)
    scores = average_precisions(outcome_of(data, GroundTruth(data.test, masks=False)), ["bbox"], detections=9)
    assert scores == pytest.approx({"bbox_AP": 100.0, "bbox_AP50": 100.0, "bbox_AP75": 100.0})
    shifted_boxes = outcome_of(data, GroundTruth(data.test, masks=False, shift=6.0))
    assert average_precisions(shifted_boxes, ["bbox"], detections=9)["bbox_AP"] < 60


def test_voc_is_scored_by_the_11_points_of_2007_and_the_thresholds_of_coco() -> None:
    """Four objects and a difficult one; detected are the difficult one, one exactly, one inexactly, and background."""
    box = (20.0, 20.0, 60.0, 60.0)
    of_image = Annotation((100, 100), (VocObject("cat", box, difficult=False),))
    hard = Annotation((100, 100), (VocObject("cat", box, difficult=True),))
    annotations = {"0": hard, **dict.fromkeys("1234", of_image)}
    (image_set,) = voc.TEST
    evaluator = VocGroundTruth("eleven points", image_set, ("cat",), annotations).evaluator()
    evaluator.reset()
    # Boxes are 41 pixels wide as VOC counts: shifted by 8 pixels they have an IoU of 33 / 49, a hit up to .65.
    for name, shift, score in (("0", 0, 0.9), ("1", 0, 0.8), ("2", 40, 0.7), ("3", 8, 0.6)):
        found = Instances((100, 100), pred_boxes=Boxes(torch.tensor([box]) + torch.tensor([shift, 0, shift, 0])))
        found.scores, found.pred_classes = torch.tensor([score]), torch.tensor([0])
        evaluator.process([{"image_id": name}], [{"instances": found}])
    # Precision is 1 up to a recall of 1/4, at three of the points 0, .1 ... 1, and 2/3 up to 1/2, at three more.
    at_50, at_75 = 100 * (3 + 3 * 2 / 3) / 11, 100 * 3 / 11
    scores = average_precisions(evaluator.evaluate(), ["bbox"], detections=4)
    expected = {"bbox_AP": (4 * at_50 + 6 * at_75) / 10, "bbox_AP50": at_50, "bbox_AP75": at_75}
    assert scores == pytest.approx(expected)


def test_corners_are_vocs_again_when_they_are_scored() -> None:
    """They are 1-based and inclusive; where a tool wrote fractions, these are cut off, as in mmdetection's reader."""
    boxes = ((20.0, 19.0, 60.0, 59.0), (20.7, 19.0, 60.7, 59.2))
    tree = _voc_xml(Annotation((100, 100), tuple(VocObject("cat", box, difficult=False) for box in boxes)))
    corners = [[element.findtext(tag) for tag in ("xmin", "ymin", "xmax", "ymax")] for element in tree.iter("bndbox")]
    assert corners == [["21", "20", "60", "59"]] * 2


def test_what_is_found_in_a_crowd_is_neither_right_nor_wrong(coco_root: Path, tmp_path: Path) -> None:
    def with_crowd(content: dict[str, Any]) -> None:
        images = [entry["image_id"] for entry in content["annotations"]]
        next(entry for entry in content["annotations"] if images.count(entry["image_id"]) > 1)["iscrowd"] = 1

    root = copied(coco_root, tmp_path / "coco")
    spoil_json(root / "annotations/instances_val2017.json", with_crowd)
    data = data_of(COCO, root)
    missed = [[item for item in record["annotations"] if not item["iscrowd"]] for record in data.test]
    assert sum(map(len, missed)) == sum(len(record["annotations"]) for record in data.test) - 1
    without = [record | {"annotations": objects} for record, objects in zip(data.test, missed, strict=True)]
    for found in (data.test, without):
        scores = average_precisions(outcome_of(data, GroundTruth(found, masks=True)), ["bbox", "segm"], detections=9)
        assert list(scores.values()) == pytest.approx([100.0] * 6)


def test_nothing_found_is_zero_and_said(coco_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = data_of(COCO, coco_root)
    blind = GroundTruth([{**record, "annotations": []} for record in data.test], masks=False)
    outcome = outcome_of(data, blind)
    assert all(math.isnan(value) for value in outcome["bbox"].values())
    scores = average_precisions(outcome, ["bbox", "segm"], detections=0)
    assert scores == dict.fromkeys(scores, 0.0)
    assert len(scores) == 6
    assert "finds nothing on any image" in caplog.text


@pytest.mark.parametrize("task", [VOC, COCO])
def test_the_kept_detections_are_cocos_and_give_the_ap(task: str, voc_root: Path, coco_root: Path) -> None:
    data = data_of(task, voc_root if task == VOC else coco_root)
    batches = [[record] for record in data.test]
    answers = GroundTruth(data.test, masks=task == COCO, shift=0.004)
    results = inference_on_dataset(answers, batches, Detections(data))["results"]
    assert len(results) == sum(len(record["annotations"]) for record in data.test)
    assert {entry["image_id"] for entry in results} <= {record["image_id"] for record in data.test}
    first = next(record for record in data.test if record["image_id"] == results[0]["image_id"])
    box = first["annotations"][0]["bbox"]
    corner = [entry["bbox"][:2] for entry in results if entry["image_id"] == first["image_id"]]
    assert [round(edge + 0.004, 2) for edge in box[:2]] in [pytest.approx(edges, abs=0.011) for edges in corner]
    assert all(("segmentation" in entry) == (task == COCO) for entry in results)
    if task == COCO:
        from pycocotools import coco
        from pycocotools.cocoeval import COCOeval

        # pycocotools alone, as a stranger would read the file against the annotations
        truth = coco.COCO(str(coco_root / "annotations" / "instances_val2017.json"))
        scoring = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), "segm")
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
        assert scoring.stats[0] == pytest.approx(1.0)


def test_detections_are_kept_by_image_and_the_surest_first(coco_root: Path) -> None:
    data = data_of(COCO, coco_root)
    detections = Detections(data)
    detections.reset()
    for record in data.test[1::-1]:
        found = Instances((64, 64), pred_boxes=Boxes(torch.tensor([[1.004, 2, 3.016, 5], [0, 0, 9, 9]])))
        found.scores, found.pred_classes = torch.tensor([0.12345678, 0.75]), torch.tensor([0, 1])
        detections.process([record], [{"instances": found}])
    outcome = detections.evaluate()
    assert outcome is not None
    first, second = (record["image_id"] for record in data.test[:2])
    assert first < second
    assert outcome["results"] == [
        {"image_id": image, "category_id": data.category_ids[label], "bbox": box, "score": score}
        for image in (first, second)
        for label, box, score in ((1, [0, 0, 9, 9], 0.75), (0, [1.0, 2.0, 2.01, 3.0], 0.123457))
    ]


def test_images_are_scored_upright_and_without_their_annotations(voc_root: Path, tmp_path: Path) -> None:
    data, seen = data_of(VOC, voc_root), []

    class Seeing(GroundTruth):
        def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Instances]]:
            seen.extend(batch)
            return super().forward(batch)

    first, _ = planned(*prepared(tmp_path), data)
    trial = replace(first, index=1)  # the first trial would draw a picture
    trial.path.mkdir(parents=True)
    with quiet_detectron2():
        scores = evaluate_detector(trial, Seeing(data.test, masks=False))  # type: ignore[arg-type]  # no parts are used
    assert scores == pytest.approx({"bbox_AP": 100.0, "bbox_AP50": 100.0, "bbox_AP75": 100.0})
    objects = sum(len(record["annotations"]) for record in data.test)
    assert len(json.loads(gzip.decompress(trial.detections.read_bytes()))) == objects
    for record, item in zip(data.test, seen, strict=True):
        image = np.array(Image.open(record["file_name"]).resize((32, 32), Image.Resampling.BILINEAR))
        assert torch.equal(item["image"], torch.from_numpy(image).permute(2, 0, 1))
        assert "instances" not in item


def test_all_detections_are_counted_and_those_of_some_images_kept() -> None:
    sample = Sample(["b"])
    for _ in range(2):  # an earlier scoring's detections are forgotten
        sample.reset()
        outputs = [{"instances": Instances((9, 9), scores=torch.ones(count))} for count in (1, 3, 0)]
        sample.process([{"file_name": name} for name in "abc"], outputs)
    outcome = sample.evaluate()
    assert outcome is not None
    assert outcome["count"] == 4
    assert {name: len(instances) for name, instances in outcome["detections"].items()} == {"b": 3}


def test_an_ap_that_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match=r"segm AP of 3 detections is not a number"):
        average_precisions({"bbox": {"AP": 1.0, "AP50": 1.0, "AP75": 1.0}}, ["bbox", "segm"], detections=3)


def test_trials_are_averaged_and_kept_apart() -> None:
    common = {"seconds_per_iteration": 0.5, "training_seconds": 10.0}
    trials = [{"bbox_AP": ap, "peak_memory_gib": gib, **common} for ap, gib in ((40.0, 2.0), (43.0, 3.0), (41.0, 1.0))]
    numbers = summary(trials)
    assert numbers["bbox_AP"] == pytest.approx(124 / 3)
    assert numbers["bbox_AP_std"] == pytest.approx(np.std([40, 43, 41], ddof=1))
    assert [numbers[f"bbox_AP@trial={index}"] for index in range(3)] == [40.0, 43.0, 41.0]
    assert [numbers[cost] for cost in ("peak_memory_gib", "training_seconds", "seconds_per_iteration")] == [3, 30, 0.5]
    assert set(summary(trials[:1])) == {"bbox_AP", "seconds_per_iteration", "peak_memory_gib", "training_seconds"}


def test_coco_is_scored_by_the_official_api(coco_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The official API counts, even if detectron2 was built from source with a faster one of its own."""
    monkeypatch.setattr(coco_evaluation, "COCOeval_opt", type("Fast", (), {}))
    data = data_of(COCO, coco_root)
    assert outcome_of(data, GroundTruth(data.test, masks=True))["bbox"]["AP"] == pytest.approx(100)
