"""`salmask watch`: the report of a sweep in progress, served on this machine or written to a file repeatedly."""

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from repro.command_line.terminal import say
from repro.filesystem.files import write_text
from results.collection.gathering import results_of
from results.collection.row_comparison import Recipe
from results.collection.runs import find_runs
from results.report.page import build as build_page
from results.report.server import HOST, PageServer
from slurm.monitoring.progress import SweepProgress, progress
from slurm.options import FASTEST_SECONDS, SLOWEST_SECONDS, OneSweep
from slurm.status_commands import look
from slurm.targets import find_target

Port = Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: any that is free.")]
OutFile = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write the page there again and again, and open no port.")
]
Seconds = Annotated[
    float,
    typer.Option("--every", min=FASTEST_SECONDS, max=SLOWEST_SECONDS, help="Seconds between two looks."),
]


def build(recipe: Recipe) -> typer.Typer:
    """Returns the command.

    Args:
        recipe: Makes a method's run from its name; the sweep's runs are compared with it.
    """
    app = typer.Typer(add_completion=False)

    @app.command()
    def watch(sweep: OneSweep, *, port: Port = 0, out: OutFile = None, every: Seconds = 60.0) -> None:
        """Show a sweep in progress as the report's page: states, time left, hours spent, curves and tables so far.

        The page is served on this machine alone, at an address with a token, and nothing can be changed by it. With
        --out the file is written again and again until nothing is under way, for clusters that forbid ports.

        Example: salmask watch table1
        """
        target = find_target(sweep)

        def page() -> tuple[str, SweepProgress]:
            (table,), queue = look([target])
            state = progress(target.sweep, table, queue, every=every)
            runs = find_runs([target.sweep], recipe)
            frame, _ = results_of(runs)
            return build_page(runs, frame, title=f"salmask: {target.sweep.resolve().name}", progress=state), state

        if out is None:
            _serve(lambda: page()[0], port, every)
        else:
            _rewrite(page, out, every)

    return app


def _serve(page: Callable[[], str], port: int, every: float) -> None:
    """Serves the page until Ctrl-C."""
    with PageServer(page, port=port, every=every) as server:
        say(server.address)
        say(
            f"from another machine: ssh -L {server.server_port}:{HOST}:{server.server_port} {socket.gethostname()}, "
            "and the same address; Ctrl-C ends it",
            err=True,
        )
        server.serve_forever()


def _rewrite(page: Callable[[], tuple[str, SweepProgress]], out: Path, every: float) -> None:
    """Writes the page to a file until no job is under way."""
    while True:
        text, state = page()
        write_text(out, text)
        say(f"{out}: {state.summary}")
        if not state.live:
            return
        time.sleep(every)
