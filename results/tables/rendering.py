"""The paper's tables with our numbers beside the published ones."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import pandas as pd

from repro.errors import UserError, nearest
from repro.quantities import number_text
from repro.settings.labels import label_parts
from results.collection.collect import KEYS, code_states, refuse_mixed
from results.collection.runs import RunRecord
from results.collection.scored_images import other_images
from results.collection.training_images import unlike_training_images
from results.formats.layout import Cell, ColumnGroup, Line, Table
from results.paper.published import CELL_CAVEATS, ROW_NOTES, Published, PublishedRow, has_row, published
from results.statistics.paired import difference_text
from results.statistics.ranking import LEGEND, SIGNIFICANCE, SIGNS
from results.tables.absence import lacking_a_number
from results.tables.cells import cell_records, watermark
from results.tables.columns import Column, find_columns, paper_columns
from results.tables.references import reference_lines, without_untrained
from results.tables.selection import by_task, frameworks_of, select_results

Only = Literal["", "measured", "paper", "diff"]
"""The one of the three numbers that a table shows; empty for all three."""
_KINDS = {"": ("published", "measured", "Δ"), "measured": ("measured",), "paper": ("published",), "diff": ("Δ",)}
"""A choice of `Only` -> the kinds of columns in each group."""


_BEST = "Bold: the best of a block, second best marked"
_OF_THE_BEST = "Of the best epoch, which was chosen by the images that it is scored on: these numbers are too high."
_OTHER_PROTOCOL = "not measured by the protocol of the published numbers"
_NO_ROW = "no run here can be compared with a row of the paper's"
"""Why no difference is taken in a column group of the paper's data and scale."""


