"""Handing jobs over again, from a sweep's folder alone: it holds what each is to do and how it was launched."""

from collections.abc import Collection

from rich.console import Console
from submitit.helpers import DelayedSubmission

from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.runs.reading import load as load_run
from repro.runs.status import PRETRAIN
from slurm.graph import Graph, Job, Key, make_graph
from slurm.handover import Outcome
from slurm.job import Call, order_file
from slurm.launch import submit
from slurm.ledger import REPORT, Ledger
from slurm.local import launch_here
from slurm.profile import Cluster
from slurm.profile import load as load_cluster
from slurm.program import Program
from slurm.snapshot import take


def graph_of(ledger: Ledger, wanted: Collection[Key]) -> Graph:
    """The jobs of a sweep that are wanted, with what they build on and what builds on them.

    Args:
        ledger: of the sweep.
        wanted: (folder, task).

    Raises:
        UserError: a run's settings are gone.
    """
    begun = {folder for folder, task in wanted if task == PRETRAIN}
    keys = {*wanted, *((folder, PRETRAIN) for folder, task in wanted if task != REPORT)}
    keys |= {key for key in ledger.newest() if key[0] in begun}
    jobs = []
    for folder, task in sorted(keys, key=lambda key: (key[0], key[1] != PRETRAIN, key[1])):
        if task == REPORT:
            continue
        place = RunFolder(ledger.sweep / folder)
        order = order_file(place, task)
        jobs.append(Job(load_run(order) if order.is_file() else place.load(), place, task))
    return make_graph(ledger.sweep, jobs, _tables(ledger))


def relaunch(
    ledger: Ledger, wanted: Collection[Key], cluster: str, program: Program, console: Console, *, allow_dirty: bool
) -> Outcome:
    """Hand jobs over again; what is done, queued or running is left alone.

    Args:
        ledger: of the sweep.
        wanted: (folder, task).
        cluster: profile; empty: that of the last launch.
        program: what the jobs carry out.
        console: for what is told.
        allow_dirty: as of `slurm.snapshot.take`.

    Raises:
        UserError: the profile is unknown, the code was edited, or the scheduler refuses.
    """
    profile = _profile(ledger, cluster)
    graph = graph_of(ledger, wanted)
    if profile.executor != "slurm":
        return launch_here(graph, profile, program, parallel=1, console=console)
    return submit(graph, profile, take(ledger.sweep, allow_dirty=allow_dirty), program, console)


def _profile(ledger: Ledger, cluster: str) -> Cluster:
    if cluster:
        return load_cluster(cluster)
    entries = ledger.submissions()
    if not entries:
        return load_cluster("local")
    try:
        return load_cluster(entries[-1].cluster)
    except UserError as error:
        raise UserError(f"{error}; or name the profile that the sweep was launched by: --cluster FILE") from error


def _tables(ledger: Ledger) -> tuple[str, ...]:
    """What the sweep's report renders, which stands in that job itself."""
    for entry in reversed(ledger.submissions()):
        pickle = ledger.logs / entry.submission / f"{entry.job}_submitted.pkl"
        if entry.task == REPORT and pickle.is_file():
            call = DelayedSubmission.load(pickle).function
            return call.tables if isinstance(call, Call) else ()
    return ()
