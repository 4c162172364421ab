"""The cells of a table as data: published, measured over seeds, the difference, and how sure each is."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from repro.quantities import counted, number_text
from results.collection.collect import KEYS, code_states
from results.collection.row_comparison import ALTERED
from results.collection.runs import RunRecord, by_path_of_rows, symptoms_text
from results.collection.scored_images import images_of
from results.collection.training_images import are_unlike, training_images
from results.formats.layout import Measured, in_one_line
from results.paper.published import Published, PublishedRow
from results.statistics.ranking import clear_ranks, significance
from results.tables.absence import BegunRun, measured_otherwise, missing_seeds, reason, unfinished
from results.tables.columns import Column


def cell_records(
    rows: list[PublishedRow],
    columns: list[Column],
    results: pd.DataFrame,
    lacking: Sequence[BegunRun],
    paper: Published,
    runs: Sequence[RunRecord],
    every_result: pd.DataFrame,
) -> pd.DataFrame:
    """Returns one line per row, column group and metric: the numbers that every format prints.

    Args:
        rows: The table's rows.
        columns: Its column groups.
        results: What it shows.
        lacking: What `results.tables.absence.lacking_a_number` returns, to tell why a cell is empty.
        paper: The published table.
        runs: The run folders at hand, which tell what a training warned of.
        every_result: Results of all tasks.

    Returns:
        `results.formats.layout.Table.records`, and `column`, `code_states`, `behind` and `warned`, which are for the
        layout alone.
    """
    warned = by_path_of_rows(run for run in runs if run.symptoms)
    metrics = {metric for column in columns for metric, _ in column.metrics} if paper.task else set()
    otherwise = {metric: measured_otherwise(every_result, metric) for metric in metrics}
    lines = []
    values: list[dict[int, float]] = []  # of each line, by seed
    for index, column in enumerate(columns):
        seeds = _rows_by_cell(column, results)
        for row in rows:
            for metric, _ in column.metrics:
                cell = seeds.get((row.method, metric))
                record = _record(row, index, column, metric, cell, paper)
                base = seeds.get((row.framework, metric))
                if base is None and cell is not None:
                    base = _of_no_row(row.framework, column, metric, every_result)
                record["significance"] = _significance(row, column, cell, base)
                if cell is None:
                    why = reason(row.method, column, metric, results, lacking, otherwise.get(metric, ()))
                    record |= {"measured": why, "missing": ""}
                else:
                    states = unfinished(row.method, column, lacking, set(cell["run_id"]))
                    record["missing"] = missing_seeds(states)
                record["warned"] = "" if cell is None else _warned_of(cell, warned)
                lines.append(record)
                values.append({} if cell is None else _by_seed(cell))
    # Without the types, a table without any number of a kind would have a column of `None`s.
    records = pd.DataFrame(lines).astype(dict.fromkeys(("published", "mean", "std", "difference"), "float64"))
    records["rank"] = 0
    for _, lines_of_block in records[records["n"] > 0].groupby(["block", "column", "metric"]).groups.items():
        of_block = records.loc[lines_of_block]
        alike = partial(_alike, columns[of_block["column"].iloc[0]], list(of_block["row"]))
        records.loc[lines_of_block, "rank"] = clear_ranks([values[line] for line in lines_of_block], alike)
    order = {row.method: number for number, row in enumerate(rows)}
    return records.sort_values("row", key=lambda methods: methods.map(order), kind="stable", ignore_index=True)


def _alike(column: Column, methods: Sequence[str], first: int, second: int) -> bool:
    """Returns whether the runs of two methods are not known to differ in anything else."""
    return not column.unlike(methods[first], methods[second])


def _significance(
    row: PublishedRow, column: Column, cell: pd.DataFrame | None, without_masking: pd.DataFrame | None
) -> str:
    """Returns how a cell compares with that of its framework without masking: a key of `SIGNS`, or empty."""
    if cell is None or without_masking is None or row.method == row.framework:
        return ""
    own, base = column.comparisons[row.method], without_masking["departures"].iloc[0]
    # If runs were not altered alike, or not scored or trained on the same images, that may cause the difference.
    if own.altered_unlike(base) or len(images_of(cell) | images_of(without_masking)) > 1:
        return ""
    if are_unlike(training_images(cell) | training_images(without_masking)):
        return ""
    return significance(_by_seed(cell), _by_seed(without_masking))


def _of_no_row(method: str, column: Column, metric: str, every_result: pd.DataFrame) -> pd.DataFrame | None:
    """Returns a column's results of a method for which the table has no row, as Table 3 has none for SimCLR.

    None if there are none, or if they must not be averaged: `refuse_mixed` checked the table's results alone.
    """
    rows = column.rows_of(every_result[(every_result["method"] == method) & (every_result["metric"] == metric)])
    return None if rows.empty or rows["seed"].duplicated().any() or rows["recipe"].nunique() > 1 else rows


def _warned_of(seeds: pd.DataFrame, warned: Mapping[str, RunRecord]) -> str:
    """Returns the note on a cell with trainings that warned: of what, when, and their last loss; else empty.

    Args:
        seeds: The results of the cell.
        warned: The runs that warned, by the file of their results.
    """
    runs = [warned[path] for path in map(str, seeds["path"]) if path in warned]
    if not runs:
        return ""
    ends = [rows[-1] for run in runs if (rows := [row for row in run.metrics if "loss" in row])]
    losses = " to ".join(dict.fromkeys(number_text(pick(row["loss"] for row in ends)) for pick in (min, max) if ends))
    last = int(max((row["step"] for row in ends), default=0))
    ended = f"; {'its' if len(runs) == 1 else 'their'} loss at step {last}: {losses}" if ends else ""
    return f"warnings in training: {symptoms_text(runs, len(seeds))}{ended}"


def values_by_cell(column: Column, results: pd.DataFrame) -> dict[tuple[str, str], dict[int, float]]:
    """Returns the values of a column by (method, metric), one for each seed.

    Args:
        column: The column.
        results: What its table shows.
    """
    of_column = column.rows_of(results)[["method", "metric", "seed", "value"]]
    values: dict[tuple[str, str], dict[int, float]] = {}
    for method, metric, seed, value in of_column.itertuples(index=False, name=None):
        values.setdefault((method, metric), {})[seed] = value
    return values


def _rows_by_cell(column: Column, results: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """Returns the results of a column by (method, metric), one line per seed."""
    groups = column.rows_of(results).groupby(["method", "metric"], sort=False, observed=True)
    return {(str(method), str(metric)): seeds for (method, metric), seeds in groups}


def _by_seed(rows: pd.DataFrame) -> dict[int, float]:
    return dict(zip(rows["seed"], rows["value"], strict=True))


def _record(
    row: PublishedRow, index: int, column: Column, metric: str, seeds: pd.DataFrame | None, paper: Published
) -> dict[str, Any]:
    """Returns a line of the records; `column`, `code_states` and `behind` are for the layout alone."""
    printed_name = dict(column.metrics)[metric]
    value = paper.values.get((row.method, column.group.name, printed_name)) if paper.prints(metric) else None
    mean = None if seeds is None else seeds["value"].mean()
    difference = mean - value if mean is not None and value is not None and column.compares(row.method) else None
    commits = [] if seeds is None else code_states(seeds)
    comparison = column.comparisons.get(row.method)
    return {
        "table": paper.name,
        "block": row.block,
        "row": row.method,
        "label": row.label,
        "column": index,
        **dict(zip(KEYS, column.key, strict=True)),
        "metric": metric,
        "published": value,
        "published_column": f"{column.group.title} {printed_name}".strip(),
        "measured": "" if seeds is None else summary(seeds["value"]),
        "mean": mean,
        "std": None if seeds is None else _deviation(seeds["value"]),
        "n": 0 if seeds is None else len(seeds),
        "difference": difference,
        "runs": "" if seeds is None else " ".join(sorted(seeds["run_id"])),
        "commits": ", ".join(commits),
        "code_states": len(commits),
        "behind": () if seeds is None else measured(seeds),
        "dirty": seeds is not None and bool(seeds["dirty"].any()),
        "departures": str(comparison) if comparison else "",
        "mark": column.mark,
        "watermark": in_one_line(watermark([column])),
    }


def measured(rows: pd.DataFrame) -> tuple[Measured, ...]:
    """Returns the measurements behind a cell by seed.

    Args:
        rows: The results of the cell.
    """
    lines = rows.sort_values("seed")
    columns = zip(lines["seed"], lines["value"], lines["path"], strict=True)
    return tuple(Measured(int(seed), float(value), str(path)) for seed, value, path in columns)


def summary(values: "pd.Series[float]") -> str:
    """Returns what a measured cell shows, `69.10 ± 1.11 (3)`: mean, sample standard deviation, number of seeds."""
    std = f" ± {number_text(_deviation(values))}" if len(values) > 1 else ""
    return f"{number_text(values.mean())}{std} ({len(values)})"


@np.errstate(over="ignore", invalid="ignore")  # of values as large as only a damaged file has
def _deviation(values: "pd.Series[float]") -> float:
    """Returns the sample standard deviation, as pandas takes it (ddof=1)."""
    return float(values.std())


def watermark(columns: Sequence[Column]) -> str:
    """Returns the warning that stands above numbers: that runs are TINY or ALTERED.

    Args:
        columns: The columns of the numbers; the text is empty if all runs are as in the paper.
    """
    tiny = list(dict.fromkeys(column.scale for column in columns if column.scale))
    comparisons = [comparison for column in columns for comparison in column.comparisons.values()]
    altered = dict.fromkeys(departure.what for comparison in comparisons for departure in comparison.altered)
    warnings = [f"TINY MODE – {' / '.join(tiny)}"] if tiny else []
    if altered:
        count = counted(len(altered), "setting")
        warnings.append(f"{ALTERED} – {count} not as in the paper, see the notes")
    if not warnings:
        return ""
    every = all(column.mark for column in columns if column.comparisons)
    lead = "Not comparable with the published numbers"
    return "\n".join([lead if every else f"{lead} where so marked", *warnings])