class _Notes:
    """Notes in the order of their first use; the same text gets the same number."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)

    def mark(self, *texts: str) -> tuple[int, ...]:
        """Returns the numbers of notes, from 1; texts that are new are added."""
        self.texts += [text for text in dict.fromkeys(texts) if text not in self.texts]
        return tuple(sorted({self.texts.index(text) + 1 for text in texts}))


def render(
    name: str,
    frame: pd.DataFrame | None = None,
    *,
    runs: Sequence[RunRecord] = (),
    every: bool = False,
    only: Only = "",
    metric: str = "",
    task: str = "",
    references: bool = False,
) -> Table:
    """Sets our numbers beside the paper's.

    Every combination of data set, split, protocol, fidelity and scale among the results becomes a column group: the
    published value, the measured mean ± sample standard deviation over (n) seeds, and the difference in points. No
    difference is taken unless data, method and protocol are the paper's (`Column.compares`). Where the data set is not
    one of the paper's, its nearest column stands beside for orientation.

    Args:
        name: `table1`, `table2` or `table3`.
        frame: What `results.collection.collect.collect` returns; not needed for the paper's numbers alone.
        runs: The run folders at hand, which tell why a cell is empty.
        every: All rows and columns of the paper's layout; else only those for which something was run.
        only: Show `measured`, `paper` or `diff` alone.
        metric: Of tables 1 and 3: which number of ours to show, `top1` (the last epoch) by default.
        task: Of tables 1 and 3: an evaluation other than the paper's, such as `logistic` or `knn`; then the published
            numbers are left out.
        references: Show chance and untrained networks as the last rows, and the latter nowhere else.

    Returns:
        The table; `results.formats.table_files.write` puts it into files.

    Raises:
        UserError: Unknown table or choice, no result to show, or runs that must not be averaged (`refuse_mixed`).
    """
    paper = published(name)
    if only not in get_args(Only):
        raise UserError(f"no choice of --only {only!r}", mend=nearest(only, filter(None, get_args(Only))))
    if metric and not paper.metrics:
        raise UserError(f"{name} prints its own metrics, AP to AP75", mend="leave --metric out")
    if only == "paper":  # before anything that needs results
        return _paper_alone(paper)
    paper = by_task(paper, task)
    if frame is None:
        raise UserError(
            f"{name} needs results", mend="give a folder in which a run has been evaluated, or --only paper"
        )
    metric = metric or (paper.metrics[0] if paper.metrics else "")
    # Of all results, not only the table's: else it would be filled with untrained networks if only they are in it.
    shown = without_untrained(frame) if references else frame
    results = select_results(shown, paper, metric)
    if results.empty and not every:
        raise _no_results(shown, paper, metric)
    # Of the table's results alone: mixed runs elsewhere are no reason to refuse this table.
    refuse_mixed(results)
    columns = find_columns(results, paper, metric, every=every)
    table_rows = _rows(results, paper, [run.method for run in runs], every=every)
    records = cell_records(table_rows, columns, results, lacking_a_number(runs), paper, runs, shown)
    kinds = _kinds(only, paper, metric)
    table = _table(records, results, table_rows, columns, paper, only, kinds)
    last_rows = reference_lines(columns, select_results(frame, paper, metric), kinds) if references else ()
    return replace(table, blocks=(*table.blocks, last_rows)) if last_rows else table


def _kinds(only: Only, paper: Published, metric: str) -> tuple[str, ...]:
    """Returns the kinds of columns in each group; if the paper has no such numbers, the measured ones by default."""
    has_published = bool(paper.values) and paper.prints(metric)
    return _KINDS[only if only or has_published else "measured"]


def _no_results(frame: pd.DataFrame, paper: Published, metric: str) -> UserError:
    methods = sorted(map(str, frame["method"].unique()))
    if not any(has_row(paper, method) for method in methods):
        what = f"{paper.name} has no row for what was measured, {', '.join(methods)}"
        return UserError(what, mend=f"evaluate a run of one of its rows, {', '.join(list(paper.rows)[:2])} or another")
    what = f"{paper.task} {metric}" if metric else "detection AP"
    of_task = frame[frame["task"] == paper.task] if paper.task else frame
    metrics = ", ".join(sorted(of_task["metric"].unique())) or f"no {paper.task} evaluation"
    mend = "evaluate a run or name another metric" if metric else "evaluate a run, by --task voc07+12 or coco"
    return UserError(f"no {what} among the results (found: {metrics})", mend=mend)


def _rows(results: pd.DataFrame, paper: Published, started: Sequence[str], *, every: bool) -> list[PublishedRow]:
    """Returns the rows by block; a method that the paper does not have stands last in its framework's block."""
    frameworks = frameworks_of(results)
    started_methods = {*frameworks, *started}
    known_rows = paper.every_row
    rows = [row for row in known_rows.values() if every or row.method in started_methods]
    blocks = list(dict.fromkeys(row.block for row in known_rows.values()))
    for method in sorted(frameworks.keys() - known_rows.keys()):
        framework = frameworks[method]
        # The first block is for rows without a framework (or, in Table 3, without a strategy): it takes no others.
        block = framework if framework in blocks[1:] else "other"
        rows.append(PublishedRow(method, label_parts(method), framework, block))
    return sorted(rows, key=lambda row: [*blocks, "other"].index(row.block))


def _table(
    records: pd.DataFrame,
    results: pd.DataFrame,
    rows: list[PublishedRow],
    columns: list[Column],
    paper: Published,
    only: Only,
    kinds: Sequence[str],
) -> Table:
    # The notes on the columns come first: a group's heading refers to them by its own number.
    notes = _Notes(_column_notes(columns, results))
    groups = tuple(
        _group(column, number, notes, paper, kinds, alone=only == "measured")
        for number, column in enumerate(columns, 1)
    )
    # If all runs of a column are dirty, the column's note says so, and no cell is marked.
    dirt_differs = records[records["n"] > 0].groupby("column")["dirty"].nunique() > 1
    paper_ranks = paper.ranks()
    cells: dict[str, list[Cell]] = {row.method: [] for row in rows}
    for record in records.to_dict("records"):
        column = columns[record["column"]]
        rank = paper_ranks.get((record["row"], column.group.name, dict(column.metrics)[record["metric"]]), 0)
        mark_dirt = bool(dirt_differs.get(record["column"], False))
        cells[record["row"]] += _cells(record, notes, rank, column, kinds, mark_dirt=mark_dirt)
    data = records.drop(columns=["column", "code_states", "behind", "warned"])
    return Table(
        name=paper.name,
        title=_title(paper, records, kinds),
        watermark=watermark(columns),
        groups=groups,
        blocks=_blocks(rows, cells),
        legend=_legend(only),
        notes=tuple(notes.texts),
        records=data,
        sizes={(*column.key, column.mark): column.sizes for column in columns},
    )


