"""The way from run folders to one long table of results, and which of its rows may be averaged."""

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from repro.errors import UserError
from repro.files import write_atomically
from repro.runs.departures import common_scale
from repro.runs.difference import difference
from results.reading import read_table
from results.runs import RESULTS, RunRecord, find_runs, listed

MEASUREMENT = ["run_id", "method", "task", "dataset", "split", "protocol", "metric"]
"""What makes two rows the same measurement, of which the later one counts."""

KEYS = ["dataset", "split", "protocol", "fidelity", "scale"]
"""Runs that differ in any of these are never averaged."""

CELL = [*KEYS, "task", "metric", "method"]
"""Rows that agree in all of these are averaged: they are the seeds of one cell."""

ENOUGH_SEEDS = 3
"""Seeds behind a cell from which on pages call its spread known."""


def collect(roots: Sequence[Path], *, sweep: str = "") -> pd.DataFrame:
    """Read every `results.jsonl` below some folders.

    A run that was evaluated twice has two rows for the same measurement: the one that started later is kept, which for
    rows of one file is the lower line.

    Args:
        roots: Run folders, sweep folders, or any folder above them (`runs/<sweep>/<method>/s<seed>-<id>/`).
        sweep: Only runs of this sweep, where given.

    Returns:
        One row per result: the fields of `repro.runs.records.Result` (texts as categories, `started` as a UTC
        timestamp, of `scale` the `common_scale`) and `path`, the file it came from; ordered by path and line.
        `attrs["warnings"]` holds one line per kind of trouble.

    Raises:
        UserError: A root is missing, or no result was found below any.
    """
    return collect_runs(find_runs(roots, sweep=sweep), listed(roots))


def collect_runs(runs: Sequence[RunRecord], origin: str = "the given runs") -> pd.DataFrame:
    """Read the results of run folders that are known already.

    Args:
        runs: What `find_runs` returns.
        origin: Where they were looked for, as a message names it.

    Returns:
        What `collect` returns.

    Raises:
        UserError: None of them holds a result.
    """
    paths = [run.folder.results for run in runs if run.folder.results.is_file()]
    if not paths:
        raise UserError(f"no {RESULTS} below {origin}", mend="give a folder in which a run has been evaluated")
    table, warnings = read_table(paths)
    if not table.num_rows:
        reason = f", the first trouble is {warnings[0]}" if warnings else ""
        raise UserError(f"no result in the {len(paths)} file(s) below {origin}{reason}", mend="evaluate a run first")
    frame = table.to_pandas(self_destruct=True)  # frees each column of Arrow's as it goes: a million rows, once
    # Texts are categories here: what is parsed or mapped below is each different text, not each of a million rows.
    times = frame["started"].cat
    frame["started"] = pd.to_datetime(times.categories, format="ISO8601", utc=True).take(times.codes)
    scales = frame["scale"].cat
    frame["scale"] = pd.Categorical(scales.categories.map(common_scale).take(scales.codes))
    frame = _keep_last(frame, warnings)
    frame.attrs["warnings"] = warnings  # last of all: pandas drops `attrs` in many of its operations
    return frame


def _keep_last(frame: pd.DataFrame, warnings: list[str]) -> pd.DataFrame:
    """Returns the row that started last of each measurement; what is left out is added to the warnings."""
    repeated = frame.duplicated(MEASUREMENT, keep=False)
    if not repeated.any():
        return frame
    # Stable: of rows that started in the same second the lower line is the later one. `sort_index` then gives the
    # order of paths and lines back.
    latest = frame.sort_values("started", kind="stable").drop_duplicates(MEASUREMENT, keep="last").sort_index()
    dropped = frame.index.difference(latest.index)
    first = frame.loc[dropped[0]]
    warnings.append(
        f"{len(dropped)} row(s) were measured again later (same {', '.join(MEASUREMENT)}) and are left out, the first: "
        f"{first['metric']} on {first['dataset']} of run {first['run_id']} in {first['path']}"
    )
    return latest.reset_index(drop=True)


def refuse_mixed(frame: pd.DataFrame) -> None:
    """Refuse rows that would be averaged although they are of different recipes, or are of the same seed.

    Args:
        frame: Rows of one task and metric, or several metrics of the same runs.

    Raises:
        UserError: Names two runs that exclude each other, and in what they differ.
    """
    # Recipes first: two recipes under one name mostly are two runs for one seed as well, and how their settings differ
    # is the better message.
    recipes = frame.drop_duplicates([*CELL, "recipe"])
    _refuse(recipes[recipes.duplicated(CELL, keep=False)], CELL, "runs of different recipes")
    seed_of_cell = [*CELL, "seed"]
    _refuse(frame[frame.duplicated(seed_of_cell, keep=False)], seed_of_cell, "several runs")


def _refuse(rivals: pd.DataFrame, keys: list[str], trouble: str) -> None:
    """Raise a UserError that names the first two rows that agree in the keys; none where there are no rivals."""
    if rivals.empty:
        return
    first = rivals.iloc[0]
    second = rivals[(rivals[keys] == first[keys]).all(axis=1)].iloc[1]
    of_seed = f" with seed {first['seed']}" if "seed" in keys else ""
    raise UserError(
        f"{first['method']}{of_seed} on {first['dataset']} has {trouble} under one name: {first['run_id']} "
        f"({first['path']}) and {second['run_id']} ({second['path']}){_difference(first, second)}",
        mend="name one sweep with --sweep, or give a narrower path",
    )


def _difference(first: "pd.Series[str]", second: "pd.Series[str]") -> str:
    """Say in what the runs of two rows differ, as their folders tell."""
    first_run, second_run = (RunRecord(Path(row["path"]).parent).run for row in (first, second))
    if first_run is None or second_run is None:
        return ", whose run.yaml is not there to tell the difference" if first["recipe"] != second["recipe"] else ""
    settings = [f"{name} ({value} and {its})" for name, (value, its) in difference(first_run, second_run).items()]
    return f", which differ in {', '.join(settings)}" if settings else ""


def seeds_by_cell(frame: pd.DataFrame) -> "pd.Series[int]":
    """Count the seeds behind each cell.

    Args:
        frame: What `collect` returns.

    Returns:
        The number of different seeds, indexed by the columns of `CELL`.
    """
    return frame.groupby(CELL, observed=True)["seed"].nunique()


def export(frame: pd.DataFrame, path: Path) -> None:
    """Write the long table whole, or leave what was there.

    Args:
        frame: What `collect` returns.
        path: `.parquet` or `.csv`.

    Raises:
        UserError: Another suffix, or the file cannot be written.
    """
    if path.suffix not in (".parquet", ".csv"):
        raise UserError(f"cannot export to {path}", mend="give a name that ends in .parquet or .csv")
    content = export_bytes(frame, path.suffix)  # before the file is opened: a failure here leaves the old one
    write_atomically(path, lambda file: file.write(content))


def export_bytes(frame: pd.DataFrame, suffix: str) -> bytes:
    """Returns the long table as the content of a `.parquet` or `.csv` file."""
    buffer = io.BytesIO()
    if suffix == ".parquet":
        frame.to_parquet(buffer, index=False)
    else:
        frame.to_csv(buffer, index=False, lineterminator="\n")
    return buffer.getvalue()
