"""What the processes of a task used (time, cores, memory and GPU), as each process recorded it while it worked.

`usage/TASK.RANK.json` in a run's folder (for a report: in the sweep's) holds a list with an entry for each attempt;
`repro.runs.usage_meter` writes it. No result depends on it: a file that cannot be written or read is ignored. `salmask
status --cost` and plans read it.
"""

import contextlib
import glob
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from repro.errors import UserError
from repro.filesystem.presence import exists
from repro.quantities import duration_text, memory_text
from repro.runs.schemas import USAGE as ENTRY

USAGE = "usage"
"""Folder in a run's."""


@dataclass(frozen=True)
class Usage:
    """What one process of one attempt used, with all the processes that it started."""

    begun: float
    """Seconds since the epoch."""
    seconds: float
    """From its beginning to its last sample."""
    cpu_seconds: float
    memory: int
    """Peak bytes of main memory, as far as samples tell; shared pages count once."""
    cores: int
    """Cores that it could use."""
    gpu_memory: int = 0
    """Peak bytes that PyTorch reserved; 0: it used no GPU."""
    gpu_busy: float | None = None
    """Share of the time in which kernels ran, 0…1, the mean of the samples; None if unknown."""
    host: str = ""
    job: str = ""
    """The scheduler's id; empty without one."""


@dataclass(frozen=True)
class TaskUsage:
    """What a task used in all of its attempts."""

    seconds: float
    """Wall-clock seconds over all attempts."""
    longest_seconds: float
    """Of the longest attempt."""
    cpu_seconds: float
    """Of all processes together."""
    memory: int
    """Peak bytes of main memory of the processes on the fullest node."""
    cores: int
    """Cores that its processes could use; those of one node are counted once."""
    gpus: int
    """GPUs that its processes computed on."""
    gpu_memory: int
    """Peak bytes of one GPU."""
    gpu_busy: float | None
    """Share of the time in which kernels ran, the mean over attempts and processes; None if unknown."""
    attempts: int


def usage_file(folder: Path, task: str, rank: int) -> Path:
    """Returns the file of one process of a task.

    Args:
        folder: The run's folder; for a report, the sweep's.
        task: The task's name.
        rank: The rank of the process.
    """
    return folder / USAGE / f"{task}.{rank}.json"


def attempts_of(path: Path) -> list[Usage]:
    """Returns the entries of a file; none where it is missing or of another content."""
    with contextlib.suppress(UserError):
        entries = ENTRY.read_list(path) if exists(path) else []
        return [Usage(**{name: value for name, value in entry.items() if name in ENTRY.fields}) for entry in entries]
    return []


def usage_of(folder: Path, task: str) -> TaskUsage | None:
    """Returns what a task used in all of its attempts; None if nothing was recorded.

    Args:
        folder: The run's folder; for a report, the sweep's.
        task: The task's name, `linear` or `linear@caltech101`.
    """
    paths = sorted((folder / USAGE).glob(f"{glob.escape(task)}.*.json"))
    ranks = [usages for path in paths if (usages := attempts_of(path))]
    return total(ranks) if ranks else None


def seconds_by_start(folder: Path, task: str, starts: Iterable[str]) -> dict[str, float]:
    """Returns how many seconds each measurement of a task took, over all attempts at it.

    An evaluation may be measured several times in a run's folder, by other protocols or again. Each measurement counts
    the attempt that completed it, and the interrupted attempts before that. Attempts that led to no result do not
    count.

    Args:
        folder: The run's folder.
        task: The task's name, `linear` or `linear@caltech101`.
        starts: When each measurement began, as its rows say (`Result.started`). A measurement without a recorded
            attempt is left out.
    """
    moments = sorted((datetime.fromisoformat(start).timestamp(), start) for start in set(starts))
    seconds: dict[str, float] = {}
    for usage in attempts_of(usage_file(folder, task, 0)):
        # A process begins before it measures, and rows give the time of that in whole seconds, cut off.
        start = next((start for moment, start in moments if usage.begun < moment + 1), None)
        if start is not None:
            seconds[start] = seconds.get(start, 0.0) + usage.seconds
    return seconds


def memories_of(folder: Path) -> dict[str, int]:
    """Returns the peak bytes of main memory of each task that recorded them.

    Args:
        folder: The run's folder.
    """
    tasks = dict.fromkeys(path.name.rsplit(".", 2)[0] for path in sorted((folder / USAGE).glob("*.*.json")))
    return {task: usage.memory for task in tasks if (usage := usage_of(folder, task))}


def total(ranks: Sequence[Sequence[Usage]]) -> TaskUsage:
    """Returns what processes used together.

    Args:
        ranks: The attempts of each process; the first process has entries for all of them.
    """
    every = [usage for rank in ranks for usage in rank]
    hosts = {usage.host for usage in every}
    # The ranks of a node share its memory. Each one's largest attempt counts, so that the sum is never too small.
    memory = max(
        sum(max((usage.memory for usage in rank if usage.host == host), default=0) for rank in ranks) for host in hosts
    )
    timed = [(usage.gpu_busy, usage.seconds) for usage in every if usage.gpu_busy is not None]
    weight = math.fsum(seconds for _, seconds in timed)
    last = [rank[-1] for rank in ranks]
    # Ranks run side by side, so the first one's attempts are the task's time; CPU time adds up over all ranks.
    return TaskUsage(
        seconds=math.fsum(usage.seconds for usage in ranks[0]),
        longest_seconds=max(usage.seconds for usage in ranks[0]),
        cpu_seconds=math.fsum(usage.cpu_seconds for usage in every),
        memory=memory,
        # Each rank reports all cores that its host lends: for each host, one rank's number counts, not their sum.
        cores=sum(max(usage.cores for usage in last if usage.host == host) for host in {usage.host for usage in last}),
        gpus=sum(usage.gpu_memory > 0 for usage in last),
        gpu_memory=max(usage.gpu_memory for usage in every),
        gpu_busy=math.fsum(busy * seconds for busy, seconds in timed) / weight if weight else None,
        attempts=len(ranks[0]),
    )


def words(usage: TaskUsage) -> str:
    """Returns a usage for people: `35 s, 1.2 GiB of memory, 1.8 of 2 cores`."""
    busy_cores = usage.cpu_seconds / usage.seconds if usage.seconds else 0.0
    parts = [
        duration_text(usage.seconds),
        f"{memory_text(usage.memory)} of memory",
        f"{busy_cores:.1f} of {usage.cores} cores",
    ]
    if usage.gpu_memory:
        busy = "" if usage.gpu_busy is None else f", {100 * usage.gpu_busy:.0f} % busy"
        parts.append(f"{memory_text(usage.gpu_memory)} of GPU memory{busy}")
    return ", ".join(parts)
