"""What the jobs of a sweep cost: what each used beside what it asked for and what was planned, and what was too much.

There are two sources: Slurm's accounting, which knows what a job held from its first second to its last, and what each
process recorded of itself (`repro.runs.resource_usage`), also without Slurm. For time, the accounting counts if it
knows the job; for memory and CPU time, the larger figure of the two, since each misses something.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repro.quantities import counted, memory_text
from repro.runs.evaluation import task_and_dataset
from repro.runs.resource_usage import TaskUsage, usage_of
from slurm.monitoring.accounting import Accounted, SlurmJob, accounted
from slurm.monitoring.states import State
from slurm.monitoring.status import JobRow
from slurm.planning.hours import Hours
from slurm.sweep_folder.ledger import Key, Ledger, Submission

MEMORY_MARGIN, MEMORY_SPARE_GB = 1.5, 1.0
"""The proposal is the most that was used, times the margin, plus the spare: samples miss peaks."""
TIME_MARGIN, TIME_SPARE_MINUTES = 1.5, 10
CORES_MARGIN = 1.25
TOO_MUCH = 2.0
"""A profile asks for too much if it asks for this many times the proposal, or more."""


@dataclass(frozen=True)
class Spending:
    """What one job used, in all of its attempts, and what it had asked for; None: unknown."""

    run: str
    method: str
    task: str
    folder: str
    state: State
    seconds: float
    longest_seconds: float
    """Of its longest attempt."""
    planned_s: float | None
    gpus: int
    """GPUs that it held; if none were asked for, those that it computed on."""
    gpu_busy: float | None
    """Share of the time in which kernels ran, in 0…1."""
    gpu_memory: int
    """The most bytes on one GPU."""
    gpu_used: bool | None
    """Whether it computed on a GPU."""
    cpus: int
    """CPUs that it held; if none were asked for, those that it could use."""
    cpus_asked: int
    processes: int
    """On all nodes; they share the CPUs that were asked for."""
    cpu_seconds: float
    memory: int
    """The most bytes on a node."""
    memory_asked: float
    """GiB per node; 0: none in particular."""
    minutes_asked: int
    nodes: int
    """Nodes that it asked for; 0: no launcher recorded this."""

    @property
    def hours(self) -> Hours:
        """GPU-hours, or hours without a GPU."""
        return Hours.held(self.seconds, self.gpus)

    @property
    def cpu_hours(self) -> float:
        """Hours times the CPUs that were asked for; where none were, hours of CPU time."""
        return (self.seconds * self.cpus_asked if self.cpus_asked else self.cpu_seconds) / 3600

    @property
    def cpu_share(self) -> float | None:
        """The share of the CPUs' time that it used, in 0…1; None if their number is unknown."""
        return self.cpu_seconds / (self.seconds * self.cpus) if self.seconds and self.cpus else None


@dataclass(frozen=True)
class MethodSpending:
    """What all jobs of a method used."""

    method: str
    jobs: int
    gpu_hours: float
    cpu_hours: float
    """Of the jobs without a GPU."""
    planned_hours: float | None
    """Hours that these jobs were planned to take, as `Hours.counted`; None: no plan knew any."""
    spent_of_planned: float
    """Hours that the planned ones of these jobs used, likewise."""


def spendings(ledger: Ledger, table: Sequence[JobRow]) -> list[Spending]:
    """Returns what the jobs of a sweep used, without those that have used nothing.

    Args:
        ledger: Of the sweep.
        table: Its jobs, as `salmask status` has them.
    """
    newest = ledger.newest()
    earlier: dict[Key, list[SlurmJob]] = {}
    for entry in ledger.submissions():
        if entry.executor == "slurm" and entry.job:
            earlier.setdefault(entry.key, []).append((entry.submission, entry.job))
    by_job = accounted({job for row in table for job in earlier.get(row.key, [])})
    rows = []
    for row in table:
        own = usage_of(ledger.sweep / row.folder, row.task)
        slurms = _summed([by_job[job] for job in earlier.get(row.key, []) if job in by_job])
        if own or slurms.seconds:
            rows.append(_spending(row, newest.get(row.key), own, slurms))
    return rows


def _summed(attempts: Sequence[Accounted]) -> Accounted:
    """Returns what several submissions of a job used together; nothing where none of them began."""
    attempts = [attempt for attempt in attempts if attempt.seconds]
    if not attempts:
        return Accounted()
    last = attempts[-1]
    busy = [attempt.gpu_busy for attempt in attempts if attempt.gpu_busy is not None]
    return Accounted(
        math.fsum(attempt.seconds for attempt in attempts),
        max(attempt.longest_seconds for attempt in attempts),
        math.fsum(attempt.cpu_seconds for attempt in attempts),
        last.cpus,
        last.gpus,
        max(attempt.memory for attempt in attempts),
        statistics.fmean(busy) if busy else None,
    )


