"""Ending jobs: Slurm's by scancel (one call, or one per submission if squeue is silent), local ones by signals."""

import os
import signal
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from repro.quantities import counted
from slurm.monitoring.queue import QueueSnapshot, scancel
from slurm.sweep_folder.ledger import Key, Submission


@dataclass(frozen=True)
class Cancelled:
    """What came of asking jobs to end."""

    jobs: list[str] = field(default_factory=list)
    """Ids of the jobs that were asked to end."""
    elsewhere: list[str] = field(default_factory=list)
    """Local jobs of other machines: `HOST: PROCESS`."""
    trouble: str = ""
    """What Slurm objected to; empty: nothing."""
    entries: list[Submission] = field(default_factory=list)
    """The ledger's entries of these jobs, and of those that waited for their turn here, for `Ledger.cancelled`."""
    of_others: list[str] = field(default_factory=list)
    """Processes of this machine that only another user may end."""


def cancel(
    entries: Iterable[Submission],
    queue: QueueSnapshot,
    *,
    over: Collection[Key] = (),
    done: Collection[Key] = (),
    dry_run: bool = False,
) -> Cancelled:
    """Asks every job that runs or waits to end; each saves a checkpoint first, and can resume later.

    Args:
        entries: Of a ledger.
        queue: From `slurm.monitoring.queue.snapshot`.
        over: Keys of the jobs that have ended according to their files; of other machines' processes, only these tell.
        done: Keys of the jobs whose results are there; if squeue does not answer, they are not cancelled unseen.
        dry_run: Only say which jobs would be asked.
    """
    chosen = _choose(list(entries), queue, over, done)
    slurm_ids = [*dict.fromkeys(chosen.seen.values())]  # the jobs of an array that never began share one id
    unseen_ids = [entry.job for entry in chosen.unseen]
    jobs = [*dict.fromkeys([*slurm_ids, *unseen_ids]), *(entry.job for entry in chosen.running)]
    if dry_run:
        return Cancelled(jobs, chosen.elsewhere)
    trouble = _end_in_slurm(queue.arrays_as_one(slurm_ids), chosen.unseen)
    if chosen.unclear and not trouble:
        trouble = f"it is not known whether Slurm has {counted(len(chosen.unclear), 'job')} ({queue.trouble})"
    of_others = [entry for entry in chosen.running if not _end(int(entry.job))]
    told = [
        entry for entry in (*chosen.seen, *chosen.unseen, *chosen.running, *chosen.waiting) if entry not in of_others
    ]
    ids = [entry.job for entry in of_others]
    return Cancelled([job for job in jobs if job not in ids], chosen.elsewhere, trouble, told, ids)


@dataclass(frozen=True)
class _Chosen:
    """Jobs that are to end, by how they can be told."""

    seen: Mapping[Submission, str]
    """Jobs that squeue lists, with the id under which it does."""
    unseen: Sequence[Submission]
    """Jobs with an id whose result is not there, and of which squeue told nothing since it did not answer."""
    unclear: Sequence[Submission]
    """Jobs like these without an id: only squeue could tell whether Slurm has them."""
    running: Sequence[Submission]
    """Processes of this machine."""
    waiting: Sequence[Submission]
    """Jobs that wait here for their turn; their launcher looks at the ledger before it starts one."""
    elsewhere: list[str]
    """As of `Cancelled`."""


def _choose(
    entries: Sequence[Submission], queue: QueueSnapshot, over: Collection[Key], done: Collection[Key]
) -> _Chosen:
    """Returns the jobs of a ledger that run or wait, or may do so; arguments as of `cancel`."""
    newest = {entry.key: entry for entry in entries}
    of_slurm = [entry for entry in entries if entry.executor == "slurm"]
    silent = [entry for entry in of_slurm if queue.trouble and queue.find(entry) is None and entry.key not in done]
    here = socket.gethostname()
    of_here = [entry for entry in entries if entry.executor == "local" and entry.host == here]
    of_other_hosts = [entry for entry in newest.values() if entry.executor == "local" and entry.host != here]
    return _Chosen(
        seen={entry: job.job for entry in of_slurm if (job := queue.find(entry)) is not None and job.live},
        unseen=[entry for entry in silent if entry.job],
        unclear=[
            entry
            for entry in silent
            if newest[entry.key] is entry and not (entry.job or entry.refused or entry.cancelled or entry.superseded)
        ],
        running=[entry for entry in of_here if queue.live(entry)],
        waiting=[entry for entry in of_here if newest[entry.key] is entry and not (entry.job or entry.cancelled)],
        elsewhere=[f"{entry.host}: {entry.job}" for entry in of_other_hosts if entry.job and entry.key not in over],
    )


def _end_in_slurm(ids: Sequence[str], unseen: Iterable[Submission]) -> str:
    """Has Slurm end jobs; returns what it objected to, empty if it did not.

    Args:
        ids: Of jobs that squeue listed.
        unseen: Jobs of which it told nothing. Slurm may have given such an id to another job since; so scancel is told
            the job's name too, and ends no other.
    """
    by_name: dict[str, list[str]] = {}
    for entry in unseen:
        by_name.setdefault(entry.submission, []).append(entry.job)
    objections = [scancel(ids), *(scancel(jobs, name=name) for name, jobs in by_name.items())]
    return next(filter(None, objections), "")


def _end(process: int) -> bool:
    """Asks a local job to end, with all of its ranks (a process group); returns whether this user may."""
    try:
        send = os.killpg if os.getpgid(process) == process else os.kill
        send(process, signal.SIGTERM)
        send(process, signal.SIGCONT)  # a suspended process receives SIGTERM only then
    except ProcessLookupError:  # it has ended meanwhile
        return True
    except PermissionError:  # of a colleague, in a folder that a group shares
        return False
    return True