def _blocks(rows: Sequence[PublishedRow], cells: dict[str, list[Cell]]) -> tuple[tuple[Line, ...], ...]:
    return tuple(
        tuple(Line(row.parts, tuple(cells[row.method])) for row in rows if row.block == block)
        for block in dict.fromkeys(row.block for row in rows)
    )


def _title(paper: Published, records: pd.DataFrame, kinds: Sequence[str]) -> str:
    metric = f", {records['metric'].iloc[0]}" if paper.metrics else ""
    legend = {
        "published": "",
        "measured": " Measured: mean ± sample standard deviation (number of seeds).",
        "Δ": " Δ: difference measured − published, in points.",
    }
    chosen = f" {_OF_THE_BEST}" if metric.endswith("_best") and "measured" in kinds else ""
    return f"{paper.title}{metric}, percent.{chosen}" + "".join(legend[kind] for kind in kinds)


def _legend(only: Only) -> str:
    """Returns the lines that say what bold and the marks of significance mean; empty if there are none."""
    if only == "diff":
        return ""
    clearly = f"; a measured number only {LEGEND}" if only == "" else f", only {LEGEND}"
    return f"{_BEST}{clearly}.\n{SIGNIFICANCE}."


def _column_notes(columns: list[Column], results: pd.DataFrame) -> list[str]:
    """Returns a note for each column group: what it holds, and how it differs from others of its data set."""
    notes = []
    for number, column in enumerate(columns, start=1):
        if column.planned:
            notes.append(f"{column.title}: nothing was run on {column.dataset}")
            continue
        rows = column.rows_of(results)
        commits = code_states(rows)
        dataset, split, protocol, *_ = column.key
        facts = [
            f"{dataset} ({split}): fidelity of the equations: {column.fidelity_note}",
            f"protocol: {protocol}",
            f"commits: {', '.join(commits)}" + (" – mixed" if len(commits) > 1 else ""),
            *column.settings,
            f"NOT THE SAME IMAGES: {others}" if (others := other_images(rows)) else "",
            *(f"NOT TRAINED ON THE SAME IMAGES: {sentence}" for sentence in unlike_training_images(rows)),
            f"sweeps: {', '.join(sorted(rows['sweep'].unique()))}",
        ]
        # Readers see two columns of one data set and ask why there are two.
        for rival_number, rival in enumerate(columns, start=1):
            if rival_number != number and rival.dataset == dataset and rival.group == column.group:
                keys = [key for key, *values in zip(KEYS, column.key, rival.key, strict=True) if len(set(values)) > 1]
                facts.append(f"differs from [{rival_number}] in {', '.join(keys)}")
        notes.append("\n".join(" ".join(fact.splitlines()) for fact in facts if fact))  # a folder's name may have some
    return notes


def _group(
    column: Column, number: int, notes: _Notes, paper: Published, kinds: Sequence[str], *, alone: bool
) -> ColumnGroup:
    """Returns the heads of a column group, with notes on the published numbers and on the differences.

    Args:
        column: The column.
        number: The number of the column's own note.
        notes: Takes further notes.
        paper: The published table.
        kinds: The kinds of columns in the group.
        alone: Whether only measured numbers were asked for, so that notes on published ones are left out.
    """
    on_difference, on_published = _no_difference(column, paper, kinds), column.group.caveats
    if not paper.prints(column.metrics[0][0]):
        on_published = on_difference
    # If no published numbers stand beside, the heading of the measured ones says why.
    on_measured = () if alone or "published" in kinds else on_published
    if not column.of_the_paper:
        on_published = (*on_difference, *on_published)
    names = {
        "published": "published" if column.of_the_paper else f"published, {column.group.title}",
        "measured": "measured",
        "Δ": "Δ",
    }
    notes_by_kind = {"published": on_published, "measured": on_measured, "Δ": on_difference}
    cells = [
        Cell(f"{printed_name} {names[kind]}".strip(), marks=notes.mark(*notes_by_kind[kind]))
        for _, printed_name in column.metrics
        for kind in kinds
    ]
    return ColumnGroup(Cell(column.title, marks=(number,)), tuple(cells))