def _spending(row: JobRow, entry: Submission | None, own: TaskUsage | None, slurms: Accounted) -> Spending:
    asked = entry or Submission("", "", "", "", row.folder, row.task)
    timed = slurms if slurms.seconds or own is None else own
    busy = own.gpu_busy if own and own.gpu_busy is not None else slurms.gpu_busy
    return Spending(
        run=row.run,
        method=Path(row.folder).parent.name or row.task,
        task=row.task,
        folder=row.folder,
        state=row.state,
        seconds=timed.seconds,
        longest_seconds=timed.longest_seconds,
        planned_s=asked.planned_s,
        gpus=asked.gpus or slurms.gpus or (own.gpus if own else 0),
        gpu_busy=busy,
        gpu_memory=own.gpu_memory if own else 0,
        gpu_used=_used_gpu(own, busy),
        cpus=asked.cpus or slurms.cpus or (own.cores if own else 0),
        cpus_asked=asked.cpus,
        processes=max(1, asked.processes),
        # Both sources miss something: Slurm what ran outside of its steps, the job's record a process that was killed.
        cpu_seconds=max(slurms.cpu_seconds, own.cpu_seconds if own else 0.0),
        memory=max(slurms.memory, own.memory if own else 0),
        memory_asked=asked.memory,
        minutes_asked=asked.minutes,
        nodes=asked.nodes,
    )


def _used_gpu(own: TaskUsage | None, busy: float | None) -> bool | None:
    """Returns whether a job computed on a GPU; None where neither it nor the accounting tells."""
    if own:  # the job knows its GPU memory, however briefly it held that; samples of a busy GPU may miss it
        return bool(own.gpu_memory)
    return None if busy is None else busy > 0


def by_method(jobs: Iterable[Spending]) -> list[MethodSpending]:
    """Returns what the jobs of each method used, in the order in which the methods come; a report is one of its own."""
    groups: dict[str, list[Spending]] = {}
    for job in jobs:
        groups.setdefault(job.method, []).append(job)
    sums = []
    for method, members in groups.items():
        planned = [job for job in members if job.planned_s is not None]
        hours = Hours.total(Hours.held(job.planned_s or 0.0, job.gpus) for job in planned)
        sums.append(
            MethodSpending(
                method,
                len(members),
                Hours.total(job.hours for job in members).of_gpus,
                math.fsum(job.cpu_hours for job in members if not job.gpus),
                hours.counted if planned else None,
                Hours.total(job.hours for job in planned).counted,
            )
        )
    return sums


def too_much(jobs: Iterable[Spending]) -> list[str]:
    """Returns a line for each thing of which the profile asks for far more than any job of a task used.

    Only jobs that are done count: what a job that was stopped would have needed is unknown.

    Returns:
        Such as `linear: memory: 24 GiB asked, 3.1 GiB used at most by 12 jobs: memory: 6`.
    """
    by_task: dict[str, list[Spending]] = {}
    for job in jobs:
        if job.state is State.done and job.nodes:
            by_task.setdefault(task_and_dataset(job.task)[0], []).append(job)
    return [line for task, members in by_task.items() for line in _lines_of(task, members)]


def enough_memory(most: int) -> int:
    """Returns the GiB that are enough for a job of which others used so many bytes at most."""
    return math.ceil(MEMORY_MARGIN * most / 2**30 + MEMORY_SPARE_GB)


def _lines_of(task: str, jobs: Sequence[Spending]) -> list[str]:
    lines = []

    def say(key: str, asked: str, used: str, proposed: int) -> None:
        lines.append(
            f"{task}: {key}: {asked} asked, {used} used at most by {counted(len(jobs), 'job')}: {key}: {proposed}"
        )

    most = max(job.memory for job in jobs)
    proposed = enough_memory(most)
    asked_memory = min(job.memory_asked for job in jobs)
    if most and asked_memory >= TOO_MUCH * proposed:
        say("memory", f"{asked_memory:g} GiB", memory_text(most), proposed)
    minutes = max(job.seconds for job in jobs) / 60  # a longer limit than one attempt's saves going back to the queue
    proposed = math.ceil(TIME_MARGIN * minutes + TIME_SPARE_MINUTES)
    asked_minutes = min(job.minutes_asked for job in jobs)
    if asked_minutes >= TOO_MUCH * proposed:
        say("time", f"{asked_minutes} min", f"{minutes:.0f} min", proposed)
    busy = max(job.cpu_seconds / job.seconds / job.processes if job.seconds else 0.0 for job in jobs)
    proposed = max(1, math.ceil(CORES_MARGIN * busy))
    asked_cpus = min(job.cpus_asked // job.processes for job in jobs)
    if asked_cpus >= TOO_MUCH * proposed:
        say("cpus", str(asked_cpus), f"{busy:.1f}", proposed)
    if all(job.gpus and job.gpu_used is False for job in jobs):
        say("gpus", str(min(job.gpus for job in jobs)), "none", 0)
    return lines


def as_json_of_costs(ledger: Ledger, jobs: Sequence[Spending]) -> dict[str, Any]:
    """Returns what `salmask status --cost --json` prints for a sweep."""
    return {
        "sweep": ledger.sweep.resolve().name,
        "folder": str(ledger.sweep),
        "jobs": [
            {**asdict(job), "gpu_hours": job.hours.of_gpus, "cpu_hours": job.cpu_hours, "cpu_share": job.cpu_share}
            for job in jobs
        ],
        "methods": [asdict(method) for method in by_method(jobs)],
        "too_much": too_much(jobs),
    }
