"""The commands that read results: `salmask table`, `claims`, `explain`, `plot`, `report`, `pack`, `collect`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from repro.run import Run

# pandas and matplotlib are imported when a command runs: `--help` answers at once.

Roots = Annotated[list[Path] | None, typer.Option("--runs", metavar="DIR", help="Runs or sweeps; repeatable.")]
OneSweep = Annotated[str, typer.Option("--sweep", metavar="NAME", help="Only runs of this sweep.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def table(
    name: Annotated[str, typer.Argument(metavar="TABLE", help="table1, table2 or table3.")] = "table1",
    runs: Roots = None,
    *,
    sweep: OneSweep = "",
    every: Annotated[bool, typer.Option("--all", help="The paper's whole layout: also what was not run.")] = False,
    only: Annotated[str, typer.Option(metavar="ours|paper|diff", help="Show one of the three alone.")] = "",
    metric: Annotated[str, typer.Option(help="Tables 1 and 3: top1 (last epoch), top5 or top1_best.")] = "",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to write it; default: tables/ beside.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a table of the paper from recorded results, as Markdown, LaTeX, CSV and HTML.

    Example: salmask table table1 --runs runs/table1
    """
    roots = runs or [Path("runs")]
    paths = show_table(
        name,
        roots,
        out or roots[0] / "tables",
        rows="all" if every else "ours",
        metric=metric,
        console=Console(stderr=as_json),
        only=only,
        sweep=sweep,
    )
    if as_json:
        typer.echo(json.dumps([str(path) for path in paths]))


def show_table(
    name: str,
    roots: Sequence[Path],
    out: Path,
    *,
    rows: Any,
    metric: str = "",
    console: Console,
    only: Any = "",
    sweep: str = "",
) -> Sequence[Path]:
    """Print a table and write it in every format; returns the files."""
    from results.collect import collect_runs
    from results.formats import markdown, write
    from results.runs import find_runs, listed
    from results.tables import render

    found = [] if only == "paper" else find_runs(roots, sweep=sweep)
    frame = None if only == "paper" else collect_runs(found, listed(roots))
    _warn(frame.attrs["warnings"] if frame is not None else [], console)
    made = render(name, frame, runs=found, rows=rows, only=only, metric=metric)
    console.print(markdown(made), markup=False, highlight=False, soft_wrap=True)
    paths = write(made, out)
    for path in paths:
        console.print(f"  {path}", soft_wrap=True, highlight=False)
    return paths


def collect(
    runs: Roots = None,
    *,
    sweep: OneSweep = "",
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A .parquet or .csv file.")] = Path(
        "results.parquet"
    ),
) -> None:
    """Write every result of the run folders as one long table, for pandas, R or a spreadsheet.

    Example: salmask collect --runs runs/table1 --out results.parquet
    """
    from results.collect import collect as collect_results
    from results.collect import export

    console = Console()
    frame = collect_results(runs or [Path("runs")], sweep=sweep)
    _warn(frame.attrs["warnings"], console)
    export(frame, out)
    console.print(f"{len(frame)} rows of {frame['run_id'].nunique()} runs in {out}", soft_wrap=True, highlight=False)


def _warn(warnings: Sequence[str], console: Console) -> None:
    for warning in warnings:
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)


def mount(app: typer.Typer, recipe: Callable[[str], Run]) -> None:
    """Add the commands to the main one.

    Args:
        app: The command line.
        recipe: The run that a method's name stands for, by which `explain` and `report` tell what a run changed.
    """
    for command in (table, collect):
        app.command()(command)
