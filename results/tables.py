"""The paper's tables with our numbers beside the published ones."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import pandas as pd

from repro.errors import UserError
from results.absence import missing_seeds, reason, unfinished, without_result
from results.collect import KEYS, refuse_mixed
from results.columns import Column, find_columns, paper_columns
from results.layout import Cell, ColumnGroup, Line, Table
from results.published import CELL_CAVEATS, Published, PublishedRow, published, ranks
from results.runs import RunRecord

Rows = Literal["ours", "all"]
Only = Literal["", "ours", "paper", "diff"]
_KINDS = {"": ("published", "ours", "Δ"), "ours": ("ours",), "paper": ("published",), "diff": ("Δ",)}


class _Notes:
    """Notes in the order of their first use; the same text gets the same number."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)

    def mark(self, *texts: str) -> tuple[int, ...]:
        self.texts += [text for text in dict.fromkeys(texts) if text not in self.texts]
        return tuple(sorted({self.texts.index(text) + 1 for text in texts}))


def render(
    name: str,
    frame: pd.DataFrame | None = None,
    *,
    runs: Sequence[RunRecord] = (),
    rows: Rows = "ours",
    only: Only = "",
    metric: str = "",
    task: str = "",
) -> Table:
    """Set our numbers beside the paper's.

    Every combination of data set, split, protocol, fidelity and scale among the results becomes a column group: the
    published value, ours as mean ± sample standard deviation over (n) seeds, and the difference in points. Where the
    data set is not one of the paper's, the paper's nearest column stands beside for orientation and no difference is
    taken.

    Args:
        name: `table1`, `table2` or `table3`.
        frame: What `results.collect.collect` returns; not needed for the paper's numbers alone.
        runs: The run folders at hand, which tell why a cell is empty.
        rows: `ours` for the methods and columns that something was run for, `all` for the paper's whole layout.
        only: Show `ours`, `paper` or `diff` alone.
        metric: Of tables 1 and 3: which number of ours to show, `top1` (the last epoch) by default.
        task: Of tables 1 and 3: another evaluation of ours than the paper's, `logistic` or `knn`; the published numbers
            are then left out.

    Returns:
        The table; `results.formats.write` puts it into files.

    Raises:
        UserError: Unknown table or choice, no result to show, or runs that exclude each other.
    """
    paper = published(name)
    _check("rows", rows, get_args(Rows))
    _check("--only", only, get_args(Only))
    if metric and not paper.metrics:
        raise UserError(f"{name} prints its own metrics, AP to AP75; leave --metric out")
    if only == "paper":
        return _paper_alone(paper)
    if task and task != paper.task:
        paper = _by_another_task(paper, task)
    if frame is None:
        raise UserError(f"{name} needs results; give a folder in which a run has been evaluated, or --only paper")
    metric = metric or (paper.metrics[0] if paper.metrics else "")
    chosen = choose(frame, paper, metric)
    if chosen.empty and rows == "ours":
        raise _nothing(frame, paper, metric)
    refuse_mixed(chosen)
    columns = find_columns(chosen, paper, metric, every=rows == "all")
    shown = _rows(chosen, paper, [run.method for run in runs], every=rows == "all")
    records = _records(shown, columns, chosen, without_result(runs), paper)
    return _table(records, chosen, shown, columns, paper, only)


def _by_another_task(paper: Published, task: str) -> Published:
    """The layout of a table for numbers that the paper does not have."""
    if not paper.task:
        raise UserError(f"{paper.name} has no other tasks; leave --task out")
    setting = f"the paper evaluates by {paper.task} classifiers, and this is {task}: no published number compares"
    return replace(
        paper,
        title=f"{paper.title.removeprefix('Linear evaluation, ')}, by {task}",
        task=task,
        groups=tuple(replace(group, caveats=(setting,), other_setting=setting) for group in paper.groups),
        values={},
    )


