"""Which recorded rows answer an evaluation, without measuring anything."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from prediction_samples import predictions
from run_samples import finished
from training_samples import CPU

from downstream import tasks
from downstream.tasks import recorded
from repro.errors import UserError
from repro.runs.evaluation import Evaluation
from repro.runs.folder import RunFolder
from repro.runs.predictions import images_of_splits, write
from repro.runs.records import append, read
from repro.settings.detection import VOC

LINEAR = Evaluation("linear", "folder")
LOST = "lost"
"""For `with_files`: the images of a file that is gone."""


def with_files(place: Path, images: Mapping[str, str], evaluation: Evaluation = LINEAR) -> RunFolder:
    """A run with a row for each metric, whose file is of predictions of some images; "" is a row that names none."""
    run_folder = finished(place / "sweep", "mocov2", 0, {(evaluation.dataset, metric): 50.0 for metric in images})
    append_files(run_folder, images, evaluation)
    return run_folder


def append_files(folder: RunFolder, images: Mapping[str, str], evaluation: Evaluation) -> None:
    """Makes the last rows of a run those of an evaluation, each with its file."""
    rows, names = read(folder.results)[0], list(images)
    (protocol, *_) = evaluation.protocols(folder.load())
    folder.results.unlink()
    append(folder.results, rows[: -len(names)])
    for row, (metric, of_images) in zip(rows[-len(names) :], images.items(), strict=True):
        named = {"predictions": "", "predictions_sha256": ""}
        if of_images:
            path = folder.path / "predictions" / f"{evaluation.task}-{metric}.parquet"
            made = write(path, folder, predictions(np.full(8, 0.5), 0, of_images))
            named = {"predictions": made.name, "predictions_sha256": made.sha256}
            if of_images == LOST:
                path.unlink()
        changes: dict[str, Any] = {"task": evaluation.task, "dataset": evaluation.dataset, "protocol": protocol}
        append(folder.results, [replace(row, **changes, **named)])


def rows_below(folder: RunFolder, root: Path | None, evaluation: Evaluation = LINEAR, *, again: bool = False) -> int:
    """The number of rows that count."""
    return len(recorded(folder.load(), folder, evaluation, root, again=again))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Of a data set, whose images nobody reads."""
    (tmp_path / "data" / "train").mkdir(parents=True)
    return tmp_path / "data"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """Stands for the images of each split that are scored below a root; a test says their fingerprints."""
    parts = MagicMock(return_value=[SimpleNamespace(fingerprint=lambda: "val")])
    monkeypatch.setattr(tasks, "scored_images", parts)
    return parts


