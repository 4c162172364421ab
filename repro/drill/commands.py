"""`salmask drill`: whether this machine, its disk and its packages, or a cluster, keep what salmask promises."""

import logging
import os
import tempfile
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from repro.command_line.console import AsJson, report
from repro.command_line.terminal import Console
from repro.drill.processes import Main
from repro.errors import UserError
from repro.filesystem.presence import is_folder

Points = Annotated[int | None, typer.Option(min=2, help="Most points to try of each kind of fault; default: 12.")]
Inputs = Annotated[int | None, typer.Option(min=0, help="About how many bad inputs to try; default: 700.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Random seed of the bad inputs; default: 0.")]
OnCluster = Annotated[
    str, typer.Option("--cluster", metavar="NAME|FILE", help="Try interruptions of tiny jobs on this cluster instead.")
]
By = Annotated[
    str,
    typer.Option(
        "--by",
        metavar="NAME|FILE",
        help="Profile whose jobs may preempt others: one is sent to the node of a tiny job.",
    ),
]
Wait = Annotated[
    float | None,
    typer.Option(
        metavar="MINUTES",
        min=1,
        help="With --cluster: after this time, what is not over is judged as it stands; default: 20.",
    ),
]
_POINTS, _INPUTS, _WAIT_MINUTES = 12, 700, 20.0


def build(main: Main) -> typer.Typer:
    """Returns the command `salmask drill`.

    Args:
        main: The `salmask` command itself, which the drill calls in processes of its own.
    """
    app = typer.Typer(add_completion=False)

    @app.command()
    def drill(
        points: Points = None,
        inputs: Inputs = None,
        folder: Annotated[
            str, typer.Option("--in", metavar="DIR", help="Where to work, for example the disk that runs lie on.")
        ] = "",
        seed: Seed = None,
        cluster: OnCluster = "",
        by: By = "",
        wait: Wait = None,
        as_json: AsJson = False,
    ) -> None:
        """Kill, signal and damage a tiny run for real, here or on a cluster, and check that nothing is lost.

        After each fault, the same command is repeated, and its weights, metrics and results must be those of the
        undisturbed run. Bad inputs must be refused in one line, and leave nothing. Takes minutes; exits with 1 if a
        point does not hold.

        Example: salmask drill --in /scratch/me

        On a cluster: salmask drill --cluster mycluster
        """
        if cluster:
            if folder:
                raise UserError(
                    "--in is for a drill on this machine",
                    mend="leave it out; `scratch` in the profile says where to work",
                )
            for option, number in (("--points", points), ("--inputs", inputs), ("--seed", seed)):
                if number is not None:
                    raise UserError(f"{option} is for a drill on this machine", mend="leave it or --cluster out")
            _drill_cluster(cluster, by, wait=wait or _WAIT_MINUTES, as_json=as_json)
            return
        for option, given in (("--by", by), ("--wait", wait)):
            if given:
                raise UserError(f"{option} is for a drill on a cluster, and none is named", mend="add --cluster NAME")
        if folder and not (is_folder(Path(folder)) and os.access(folder, os.W_OK | os.X_OK)):
            raise UserError(f"--in {folder}: no folder that can be written to", mend="make it, or name another one")
        _drill_machine(
            main,
            folder,
            points=_POINTS if points is None else points,
            inputs=_INPUTS if inputs is None else inputs,
            seed=seed or 0,
            as_json=as_json,
        )

    return app


def _drill_machine(main: Main, folder: str, *, points: int, inputs: int, seed: int, as_json: bool) -> None:
    """Makes faults and bad inputs on this machine; exits with 1 if a point does not hold.

    Args:
        main: The `salmask` command.
        folder: Where to work; empty: the folder for temporary files.
        points: Number of points of each kind of fault.
        inputs: Approximate number of bad inputs; 0: none.
        seed: Random seed of the bad inputs.
        as_json: Whether JSON is printed.
    """
    from repro.drill.faults import Row, all_held, faults
    from repro.drill.inputs import inputs as bad_inputs

    _prepare()
    rows: list[Row] = []
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(dir=folder or None, prefix="salmask-drill-") as name:
        place = Path(name)
        for part in ("faults", "inputs"):
            (place / part).mkdir()
        os.environ["SALMASK_CACHE"] = str(place / "cache")
        made = faults(main, place / "faults", points)
        for row in chain(made, bad_inputs(place / "inputs", inputs, seed) if inputs else ()):
            rows.append(row)
            console.print(f"{row.kind}: {row.held} of {row.tried}")
    total = Row("all", "", sum(row.tried for row in rows), sum(row.held for row in rows))
    report(as_json, [vars(row) for row in [*rows, total]])
    if not all_held(rows):
        raise typer.Exit(1)


def _drill_cluster(name: str, by: str, *, wait: float, as_json: bool) -> None:
    """Tries salmask's promises on a cluster; exits with 1 if a promise does not hold, or none could be tried."""
    from repro.drill.on_cluster import ClusterDrill
    from repro.drill.promises import PromiseVerdict
    from slurm.profiles.profile import load

    rows = ClusterDrill(load(name), load(by) if by else None).run(wait=60 * wait)
    report(as_json, [vars(row) for row in rows])
    verdicts = {row.verdict for row in rows}
    if PromiseVerdict.broken in verdicts or PromiseVerdict.held not in verdicts:
        raise typer.Exit(1)


def _prepare() -> None:
    """Imports what the forked processes need, once for all of them, and sets torch to one thread."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    import baselines  # noqa: F401  # for the processes that are forked
    import repro.training.pretraining  # noqa: F401  # likewise

    torch.set_num_threads(1)
    # Warnings about spoilt files are expected, and would hide the drill's own lines.
    logging.getLogger("salmask").addHandler(logging.NullHandler())
