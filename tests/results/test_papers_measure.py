"""Beside verdicts, the paper's numbers are labelled with their measure if the runs are judged by another one."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from run_samples import finished
from table_samples import frame_of, rows_of

from baselines import resolve
from repro.command_line.terminal import Console
from results.claims.families import FamilyVerdict, families_as_frame, judge_families
from results.claims.verdict_frame import as_frame
from results.claims.verdict_tables import letters, print_families, print_verdicts
from results.claims.verdicts import Verdict, judge
from results.collection.collect import collect_runs
from results.collection.runs import find_runs
from results.report.page import build

VALUES = {"mocov2": (60.0, 61.0, 62.5), "mocov2+ours-hp": (64.0, 65.2, 66.1)}
AP50 = {"task": "coco", "dataset": "coco", "protocol": "coco-v1", "metric": "bbox_AP50", "split": "val2017"}
PAPER = "paper (linear top-1)"


def rows(**changes: Any) -> pd.DataFrame:
    return frame_of(*(row for method, values in VALUES.items() for row in rows_of(method, values, **changes)))


KNN = {"task": "knn", "protocol": "knn-v1[k=20]"}
"""Fields of rows that were measured by kNN."""


def shown(verdicts: Sequence[Verdict], families: Sequence[FamilyVerdict], *, terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200, no_color=True)
    print_families(families, console)
    print_verdicts(verdicts, letters(families), console)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize(
    ("changes", "options", "heads"),
    [
        ({}, {}, 0),
        ({"metric": "top1_best"}, {"metric": "top1_best"}, 0),  # the paper does not say which of the two it prints
        ({"metric": "top5"}, {"metric": "top5"}, 2),
        (KNN, {"task": "knn"}, 2),
        ({**KNN, "metric": "top5"}, {"task": "knn", "metric": "top5"}, 2),
    ],
)
def test_the_heading_names_it(changes: dict[str, str], options: dict[str, str], heads: int, terminal: bool) -> None:
    """A difference in top-5 used to stand beside one in top-1, headed "paper", which only a last sentence explained."""
    verdicts = [verdict for verdict in judge(rows(**changes), **options) if verdict.both_run]
    text = shown(verdicts, judge_families(verdicts), terminal=terminal)
    assert text.count(PAPER) == heads
    assert text.count("+5.58") == 2  # in the sentence and in the comparison


def test_beside_what_is_judged_by_the_papers_own_measure_the_cell_names_it() -> None:
    frame = pd.concat([rows(**KNN), rows(**AP50)])
    verdicts = [verdict for verdict in judge(frame, task="knn") if verdict.both_run]
    assert len(verdicts) == 2
    families = judge_families(verdicts)
    text = shown(verdicts, families, terminal=False)
    assert PAPER not in text
    assert text.count("+5.58 (linear top-1)") == 1
    assert text.count("(in part linear top-1)") == 1
    assert "()" not in text  # judged by the paper's own measure, it needs no label
    told = families_as_frame(families).set_index("claim")["published_by"]
    assert told["ours-beats-baseline"] == "linear top1, coco bbox_AP50"
    # On a terminal the comparisons of a column stand together, and its heading names the measure.
    assert shown(verdicts, families, terminal=True).count(PAPER) == 1


def test_a_claim_that_was_not_run_has_the_papers_measure_too() -> None:
    verdicts = judge(rows(**KNN), task="knn")
    text = shown(verdicts, judge_families(verdicts), terminal=False)
    lines = [line for line in text.splitlines() if line.startswith("| not run ") and ">" in line]
    detection = [line for line in lines if "COCO" in line or "VOC" in line]
    assert detection
    assert not any("top-1" in line for line in detection)
    assert all("(linear top-1)" in line for line in lines if line not in detection)


def test_data_say_by_what_the_paper_measured() -> None:
    verdicts = judge(rows(**KNN, metric="top5"), task="knn", metric="top5")
    data = as_frame(verdicts)
    by = dict(zip(data["table"], data["published_by"], strict=False))
    assert by["table1"] == by["table3"] == "linear top1"
    assert by["table2"].startswith(("voc", "coco"))
    assert {row["published_by"] for row in json.loads(data[data["table"] == "table1"].to_json(orient="records"))} == {
        "linear top1"
    }


def test_the_report_says_it_in_its_cells_and_on_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("results.report.page._plots", lambda *_: ([], []))  # plots take most of the time
    for method, values in VALUES.items():
        for seed, value in enumerate(values):
            finished(tmp_path, method, seed, {("imagenet100", "top1"): value, ("imagenet100", "top5"): value + 20})
    runs = find_runs([tmp_path], resolve)
    frame = collect_runs(runs)
    page = build(runs, frame, metric="top5")
    assert page.count("+5.58<br><small>linear top-1</small>") == 2
    assert "where the paper has +5.58 by linear top-1, mean of" in page
