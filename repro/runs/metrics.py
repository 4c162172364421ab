"""Reading a training's `metrics.jsonl`, also while it is being written."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from repro.filesystem.files import read_regular, reading
from repro.filesystem.presence import exists
from repro.runs.schemas import LARGEST_WHOLE

LARGEST_BYTES = 2**30
"""Most bytes of a file of metrics; years of training write less."""


def parse_metrics(text: str) -> list[dict[str, Any]]:
    """Returns the rows of a `metrics.jsonl`, or of its end; lines that are torn, or of another form, are left out.

    A row has `step`, a whole number, and numbers by name; anything else in it is left out.
    """
    return [row for row in map(parse_row, text.splitlines()) if row is not None]


def parse_row(line: str) -> dict[str, Any] | None:
    """Returns one row of a `metrics.jsonl`; None where the line is torn, or of another form."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int or not 0 <= row["step"] <= LARGEST_WHOLE:
        return None
    return {name: value for name, value in row.items() if _is_number(value)}


def training_seconds(rows: Iterable[Mapping[str, Any]]) -> float:
    """Returns how long the steps of a training took, as the rows of its metrics tell; 0 where none of them does.

    A row's `time` is the mean over the steps that it stands for. Time stamps would not do: between two attempts a run
    may have waited for days.
    """
    seconds, last_step = 0.0, 0
    for row in rows:
        if "time" in row:
            seconds += row["time"] * (row["step"] - last_step)
            last_step = row["step"]
    return seconds


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) <= LARGEST_WHOLE)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a file of metrics, which a run may still be writing; raises as `metrics_text`."""
    return parse_metrics(metrics_text(path))


def metrics_text(path: Path) -> str:
    """Returns the text of a file of metrics; empty where there is no such file.

    Raises:
        UserError: It cannot be read.
    """
    if not exists(path):
        return ""
    with reading(path, "remove it, or put the run's own in its place"):
        return read_regular(path, LARGEST_BYTES).decode(errors="replace")
