"""The command `salmask plot`."""

from pathlib import Path
from typing import Annotated

import typer

from repro.command_line.progress import doing
from repro.command_line.terminal import Console
from results.collection.gathering import OneMetric, OneSweep, OneTask, Roots, gather, roots_of


def plot(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="forest, curves, scatter, bars, branches, compute, saliency-dose, gallery, all."
        ),
    ],
    runs: Roots = None,
    *,
    sweep: OneSweep = "",
    task: OneTask = "",
    metric: OneMetric = "",
    dark: Annotated[bool, typer.Option("--dark", help="Colours for a dark background.")] = False,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", file_okay=False, help="Where to write it.")] = Path(
        "plots"
    ),
) -> None:
    """Draw a plot from recorded runs, as SVG and PNG.

    Example: salmask plot all --runs runs/table1
    """
    from results.plots.figures import PLOTS, require_plot, save
    from results.plots.material import Material, NothingToDrawError
    from results.tables.selection import judged_by, judged_task

    if name != "all":
        require_plot(name)
    console = Console()
    roots = roots_of(runs)
    records, frame = gather(roots, context.obj, sweep, console)
    task = judged_task(frame, task, metric)
    material = Material(records, frame, "dark" if dark else "light", task, metric)
    if judged := judged_by(task, metric):
        console.print(judged)
    for plot_name in PLOTS if name == "all" else [name]:
        try:
            with doing(f"drawing {plot_name}"):
                paths = save(plot_name, material, out)
        except NothingToDrawError as reason:
            if name != "all":
                raise
            console.print(f"{plot_name}: left out, {reason.note}", soft_wrap=True)
        else:
            console.print("\n".join(str(path) for path in paths), soft_wrap=True)
