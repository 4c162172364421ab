"""Table 2 on small data without a download: the command evaluates both tasks, and a second time at no cost."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from detection_samples import detection_words, prepared
from places import ROOT
from training_samples import Ended, copied, refused, salmask

from repro.runs.folder import RunFolder
from repro.runs.records import Result, read
from repro.settings.detection import COCO, COSTS, VOC
from results.collection.collect import collect
from results.tables.rendering import render

pytestmark = pytest.mark.end_to_end


@dataclass(frozen=True)
class Evaluated:
    """A run that the command evaluated by both tasks on scenes; to be read only.

    Attributes:
        folder: The run's folder.
        outputs: What the command printed for each task.
        rows: Its results.
    """

    folder: RunFolder
    outputs: Mapping[str, str]
    rows: Sequence[Result]

    def value(self, task: str, metric: str) -> float:
        return self.row(task, metric).value

    def row(self, task: str, metric: str) -> Result:
        (row,) = (row for row in self.rows if (row.task, row.metric) == (task, metric))
        return row

    def metrics(self, task: str) -> set[str]:
        return {row.metric for row in self.rows if row.task == task}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    _, folder = prepared(tmp_path_factory.mktemp("evaluated") / "runs" / "sweep")
    outputs = {}
    for task in (VOC, COCO):
        ended = evaluate(folder, task)
        assert ended.code == 0, ended.err
        outputs[task] = ended.out
    rows, warnings = read(folder.results)
    assert not warnings
    return Evaluated(folder, outputs, rows)


@pytest.fixture
def copy(evaluated: Evaluated, tmp_path: Path) -> RunFolder:
    """A copy of the folder, in which a test may delete files."""
    return copied(
        evaluated.folder, tmp_path / "runs" / evaluated.folder.path.relative_to(evaluated.folder.path.parents[2])
    )


def evaluate(folder: RunFolder, task: str, *options: str) -> Ended:
    return salmask("eval", str(folder.path), "--task", task, "--data", "scenes", *detection_words(), *options)


def test_each_task_has_its_metrics(evaluated: Evaluated) -> None:
    boxes, masks = {"bbox_AP", "bbox_AP50", "bbox_AP75"}, {"mask_AP", "mask_AP50", "mask_AP75"}
    costs = {"seconds_per_iteration", "peak_memory_gib", "training_seconds"}
    assert evaluated.metrics(VOC) == boxes | costs
    assert {metric for metric in evaluated.metrics(COCO) if "AP" in metric} == boxes | masks
    assert all(0 <= row.value <= 100 for row in evaluated.rows if "AP" in row.metric)
    seconds = evaluated.value(VOC, "training_seconds")
    assert seconds == pytest.approx(4 * evaluated.value(VOC, "seconds_per_iteration"))


def test_rows_name_protocol_data_and_scale(evaluated: Evaluated) -> None:
    protocols = {row.task: (row.protocol, row.dataset, row.split) for row in evaluated.rows}
    assert protocols == {
        VOC: ("voc-frcnn-c4-24k-v1[batch=2,iterations=4,min_size=32,rois=8,trials=1]", "scenes", "test"),
        COCO: ("coco-mrcnn-c4-2x-v1[batch=2,iterations=4,min_size=32,rois=8]", "scenes", "val2017"),
    }
    assert all("detection of 4 iterations, 32 px, 8 regions" in row.scale for row in evaluated.rows)


@pytest.mark.parametrize("task", [VOC, COCO])
def test_scores_name_the_detections_that_they_are_of(evaluated: Evaluated, task: str) -> None:
    row = evaluated.row(task, "bbox_AP")
    content = (evaluated.folder.path / row.predictions).read_bytes()
    assert hashlib.sha256(content).hexdigest() == row.predictions_sha256
    entries = json.loads(gzip.decompress(content))
    assert entries
    assert {"image_id", "category_id", "bbox", "score"} <= set(entries[0])
    assert ("segmentation" in entries[0]) == (task == COCO)
    assert {row.metric for row in evaluated.rows if not row.predictions} == set(COSTS)


def test_objects_are_drawn_for_each_task(evaluated: Evaluated) -> None:
    pictures = sorted(path.name.partition("-v1")[0] for path in evaluated.folder.gallery.iterdir())
    assert pictures == ["objects-scenes-coco-mrcnn-c4-2x", "objects-scenes-voc-frcnn-c4-24k"]


def test_the_table_shows_them_as_tiny_beside_the_papers_numbers(evaluated: Evaluated) -> None:
    table = render("table2", collect([evaluated.folder.path]))
    assert table.watermark.startswith("Not comparable with the published numbers\nTINY MODE")
    lines = table.records.to_dict("records")
    kinds = {"voc": ("VOC07+12 detection",), "coco": ("COCO detection", "COCO instance segmentation")}
    beside = {(line["protocol"].partition("-")[0], line["published_column"]) for line in lines}
    assert beside == {(task, f"{kind} {ap}") for task in kinds for kind in kinds[task] for ap in ("AP", "AP50", "AP75")}


def test_a_second_call_only_reads(evaluated: Evaluated) -> None:
    before = evaluated.folder.results.read_bytes()
    started = time.monotonic()
    again = evaluate(evaluated.folder, VOC)
    assert (again.out, evaluated.folder.results.read_bytes()) == (evaluated.outputs[VOC], before)
    assert time.monotonic() - started < 10


def test_without_rows_and_scores_what_is_trained_is_scored_again(evaluated: Evaluated, copy: RunFolder) -> None:
    copy.results.unlink()
    (scores,) = copy.path.glob("detection/*voc*/trial0/scores.json")
    scores.unlink()
    final = scores.with_name("model_final.pth")
    stamp = final.stat().st_mtime_ns
    command = ("eval", str(copy.path), "--task", VOC, *detection_words(), "detection.evaluate_only=true")
    assert salmask(*command).code == 0
    fresh = {metric: value for metric, value in rows_of(copy).items() if "AP" in metric}
    assert fresh == {metric: evaluated.value(VOC, metric) for metric in ("bbox_AP", "bbox_AP50", "bbox_AP75")}
    assert final.stat().st_mtime_ns == stamp


def test_lost_detections_are_made_again_with_again(evaluated: Evaluated, copy: RunFolder) -> None:
    """As for rows of older versions, which kept no detections; the rows stay."""
    (final,) = copy.path.glob("detection/*voc*/trial0/model_final.pth")
    stamp = final.stat().st_mtime_ns
    kept, rows_before = copy.path / evaluated.row(VOC, "bbox_AP").predictions, copy.results.read_text()
    content = kept.read_bytes()
    kept.unlink()
    more = evaluate(copy, VOC, "--again")
    assert f"bbox_AP {evaluated.value(VOC, 'bbox_AP'):.2f} of " in more.err
    assert (kept.read_bytes(), final.stat().st_mtime_ns) == (content, stamp)
    assert copy.results.read_text().startswith(rows_before)


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


def rows_of(folder: RunFolder) -> dict[str, float]:
    return {row.metric: row.value for row in read(folder.results)[0]}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("task", [VOC, COCO])
def test_two_processes_train_one_detector(task: str, tmp_path: Path) -> None:
    _, folder = prepared(tmp_path)
    arguments = ["-m", "repro.cli", "eval", str(folder.path), "--task", task, *detection_words(), "detection.batch=4"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments]
    process = subprocess.run(launch, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    assert "2 devices, batch 4" in process.stderr
    assert 0 <= rows_of(folder)["bbox_AP"] <= 100
    config = next(folder.path.glob("detection/*/config.yaml")).read_text()
    assert "NORM: naiveSyncBN" in config


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("task", [VOC, COCO])
@pytest.mark.parametrize("head", ["c4", "fpn"])
def test_a_real_resnet_50(task: str, head: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The paper's detectors, for a few iterations."""
    caplog.set_level("INFO", "salmask")
    changes = {"encoder.arch": "resnet50", "detection.head": head, "detection.iterations": 2}
    _, folder = prepared(tmp_path, changes)
    settings = [
        *detection_words(),
        *(f"{key}={value}" for key, value in changes.items() if key.startswith("detection.")),
    ]
    command = salmask("eval", str(folder.path), "--task", task, *settings)
    assert command.code == 0, command.err
    assert "all 318 tensors of the backbone loaded" in caplog.text
    assert 0 <= rows_of(folder)["bbox_AP"] <= 100
