"""From run folders to one long table of results."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd

from repro.errors import UserError
from repro.records import FIELDS, read_rows

FILE_NAME = "results.jsonl"
MEASUREMENT = ("run_id", "task", "dataset", "split", "protocol", "metric")
"""What makes two rows the same measurement, of which the later one counts."""


def collect(roots: Sequence[Path]) -> pd.DataFrame:
    """Read every `results.jsonl` below the given folders.

    A run that was evaluated twice has two rows for the same measurement: the one that started later is kept, which for
    rows of one file is the lower line.

    Args:
        roots: Run folders, sweep folders, or any folder above them (`runs/<sweep>/<method>/s<seed>-<id>/`).

    Returns:
        One row per result: the fields of `repro.records.Result` (`started` as a UTC timestamp) and `path`, the file it
        came from; ordered by path and line. `attrs["warnings"]` holds one line per kind of trouble.

    Raises:
        UserError: A root is missing, or no result was found below any.
    """
    paths = sorted({path.resolve(): path for root in roots for path in _find(root)}.values())
    if not paths:
        raise UserError(f"no {FILE_NAME} below {_listed(roots)}; give a folder in which a run has been evaluated")
    columns: dict[str, list[Any]] = {name: [] for name in (*FIELDS, "path")}
    warnings: list[str] = []
    once: dict[Any, Any] = {}
    for path in paths:
        rows, troubles = read_rows(path)
        warnings += troubles
        for name, values in zip(FIELDS, zip(*rows, strict=True), strict=False):  # no values where there are no rows
            # A sweep repeats few strings many times: one copy of each keeps a million rows in memory.
            columns[name] += map(once.setdefault, values, values) if isinstance(values[0], str) else values
        columns["path"] += [str(path)] * len(rows)
    if not columns["path"]:
        reason = f", the first trouble is {warnings[0]}" if warnings else ""
        raise UserError(f"no result in the {len(paths)} file(s) below {_listed(roots)}{reason}; evaluate a run first")
    frame = pd.DataFrame(columns)
    frame["started"] = pd.to_datetime(frame["started"], format="ISO8601", utc=True)
    frame = _keep_last(frame, warnings)
    frame.attrs["warnings"] = warnings
    return frame


def _find(root: Path) -> Iterator[Path]:
    if not root.is_dir():
        raise UserError(f"no folder {root}; give a run folder, or one above it")
    for folder, below, files in os.walk(root, onerror=_refuse):
        if FILE_NAME in files:
            yield Path(folder, FILE_NAME)
            below.clear()  # a run's checkpoints and galleries hold no further runs
        else:
            below[:] = [name for name in below if not name.startswith(".")]


def _refuse(error: OSError) -> NoReturn:
    """Stop at a folder that cannot be listed: a table that lacks its runs would not show it."""
    raise UserError(
        f"cannot look into {error.filename}: {error.strerror}; mend its permissions or give a narrower path"
    )


def _keep_last(frame: pd.DataFrame, warnings: list[str]) -> pd.DataFrame:
    repeated = frame.duplicated(list(MEASUREMENT), keep=False)
    if not repeated.any():
        return frame
    kept = frame.sort_values("started", kind="stable").drop_duplicates(list(MEASUREMENT), keep="last").sort_index()
    dropped = frame.index.difference(kept.index)
    first = frame.loc[dropped[0]]
    warnings.append(
        f"{len(dropped)} row(s) were measured again later (same {', '.join(MEASUREMENT)}) and are left out, the first: "
        f"{first['metric']} on {first['dataset']} of run {first['run_id']} in {first['path']}"
    )
    return kept.reset_index(drop=True)


def _listed(roots: Sequence[Path]) -> str:
    return ", ".join(map(str, roots))
