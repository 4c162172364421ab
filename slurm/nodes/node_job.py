"""A single job that belongs to no sweep: it is submitted, and its report awaited; without one, its log tells why."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from repro.command_line.progress import doing
from repro.command_line.terminal import say
from repro.errors import UserError, with_mend
from repro.filesystem.files import write_text
from repro.filesystem.paths import CODE_ROOT
from repro.quantities import duration_text
from repro.runs.stopping import exits_on_term
from slurm.jobs.calls import write_calls
from slurm.jobs.causes import cause_of_ranks
from slurm.jobs.node_bench import NodeBench
from slurm.jobs.node_probe import NodeProbe
from slurm.monitoring.logs import error_tails, last_line
from slurm.monitoring.queue import QueuedJob, scancel, snapshot
from slurm.monitoring.states import never_starts, reason_and_mend
from slurm.planning.before_launch import check_folder
from slurm.profiles.profile import Cluster
from slurm.submission.batches import Batch
from slurm.submission.sbatch import script_of
from slurm.submission.sbatch_call import SCRIPT, RefusedError, UnclearError, submit_script

ASK_SECONDS = 5.0
"""Between two questions to Slurm, which serves everybody."""
POLL_SECONDS = 0.2
NEVER_SECONDS = 30.0
"""How long Slurm must say that waiting is in vain: just after its own start, nodes that have not reported look down."""
REPORT_SECONDS = 30.0
"""How long to wait for a job's report after its end: a shared file system may show it late."""
SIGNAL_SECONDS = 60
"""The longest warning before the time limit of a job."""

_ASK_FOR_OTHER = "another partition, account or QOS in the profile, or ask for less there"
"""The mend if that of Slurm's reason would not help."""


class NoReportError(UserError):
    """The job did not start, or ended without a report."""


def carried_out(
    call: NodeProbe | NodeBench, batch: Batch, cluster: Cluster, folder: Path, wait: float
) -> tuple[list[dict[str, Any]], str]:
    """Submits a job that is of no sweep, waits for its report, and returns that and where it was made.

    Args:
        call: What it does.
        batch: Its name and what it asks for.
        cluster: Its profile.
        folder: Of its files; removed once the report is read.
        wait: Seconds; then the job is cancelled.

    Raises:
        NoReportError: It did not start or end in time, or ended without a report.
        UserError: There is no Slurm here, it refuses the job, or does not answer.
    """
    start = time.monotonic()
    job = _send(call, batch, cluster, folder)
    try:
        with doing(f"job {job}: queued"):
            queued = wait_for_report(job, call.report, start + wait)
    except (KeyboardInterrupt, SystemExit):
        shutil.rmtree(folder, ignore_errors=True)  # nobody is told of these files
        raise
    if call.report.exists():
        content = json.loads(call.report.read_text(encoding="utf-8"))
        shutil.rmtree(folder, ignore_errors=True)  # the job may still be writing its last line
        where = f"job {job}{f' on {queued.nodes}' if queued and queued.nodes else ''}"
        return content, f"{where}, reported after {time.monotonic() - start:.0f} s"
    longer = "wait longer (--wait), or ask for less in the profile"
    if queued is not None and queued.waiting:
        shutil.rmtree(folder, ignore_errors=True)  # the job printed nothing
        reason, mend = reason_and_mend(queued)
        if never_starts(queued):
            # A mend for a job that stays in the queue does not help this one.
            mend = _ASK_FOR_OTHER if not mend or queued.job in mend or mend.startswith("salmask") else mend
            raise NoReportError(f"job {job} would never start, and was cancelled: {reason}", mend=mend)
        raise NoReportError(f"job {job} did not start within {duration_text(wait)}: {reason}", mend=longer)
    if queued is not None and queued.live:
        raise NoReportError(f"job {job} did not end within {duration_text(wait)}, and was cancelled", mend=longer)
    state = f"{queued.state} {queued.reason}".strip() if queued else "Slurm no longer knows it"
    cause = cause_of_ranks(error_tails(folder, job))
    # A cause comes with a mend of its own, where there is one.
    mend = "" if cause else "its node needs this folder and this Python, from a file system that it shares"
    what = f"job {job} left no report ({state}; its files are in {folder}): {cause or _last_words(job, folder)}"
    raise NoReportError(what, mend=mend)


def _send(call: NodeProbe | NodeBench, batch: Batch, cluster: Cluster, folder: Path) -> str:
    """Submits a job that is of no sweep, and returns its id.

    Args:
        call: What it does.
        batch: Its name and what it asks for.
        cluster: Its profile.
        folder: Of its files.

    Raises:
        UserError: There is no Slurm here, it refuses the job, or does not answer; or the folder cannot be written to,
            or its name cannot stand in a script.
    """
    queue = snapshot()
    if queue.trouble:
        raise UserError(queue.trouble, mend=queue.mend)
    check_folder(folder, "another scratch in the profile")
    # The profile's warning is meant for its own time limits, and may be longer than that of this job.
    cluster = replace(cluster, signal_seconds=min(cluster.signal_seconds, SIGNAL_SECONDS))
    try:
        write_calls(folder, {0: call})
        write_text(folder / SCRIPT, script_of(batch, cluster, folder, code=CODE_ROOT))
        return submit_script(folder / SCRIPT, batch.name)
    except UserError:
        shutil.rmtree(folder, ignore_errors=True)  # nothing was submitted
        raise
    except RefusedError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"sbatch refused the {batch.task}: {error}", mend=f"the profile '{cluster.name}'") from error
    except UnclearError as error:
        mend = f"later; if the job was submitted all the same: scancel --name={batch.name}"
        raise UserError(f"Slurm does not answer: {error}", mend=mend) from error


def wait_for_report(job: str, report: Path, deadline: float) -> QueuedJob | None:
    """Waits until the report is there, the job is gone or will not start, or time is up; returns Slurm's last answer.

    A job that nobody waits for any more is cancelled, also where the wait ends by Ctrl-C, TERM or HUP.
    """
    latest: QueuedJob | None = None
    gone_at: float | None = None
    never_since: float | None = None
    asked_at = 0.0
    with exits_on_term():
        try:
            # The report decides, not the queue: it may be there before squeue tells of the end, and on a shared file
            # system come some time after it.
            while not report.exists() and time.monotonic() < (
                deadline if gone_at is None else gone_at + REPORT_SECONDS
            ):
                if time.monotonic() - asked_at >= ASK_SECONDS:
                    asked_at = time.monotonic()
                    queue = snapshot([job])
                    latest = queue.jobs.get(job, latest)
                    alive = latest is not None and latest.live and job in queue.jobs
                    if gone_at is None and not queue.trouble and not alive:
                        gone_at = time.monotonic()
                    if not queue.trouble and not (alive and latest is not None and never_starts(latest)):
                        never_since = None
                    elif not queue.trouble:
                        never_since = asked_at if never_since is None else never_since
                        if asked_at - never_since >= NEVER_SECONDS:
                            break
                time.sleep(POLL_SECONDS)
        finally:  # unless Slurm said that the job is over, it may run, or will
            if not report.exists() and gone_at is None and (trouble := scancel([job])):
                say(with_mend(f"job {job} may be left in the queue: {trouble}", f"scancel {job}"), err=True)
    return latest


def _last_words(job: str, folder: Path) -> str:
    """Returns what a job printed last.

    Args:
        job: Its id.
        folder: Of its submission.
    """
    return last_line(folder / f"{job}_0_log.err") or last_line(folder / f"{job}_0_log.out") or "it printed nothing"
