"""Ending jobs: those of Slurm in one call, local ones by their process."""

import os
import signal
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field

from slurm.ledger import Submission
from slurm.queue import QueueSnapshot, scancel


@dataclass(frozen=True)
class Cancelled:
    """What became of a wish to end jobs."""

    jobs: list[str] = field(default_factory=list)
    """Ids of those that were told to end."""
    elsewhere: list[str] = field(default_factory=list)
    """Local jobs of other machines: `HOST: PROCESS`."""
    trouble: str = ""


def cancel(entries: Iterable[Submission], queue: QueueSnapshot, *, dry_run: bool = False) -> Cancelled:
    """Tell every job that runs or waits to end; each saves a checkpoint first, and can go on later.

    Args:
        entries: of a ledger.
        queue: from `slurm.queue.snapshot`.
        dry_run: only say which.
    """
    slurm: list[str] = []
    local: list[str] = []
    elsewhere: list[str] = []
    for entry in entries:
        if entry.executor == "slurm":
            found = [queue.find(entry)] if entry.job else queue.named(entry.submission)
            slurm += [job.job for job in found if job is not None and job.live]
            # Where squeue is silent, Slurm is told about every job whose end is not known.
            slurm += [entry.job] if entry.job and queue.find(entry) is None and queue.trouble else []
        elif entry.executor == "local" and entry.host != socket.gethostname():
            elsewhere += [f"{entry.host}: {entry.job}"]
        elif entry.executor == "local" and queue.live(entry):
            local.append(entry.job)
    slurm = list(dict.fromkeys(slurm))
    if dry_run:
        return Cancelled([*slurm, *local], elsewhere)
    trouble = scancel(slurm)
    for process in local:
        os.kill(int(process), signal.SIGTERM)  # submitit's process hands it on to the job's
    return Cancelled([*slurm, *local], elsewhere, trouble)
