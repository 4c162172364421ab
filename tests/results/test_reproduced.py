"""The recorded reproduction: its tables follow from its runs, and its page states the tables' numbers."""

import re

import pytest
from places import REPRODUCED

from baselines import METHODS, resolve
from results.collection.collect import collect, collect_runs
from results.collection.runs import find_runs
from results.formats.table_files import markdown
from results.tables.rendering import render
from slurm.planning.sweep import expand, load

TASKS = {
    "cpu-112px": ("knn", "logistic", "linear"),
    "h100": ("knn", "linear"),
}
"""The columns of the page's tables, in their order."""
TABLES = [(folder, task) for folder in TASKS for task in TASKS[folder]]
ROWS = {
    "cpu-112px": (
        "supervised",
        *("mocov2", "mocov2+mscn", "mocov2+adios", "mocov2+ours-blur", "mocov2+ours-mean", "mocov2+ours-hp"),
        *("simclr", "simclr+mscn", "simclr+adios", "simclr+ours-blur", "simclr+ours-mean", "simclr+ours-hp"),
    ),
    "h100": (
        "supervised",
        *("mocov2", "mocov2+mscn", "mocov2+adios", "mocov2+ours-blur", "mocov2+ours-mean", "mocov2+ours-hp"),
        *("mocov2+ours-hp-random", "mocov2+ours-hp-no-hard-negative", "mocov2+ours-hp-no-masks"),
        *("simclr", "simclr+mscn", "simclr+adios", "simclr+ours-hp", "simclr+ours-blur", "simclr+ours-mean"),
    ),
}
"""The methods in the page's tables, in their order; rows in italics are of untrained networks."""
COMMITS = {
    "h100": "f998ef0",
    "cpu-112px": "b83ac22",
    "cpu-112px-untrained": "b83ac22",
    "untrained": "5ae5b94",
}


@pytest.mark.parametrize(("folder", "task"), TABLES)
def test_the_tables_follow_from_the_runs(folder: str, task: str) -> None:
    runs = find_runs([REPRODUCED / folder], resolve)
    table = render("table1", collect_runs(runs), runs=runs, only="measured", task=task)
    assert markdown(table) == (REPRODUCED / f"{folder}-{task}" / "table1.md").read_text()
    assert table.watermark.startswith("Not comparable with the published numbers\nTINY MODE")


def test_the_page_has_the_means_of_the_runs() -> None:
    page = (REPRODUCED / "README.md").read_text()
    cells = [line.strip("|").split("|")[1:] for line in page.splitlines() if re.match(r"\| [^*].* \(\d\)\** \|$", line)]
    page_means = [[cell.strip("* ") for cell in row] for row in cells]
    assert page_means == [means(folder, method) for folder, methods in ROWS.items() for method in methods]
    for folder, methods in ROWS.items():
        assert {run.method for run in find_runs([REPRODUCED / folder], resolve)} == set(methods) <= set(METHODS)


def means(folder: str, method: str) -> list[str]:
    """The top-1 of a method by each task of the folder, as the page prints it; kNN with k = 20."""
    frame = collect([REPRODUCED / folder / method])
    top1 = frame[(frame["metric"] == "top1") & (frame["protocol"] != "knn-v1[k=200]")]
    cells = [top1.loc[top1["task"] == task, "value"] for task in TASKS[folder]]
    return [f"{v.mean():.1f} ± {v.std():.1f} ({len(v)})" if len(v) > 1 else f"{v.mean():.1f} (1)" for v in cells]


@pytest.mark.parametrize("folder", COMMITS)
def test_runs_are_of_the_commit_that_the_page_names(folder: str) -> None:
    attempts = [attempt for run in find_runs([REPRODUCED / folder], resolve) for attempt in run.attempts]
    assert {(attempt["commit"][:7], attempt["dirty"]) for attempt in attempts} == {(COMMITS[folder], False)}
    assert COMMITS[folder] in (REPRODUCED / "README.md").read_text()


def test_the_pages_command_makes_these_runs() -> None:
    jobs = expand(load("reproduction-small"), REPRODUCED / "cpu-112px", resolve, {}).jobs
    runs = [record.run for record in find_runs([REPRODUCED / "cpu-112px"], resolve) if record.run is not None]
    assert len(runs) == 3 * len(ROWS["cpu-112px"])
    planned = {(job.run.folder, job.run.probe, job.run.logistic, job.run.knn) for job in jobs}
    assert {(run.folder, run.probe, run.logistic, run.knn) for run in runs} <= planned
    commands = [line.partition("     #")[0] for line in (REPRODUCED / "README.md").read_text().splitlines()]
    assert "salmask sweep reproduction-small --local --parallel 2 --root DIR" in commands