def _check(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(f"no choice of {what} {value!r}; there is: {', '.join(filter(None, known))}")


def choose(frame: pd.DataFrame, paper: Published, metric: str) -> pd.DataFrame:
    """The results that a table shows.

    Args:
        frame: What `results.collect.collect` returns.
        paper: The table.
        metric: What stands in for the paper's metric, where it leaves that open; else empty.
    """
    wanted = [metric] if metric else [ours for group in paper.groups for ours in group.metrics]
    mine = frame["metric"].isin(wanted)
    return frame[mine & (frame["task"] == paper.task)] if paper.task else frame[mine]


def _nothing(frame: pd.DataFrame, paper: Published, metric: str) -> UserError:
    what = f"{paper.task} {metric}" if metric else "detection AP"
    task = frame[frame["task"] == paper.task] if paper.task else frame
    found = ", ".join(sorted(task["metric"].unique())) or f"no {paper.task} evaluation"
    return UserError(f"no {what} among the results (found: {found}); evaluate a run or name another metric")


def _rows(chosen: pd.DataFrame, paper: Published, started: Sequence[str], *, every: bool) -> list[PublishedRow]:
    """List the rows by block; a method that the paper does not have stands last in its framework's block."""
    run = dict(zip(chosen["method"], chosen["framework"], strict=True))
    begun = {*run, *started}
    rows = [row for row in paper.rows.values() if every or row.method in begun]
    blocks = list(dict.fromkeys(row.block for row in paper.rows.values()))
    known = {row.method for name in ("table1", "table3") for row in published(name).rows.values()}
    for method in sorted(run.keys() - known):
        block = run[method] if run[method] in blocks[1:] else "other"
        rows.append(PublishedRow(method, method, run[method], block))
    return sorted(rows, key=lambda row: [*blocks, "other"].index(row.block))


def _records(
    shown: list[PublishedRow], columns: list[Column], chosen: pd.DataFrame, runs: Sequence[RunRecord], paper: Published
) -> pd.DataFrame:
    """Lay out one line per row, column group and metric: the numbers that every format prints."""
    lines = [
        _record(row, index, column, metric, parts.get((row.method, metric)), paper)
        | _absent(row.method, column, metric, chosen, runs, filled=(row.method, metric) in parts)
        for index, column in enumerate(columns)
        for parts in [_parts(column, chosen)]
        for row in shown
        for metric, _ in column.metrics
    ]
    records = pd.DataFrame(lines).astype(dict.fromkeys(("published", "mean", "std", "difference"), "float64"))
    order = {row.method: number for number, row in enumerate(shown)}
    records = records.sort_values("row", key=lambda methods: methods.map(order), kind="stable", ignore_index=True)
    printed = records["mean"].round(2)
    records["rank"] = 0
    for _, cells in printed.groupby([records["block"], records["column"], records["metric"]]):
        records.loc[cells.index, "rank"] = cells.map(ranks(cells.dropna())).fillna(0).astype(int)
    return records


def _parts(column: Column, chosen: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    groups = column.rows_of(chosen).groupby(["method", "metric"], sort=False, observed=True)
    return {(str(method), str(metric)): part for (method, metric), part in groups}


def _record(
    row: PublishedRow, index: int, column: Column, metric: str, part: pd.DataFrame | None, paper: Published
) -> dict[str, Any]:
    as_published = not paper.metrics or metric in paper.metrics
    value = paper.values.get((row.method, column.group.name, dict(column.metrics)[metric])) if as_published else None
    mean = None if part is None else part["value"].mean()
    difference = mean - value if column.of_the_paper and mean is not None and value is not None else None
    return {
        "table": paper.name,
        "block": row.block,
        "row": row.method,
        "label": row.label,
        "column": index,
        **dict(zip(KEYS, column.key, strict=True)),
        "metric": metric,
        "published": value,
        "published_column": f"{column.group.title} {dict(column.metrics)[metric]}".strip(),
        "ours": "" if part is None else summary(part["value"]),
        "mean": mean,
        "std": None if part is None else part["value"].std(),  # pandas' std is the sample one, ddof=1
        "n": 0 if part is None else len(part),
        "difference": difference,
        "runs": "" if part is None else " ".join(sorted(part["run_id"])),
        "commits": "" if part is None else ", ".join(_commits(part)),
        "dirty": part is not None and bool(part["dirty"].any()),
        "watermark": _watermark([column.scale]),
    }


def _absent(
    method: str, column: Column, metric: str, chosen: pd.DataFrame, runs: Sequence[RunRecord], *, filled: bool
) -> dict[str, str]:
    if filled:
        return {"missing": missing_seeds(unfinished(method, column, runs))}
    return {"ours": reason(method, column, metric, chosen, runs), "missing": ""}


def summary(values: "pd.Series[float]") -> str:
    """`69.10 ± 1.11 (3)`: mean, sample standard deviation, number of seeds."""
    spread = f" ± {values.std():.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{spread} ({len(values)})"


def _commits(part: pd.DataFrame) -> list[str]:
    pairs = sorted(set(zip(part["commit"], part["dirty"], strict=True)))
    return [commit[:7] + (" (dirty)" if dirty else "") for commit, dirty in pairs]


def _watermark(scales: Sequence[str]) -> str:
    tiny = list(dict.fromkeys(scale for scale in scales if scale))
    return f"TINY MODE – {' / '.join(tiny)}; not comparable with the published numbers" if tiny else ""


def _table(
    records: pd.DataFrame,
    chosen: pd.DataFrame,
    shown: list[PublishedRow],
    columns: list[Column],
    paper: Published,
    only: Only,
) -> Table:
    notes = _Notes(_descriptions(columns, chosen))
    kinds = _KINDS[only]
    groups = tuple(_group(column, index + 1, notes, paper, kinds) for index, column in enumerate(columns))
    mixed = records[records["n"] > 0].groupby("column")["dirty"].nunique() > 1
    best = paper.ranks()
    cells: dict[str, list[Cell]] = {row.method: [] for row in shown}
    for record in records.to_dict("records"):
        column = columns[record["column"]]
        place = (record["row"], column.group.name, dict(column.metrics)[record["metric"]])
        made = _cells(record, notes, best.get(place, 0), column, dirt_is_news=bool(mixed.get(record["column"], False)))
        cells[record["row"]] += [made[kind] for kind in kinds]
    watermark = _watermark([column.scale for column in columns])
    blocks = _blocks(shown, cells)
    data = records.drop(columns="column")
    return Table(paper.name, _title(paper, records, only), watermark, groups, blocks, tuple(notes.texts), data)


def _blocks(shown: Sequence[PublishedRow], cells: dict[str, list[Cell]]) -> tuple[tuple[Line, ...], ...]:
    return tuple(
        tuple(Line(row.label, tuple(cells[row.method]), row.method) for row in shown if row.block == block)
        for block in dict.fromkeys(row.block for row in shown)
    )


def _title(paper: Published, records: pd.DataFrame, only: Only) -> str:
    metric = f", {records['metric'].iloc[0]}" if paper.metrics else ""
    legend = {
        "published": "",
        "ours": " Ours: mean ± sample standard deviation (number of seeds).",
        "Δ": " Δ: difference ours − published, in points.",
    }
    marks = " Best of a block is bold, second best marked."
    return f"{paper.title}{metric}, percent." + "".join(legend[kind] for kind in _KINDS[only]) + marks


def _descriptions(columns: list[Column], chosen: pd.DataFrame) -> list[str]:
    """Say what each column group holds, and how it differs from the others of its data set."""
    texts = []
    for number, column in enumerate(columns, start=1):
        if column.planned:
            texts.append(f"{column.title}: nothing was run on {column.dataset}")
            continue
        part = column.rows_of(chosen)
        commits = _commits(part)
        dataset, split, protocol, fidelity, scale = column.key
        parts = [
            f"{dataset} ({split}): fidelity: {fidelity}",
            f"protocol: {protocol}",
            f"commits: {', '.join(commits)}" + (" – mixed" if len(commits) > 1 else ""),
            f"scale: {scale or 'as in the paper'}",
            f"sweeps: {', '.join(sorted(part['sweep'].unique()))}",
        ]
        for other_number, other in enumerate(columns, start=1):
            if other_number != number and other.dataset == dataset and other.group == column.group:
                differing = [k for k, mine, its in zip(KEYS, column.key, other.key, strict=True) if mine != its]
                parts.append(f"differs from [{other_number}] in {', '.join(differing)}")
        texts.append("; ".join(parts))
    return texts


def _group(column: Column, number: int, notes: _Notes, paper: Published, kinds: Sequence[str]) -> ColumnGroup:
    metric = column.metrics[0][0]
    beside, apart = list(column.group.caveats), []
    if paper.metrics and metric not in paper.metrics:
        beside = apart = [f"the paper prints no {metric}"]
    elif not column.of_the_paper:
        apart = [
            f"{column.dataset} is not a data set of the paper: its {column.group.title} numbers stand beside for "
            "orientation only, and no difference is taken"
        ]
        beside = [*apart, *column.group.caveats]
    elif column.scale:
        apart = ["not run at the paper's scale: the difference is the scale's before it is the method's"]
    elif column.group.other_setting:
        apart = [column.group.other_setting]
    names = {
        "published": "published" if column.of_the_paper else f"published, {column.group.title}",
        "ours": "ours",
        "Δ": "Δ",
    }
    cells = [
        Cell(f"{shown} {names[kind]}".strip(), marks=notes.mark(*{"published": beside, "Δ": apart}.get(kind, [])))
        for _, shown in column.metrics
        for kind in kinds
    ]
    return ColumnGroup(Cell(column.title, marks=(number,)), tuple(cells))


def _cells(record: dict[Any, Any], notes: _Notes, best: int, column: Column, *, dirt_is_news: bool) -> dict[str, Cell]:
    place = (record["row"], column.group.name)
    has_value = pd.notna(record["published"])
    caveats = [CELL_CAVEATS[place]] if has_value and place in CELL_CAVEATS else []
    doubts = ["its runs come from different states of the code"] if ", " in record["commits"] else []
    doubts += ["measured with uncommitted changes in the work tree"] if record["dirty"] and dirt_is_news else []
    doubts += [record["missing"]] if record["missing"] else []
    compared = pd.notna(record["difference"])
    return {
        "published": Cell(
            f"{record['published']:.2f}" if has_value else "–", best if has_value else 0, notes.mark(*caveats)
        ),
        "ours": Cell(record["ours"], record["rank"], notes.mark(*doubts)),
        "Δ": Cell(f"{record['difference']:+.2f}" if compared else "–"),
    }


def _paper_alone(paper: Published) -> Table:
    """The published table and nothing else."""
    columns = paper_columns(paper)
    notes, best = _Notes([]), paper.ranks()
    groups = tuple(
        ColumnGroup(
            Cell(column.group.title, marks=notes.mark(*column.group.caveats)),
            tuple(Cell(shown or "published") for _, shown in column.metrics),
        )
        for column in columns
    )
    rows = list(paper.rows.values())
    places = [(column.group.name, shown) for column in columns for _, shown in column.metrics]
    cells = {
        row.method: [
            Cell(
                f"{paper.values[row.method, *place]:.2f}",
                best.get((row.method, *place), 0),
                notes.mark(*([CELL_CAVEATS[row.method, place[0]]] if (row.method, place[0]) in CELL_CAVEATS else [])),
            )
            for place in places
        ]
        for row in rows
    }
    records = pd.DataFrame(
        {
            "table": paper.name,
            "block": row.block,
            "row": row.method,
            "label": row.label,
            "published_column": f"{column.group.title} {shown}".strip(),
            "published": paper.values[row.method, column.group.name, shown],
            "rank": best.get((row.method, column.group.name, shown), 0),
        }
        for row in rows
        for column in columns
        for _, shown in column.metrics
    )
    title = f"{paper.title}, percent, as published. Best of a block is bold, second best marked."
    return Table(paper.name, title, "", groups, _blocks(rows, cells), tuple(notes.texts), records)
