"""The commands `salmask table` and `salmask explain`, and how a sweep's tables are shown."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from repro.command_line.console import AsJson, completion
from repro.command_line.terminal import Console, say, say_json
from repro.runs.sweep_names import RENDERED
from results.collection.gathering import OneMetric, OneSweep, OneTask, Roots, gather, roots_of, warn
from results.collection.row_comparison import Recipe
from results.collection.runs import find_runs, listed

if TYPE_CHECKING:
    from results.formats.layout import Table

# pandas and matplotlib are imported when a command runs: `--help` answers at once.


def table_names() -> Iterable[str]:
    """Returns the names of the tables that can be made."""
    from results.paper.published import TABLES

    return TABLES


def table(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="TABLE", help="table1, table2 or table3.", autocompletion=completion(table_names))
    ] = "table1",
    runs: Roots = None,
    *,
    sweep: OneSweep = "",
    every: Annotated[
        bool, typer.Option("--all", help="All rows and columns of the paper's table, also those not run.")
    ] = False,
    only: Annotated[
        str,
        typer.Option(
            metavar="measured|paper|diff", help="Show the measured numbers, the paper's, or their difference alone."
        ),
    ] = "",
    metric: OneMetric = "",
    task: OneTask = "",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", file_okay=False, help="Also write it there, as Markdown, LaTeX, CSV and HTML."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a table of the paper beside recorded results; --out writes it as Markdown, LaTeX, CSV and HTML.

    Without --task it is made of the paper's evaluation, or where no run has that, of logistic regression, kNN, or what
    else was measured.

    Example: salmask table table1 --runs runs/table1
    """
    from results.collection.collect import collect_runs
    from results.paper.published import published
    from results.tables.references import has_untrained_among_trained
    from results.tables.rendering import render
    from results.tables.selection import fuller_task, measured_task, refuse_unknown

    published(name)  # refuses an unknown name before thousands of runs are read
    console = Console(stderr=as_json)  # with --json, only the table goes to standard output
    roots = roots_of(runs)
    # The paper's numbers alone need no run, not even a folder of runs.
    records = [] if only == "paper" else find_runs(roots, context.obj, sweep=sweep)
    frame = None if only == "paper" else collect_runs(records, listed(roots))
    warn([] if frame is None else frame.attrs["warnings"], console)
    refuse_unknown(frame, task, metric)
    only_checked: Any = only  # `render` refuses what is none of its choices
    if frame is not None and not task:
        task = measured_task(frame, name, metric) or ""
        if fuller := fuller_task(frame, name, metric):
            Console(stderr=True).print(fuller, soft_wrap=True)
    references = frame is not None and has_untrained_among_trained(frame)
    content = render(
        name, frame, runs=records, every=every, only=only_checked, metric=metric, task=task, references=references
    )
    if as_json:
        say(content.records.to_json(orient="records", double_precision=4, force_ascii=False, indent=1))
    else:
        _print_table(content, console)
    if out is not None:
        _write_table(content, out, console)


def explain(
    context: typer.Context,
    cell: Annotated[str, typer.Argument(metavar="TABLE:METHOD:DATASET[:METRIC]", help="A cell of a table.")],
    runs: Roots = None,
    *,
    sweep: OneSweep = "",
    task: OneTask = "",
    metric: OneMetric = "",
    as_json: AsJson = False,
) -> None:
    """Tell where a number comes from: the runs behind a cell, their code, settings, data, machine and logs.

    Example: salmask explain table1:mocov2+ours-hp:imagenet100
    """
    from results.tables.explain import CellAddress, with_common_facts
    from results.tables.explain import explain as explain_cell
    from results.tables.selection import refuse_unknown

    CellAddress.parse(cell)  # refuses what names no cell before thousands of runs are read
    records, frame = gather(roots_of(runs), context.obj, sweep, Console(stderr=as_json))
    refuse_unknown(frame, task)  # a metric of detection is one of the table's alone
    content = explain_cell(cell, frame, records, task=task, metric=metric)
    if as_json:
        say_json(content)
    else:
        text = yaml.safe_dump(with_common_facts(content), sort_keys=False, width=120, allow_unicode=True)
        say(text)


def show_tables(tables: Sequence[str], sweep_folder: Path, console: Console, recipe: Recipe) -> None:
    """Print a sweep's tables, write them beside its runs, and list the pictures.

    Each table is made of the first task that the sweep has: the paper's, else the next best. If no result of the sweep
    stands in a table, a line says so.

    Args:
        tables: Names of the tables.
        sweep_folder: The sweep's folder.
        console: What to print on.
        recipe: Makes the run that a method's name stands for; recorded runs are compared with it.

    Raises:
        UserError: There is no result, runs must not be averaged (`refuse_mixed`), or a file cannot be written.
    """
    from results.collection.collect import collect_runs
    from results.tables.references import has_untrained_among_trained
    from results.tables.rendering import render
    from results.tables.selection import measured_task

    runs = find_runs([sweep_folder], recipe)
    frame = collect_runs(runs, listed([sweep_folder]))
    warn(frame.attrs["warnings"], console)
    for name in tables:
        task = measured_task(frame, name)
        if task is None:
            measured = ", ".join(sorted(frame["task"].unique()))
            console.print(f"no {name}: nothing of what was measured ({measured}) stands in it")
            (sweep_folder / RENDERED).mkdir(exist_ok=True)  # without it, `salmask status` would miss the report
        else:
            content = render(name, frame, runs=runs, task=task, references=has_untrained_among_trained(frame))
            _print_table(content, console)
            _write_table(content, sweep_folder / RENDERED, console)
    for gallery in (gallery for run in runs for gallery in run.galleries):
        console.print(f"  {gallery}", soft_wrap=True)


def _print_table(table: "Table", console: Console) -> None:
    """Print a table: laid out on a terminal, as Markdown elsewhere."""
    from results.formats.on_terminal import print_on_terminal
    from results.formats.table_files import markdown

    if console.is_terminal:
        print_on_terminal(table, console)
    else:
        console.print(markdown(table), soft_wrap=True)


def _write_table(table: "Table", folder: Path, console: Console) -> None:
    """Write a table in every format, and name the files."""
    from results.formats.table_files import write

    for path in write(table, folder):
        console.print(f"  {path}", soft_wrap=True)
