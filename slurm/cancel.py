"""Ending jobs: those of Slurm in one call, or one for each submission where squeue is silent; local ones by process."""

import os
import signal
import socket
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from slurm.ledger import Key, Submission
from slurm.queue import QueueSnapshot, scancel


@dataclass(frozen=True)
class Cancelled:
    """What became of a wish to end jobs."""

    jobs: list[str] = field(default_factory=list)
    """Ids of those that were told to end."""
    elsewhere: list[str] = field(default_factory=list)
    """Local jobs of other machines: `HOST: PROCESS`."""
    trouble: str = ""
    """What Slurm objected to; empty: nothing."""
    entries: list[Submission] = field(default_factory=list)
    """Of the ledger: those whose jobs were told to end, for `Ledger.cancelled`."""


def cancel(
    entries: Iterable[Submission],
    queue: QueueSnapshot,
    *,
    over: Collection[Key] = (),
    done: Collection[Key] = (),
    dry_run: bool = False,
) -> Cancelled:
    """Tells every job that runs or waits to end; each saves a checkpoint first, and can go on later.

    Args:
        entries: of a ledger.
        queue: from `slurm.queue.snapshot`.
        over: keys of the jobs that have ended by their files, which alone tell of processes of other machines.
        done: keys of the jobs whose results are there; where squeue is silent, Slurm need not be told about them.
        dry_run: only say which.
    """
    unseen: dict[str, list[str]] = {}
    slurm_ids: list[str] = []
    processes: list[str] = []
    elsewhere: list[str] = []
    told: list[Submission] = []
    waiting: list[Submission] = []
    entries = list(entries)
    newest = {entry.key: entry for entry in entries}
    for entry in entries:
        if entry.executor == "slurm":
            # An intent without an id may have gone out all the same, as one job or as an array: by its name.
            candidates = [queue.find(entry)] if entry.job else queue.named(entry.submission)
            ids = [job.job for job in candidates if job is not None and job.live]
            slurm_ids += ids
            # Where squeue is silent, Slurm is told about every job whose end is not known.
            unknown = bool(entry.job and queue.trouble) and queue.find(entry) is None and entry.key not in done
            if unknown:
                unseen.setdefault(entry.submission, []).append(entry.job)
            told += [entry] if ids or unknown else []
        elif entry.executor == "local" and entry.host != socket.gethostname():
            latest = entry.job and newest[entry.key] is entry and entry.key not in over
            elsewhere += [f"{entry.host}: {entry.job}"] if latest else []
        elif entry.executor == "local" and queue.live(entry):
            processes.append(entry.job)
            told.append(entry)
        elif entry.executor == "local" and not entry.job and not entry.cancelled and newest[entry.key] is entry:
            waiting.append(entry)  # for its turn; its launcher looks at the ledger before it starts it
    slurm_ids = list(dict.fromkeys(slurm_ids))  # an array without ids is found once for each of its intents
    jobs = [*dict.fromkeys([*slurm_ids, *(job for ids in unseen.values() for job in ids)]), *processes]
    if dry_run:
        return Cancelled(jobs, elsewhere)
    # Nobody said that an id is still that of our job, and not of a stranger's: the name is asked for too.
    objections = [scancel(slurm_ids), *(scancel(ids, name=name) for name, ids in unseen.items())]
    trouble = next(filter(None, objections), "")
    for process in processes:
        _end(int(process))
    return Cancelled(jobs, elsewhere, trouble, [*told, *waiting])


def _end(process: int) -> None:
    """Asks a local job to end: all of its ranks, which are of one group."""
    with suppress(ProcessLookupError):  # it has ended meanwhile
        if os.getpgid(process) == process:
            os.killpg(process, signal.SIGTERM)
        else:
            os.kill(process, signal.SIGTERM)
