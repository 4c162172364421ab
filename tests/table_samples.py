"""Rows of results to make tables and claims of, and what a table says, read back."""

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from run_samples import RESULT

from repro.runs.records import Result
from results.formats import csv, markdown
from results.layout import Table

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


def frame_of(*results: Result) -> pd.DataFrame:
    """The long table that `results.collect.collect` would make of such rows, as far as tables and claims read it."""
    return pd.DataFrame([{**vars(result), "path": f"runs/{result.run_id}/results.jsonl"} for result in results])


def records_of(table: Table) -> pd.DataFrame:
    """A table's CSV, in which an empty cell is an empty text."""
    return pd.read_csv(io.StringIO(csv(table)), keep_default_na=False)


def markdown_rows(table: Table) -> dict[str, list[str]]:
    """The cells of a table's Markdown by the label of their row; heading and rule are rows too."""
    lines = [line for line in markdown(table).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0]: row[1:] for row in cells}
