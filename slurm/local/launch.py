"""Jobs on this machine, in processes of their own: as many at a time as there is room, or one for each GPU.

There is no scheduler here: the launch keeps the order of the jobs itself, and waits for them. What waits for its turn
stands in the ledger as an intent, which counts as queued as long as a launcher holds the sweep's `.local.lock`.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from repro.errors import UserError
from repro.files import mend_of_place
from repro.terminal import Console
from repro.writability import why_unwritable
from slurm.jobs.calls import refuse_foreign_sweep
from slurm.jobs.orders import write_report_order
from slurm.jobs.program import Program
from slurm.local.cores import cpu_environment
from slurm.local.devices import Places
from slurm.local.rounds import Rounds
from slurm.planning.before_launch import check_roots
from slurm.planning.graph import Graph
from slurm.profiles.profile import Cluster
from slurm.submission.handover import Outcome
from slurm.sweep_folder.ledger import LOCAL_LOCK, Key
from slurm.sweep_folder.local_lock import minding


def launch_here(
    graph: Graph,
    cluster: Cluster,
    program: Program,
    *,
    parallel: int,
    console: Console,
    gpus: Sequence[str] = (),
) -> Outcome:
    """Runs what is missing on this machine, `parallel` jobs at a time, and waits.

    Args:
        graph: The sweep.
        cluster: A profile with the executor `local` or `debug`.
        program: The names of what the jobs carry out.
        parallel: Jobs at a time, where no `gpus` are named.
        console: For progress.
        gpus: The devices to share out, one for each process of a job; one that is named twice takes two. None: every
            job sees those of this process.

    Returns:
        What was done, what had been, and what failed; a failed pretraining fails what builds on it.

    Raises:
        UserError: The root of a data set is not set, missing or empty; a job has more processes than there are `gpus`;
            or the sweep is somebody else's.
    """
    finished = graph.finished()
    check_roots(graph, finished)
    most = max((cluster.resources_of(task).tasks_per_node for task in graph.tasks), default=1)
    if gpus and most > len(gpus):
        raise UserError(
            f"a job of '{cluster.name}' has {most} processes, one for each GPU, and --gpus names {len(gpus)}",
            mend="name more, or fewer processes in the profile",
        )
    parallel = len(gpus) or parallel
    at_once = _most_at_once(graph, finished)
    if cluster.executor == "debug":
        at_once, most = min(at_once, 1), 1  # one job after the other, in this process
    processes = min(parallel, at_once * most) if gpus else min(parallel, at_once) * most
    for name, value in cpu_environment(processes, console).items():
        os.environ.setdefault(name, value)
    with _under_way(graph.sweep_folder):
        write_report_order(graph.sweep_folder, graph.tables)
        places = Places(1 if cluster.executor == "debug" else parallel, gpus)
        return Rounds(graph, finished, cluster, program, places, console).run()


def _most_at_once(graph: Graph, finished: Collection[Key]) -> int:
    """Returns how many of the missing jobs can run at a time: a pretraining never does beside what builds on it."""
    missing = [job for job in graph.jobs if graph.key(job) not in finished]
    built_on = {graph.key(parent) for job in missing if (parent := graph.parent(job)) is not None}
    return sum(graph.key(job) not in built_on for job in missing)


@contextmanager
def _under_way(sweep_folder: Path) -> Iterator[None]:
    """Shows, as long as the block lasts, that a launcher minds the sweep's jobs here; several may do so at once."""
    try:
        sweep_folder.mkdir(parents=True, exist_ok=True)
        refuse_foreign_sweep(sweep_folder)
        (sweep_folder / LOCAL_LOCK).touch()
    except OSError as error:
        what = f"cannot write to {sweep_folder}: {why_unwritable(sweep_folder, error)}"
        raise UserError(what, mend=mend_of_place(error)) from error
    with minding(sweep_folder):
        yield
