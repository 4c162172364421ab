"""The paper's Table 1 with our numbers beside the published ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from repro.errors import UserError
from results.formats import Cell, Group, Line, Table, write
from results.published import (
    CELL_CAVEATS,
    COLUMN_CAVEATS,
    DATASETS,
    METRICS,
    ORIENTATION,
    SINGLE_RUNS,
    Published,
    Row,
    table1,
)

__all__ = ["render", "write"]

TASK = "linear"
KEYS = ["dataset", "split", "protocol", "fidelity", "scale"]
"""Runs that differ in any of these are never averaged: each combination is a column group of its own."""

NOT_RUN = "not run"


@dataclass(frozen=True)
class _Column:
    """One column group: runs of one dataset, split, protocol, fidelity and scale."""

    dataset: str
    split: str
    protocol: str
    fidelity: str
    scale: str

    @property
    def key(self) -> tuple[str, ...]:
        return (self.dataset, self.split, self.protocol, self.fidelity, self.scale)

    @property
    def paper(self) -> str:
        """The column of the paper that stands beside."""
        return DATASETS.get(self.dataset, ORIENTATION)

    @property
    def comparable(self) -> bool:
        return self.dataset in DATASETS


class _Notes:
    """Notes in the order of their first use; the same text gets the same number."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)

    def mark(self, *texts: str) -> tuple[int, ...]:
        self.texts += [text for text in dict.fromkeys(texts) if text not in self.texts]
        return tuple(sorted(self.texts.index(text) + 1 for text in texts))


def render(name: str, frame: pd.DataFrame, *, rows: Literal["ours", "all"] = "ours", metric: str = "top1") -> Table:
    """Set our numbers beside the paper's.

    Every combination of dataset, split, protocol, fidelity and scale among the linear-evaluation results becomes a
    column group: the published value, ours as mean ± sample standard deviation over (n) seeds, and the difference in
    points. Where the dataset is not one of the paper's, its ImageNet-100 column stands beside for orientation and no
    difference is taken.

    Args:
        name: `table1`, the only table so far.
        frame: What `results.collect.collect` returns.
        rows: `ours` for the methods that have results, `all` for every row of the paper as well.
        metric: Which number of ours to show, `top1` (the last epoch) by default.

    Returns:
        The table; `write` puts it into files.

    Raises:
        UserError: Unknown table, no result for the metric, or two runs that claim the same cell and seed.
    """
    if name != "table1":
        raise UserError(f"no table {name!r}; there is: table1")
    if rows not in ("ours", "all"):
        raise UserError(f"no choice of rows {rows!r}; there is: ours, all")
    published = table1()
    chosen = _choose(frame, metric)
    _refuse_rivals(chosen)
    columns = _columns(chosen)
    shown = _rows(chosen, published, every=rows == "all")
    records = _records(shown, columns, _summary(chosen), published, metric)
    return _table(records, chosen=chosen, shown=shown, columns=columns, published=published, metric=metric)


