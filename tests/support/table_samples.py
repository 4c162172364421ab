"""Rows of results to make tables and claims of, and what a table says, read back."""

import io
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pandas as pd
from run_samples import RESULT

from baselines import METHODS, resolve
from repro.runs.records import Result
from repro.settings.departures import Departure
from repro.settings.run import Run
from results.collection.row_comparison import RowComparison
from results.formats.layout import Table
from results.formats.table_files import csv, markdown

TINY = "resnet18, 64 px, 6 epochs, scenes"
"""A scale that is not the paper's."""
BASE = replace(
    RESULT,
    recipe="aaaaaaaaaa",
    sweep="full",
    method="mocov2",
    framework="mocov2",
    strategy="none",
    fidelity="paper",
    value=68.0,
    commit="abc1234def5678",
    device="NVIDIA A100",
    started="2026-11-22T10:00:00Z",
    duration_s=60.0,
)


def rows_of(method: str = "mocov2", values: Sequence[float] = (68.0,), **changes: Any) -> list[Result]:
    """One run per value, with seeds from 0; `changes` are fields of `Result`."""
    rows = []
    for seed, value in enumerate(values):
        fields = {"seed": seed, "framework": method.split("+", maxsplit=1)[0], **changes}
        run_id = f"{method}-s{fields['seed']}-{fields.get('dataset', '')}"
        rows.append(replace(BASE, **{"run_id": run_id, "method": method, "value": value, **fields}))
    return rows


def frame_of(*results: Result, departures: Sequence[Departure] = ()) -> pd.DataFrame:
    """The long table that `results.collection.collect` would make of such rows, as far as tables and claims read it.

    Args:
        results: The rows.
        departures: In what the runs depart from their methods' rows, beside their scale.
    """
    return pd.DataFrame(
        [
            {
                **vars(result),
                "path": f"runs/{result.run_id}/results.jsonl",
                "trained_on": "",
                "departures": comparison_of(result.method, departures),
            }
            for result in results
        ]
    )


def comparison_of(method: str, departures: Sequence[Departure] = (), run: Run | None = None) -> RowComparison:
    """How a run (by default the method's row itself) compares with its method's row; a foreign method has no row."""
    if method not in METHODS:
        return RowComparison(unknown="a method of somebody else's")
    row = _row(method)
    return RowComparison(run or row, row, departures=tuple(departures))


@cache
def _row(method: str) -> Run:
    """Cached: runs are immutable, and resolving one for each row of a frame, at a tenth of a second each, adds up."""
    return resolve(method)


def records_of(table: Table) -> pd.DataFrame:
    """A table's CSV, in which an empty cell is an empty text."""
    return pd.read_csv(io.StringIO(csv(table)), keep_default_na=False)


def markdown_rows(table: Table) -> dict[str, list[str]]:
    """The cells of a table's Markdown by the label of their row; heading and rule are rows too."""
    lines = [line for line in markdown(table).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0]: row[1:] for row in cells}