def _no_difference(column: Column, paper: Published, kinds: Sequence[str]) -> tuple[str, ...]:
    """Returns a note on why a column group has no differences; empty if it has some."""
    metric = column.metrics[0][0]
    if not paper.prints(metric):
        return (f"the paper prints no {metric}",)
    if not column.of_the_paper:
        beside = f"its {column.group.title} numbers stand beside for orientation only, and " * ("published" in kinds)
        return (f"{column.dataset} is not a data set of the paper: {beside}no difference is taken",)
    if column.scale or column.mark:
        unlike = "at the paper's scale" if column.scale else "with the paper's settings"
        return (f"not run {unlike}: no difference is taken",)
    if column.group.other_setting:
        return (f"no difference is taken: {column.group.other_setting}",)
    if column.comparisons and not any(column.follows_the_protocol(method) for method in column.comparisons):
        # Without a row to compare with, it is unknown which protocol to follow: the first reason would be wrong.
        known = any(comparison.row for comparison in column.comparisons.values())
        return (f"{_OTHER_PROTOCOL if known else _NO_ROW}: no difference is taken",)
    return ()


def _cells(
    record: dict[Any, Any], notes: _Notes, rank: int, column: Column, kinds: Sequence[str], *, mark_dirt: bool
) -> list[Cell]:
    """Returns the cells of a record in the order of the kinds; `rank` is the published number's."""
    has_value, has_difference = pd.notna(record["published"]), pd.notna(record["difference"])
    caveat = CELL_CAVEATS.get((record["row"], column.group.name))
    caveats = [caveat] if has_value and caveat else []
    row_notes = [ROW_NOTES[record["row"]]] if record["row"] in ROW_NOTES and record["n"] else []
    doubts = ["its runs come from different states of the code"] if record["code_states"] > 1 else []
    doubts += ["measured with uncommitted changes in the work tree"] if record["dirty"] and mark_dirt else []
    doubts += [text for text in (record["missing"], record["warned"]) if text]
    own_words = column.own_words(record["row"]) if record["row"] in column.comparisons else ""
    doubts += [own_words] if own_words else []
    texts = {"published": caveats, "measured": [*doubts, *row_notes], "Δ": list[str]()}
    if "measured" not in kinds:  # a difference without its numbers has the notes on both of them
        texts["Δ"] = [*(caveats if has_difference else []), *texts["measured"]]
    # Only for the kinds that are shown, as each note needs a cell that refers to it.
    marks = {kind: notes.mark(*texts[kind]) if kind in kinds else () for kind in texts}
    cells = {
        "published": Cell(
            number_text(record["published"]) if has_value else "–", rank if has_value else 0, marks["published"]
        ),
        "measured": Cell(
            record["measured"],
            record["rank"],
            marks["measured"],
            behind=record["behind"],
            significance=SIGNS.get(record["significance"], ""),
        ),
        "Δ": Cell(
            difference_text(record["difference"]) if has_difference else "–", marks=marks["Δ"], signed=has_difference
        ),
    }
    return [cells[kind] for kind in kinds]


def _paper_alone(paper: Published) -> Table:
    """Returns the published table and nothing else."""
    columns = paper_columns(paper)
    notes, paper_ranks = _Notes([]), paper.ranks()
    groups = tuple(
        ColumnGroup(
            Cell(column.group.title, marks=notes.mark(*column.group.caveats)),
            tuple(Cell(printed_name or "published") for _, printed_name in column.metrics),
        )
        for column in columns
    )
    cells: dict[str, list[Cell]] = {}
    lines: list[dict[str, Any]] = []
    for row in paper.rows.values():
        cells[row.method] = []
        for column in columns:
            for _, printed_name in column.metrics:
                key = (row.method, column.group.name, printed_name)
                value, rank = paper.values[key], paper_ranks.get(key, 0)
                caveat = CELL_CAVEATS.get((row.method, column.group.name))
                cells[row.method].append(Cell(number_text(value), rank, notes.mark(*([caveat] if caveat else []))))
                lines.append(
                    {
                        "table": paper.name,
                        "block": row.block,
                        "row": row.method,
                        "label": row.label,
                        "published_column": f"{column.group.title} {printed_name}".strip(),
                        "published": value,
                        "rank": rank,
                    }
                )
    title = f"{paper.title}, percent, as published."
    blocks = _blocks(list(paper.rows.values()), cells)
    return Table(paper.name, title, "", groups, blocks, f"{_BEST}.", tuple(notes.texts), pd.DataFrame(lines))
