"""`salmask doctor`: what is wrong with this machine, or with a node of a cluster."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from repro.console import AsJson, report
from repro.data.options import DataName, DataRoot
from repro.doctor.diagnosis import Diagnosis

ProbeCluster = Callable[..., list[Diagnosis]]
"""`probe_cluster(name, *, wait, console)`: what a short job on a cluster finds."""


def build(probe_cluster: ProbeCluster) -> typer.Typer:
    """Returns the command `salmask doctor`.

    Args:
        probe_cluster: Sends the short job and returns what it found. It is handed in, as this package does not know how
            jobs are launched.
    """
    app = typer.Typer(add_completion=False)

    @app.command()
    def doctor(
        data: DataName = "",
        root: DataRoot = "",
        *,
        cluster: Annotated[
            str, typer.Option("--cluster", metavar="NAME|FILE", help="Check a node instead: submits a short job.")
        ] = "",
        wait: Annotated[float, typer.Option(min=1, help="Minutes to wait for that job.")] = 15.0,
        as_json: AsJson = False,
    ) -> None:
        """Check packages, devices, data roots and weights; say what is wrong and the mend.

        Example: salmask doctor --data imagenet100 --root /data/imagenet

        On a cluster: salmask doctor --cluster mycluster
        """
        if cluster:
            diagnoses = probe_cluster(cluster, wait=60 * wait, console=Console(stderr=True))
        else:
            from repro.doctor.machine import examine

            diagnoses = examine(data, Path(root) if root else None)
        report(as_json, [vars(diagnosis) for diagnosis in diagnoses])
        if any(diagnosis.verdict == "wrong" for diagnosis in diagnoses):
            raise typer.Exit(1)

    return app
