"""The recorded reproduction: its tables follow from its runs, and its page says what the tables say."""

import re
from pathlib import Path

import pytest

from baselines import METHODS
from results.collect import collect, collect_runs
from results.formats import markdown
from results.runs import find_runs
from results.tables import render

PLACE = Path(__file__).parents[1] / "results" / "reproduced"
TASKS = {"h100-linear": "", "h100-knn": "knn", "cpu-linear": "", "cpu-knn": "knn"}
ROWS = {
    "h100": (
        "supervised",
        *("mocov2", "mocov2+mscn", "mocov2+adios", "mocov2+ours-blur", "mocov2+ours-mean", "mocov2+ours-hp"),
        *("mocov2+ours-hp-random", "mocov2+ours-hp-no-hard-negative", "mocov2+ours-hp-no-masks"),
        *("simclr", "simclr+mscn", "simclr+adios", "simclr+ours-hp", "simclr+ours-blur", "simclr+ours-mean"),
    ),
    "small": (
        "mocov2+ours-hp-no-masks",
        "mocov2+ours-hp-no-hard-negative",
        "mocov2+ours-hp-rho1",
        "mocov2+ours-hp",
    ),
    "cpu": (
        "supervised",
        *("mocov2", "mocov2+mscn", "mocov2+adios", "mocov2+ours-blur", "mocov2+ours-mean", "mocov2+ours-hp"),
        "mocov2+ours-hp-no-masks",
        *("simclr", "simclr+mscn", "simclr+adios", "simclr+ours-blur", "simclr+ours-mean", "simclr+ours-hp"),
        *("simclr+ours-hp-rho1", "simclr+ours-hp-no-hard-negative"),
    ),
}
"""Of the page's tables, in their order; rows in italics are of untrained networks."""
COMMITS = {
    "h100": "f998ef0",
    "cpu": "a69e1f2",
    "untrained": "5ae5b94",
    "small": "5ae5b94",
    "small-untrained": "5ae5b94",
}
COMMITS |= {"small-rate-0.06": "916ea2d", "small-rate-0.015": "916ea2d"}


@pytest.mark.parametrize("name", TASKS)
def test_the_tables_follow_from_the_runs(name: str) -> None:
    runs = find_runs([PLACE / name.partition("-")[0]])
    table = render("table1", collect_runs(runs), runs=runs, only="ours", task=TASKS[name])
    assert markdown(table) == (PLACE / name / "table1.md").read_text()
    assert table.watermark.startswith("TINY MODE")


def test_the_page_has_the_means_of_the_runs() -> None:
    lines = re.findall(r"^\| ([^*|]+) \| ([^|]+) \| ([^|]+) \|$", (PLACE / "README.md").read_text(), re.MULTILINE)
    shown = [[knn.strip("* "), linear.strip("* ")] for label, knn, linear in lines if label != "---"]
    assert shown == [means(folder, method) for folder, methods in ROWS.items() for method in methods]
    for folder, methods in ROWS.items():
        assert {run.method for run in find_runs([PLACE / folder])} == set(methods) <= set(METHODS)


def means(folder: str, method: str) -> list[str]:
    """By kNN with k = 20 and by the linear probe."""
    frame = collect([PLACE / folder / method])
    chosen = frame[(frame["metric"] == "top1") & (frame["protocol"] != "knn-v1[k=200]")]
    cells = [chosen.loc[chosen["task"] == task, "value"] for task in ("knn", "linear")]
    return [f"{v.mean():.1f} ± {v.std():.1f} ({len(v)})" if len(v) > 1 else f"{v.mean():.1f} (1)" for v in cells]


@pytest.mark.parametrize("folder", COMMITS)
def test_runs_are_of_the_commit_that_the_page_names(folder: str) -> None:
    attempts = [attempt for run in find_runs([PLACE / folder]) for attempt in run.attempts]
    assert {(attempt["commit"][:7], attempt["dirty"]) for attempt in attempts} == {(COMMITS[folder], False)}
    assert COMMITS[folder] in (PLACE / "README.md").read_text()
