"""A run's line lists its numbers in one order; damaged results are not taken for none."""

from itertools import permutations
from pathlib import Path

from places import REPRODUCED
from run_samples import finished

from baselines import resolve
from results.collection.collect import collect_runs
from results.collection.gathering import results_of
from results.collection.runs import find_runs
from results.report.doubts import doubts
from results.report.run_entries import headlines

RECORDED = REPRODUCED / "cpu-112px" / "mocov2"


def row(task: str, protocol: str, value: float, *, metric: str = "top1", dataset: str = "scenes") -> dict[str, object]:
    return {"task": task, "protocol": protocol, "value": value, "metric": metric, "dataset": dataset}


def test_the_order_is_one_whatever_was_measured_first() -> None:
    rows = [
        row("knn", "knn-v1[k=200]", 23.1),
        row("linear", "linear-moco-v1[epochs=3]", 26.6),
        row("knn", "knn-v1[k=20]", 31.2),
        row("logistic", "logreg-v1", 43.9),
        row("linear", "linear-moco-v1[epochs=3]", 60.0, metric="top5"),
    ]
    run = resolve("mocov2", {"knn.neighbours": [20, 200], "probe.epochs": 3})
    lines = {headlines(list(order), run) for order in permutations(rows)}
    assert lines == {"top1: linear 26.60, logistic 43.90, knn k=20 31.20, knn k=200 23.10 %"}
    assert headlines([], run) == ""


def test_protocols_stand_as_the_run_has_them_and_others_last_and_whole() -> None:
    rows = [
        row("knn", "knn-v1[k=5]", 30.0),
        row("linear", "linear-moco-v1[epochs=3]", 26.6),
        row("knn", "knn-v1[k=20]", 31.2),
        row("linear", "linear-moco-v1", 27.0),
        row("knn", "knn-v1[k=200]", 23.1),
        row("class-means", "class-means-v1", 20.0),
    ]
    run = resolve("mocov2", {"knn.neighbours": [200, 20]})
    lines = {headlines(list(order), run) for order in permutations(rows)}
    knn = "knn k=200 23.10, knn k=20 31.20, knn knn-v1[k=5] 30.00"
    linear = "linear linear-moco-v1 27.00, linear linear-moco-v1[epochs=3] 26.60"
    assert lines == {f"top1: {linear}, {knn}, class-means 20.00 %"}
    whole = "knn knn-v1[k=200] 23.10, knn knn-v1[k=20] 31.20, knn knn-v1[k=5] 30.00"
    assert headlines(rows, None) == f"top1: {linear}, {whole}, class-means 20.00 %"


def test_of_a_detector_the_batches_of_all_devices_are_the_runs_own() -> None:
    protocols = ("voc-frcnn-c4-24k-v1", "voc-frcnn-c4-24k-v1[batch=10]", "voc-frcnn-c4-24k-v1[batch=4]")
    rows = [row("voc07+12", name, 50.0, metric="bbox_AP", dataset="voc07+12") for name in protocols]
    line = "bbox_AP: voc07+12 batch=4 50.00, voc07+12 batch=10 50.00, voc07+12 voc-frcnn-c4-24k-v1 50.00 %"
    assert headlines(rows, resolve("mocov2")) == line


def test_data_sets_and_measures_are_named_where_there_are_several() -> None:
    rows = [
        row("voc07+12", "voc-v1", 50.3, metric="bbox_AP", dataset="voc07+12"),
        row("linear", "linear-moco-v1", 70.0, dataset="imagenet100"),
        row("linear", "linear-moco-v1", 80.0, dataset="caltech101"),
    ]
    assert headlines(rows, None) == (
        "top1: linear caltech101 80.00, linear imagenet100 70.00 %; bbox_AP: voc07+12 50.30 %"
    )


def test_recorded_runs_of_one_row_have_one_order() -> None:
    runs = find_runs([RECORDED])
    frame = collect_runs(runs)
    lines = [headlines(frame[frame["path"] == str(run.folder.results)].to_dict("records"), run.run) for run in runs]
    names = [[part.rsplit(" ", 1)[0] for part in line.removesuffix(" %").split(", ")] for line in lines]
    assert len(names) == 3
    assert names[0] == names[1] == names[2] == ["top1: linear", "logistic", "knn k=20", "knn k=200"]


def test_results_that_cannot_be_read_are_not_said_to_be_none(tmp_path: Path) -> None:
    """The page used to begin with "no run has been evaluated", and the cause was printed on the terminal alone."""
    folder = finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 60.0})
    folder.results.write_text('{"value": 60.0\n')
    runs = find_runs([tmp_path], resolve)
    frame, _ = results_of(runs)
    name = f"full/mocov2/{folder.path.name}"
    assert doubts(runs, frame)[0] == f"no line can be read in results.jsonl of {name}: every measured cell is empty"
    folder.results.unlink()
    assert doubts(runs, None)[0] == "no run has been evaluated: every measured cell is empty"
