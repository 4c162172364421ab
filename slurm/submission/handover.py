"""What submitting a job takes, whoever carries it out: its call, its line in the ledger, and how the launch ended.

`slurm.submission.sender` submits jobs to Slurm and `slurm.local.launch` to processes on this machine. What is submitted
is the same, so that a sweep may be begun in one way and gone on with in the other.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from repro.errors import with_mend
from repro.quantities import counted
from repro.runs.status import PRETRAIN
from repro.runs.task_results import ReadResults, rows_of
from slurm.jobs.job import Call
from slurm.jobs.orders import write_order
from slurm.jobs.program import Program
from slurm.planning.graph import Graph, Job
from slurm.profiles.profile import Cluster
from slurm.sweep_folder.ledger import Key, Submission

NOT_STARTED = "not started: its pretraining failed"
NO_PARENT = "its pretraining is neither done nor on its way"


@dataclass
class Outcome:
    """How a launch ended."""

    done: list[Job] = field(default_factory=list)
    """Done by this launch, which waited for it."""
    skipped: list[Job] = field(default_factory=list)
    """Done before."""
    live: list[Job] = field(default_factory=list)
    """Queued or running since an earlier launch."""
    report_is_live: bool = False
    """Whether the report, which is not a job of the graph, is so, too."""
    submitted: dict[Key, str] = field(default_factory=dict)
    """Slurm's ids of what was submitted now; of a report that was made here, the process's."""
    failed: dict[Key, str] = field(default_factory=dict)
    """Jobs that failed here, or could not be submitted since their run's folder is damaged -> why."""
    unsent: dict[Key, str] = field(default_factory=dict)
    """Jobs that were not submitted -> why."""
    has_room_later: bool = False
    """Whether waiting helps with these: they met a limit, a silent Slurm or a full disk, or a job outside of Slurm."""
    outdated: int = 0
    """How many jobs on their way have other settings than the sweep has now."""

    def merged(self, earlier: Mapping[Key, str], failed: Mapping[Key, str], graph: Graph) -> "Outcome":
        """Returns how a call of several rounds ended, of which this is the last.

        Args:
            earlier: Slurm's ids of what the rounds before it submitted.
            failed: What failed in those.
            graph: The sweep.
        """
        submitted, failed = {**earlier, **self.submitted}, {**failed, **self.failed}
        live, skipped = ([job for job in jobs if graph.key(job) not in submitted] for jobs in (self.live, self.skipped))
        report_is_live = self.report_is_live and graph.report not in submitted
        return replace(
            self, submitted=submitted, failed=failed, live=live, skipped=skipped, report_is_live=report_is_live
        )

    @property
    def on_way(self) -> int:
        """How many jobs are queued or running since an earlier launch, with the report."""
        return len(self.live) + self.report_is_live

    @property
    def comes_later(self) -> str:
        """Why Slurm did not take a job that may be submitted later; empty where there is no such job.

        A job whose pretraining failed is not submitted by waiting: a person has to look.
        """
        return next((reason for reason in self.unsent.values() if reason != NO_PARENT), "")

    @property
    def unsent_words(self) -> str:
        """How many jobs Slurm did not take, and why: `12 jobs not submitted (12: QOSMaxSubmitJobPerUserLimit)`."""
        reasons = Counter(self.unsent.values())
        listed = "; ".join(f"{number}: {reason}" for reason, number in reasons.items())
        return f"{counted(len(self.unsent), 'job')} not submitted ({listed})" if self.unsent else ""

    def failed_by_name(self, graph: Graph) -> dict[str, str]:
        """Returns what failed by the jobs' names; where several settings of a method have one, with the run's folder.

        Args:
            graph: The sweep.
        """
        names = Counter(job.name for job in graph.jobs)
        return {
            job.name if names[job.name] == 1 else f"{job.name} ({key[0]})": self.failed[key]
            for key, job in graph.by_key.items()
            if key in self.failed
        }

    def unsent_told(self, later: str) -> str:
        """Returns `unsent_words` with the mend, which is `later` where waiting helps."""
        mend = later if self.has_room_later else "the profile, or what it builds on, then the same command again"
        return with_mend(self.unsent_words, mend)


def prepare_call(graph: Graph, key: Key, attempts: int, program: Program, read_results: ReadResults = rows_of) -> Call:
    """Writes a job's order into its run's folder, and returns what its process is to call.

    Args:
        graph: The sweep.
        key: Of the job, or of the sweep's report.
        attempts: How often the job may begin.
        program: The names of what jobs carry out.
        read_results: For callers that prepare several jobs of a run, and read its results once.

    Raises:
        UserError: The folder cannot be written to, holds another run, or its results cannot be read.
    """
    job = graph.by_key.get(key)
    if job is None:  # the report is not a job of the graph, which has no run for it
        return Call(graph.sweep_folder.resolve(), key[1], program.report, attempts, tables=graph.tables)
    write_order(job.run, job.folder, job.task)
    if job.task == PRETRAIN:
        # The training would do it too, but hours later: here a folder that holds another run is refused at once, and
        # `salmask status` and `logs` know the run while it waits.
        job.folder.prepare(job.run)
    else:
        read_results(job.folder.results)  # an unreadable file is refused now: the job will add to it
    return Call(job.folder.path.resolve(), job.task, program.task, attempts)


def ledger_entry(graph: Graph, cluster: Cluster, submission: str, key: Key, after: tuple[str, ...]) -> Submission:
    """Returns the ledger's line for a job, as it is before the job has an id.

    Args:
        graph: The sweep.
        cluster: The profile by which the job is submitted.
        submission: Name of what is submitted at once, which the job is part of.
        key: Of the job, or of the sweep's report.
        after: Ids of the jobs that it waits for.
    """
    job = graph.by_key.get(key)
    resources = cluster.resources_of(key[1])
    planned = graph.planned.get(key)
    return Submission(
        submission=submission,
        executor=cluster.executor,
        cluster=cluster.name,
        run=job.run.id if job else "",
        folder=key[0],
        task=key[1],
        protocols=job.protocols if job else (),
        dataset=job.dataset if job else "",
        after=after,
        nodes=resources.nodes,
        processes=resources.nodes * resources.tasks_per_node,
        gpus=resources.nodes * resources.gpus,
        cpus=resources.nodes * resources.tasks_per_node * resources.cpus,
        memory=resources.memory,
        minutes=resources.time,
        planned_s=None if planned is None else round(planned, 1),
    )
