"""What every way of launching shares: what a job is told, the ledger's line for it, and how a launch ended."""

from dataclasses import dataclass, field

from repro.runs.status import PRETRAIN
from slurm.graph import Graph, Job, Key
from slurm.job import Call, write_order
from slurm.ledger import Submission
from slurm.profile import Cluster
from slurm.program import Program


@dataclass
class Outcome:
    """How a launch ended."""

    done: list[Job] = field(default_factory=list)
    skipped: list[Job] = field(default_factory=list)
    """Done before."""
    live: list[Job] = field(default_factory=list)
    """Queued or running since an earlier launch."""
    submitted: dict[Key, str] = field(default_factory=dict)
    """Slurm's ids of what went out now."""
    failed: dict[str, str] = field(default_factory=dict)
    """Name of the job -> why."""


def call_of(graph: Graph, key: Key, attempts: int, program: Program) -> Call:
    """What a process or a Slurm job is to carry out; its order is written into the run's folder.

    Args:
        graph: the sweep.
        key: of the job, or of the sweep's tables.
        attempts: how often it may be carried out.
        program: what it carries out.
    """
    job = graph.by_key.get(key)
    if job is None:
        return Call(graph.place.resolve(), key[1], program.report, attempts, tables=graph.tables)
    write_order(job.run, job.folder, job.task)
    if job.task == PRETRAIN:
        job.folder.prepare(job.run)
    return Call(job.folder.path.resolve(), job.task, program.task, attempts)


def entry_of(graph: Graph, cluster: Cluster, name: str, key: Key, after: tuple[str, ...]) -> Submission:
    """The line of the ledger for a job.

    Args:
        graph: the sweep.
        cluster: where it goes.
        name: of the submission that it is part of.
        key: of the job, or of the sweep's tables.
        after: ids of the jobs that it waits for.
    """
    job = graph.by_key.get(key)
    return Submission(
        submission=name,
        executor=cluster.executor,
        cluster=cluster.name,
        run=job.run.id if job else "",
        folder=key[0],
        task=key[1],
        protocol=job.protocol if job else "",
        after=after,
    )
