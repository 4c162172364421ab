"""`salmask eval --again`: rows of older versions get their predictions, and no recorded row is lost."""

import json
import shutil
from pathlib import Path

import pytest
from json_rows import read_rows, write_rows
from training_samples import Ended, refused, salmask, tiny, with_random_backbone

from repro.runs.evaluation import Evaluation
from repro.runs.folder import RunFolder
from repro.runs.records import latest, read
from results.collection.collect import collect

OLD = 12.34
KNN = ("--task", "knn", "knn.neighbours=[5]")


def again(folder: RunFolder, *options: str) -> Ended:
    return salmask("eval", str(folder.path), *KNN, "--again", *options)


@pytest.fixture
def older(tmp_path: Path) -> RunFolder:
    """A run with a row as an older version recorded it: with another value, and without predictions."""
    folder = with_random_backbone(tiny(), tmp_path / "sweep")
    assert salmask("eval", str(folder.path), *KNN).code == 0
    rows = read_rows(folder.results)
    shutil.rmtree(folder.path / "predictions")
    changes = {"value": OLD, "started": "2026-01-02T03:04:05+00:00", "predictions": "", "predictions_sha256": ""}
    write_rows(folder.results, (row | changes for row in rows))
    return folder


def test_without_the_switch_the_row_is_only_read(older: RunFolder) -> None:
    before = older.results.read_text()
    ended = salmask("eval", str(older.path), *KNN)
    assert f"{OLD:.2f} %" in ended.out
    assert (ended.err, older.results.read_text()) == ("", before)


def test_with_it_the_row_is_measured_again_and_stays(older: RunFolder) -> None:
    before = older.results.read_text()
    ended = again(older, "--json")
    assert ended.code == 0, ended.err
    after = older.results.read_text()
    assert after.startswith(before)  # appended, never rewritten
    old_rows, rows = read(older.results)[0][: before.count("\n")], read(older.results)[0]
    assert len(rows) == 2 * len(old_rows)
    printed = json.loads(ended.out)
    assert [row["metric"] for row in printed] == [row.metric for row in old_rows]
    assert all(row["predictions"] for row in printed if row["metric"] in ("top1", "top5"))
    (line,) = [line for line in ended.err.splitlines() if line.startswith("top1 ")]
    value = next(row["value"] for row in printed if row["metric"] == "top1")
    assert line.startswith(f"top1 {OLD:.2f} of 2026-01-02 (commit ")
    assert f"is replaced by {value:.2f}; both rows are in {older.results}" in line
    frame = collect([older.path.parent.parent])
    assert frame.query("metric == 'top1'")["value"].tolist() == [value]
    assert any("measured again later" in warning for warning in frame.attrs["warnings"])
    assert latest(rows) == rows[len(old_rows) :]


def test_a_row_with_its_file_is_only_read_and_one_whose_file_is_altered_is_not(older: RunFolder) -> None:
    again(older)
    content = older.results.read_text()
    ended = again(older)
    assert (ended.err, older.results.read_text()) == ("", content)
    assert f"{OLD:.2f}" not in ended.out
    file = next(older.path.glob("predictions/*.parquet"))
    file.write_bytes(file.read_bytes() + b"x")
    assert "is replaced by" in again(older).err
    assert older.results.read_text().count("\n") == 3 * content.count("\n") // 2


def test_a_recorded_run_without_its_backbone_is_refused_and_left_as_it_is(older: RunFolder) -> None:
    older.backbone.unlink()
    before = older.results.read_text()
    assert "has no backbone.pth" in refused("eval", str(older.path), *KNN, "--again")
    assert older.results.read_text() == before
    assert not (older.path / "predictions").exists()
    run = older.load()
    assert Evaluation.parse("knn", run).name(run) == "knn"


@pytest.mark.slow
def test_a_detector_that_is_only_evaluated_is_scored_again_and_its_new_rows_count(tmp_path: Path) -> None:
    samples = pytest.importorskip("detection_samples")
    _, folder = samples.prepared(tmp_path / "runs" / "sweep")
    settings = [f"{key}={value}" for key, value in samples.DETECTION.items() if key.startswith("detection.")]
    command = ("eval", str(folder.path), "--task", "voc07+12", *settings)
    assert salmask(*command).code == 0
    before = folder.results.read_text()
    (final,) = folder.path.glob("detection/*/trial0/model_final.pth")
    stamp = final.stat().st_mtime_ns
    ended = salmask(*command, "detection.evaluate_only=true", "--json")
    assert ended.code == 0, ended.err
    assert "is replaced by" in ended.err
    after, rows = folder.results.read_text(), read(folder.results)[0]
    assert (after.startswith(before), after.count("\n")) == (True, 2 * before.count("\n"))
    assert latest(rows) == rows[len(rows) // 2 :]
    assert len(json.loads(ended.out)) == len(rows) // 2
    assert final.stat().st_mtime_ns == stamp
    assert salmask(*command).out
    assert folder.results.read_text() == after
