"""What commands on results have in common: options, the runs that they read, and warnings about these."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repro.command_line.progress import doing
from repro.command_line.terminal import Console
from repro.errors import UserError
from results.collection.row_comparison import Recipe
from results.collection.runs import RunRecord, find_runs, listed

if TYPE_CHECKING:
    import pandas as pd

Roots = Annotated[
    list[Path] | None,
    typer.Option("--runs", metavar="DIR", help="Folder with runs or sweeps; repeatable; default: runs."),
]
OneSweep = Annotated[str, typer.Option("--sweep", metavar="NAME", help="Only runs of this sweep.")]
OneTask = Annotated[str, typer.Option(help="Evaluation, in Tables 1 and 3: linear, logistic, knn, semi-1, ...")]
OneMetric = Annotated[
    str,
    typer.Option(help="Metric, in Tables 1 and 3: top1 (last epoch, the default), top1_best, top5, mean_per_class."),
]


def roots_of(runs: list[Path] | None) -> list[Path]:
    """Returns the folders that a command looks into."""
    return runs or [Path("runs")]


def heading_of(roots: Sequence[Path], sweep: str) -> str:
    """Returns the heading of a page of the runs below some folders, or of one sweep's."""
    return f"salmask: {sweep or ', '.join(root.resolve().name for root in roots)}"


def gather(
    roots: Sequence[Path], recipe: Recipe, sweep: str, console: Console
) -> tuple[list[RunRecord], "pd.DataFrame | None"]:
    """Returns the run folders and their results, None if nothing was evaluated; prints the warnings.

    Args:
        roots: The folders that hold the runs.
        recipe: As in `results.collection.runs.find_runs`.
        sweep: Only runs of this sweep; empty: all.
        console: For the warnings.

    Raises:
        UserError: There is no run or no such sweep, or a folder or a result file cannot be read.
    """
    with doing("reading runs"):
        runs = find_runs(roots, recipe, sweep=sweep)
        if not runs:
            raise UserError(f"no run folder below {listed(roots)}", mend="give a folder with runs")
        frame, warnings = results_of(runs)
    warn(warnings, console)
    return runs, frame


def results_of(runs: Sequence[RunRecord]) -> "tuple[pd.DataFrame | None, Sequence[str]]":
    """Returns the results of runs, None if nothing was measured, and a warning for each kind of trouble with them.

    Args:
        runs: What `find_runs` returns.

    Raises:
        UserError: A result file cannot be read.
    """
    from results.collection.collect import NothingMeasuredError, collect_runs

    try:
        frame = collect_runs(runs)
    except NothingMeasuredError as nothing:
        return None, nothing.warnings
    return frame, frame.attrs["warnings"]


def warn(warnings: Sequence[str], console: Console) -> None:
    """Prints the warnings about results, a line for each."""
    for warning in warnings:
        console.print(f"warning: {warning}", soft_wrap=True)
