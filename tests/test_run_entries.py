"""A run's line names its numbers, in one order."""

from itertools import permutations
from pathlib import Path

from results.collect import collect
from results.run_entries import headlines

RECORDED = Path(__file__).parents[1] / "examples" / "reproduced" / "cpu-112px" / "mocov2"


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
    lines = {headlines(list(order)) for order in permutations(rows)}
    assert lines == {"top1: linear 26.60, logistic 43.90, knn k=20 31.20, knn k=200 23.10 %"}
    assert headlines([]) == ""


def test_data_sets_and_measures_are_named_where_there_are_several() -> None:
    rows = [
        row("voc07+12", "voc-v1", 50.3, metric="bbox_AP", dataset="voc07+12"),
        row("linear", "linear-moco-v1", 70.0, dataset="imagenet100"),
        row("linear", "linear-moco-v1", 80.0, dataset="caltech101"),
    ]
    assert headlines(rows) == ("top1: linear caltech101 80.00, linear imagenet100 70.00 %; bbox_AP: voc07+12 50.30 %")


def test_recorded_runs_of_one_row_have_one_order() -> None:
    frame = collect([RECORDED])
    lines = [headlines(of_run.to_dict("records")) for _, of_run in frame.groupby("path", observed=True)]
    names = [[part.rsplit(" ", 1)[0] for part in line.removesuffix(" %").split(", ")] for line in lines]
    assert len(names) == 3
    assert names[0] == names[1] == names[2] == ["top1: linear", "logistic", "knn k=20", "knn k=200"]
