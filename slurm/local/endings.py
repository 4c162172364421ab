"""Why a job on this machine has no result, in words."""

import os
from contextlib import suppress

from repro.errors import UserError
from repro.filesystem.files import tail
from repro.runs.resumption import goes_on
from repro.runs.status import Status
from slurm.jobs.causes import cause_of_ranks
from slurm.local.processes import LocalJob
from slurm.monitoring.job_files import status_of
from slurm.planning.graph import Job


def reason_of(job: Job, process: LocalJob | None) -> str:
    """Returns why a job that has ended has no result.

    If only the logs tell which of several ranks failed, the reason is written into the job's status, too.

    Args:
        job: Of a launch on this machine.
        process: The one that carried it out; None: this process.
    """
    status = _own_status(job, process)
    if process is not None and len(process.ranks) > 1 and process.failure:
        # Rank 0, which tells the status, may only have lost the connection to the one that failed.
        texts = {rank: tail(process.log(rank, "err")) for rank in range(len(process.ranks))}
        reason = cause_of_ranks(texts) if not process.killed else process.failure
        if reason and not (status and status.state == "interrupted"):
            with suppress(UserError):  # on a full disk, the reason is returned all the same
                job.folder.set_status("failed", task=job.task, error=reason)
            return reason
    if status and status.state == "interrupted":
        return f"interrupted; the same command {goes_on(job.folder, job.task)}"
    if status and status.error:
        return status.error
    if process is None:
        return "it ended without a result"
    return f"{process.failure or 'it ended without a result'}; see {process.log(0, 'err')}"


def _own_status(job: Job, process: LocalJob | None) -> Status | None:
    """Returns what the job's process wrote last; None where the status is that of an earlier attempt.

    A process may end before it says anything: it was killed while it imported, or has no device.
    """
    status, _ = status_of(job.folder, job.task)
    own = process.id if process is not None else str(os.getpid())
    return status if status is not None and str(status.pid) == own else None
