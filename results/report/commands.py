"""The commands `salmask report` and `salmask pack`: one page of everything, and an archive of it."""

from pathlib import Path
from typing import Annotated

import typer

from repro.command_line.progress import OPENING, doing, on_terminal
from repro.command_line.terminal import Console, say
from repro.filesystem.files import make_way, write_text
from repro.quantities import counted, size_text
from results.collection.gathering import OneMetric, OneSweep, OneTask, Roots, gather, heading_of, roots_of


def report(
    context: typer.Context,
    runs: Roots = None,
    *,
    sweep: OneSweep = "",
    task: OneTask = "",
    metric: OneMetric = "",
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "",
    out: Annotated[Path, typer.Option("--out", metavar="FILE", dir_okay=False, help="Where to write it.")] = Path(
        "report.html"
    ),
) -> None:
    """Write one self-contained HTML page: the verdict, forest plot, tables, claims, runs and a checklist.

    Example: salmask report --runs runs/table1
    """
    from results.report.page import build

    make_way(out)
    roots = roots_of(runs)
    records, frame = gather(roots, context.obj, sweep, Console(stderr=True))
    with doing("drawing the page"):
        page = build(records, frame, title=title or heading_of(roots, sweep), task=task, metric=metric)
        write_text(out, page)
    say(out)


def pack(
    context: typer.Context,
    runs: Roots = None,
    *,
    sweep: OneSweep = "",
    check: Annotated[
        Path | None,
        typer.Option("--check", metavar="FILE", dir_okay=False, help="Verify an artifact instead of making one."),
    ] = None,
    task: OneTask = "",
    metric: OneMetric = "",
    checkpoints: Annotated[bool, typer.Option("--checkpoints", help="Pack the backbones, too.")] = False,
    title: Annotated[str, typer.Option(help="Heading of the report.")] = "",
    out: Annotated[Path, typer.Option("--out", metavar="FILE", dir_okay=False, help="Where to write it.")] = Path(
        "artifact.zip"
    ),
) -> None:
    """Make one zip of everything but checkpoints: report, tables, data, settings, provenance, commands, checksums.

    Example: salmask pack --runs runs/table1; salmask pack --check artifact.zip
    """
    from results.report import pack as artifact  # the module: its function has the name of this command

    if check is not None:
        say(f"{artifact.check(check)} files are as they were packed")
        return
    make_way(out)
    roots = roots_of(runs)
    records, frame = gather(roots, context.obj, sweep, Console(stderr=True))
    heading = title or heading_of(roots, sweep)
    is_watched = on_terminal()
    with doing("packing"):

        def tell(what: str) -> None:
            if is_watched:
                OPENING.say(f"packing {what}")
            else:
                say(f"packing {what}", err=True)

        shown = {"title": heading, "task": task, "metric": metric}
        files = artifact.pack(out, records, frame, **shown, checkpoints=checkpoints, tell=tell)
    say(f"{counted(files, 'file')} and their checksums, {size_text(out.stat().st_size)} in {out}")
