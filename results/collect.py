"""From run folders to one long table of results."""

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


def collect(roots: Sequence[Path], *, sweep: str = "") -> pd.DataFrame:
    """Read every `results.jsonl` below the given folders.

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
    """Read the results of runs that have been found; see `collect`.

    Args:
        runs: What `find_runs` returns.
        origin: Where they were looked for, as a message names it.

    Raises:
        UserError: None of them holds a result.
    """
    paths = [run.folder.results for run in runs if run.folder.results.is_file()]
    if not paths:
        raise UserError(f"no {RESULTS} below {origin}; give a folder in which a run has been evaluated")
    table, warnings = read_table(paths)
    if not table.num_rows:
        reason = f", the first trouble is {warnings[0]}" if warnings else ""
        raise UserError(f"no result in the {len(paths)} file(s) below {origin}{reason}; evaluate a run first")
    frame = table.to_pandas(self_destruct=True)
    times = frame["started"].cat  # parsed once each: a sweep's rows share few
    frame["started"] = pd.to_datetime(times.categories, format="ISO8601", utc=True).take(times.codes)
    scales = frame["scale"].cat
    frame["scale"] = pd.Categorical(scales.categories.map(common_scale).take(scales.codes))
    frame = _keep_last(frame, warnings)
    frame.attrs["warnings"] = warnings
    return frame


def _keep_last(frame: pd.DataFrame, warnings: list[str]) -> pd.DataFrame:
    repeated = frame.duplicated(MEASUREMENT, keep=False)
    if not repeated.any():
        return frame
    kept = frame.sort_values("started", kind="stable").drop_duplicates(MEASUREMENT, keep="last").sort_index()
    dropped = frame.index.difference(kept.index)
    first = frame.loc[dropped[0]]
    warnings.append(
        f"{len(dropped)} row(s) were measured again later (same {', '.join(MEASUREMENT)}) and are left out, the first: "
        f"{first['metric']} on {first['dataset']} of run {first['run_id']} in {first['path']}"
    )
    return kept.reset_index(drop=True)


def refuse_mixed(frame: pd.DataFrame) -> None:
    """Refuse rows that would be averaged although they are of different recipes, or claim the same seed.

    Args:
        frame: Rows of one task and metric, or several metrics of the same runs.

    Raises:
        UserError: Names two runs that exclude each other, and in what they differ.
    """
    cell = [*KEYS, "task", "metric", "method"]
    recipes = frame.drop_duplicates([*cell, "recipe"])
    _refuse(frame, recipes[recipes.duplicated(cell, keep=False)], [*cell, "recipe"], "runs of different recipes")
    seeds = [*cell, "seed"]
    _refuse(frame, frame[frame.duplicated(seeds, keep=False)], seeds, "several runs")


def _refuse(frame: pd.DataFrame, rivals: pd.DataFrame, cell: list[str], trouble: str) -> None:
    if rivals.empty:
        return
    first = rivals.iloc[0]
    place = [name for name in cell if name != "recipe"]
    second = rivals[(rivals[place] == first[place]).all(axis=1)].iloc[1]
    of_seed = f" with seed {first['seed']}" if "seed" in cell else ""
    raise UserError(
        f"{first['method']}{of_seed} on {first['dataset']} has {trouble} under one name: {first['run_id']} "
        f"({first['path']}) and {second['run_id']} ({second['path']}){_apart(first, second)}; name one sweep with "
        "--sweep, or give a narrower path"
    )


def _apart(first: "pd.Series[str]", second: "pd.Series[str]") -> str:
    """Say in what two runs differ, as their folders tell."""
    one, other = (RunRecord(Path(row["path"]).parent).run for row in (first, second))
    if one is None or other is None:
        return ", whose run.yaml is not there to tell the difference" if first["recipe"] != second["recipe"] else ""
    differing = [f"{name} ({mine} and {its})" for name, (mine, its) in difference(one, other).items()]
    return f", which differ in {', '.join(differing)}" if differing else ""


def export(frame: pd.DataFrame, path: Path) -> None:
    """Write the long table whole, or leave what was there.

    Args:
        frame: What `collect` returns.
        path: `.parquet` or `.csv`.

    Raises:
        UserError: Another suffix, or the file cannot be written.
    """
    if path.suffix not in (".parquet", ".csv"):
        raise UserError(f"cannot export to {path}: its name must end in .parquet or .csv")
    content = export_bytes(frame, path.suffix)
    write_atomically(path, lambda file: file.write(content))


def export_bytes(frame: pd.DataFrame, suffix: str) -> bytes:
    """The long table as the content of a `.parquet` or `.csv` file."""
    buffer = io.BytesIO()
    if suffix == ".parquet":
        frame.to_parquet(buffer, index=False)
    else:
        frame.to_csv(buffer, index=False, lineterminator="\n")
    return buffer.getvalue()