def _choose(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    linear = frame[frame["task"] == TASK]
    chosen = linear[linear["metric"] == metric]
    if chosen.empty:
        found = ", ".join(sorted(linear["metric"].unique())) or "no linear evaluation"
        raise UserError(f"no linear {metric} among the results (found: {found}); evaluate a run or name another metric")
    return chosen


def _refuse_rivals(chosen: pd.DataFrame) -> None:
    cell = [*KEYS, "method", "seed"]
    rivals = chosen[chosen.duplicated(cell, keep=False)]
    if rivals.empty:
        return
    first = rivals.iloc[0]
    same = rivals[(rivals[cell] == first[cell]).all(axis=1)]
    runs = " and ".join(f"{row.run_id} ({row.path})" for row in same.itertuples())
    raise UserError(
        f"{first['method']} with seed {first['seed']} on {first['dataset']} has several runs: {runs}; "
        "name one sweep with --sweep, or give a narrower path"
    )


def _columns(chosen: pd.DataFrame) -> list[_Column]:
    order = list(DATASETS)
    found = [_Column(*key) for key in chosen[KEYS].drop_duplicates().itertuples(index=False, name=None)]
    return sorted(found, key=lambda c: (order.index(c.dataset) if c.comparable else len(order), c.key))


def _rows(chosen: pd.DataFrame, published: Published, *, every: bool) -> list[Row]:
    """List the rows by block; a method that the paper does not have stands last in its framework's block."""
    run = dict(zip(chosen["method"], chosen["framework"], strict=True))
    paper = [row for row in published.rows.values() if every or row.method in run]
    blocks = list(dict.fromkeys(row.block for row in published.rows.values()))
    new = [Row(method, method, run[method]) for method in sorted(run.keys() - published.rows.keys())]
    new = [row if row.block in blocks[1:] else Row(row.method, row.label, "other") for row in new]
    return sorted([*paper, *new], key=lambda row: [*blocks, "other"].index(row.block))


def _summary(chosen: pd.DataFrame) -> dict[tuple[str, ...], dict[str, Any]]:
    cells = chosen.groupby([*KEYS, "method"], sort=False)
    summary = cells.agg(
        mean=("value", "mean"),
        std=("value", "std"),  # pandas' std is the sample one, ddof=1
        n=("value", "size"),
        runs=("run_id", lambda ids: " ".join(sorted(ids))),
        dirty=("dirty", "any"),
    )
    summary["commits"] = cells[["commit", "dirty"]].apply(_commits)
    return {tuple(key): row for key, row in summary.to_dict("index").items()}  # type: ignore[arg-type, misc]


def _commits(part: pd.DataFrame) -> list[str]:
    pairs = sorted(set(zip(part["commit"], part["dirty"], strict=True)))
    return [commit[:7] + (" (dirty)" if dirty else "") for commit, dirty in pairs]


def _records(
    shown: list[Row],
    columns: list[_Column],
    summary: dict[tuple[str, ...], dict[str, Any]],
    published: Published,
    metric: str,
) -> pd.DataFrame:
    """Lay out one line per row and column group: the numbers that every format prints."""
    lines = []
    for row in shown:
        for index, column in enumerate(columns):
            ours = summary.get((*column.key, row.method), {})
            value = published.values.get((row.method, column.paper)) if metric in METRICS else None
            lines.append(
                {
                    "table": "table1",
                    "block": row.block,
                    "row": row.method,
                    "label": row.label,
                    "column": index,
                    **dict(zip(KEYS, column.key, strict=True)),
                    "metric": metric,
                    "published": value,
                    "published_dataset": column.paper,
                    "ours": _ours(ours) if ours else NOT_RUN,
                    "mean": ours.get("mean"),
                    "std": ours.get("std"),
                    "n": ours.get("n", 0),
                    "difference": ours["mean"] - value if ours and value is not None and column.comparable else None,
                    "runs": ours.get("runs", ""),
                    "commits": ", ".join(ours.get("commits", [])),
                    "dirty": bool(ours.get("dirty", False)),
                    "watermark": _watermark([column.scale]),
                }
            )
    records = pd.DataFrame(lines).astype(dict.fromkeys(("published", "mean", "std", "difference"), "float64"))
    printed = records["mean"].round(2)
    cells = printed.groupby([records["block"], records["column"]])
    records["best"] = (printed == cells.transform("max")) & (cells.transform("count") > 1)
    return records


def _ours(cell: dict[str, Any]) -> str:
    spread = f" ± {cell['std']:.2f}" if cell["n"] > 1 else ""
    return f"{cell['mean']:.2f}{spread} ({cell['n']})"


def _watermark(scales: Sequence[str]) -> str:
    tiny = list(dict.fromkeys(scale for scale in scales if scale))
    return f"TINY MODE – {' / '.join(tiny)}; not comparable with the published numbers" if tiny else ""


def _table(
    records: pd.DataFrame,
    *,
    chosen: pd.DataFrame,
    shown: list[Row],
    columns: list[_Column],
    published: Published,
    metric: str,
) -> Table:
    notes = _Notes(_descriptions(columns, chosen))
    groups = tuple(_group(column, (index + 1,), notes, metric) for index, column in enumerate(columns))
    uniform = records[records["n"] > 0].groupby("column")["dirty"].nunique() == 1
    cells: dict[str, list[Cell]] = {row.method: [] for row in shown}
    for record in records.to_dict("records"):
        cells[record["row"]] += _cells(record, notes, published, dirt_is_news=not uniform[record["column"]])
    lines = {row.method: Line(row.label, tuple(cells[row.method])) for row in shown}
    blocks = tuple(
        tuple(lines[row.method] for row in shown if row.block == block)
        for block in dict.fromkeys(row.block for row in shown)
    )
    title = (
        f"Linear evaluation beside the paper's Table 1: {metric} in percent. Ours: mean ± sample standard deviation "
        "(number of seeds). Δ: difference ours − published, in points. Bold: best of its block."
    )
    watermark = _watermark([column.scale for column in columns])
    return Table("table1", title, watermark, groups, blocks, tuple(notes.texts), records.drop(columns="column"))


def _descriptions(columns: list[_Column], chosen: pd.DataFrame) -> list[str]:
    """Say what each column group holds, and how it differs from the others of its dataset."""
    texts = []
    for column in columns:
        part = chosen[(chosen[KEYS] == list(column.key)).all(axis=1)]
        commits = _commits(part)
        parts = [
            f"{column.dataset} ({column.split}): fidelity: {column.fidelity}",
            f"protocol: {column.protocol}",
            f"commits: {', '.join(commits)}" + (" – mixed" if len(commits) > 1 else ""),
            f"scale: {column.scale or 'as in the paper'}",
            f"sweeps: {', '.join(sorted(part['sweep'].unique()))}",
        ]
        for number, other in enumerate(columns, start=1):
            if other != column and other.dataset == column.dataset:
                differing = [k for k, mine, its in zip(KEYS, column.key, other.key, strict=True) if mine != its]
                parts.append(f"differs from [{number}] in {', '.join(differing)}")
        texts.append("; ".join(parts))
    return texts


def _group(column: _Column, marks: tuple[int, ...], notes: _Notes, metric: str) -> Group:
    if metric not in METRICS:
        beside = apart = [f"the paper prints no {metric}"]
    elif not column.comparable:
        beside = apart = [
            f"{column.dataset} is not a dataset of the paper: its {ORIENTATION} numbers stand beside for orientation "
            "only, and no difference is taken"
        ]
    else:
        beside = [COLUMN_CAVEATS[column.paper]] if column.paper in COLUMN_CAVEATS else []
        apart = ["not run at the paper's scale: the difference is the scale's before it is the method's"]
        apart = apart if column.scale else []
    beside = [*beside, SINGLE_RUNS] if metric in METRICS else beside
    title = DATASETS.get(column.dataset, column.dataset) + (" (TINY)" if column.scale else "")
    source = "published" if column.comparable else f"published, {ORIENTATION}"
    return Group(
        Cell(title, marks=marks),
        (Cell(source, marks=notes.mark(*beside)), Cell("ours"), Cell("Δ", marks=notes.mark(*apart))),
    )


def _cells(record: dict[Any, Any], notes: _Notes, published: Published, *, dirt_is_news: bool) -> list[Cell]:
    place = (record["row"], record["published_dataset"])
    has_value = pd.notna(record["published"])
    caveats = [CELL_CAVEATS[place]] if has_value and place in CELL_CAVEATS else []
    doubts = ["its runs come from different states of the code"] if ", " in record["commits"] else []
    doubts += ["measured with uncommitted changes in the work tree"] if record["dirty"] and dirt_is_news else []
    run, compared = record["n"] > 0, pd.notna(record["difference"])
    return [
        Cell(
            f"{record['published']:.2f}" if has_value else "–",
            has_value and place in published.best,
            notes.mark(*caveats),
        ),
        Cell(record["ours"] if run else "–", record["best"], notes.mark(*doubts)),
        Cell(f"{record['difference']:+.2f}" if compared else "–"),
    ]
