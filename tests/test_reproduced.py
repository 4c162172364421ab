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
TASKS = {"h100-linear": "", "h100-knn": "knn"}


@pytest.mark.parametrize("name", TASKS)
def test_the_tables_follow_from_the_runs(name: str) -> None:
    runs = find_runs([PLACE / "h100"])
    table = render("table1", collect_runs(runs), runs=runs, only="ours", task=TASKS[name])
    assert markdown(table) == (PLACE / name / "table1.md").read_text()
    assert table.watermark.startswith("TINY MODE")


@pytest.mark.parametrize(("folder", "rows"), [("h100", 16), ("small", 4)])
def test_the_page_has_the_means_of_the_runs(folder: str, rows: int) -> None:
    frame = collect([PLACE / folder])
    chosen = frame[(frame["metric"] == "top1") & (frame["protocol"] != "knn-v1[k=200]")]
    expected: dict[str, list[str]] = {}
    for method, found in chosen.groupby("method", observed=True):
        cells = [found.loc[found["task"] == task, "value"] for task in ("knn", "linear")]
        expected[str(method)] = [
            f"{v.mean():.1f} ± {v.std():.1f} ({len(v)})" if len(v) > 1 else f"{v.mean():.1f} ({len(v)})" for v in cells
        ]
    lines = re.findall(r"^\| ([^*|]+) \| ([^|]+) \| ([^|]+) \|$", (PLACE / "README.md").read_text(), re.MULTILINE)
    shown = [[knn.strip("* "), linear.strip("* ")] for _, knn, linear in lines]
    assert len(expected) == rows
    assert set(expected) <= set(METHODS)
    assert [cells for cells in expected.values() if cells not in shown] == []


def test_every_run_is_of_a_known_commit_and_names_no_machine() -> None:
    runs = find_runs([PLACE])
    assert {(attempt["commit"][:7], attempt["dirty"]) for run in runs for attempt in run.attempts} <= {
        ("f998ef0", False),
        ("5ae5b94", False),
    }
    for path in PLACE.rglob("*"):
        if path.suffix in (".json", ".jsonl", ".yaml", ".log"):
            text = path.read_text()
            assert not any(f"{folder}/" in text for folder in ("/home", "/root", "/tmp", "/work", "/usr", "/opt")), path
