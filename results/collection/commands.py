"""The command `salmask collect`: every result as one file."""

from pathlib import Path
from typing import Annotated

import typer

from repro.command_line.terminal import Console
from repro.filesystem.files import make_way
from repro.quantities import counted
from results.collection.gathering import OneSweep, Roots, roots_of, warn


def collect(
    context: typer.Context,
    runs: Roots = None,
    *,
    sweep: OneSweep = "",
    out: Annotated[Path, typer.Option("--out", metavar="FILE", dir_okay=False, help="A .parquet or .csv file.")] = Path(
        "results.parquet"
    ),
) -> None:
    """Write every result of the run folders as one long table, for pandas, R or a spreadsheet.

    Example: salmask collect --runs runs/table1 --out results.parquet
    """
    from results.collection.collect import collect as collect_results
    from results.collection.collect import export

    console = Console()
    make_way(out)
    frame = collect_results(roots_of(runs), context.obj, sweep=sweep)
    warn(frame.attrs["warnings"], console)
    export(frame, out)
    many = counted(frame["run_id"].nunique(), "run")
    console.print(f"{counted(len(frame), 'row')} of {many} in {out}", soft_wrap=True)
