"""`salmask doctor`: what is wrong with this machine, or with a node of a cluster."""

from collections.abc import Callable
from typing import Annotated

import typer

from repro.command_line.console import AsJson, report
from repro.data.options import DataName, DataRoot
from repro.doctor.diagnosis import Diagnosis
from repro.doctor.needs import Needs
from repro.doctor.packages import check_packages_first
from repro.errors import UserError
from repro.filesystem.paths import absolute

ProbeCluster = Callable[..., list[Diagnosis]]
"""`probe_cluster(name, *, needs, nodes, wait)`: what a short job on a cluster finds.

`nodes=0` takes the profile's number; `wait` is in seconds.
"""
NeedsOfSweep = Callable[..., Needs]
"""`needs_of_sweep(name, *, data, root)`: what the jobs of a sweep read besides their own files."""
_WAIT_MINUTES = 15.0


def build(probe_cluster: ProbeCluster, needs_of_sweep: NeedsOfSweep) -> typer.Typer:
    """Returns the command `salmask doctor`.

    Args:
        probe_cluster: Sends the short job and returns what it found. It is handed in, as this package does not know how
            jobs are launched.
        needs_of_sweep: Tells what a sweep needs; handed in likewise.
    """
    app = typer.Typer(add_completion=False)

    @app.command()
    def doctor(
        data: DataName = "",
        root: DataRoot = "",
        *,
        cluster: Annotated[
            str,
            typer.Option(
                "--cluster", metavar="NAME|FILE", help="Check a node of this cluster instead, by a short job."
            ),
        ] = "",
        sweep: Annotated[
            str,
            typer.Option("--sweep", metavar="NAME|FILE", help="Require all data and weights that this sweep needs."),
        ] = "",
        nodes: Annotated[
            int | None,
            typer.Option("--nodes", metavar="N", min=1, help="Nodes of the cluster to check; default: the profile's."),
        ] = None,
        wait: Annotated[
            float | None, typer.Option(metavar="MINUTES", min=1, help="Minutes to wait for that job; default: 15.")
        ] = None,
        as_json: AsJson = False,
    ) -> None:
        """Check packages, devices, data roots and weights; say what is wrong and the mend.

        Example: salmask doctor --data imagenet100 --root /data/imagenet

        On a cluster: salmask doctor --cluster mycluster --sweep table1 --root /data/imagenet
        """
        needs = needs_of_sweep(sweep, data=data, root=root) if sweep else _needs_of_data(data, root)
        for option, given in (("--nodes", nodes), ("--wait", wait)):
            if given and not cluster:
                raise UserError(f"{option} is for a cluster, and none is named", mend="add --cluster NAME")
        if cluster:
            diagnoses = probe_cluster(
                cluster, needs=needs or Needs(), nodes=nodes or 0, wait=60 * (wait or _WAIT_MINUTES)
            )
        else:
            diagnoses = _of_this_machine(needs)
        report(as_json, [vars(diagnosis) for diagnosis in diagnoses])
        if any(diagnosis.verdict == "wrong" for diagnosis in diagnoses):
            raise typer.Exit(1)

    return app


def _of_this_machine(needs: Needs | None) -> list[Diagnosis]:
    def examined() -> list[Diagnosis]:
        from repro.doctor.machine import examine

        return examine(needs)

    return check_packages_first(examined)


def _needs_of_data(data: str, root: str) -> Needs | None:
    """Returns the needs of a run on the named data set; None if none is named.

    Raises:
        UserError: There is a root without a data set, or of one that is read from no folder.
    """
    from repro.data.roots import refuse_idle_root

    if root and not data:
        raise UserError("--root is for a data set, and none is named", mend="add --data NAME or --sweep NAME")
    refuse_idle_root(data, root)
    return Needs(((data, absolute(root)),)) if data else None
