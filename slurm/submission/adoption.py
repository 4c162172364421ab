"""What a killed launcher left half done: jobs that were submitted, and whose ids nobody wrote down.

A launcher first writes its intents, then calls sbatch, and last writes the ids down. Killed in between, it leaves jobs
in the queue whose ids no ledger knows; and its sbatch, which is not killed with it, may still be at work. The queue and
the accounting know such jobs by the submission's name, which is unique and is Slurm's job name. A process on this
machine has it in its command line.
"""

import math
import socket
import time
from collections.abc import Callable
from dataclasses import replace

from repro.errors import UserError
from slurm.jobs.calls import indices_of
from slurm.monitoring.queue import (
    QueueSnapshot,
    SilentSlurmError,
    array_of,
    named_in_accounting,
    process_of,
    scancel,
    snapshot,
)
from slurm.sweep_folder.ledger import Ledger, Submission

SETTLING_SECONDS = 60.0
"""How old an intent must be, whose job neither queue nor accounting knows, to be sure that it was never submitted."""
POLL_SECONDS = 2.0


def settled_queue(ledger: Ledger, tell: Callable[[str], object]) -> QueueSnapshot:
    """Returns the queue, once it is certain what became of each submission that a killed launcher had begun.

    Args:
        ledger: Of the sweep.
        tell: Told that, and for what, it waits.

    Raises:
        SilentSlurmError: Slurm does not answer.
    """
    told, first_look = False, time.monotonic()
    while True:
        queue = snapshot()
        if queue.trouble:  # to take silence for an empty queue would submit everything twice
            raise SilentSlurmError(f"cannot tell what is queued already ({queue.trouble})", mend=queue.mend)
        unsettled = [
            entry
            for entries in _half_done(ledger).values()
            for entry in entries[:1]
            if not queue.named(entry.submission)
        ]
        queue = replace(queue, jobs={**named_in_accounting([e.submission for e in unsettled]), **queue.jobs})
        lost = [entry for entry in unsettled if not queue.named(entry.submission)]
        youngest = max((entry.written_at for entry in lost), default=-math.inf)
        # An intent's time is by the clock of the machine that wrote it. If that is fast, our own look limits the wait.
        if max(time.time() - youngest, time.monotonic() - first_look) > SETTLING_SECONDS:
            return queue
        if not told:
            tell("an earlier launch was killed while it submitted: waiting to see which of its jobs Slurm took")
            told = True
        time.sleep(POLL_SECONDS)


def adopt(ledger: Ledger, queue: QueueSnapshot) -> None:
    """Writes down the ids of jobs that were submitted by a launcher that was killed, and ends what was submitted twice.

    Args:
        ledger: Of the sweep; completed.
        queue: From `settled_queue`, under the launch lock: else a launch that is under way looks like a killed one.

    Raises:
        UserError: As of `found_again`.
    """
    if found := found_again(ledger, queue):
        ledger.submitted(found)
    _end_doubles(ledger, queue)


def found_again(ledger: Ledger, queue: QueueSnapshot) -> list[Submission]:
    """Returns the jobs without an id in the ledger that the queue knows, with their ids.

    Args:
        ledger: Of the sweep.
        queue: The queue.

    Raises:
        UserError: The ledger has not all the intents that an array was made of.
    """
    found = []
    for name, entries in _half_done(ledger).items():
        first = queue.accepted(name)
        if not first:
            continue
        # squeue may have forgotten some jobs of an array that have ended, so the numbers are read from the submission's
        # calls, which stand in the order of the intents.
        indices = indices_of(ledger.logs / name) or list(range(len(entries)))
        if len(indices) != len(entries):
            if not any(job.live for job in queue.named(name)):  # all are over; their folders tell how they ended
                continue
            what = f"{ledger.path} has lost lines of {name}, so that jobs of {first} cannot be told apart"
            raise UserError(what, mend=f"scancel {first}, then the same command again")
        ids = [first] if len(entries) == 1 else [f"{first}_{index}" for index in indices]
        found += [replace(entry, job=job) for entry, job in zip(entries, ids, strict=True)]
    return found


def adopt_local(ledger: Ledger) -> None:
    """Writes down the ids of jobs on this machine whose launcher was killed between their start and its line.

    Args:
        ledger: Of the sweep; completed.
    """
    begun = [
        entry
        for entry in ledger.submissions()
        if (entry.executor, entry.job, entry.host) == ("local", "", socket.gethostname())
        # What only waits for its turn has no folder: that is made as a job begins.
        and not entry.cancelled
        and (ledger.logs / entry.submission).is_dir()
    ]
    found = [replace(entry, job=process) for entry in begun if (process := process_of(entry.submission))]
    if found:
        ledger.submitted(found)


def _end_doubles(ledger: Ledger, queue: QueueSnapshot) -> None:
    """Cancels jobs that have a submission's name, but not the ledger's id: Slurm took two tries of one submission.

    The ledger does not know these: they would run beside the others, and `salmask cancel` would not find them.
    """
    ids = {entry.submission: array_of(entry.job) for entry in ledger.submissions() if entry.executor == "slurm"}
    doubles = {
        array_of(job.job)
        for job in queue.jobs.values()
        if job.live and (own := ids.get(job.name)) and own != array_of(job.job)
    }
    scancel(sorted(doubles))


def _half_done(ledger: Ledger) -> dict[str, list[Submission]]:
    """Returns, by submission, the intents of Slurm jobs of which neither an id nor a refusal was written down."""
    by_submission: dict[str, list[Submission]] = {}
    for entry in ledger.submissions():
        if entry.executor == "slurm":
            by_submission.setdefault(entry.submission, []).append(entry)
    return {
        name: entries
        for name, entries in by_submission.items()
        if not any(entry.job or entry.refused for entry in entries)
    }