def test_every_file_must_be_of_the_roots_images(
    tmp_path: Path, root: Path, opened: MagicMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = dict.fromkeys(("top1", "top5", "mean_per_class"), "val")
    looked_at = MagicMock(wraps=tasks.read_predictions)
    monkeypatch.setattr(tasks, "read_predictions", looked_at)
    assert rows_below(with_files(tmp_path / "same", images), root) == looked_at.call_count == 3
    folder = with_files(tmp_path / "odd", images | {"top5": "of another root"})
    with pytest.raises(UserError, match=f"measured on other images than those in {root}"):
        rows_below(folder, root)
    assert rows_below(folder, None) == 3  # nothing is compared unless a root is named
    assert opened.call_count == 2


def test_all_drawn_splits_are_compared(tmp_path: Path, root: Path, opened: MagicMock) -> None:
    folder = with_files(tmp_path, {"top1": images_of_splits(["first", "second"])})
    for names in (("first", "second"), ("first", "another"), ("first",)):
        opened.return_value = [SimpleNamespace(fingerprint=lambda name=name: name) for name in names]
        if names == ("first", "second"):
            assert rows_below(folder, root) == 1
        else:
            with pytest.raises(UserError, match="measured on other images"):
                rows_below(folder, root)


def test_what_cannot_be_compared_is_not_opened(tmp_path: Path, opened: MagicMock) -> None:
    """Neither lost predictions, nor detections, which do not name their images, nor images that are drawn."""
    gone = tmp_path / "gone"
    assert rows_below(with_files(tmp_path / "lost", {"top1": LOST, "top5": ""}), gone) == 2
    voc, drawn = Evaluation(VOC, VOC), Evaluation("linear", "scenes")
    assert rows_below(with_files(tmp_path / "voc", {"bbox_AP": "other"}, voc), gone, voc) == 1
    assert rows_below(with_files(tmp_path / "drawn", {"top1": "other"}, drawn), gone, drawn) == 1
    opened.assert_not_called()


def test_a_root_in_the_home_folder_is_found(
    tmp_path: Path, root: Path, opened: MagicMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert rows_below(with_files(tmp_path / "runs", {"top1": "val"}), Path("~/data")) == 1
    (_, task, target), _ = opened.call_args
    assert (task, target.dataset, target.root) == ("linear", "folder", root)


def test_again_asks_for_every_file_of_this_evaluation_alone(tmp_path: Path, root: Path, opened: MagicMock) -> None:
    whole = with_files(tmp_path / "whole", {"top1": "val", "top5": ""})
    assert rows_below(whole, root, again=True) == 2
    for name, images in (("one", {"top1": "val", "top5": LOST}), ("none", {"top1": "", "top5": ""})):
        folder = with_files(tmp_path / name, images)
        assert (rows_below(folder, root), rows_below(folder, root, again=True)) == (2, 0)
    # A file of another evaluation, lost or of other images, plays no part.
    other = Evaluation("logistic", "folder")
    for number, images in enumerate((LOST, "of another root")):
        folder = with_files(tmp_path / str(number), {"top1": "val", "mean_per_class": images})
        append_files(folder, {"mean_per_class": images}, other)
        assert rows_below(folder, root, again=True) == 1


def test_rows_that_are_measured_again_may_be_of_other_images(tmp_path: Path, root: Path, opened: MagicMock) -> None:
    folder = with_files(tmp_path, {"top1": "of another root", "top5": LOST})
    assert rows_below(folder, root, again=True) == 0
    opened.assert_not_called()


def test_each_look_at_the_rows_is_by_the_root_and_the_switch(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before the check, the one when it begins, and the one that reads what is there."""
    looks: list[tuple[Any, ...]] = []
    answers = iter([[], [], ["rows"], ["rows"], [], ["rows"]])

    def look(*arguments: Any, **options: Any) -> list[str]:
        looks.append((*arguments[3:], options))
        return next(answers)

    monkeypatch.setattr(tasks, "recorded", look)
    for name, answer in (("require_pretrained", None), ("load_backbone_of", None), ("_measure", ["measured"])):
        monkeypatch.setattr(tasks, name, MagicMock(return_value=answer))
    checked = MagicMock(return_value=(None, None))
    monkeypatch.setattr(tasks, "_checked", checked)
    run, folder = MagicMock(), MagicMock()
    for expected in ("measured", "rows"):
        assert tasks.evaluate(run, folder, "linear@folder", CPU, root, again=True) == [expected]
    first, second = (Evaluation(task, "folder") for task in ("linear", "knn"))
    checked.reset_mock()
    tasks.check_evaluations(run, folder, {first: root, second: root}, again=True)
    assert [call.args[1] for call in checked.call_args_list] == [first]
    assert looks == [(root, {"again": True})] * 6


def test_a_line_of_results_that_is_skipped_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = with_files(tmp_path, {"top1": "val", "top5": "val"})
    folder.results.write_text(folder.results.read_text() + '{"run_id": "')
    rows = recorded(folder.load(), folder, LINEAR)
    assert [row.metric for row in rows] == ["top1", "top5"]
    assert caplog.messages == [f"{folder.results}:3: the last line is torn (a write was cut off); skipped"]
