"""A sweep in progress for a page: what its jobs are doing, when they will be done, and what they cost so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.bench.throughput import record_file
from repro.errors import UserError
from repro.quantities import counted, duration_text, number_text
from repro.runs.folder import RunFolder
from repro.runs.status import PRETRAIN
from slurm.jobs.orders import ordered_run
from slurm.monitoring.queue import QueueSnapshot
from slurm.monitoring.spending import spendings
from slurm.monitoring.states import State
from slurm.monitoring.status import JobRow, counts, may_change, warning_lines
from slurm.planning.graph import Job, make_graph
from slurm.planning.hours import Hours
from slurm.planning.job_costs import JobCost, estimate, gather, wall_seconds
from slurm.profiles.profile import Cluster, load_named
from slurm.sweep_folder.ledger import REPORT, Key, Ledger


@dataclass(frozen=True)
class ProgressRow:
    """A job as a page shows it; `left_s` and `share` are what its columns are sorted by."""

    run: str
    task: str
    state: str
    step: int
    steps: int
    share: float
    left: str
    left_s: float | None
    speed: str
    note: str


@dataclass(frozen=True)
class SweepProgress:
    """A sweep in progress.

    Attributes:
        summary: How many jobs are in which state, and when all will be done.
        hours: What was spent, of what is planned.
        trouble: Why the queue is not known; empty where it is.
        warnings: What jobs without a result have warned of, a line each.
        jobs: Its jobs, those that run first.
        refresh_s: Seconds after which a page is to be loaded again.
        live: Whether anything is under way.
    """

    summary: str
    hours: str
    trouble: str
    warnings: tuple[str, ...]
    jobs: tuple[ProgressRow, ...]
    refresh_s: int
    live: bool


def progress(sweep: Path, table: Sequence[JobRow], queue: QueueSnapshot, *, every: float) -> SweepProgress:
    """Sums up what the jobs of a sweep are doing.

    Args:
        sweep: The sweep's folder.
        table: Its jobs, as `salmask status` has them.
        queue: The queue that they were judged by.
        every: Seconds between two looks.
    """
    costs = _Costs(sweep, table)
    states = ", ".join(f"{number} {state}" for state, number in counts(table).items()) or "no job yet"
    return SweepProgress(
        summary=f"{states}{costs.time_left}.",
        hours=costs.words,
        trouble=f"Slurm does not answer: {queue.trouble}" if queue.trouble else "",
        warnings=tuple(warning_lines(table).values()),
        jobs=tuple(_row(row) for row in sorted(table, key=lambda row: row.state is not State.running)),
        refresh_s=max(1, round(every)),
        live=may_change(table, queue),
    )


def _row(row: JobRow) -> ProgressRow:
    number = f"{row.metric} {number_text(row.value)}" if row.value is not None else ""
    under_way = row.state is not State.done
    return ProgressRow(
        run=row.run,
        task=row.task,
        state=row.state.value,
        step=row.step if under_way else 0,
        steps=row.steps if under_way else 0,
        share=row.step / row.steps if row.steps else 0.0,
        left="" if row.eta_s is None else duration_text(row.eta_s),
        left_s=row.eta_s,
        speed=f"{row.images_per_second:.0f}" if row.images_per_second else "",
        note=", ".join(filter(None, (number, row.note))),
    )


class _Costs:
    """What the jobs of a sweep have cost, and what those that are not done will."""

    def __init__(self, sweep: Path, table: Sequence[JobRow]) -> None:
        ledger = Ledger(sweep)
        newest = ledger.newest()
        self.clusters = {key: _cluster(entry.cluster) for key, entry in newest.items()}
        self.rows = {row.key: row for row in table if row.task != REPORT}
        jobs = [job for row in self.rows.values() if (job := _job(sweep, row)) is not None]
        pretrained = {job.folder.path for job in jobs if job.task == PRETRAIN}
        jobs = [job for job in jobs if job.folder.path in pretrained]  # a graph needs the pretraining of each job
        self.graph = make_graph(sweep, jobs, ())
        done = [key for key, row in self.rows.items() if row.state is State.done]
        used = spendings(ledger, table)
        self.spent = Hours.total(job.hours for job in used)
        self.gpus = {key: entry.gpus for key, entry in newest.items()} | {
            (job.folder, job.task): job.gpus for job in used
        }
        self.to_do = self._to_do(sweep, done)

    def _to_do(self, sweep: Path, done: Sequence[Key]) -> Mapping[Key, JobCost]:
        """Returns the cost of every job; of one that runs, of what is left of it."""
        evidence = gather([sweep], record_file())
        clusters = [cluster for cluster in self.clusters.values() if cluster]
        costs = estimate(self.graph, clusters[-1] if clusters else None, evidence, done)
        for key, row in self.rows.items():
            if key in costs and row.state is State.running and row.eta_s is not None:
                costs[key] = JobCost(row.eta_s, self.gpus.get(key, 0), None, "its own pace")
        return costs

    @property
    def words(self) -> str:
        """The hours spent and planned, and how many jobs have an unknown cost."""
        planned = Hours.total([self.spent, *(cost.hours for cost in self.to_do.values() if cost.hours)])
        unknown = len(self.rows) - len(self.to_do) + sum(cost.seconds is None for cost in self.to_do.values())
        some = f", without {counted(unknown, 'job')} whose cost is unknown" if unknown else ""
        return f"{self.spent.text_of(planned)} spent{some}."

    @property
    def time_left(self) -> str:
        """The time that is left with as many jobs at a time as now; empty if nothing runs or is left."""
        running = sum(row.state is State.running for row in self.rows.values())
        seconds = wall_seconds(self.graph, self.to_do, max(1, running))
        at_least = "at least " if any(cost.seconds is None for cost in self.to_do.values()) else ""
        return f"; {at_least}{duration_text(seconds)} left, {running} at a time" if running and seconds else ""


def _cluster(name: str) -> Cluster | None:
    """Returns a profile; None if it can no longer be read."""
    try:
        return load_named(name)
    except UserError:
        return None


def _job(sweep: Path, row: JobRow) -> Job | None:
    """Returns a row's job; None where its settings cannot be read."""
    folder = RunFolder(sweep / row.folder)
    try:
        return Job(ordered_run(folder, row.task), folder, row.task)
    except UserError:
        return None
