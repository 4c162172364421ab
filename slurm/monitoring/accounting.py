"""What Slurm's accounting says that jobs used: one call of `sacct` for all of them, steps and requeued attempts too."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from slurm.monitoring.queue import cells_of, expand, int_or_0, newest_arrays, sacct

FIELDS: tuple[str, ...] = (
    *("JobID", "JobName", "ElapsedRaw", "TotalCPU", "AllocCPUS", "AllocTRES", "NNodes"),
    *("MaxRSS", "TRESUsageInTot", "TRESUsageInAve"),
)
SlurmJob = tuple[str, str]
"""(Name of its submission, Slurm's id): another cluster, or one that was set up anew, gives the same ids again."""
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Accounted:
    """What a job used over all of its attempts, according to Slurm."""

    seconds: float = 0.0
    """Time for which it had its nodes."""
    longest_seconds: float = 0.0
    """The same for its longest attempt."""
    cpu_seconds: float = 0.0
    cpus: int = 0
    """CPUs that it had."""
    gpus: int = 0
    """GPUs that it had."""
    memory: int = 0
    """The most bytes on a node, as far as Slurm sampled them; 0: it did not."""
    gpu_busy: float | None = None
    """Share of the time in which kernels ran, in 0…1; None: Slurm does not watch GPUs."""


def accounted(jobs: Collection[SlurmJob]) -> dict[SlurmJob, Accounted]:
    """Returns what jobs used, without those that the accounting does not know; nothing if there is no accounting.

    Args:
        jobs: The names of their submissions, with their ids (`812` or `812_3`).
    """
    arrays = newest_arrays(job for _, job in jobs)
    if not arrays:
        return {}
    lines = sacct(FIELDS, "--allusers", "--duplicates", f"--jobs={','.join(arrays)}")
    return {job: used for job, used in parse(lines).items() if job in jobs}


def parse(lines: Sequence[str]) -> dict[SlurmJob, Accounted]:
    """Returns what the lines of `sacct` say of each job: one for each attempt, followed by those of its steps.

    A step's line has a name of its own (`batch`, or its program's); it belongs to the job whose line came before it.

    Args:
        lines: The fields `FIELDS`, separated by `|`; broken ones are left out.
    """
    jobs: dict[SlurmJob, Accounted] = {}
    names: dict[str, str] = {}
    for line in lines:
        cells = cells_of(line.strip(), len(FIELDS))
        if not cells:
            continue
        cell = dict(zip(FIELDS, cells, strict=True))
        ids, _, step = cell["JobID"].partition(".")
        for number in expand(ids):
            if not step:
                names[number] = cell["JobName"]
            if number in names:
                job = names[number], number
                before = jobs.get(job, Accounted())
                jobs[job] = _with_step(before, cell) if step else _with_attempt(before, cell)
    return jobs


def _with_attempt(before: Accounted, cell: Mapping[str, str]) -> Accounted:
    """Returns what a job used, with one more attempt."""
    seconds = float(int_or_0(cell["ElapsedRaw"]))
    return replace(
        before,
        seconds=before.seconds + seconds,
        longest_seconds=max(before.longest_seconds, seconds),
        cpu_seconds=before.cpu_seconds + _duration(cell["TotalCPU"]),
        cpus=int_or_0(cell["AllocCPUS"]) or before.cpus,
        gpus=int_or_0(_resource(cell["AllocTRES"], "gres/gpu")) or before.gpus,
    )


def _with_step(before: Accounted, cell: Mapping[str, str]) -> Accounted:
    """Returns what a job used, with one more step."""
    nodes = max(1, int_or_0(cell["NNodes"]))
    # The sum over the step's tasks, each at its peak; an older Slurm only tells the peak of the largest task.
    memory = _bytes(_resource(cell["TRESUsageInTot"], "mem")) // nodes or _bytes(cell["MaxRSS"])
    busy = _resource(cell["TRESUsageInAve"], "gres/gpuutil")
    share = min(1.0, int_or_0(busy) / 100) if busy else None
    gpu_busy = before.gpu_busy if share is None else max(share, before.gpu_busy or 0.0)
    return replace(before, memory=max(before.memory, memory), gpu_busy=gpu_busy)


def _resource(text: str, name: str) -> str:
    """Returns the value of one of Slurm's trackable resources, `cpu=8,mem=32G,gres/gpu=2`; empty where it has none."""
    return next((value for part in text.split(",") for key, _, value in [part.partition("=")] if key == name), "")


def _bytes(text: str) -> int:
    """Returns a size as Slurm writes it, `3200K` or `1.50G`; 0 if it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", text)
    return round(float(match[1]) * _UNITS[match[2]]) if match else 0


def _duration(text: str) -> float:
    """Returns the seconds of `[D-][HH:]MM:SS[.mmm]`; 0 if the text is no such time."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", text)
    if not match:
        return 0.0
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 86400 * days + 3600 * hours + 60 * minutes + seconds
