"""What a job without a result is doing, judged by its status, the ledger and the queue.

The folders decide: a process that writes no heartbeat does not run, whatever it wrote last. The queue adds why a job
waits, and that a job is gone which could not say so itself.
"""

import re
import socket
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from repro.errors import with_mend
from repro.filesystem.files import tail
from repro.filesystem.presence import exists
from repro.quantities import duration_text
from repro.runs.folder import RunFolder
from repro.runs.lock import CLOCKS_SECONDS, STALE_SECONDS
from repro.runs.resumption import goes_on
from repro.runs.status import Status
from repro.runs.sweep_names import LOGS
from slurm.jobs.causes import cause_of, cause_of_ranks, is_lost_peer
from slurm.jobs.refusals import mend_of
from slurm.monitoring.logs import error_tails, last_line
from slurm.monitoring.queue import PARENT_FAILED, QueuedJob, QueueSnapshot, array_of
from slurm.sweep_folder.ledger import REPORT, Key, Submission
from slurm.sweep_folder.local_lock import has_local_launcher

HIDDEN_SECONDS = 90.0
"""For so long a network file system may hide a new file: the 60 s of NFS, and half as much again."""
BY_US = "by salmask cancel"
NOT_STARTED = "not started: what it builds on failed"
SUPERSEDED = "taken out by --replace: the sweep has other settings now"


class State(StrEnum):
    """What a job is doing, in the order in which `counts` lists the states."""

    done = "done"
    """Its result is there."""
    running = "running"
    """It wrote a heartbeat lately."""
    starting = "starting"
    """It is on a node and has not said anything yet."""
    queued = "queued"
    preempted = "preempted"
    """It ran, and waits in the queue for its turn to go on."""
    planned = "planned"
    """It was not submitted."""
    unknown = "unknown"
    """Slurm does not answer, only another machine can tell, or its files cannot be read."""
    silent = "silent"
    """Slurm, or this machine, says that it runs, but it writes no heartbeat."""
    interrupted = "interrupted"
    """It was asked to stop, did so, and is not in the queue."""
    cancelled = "cancelled"
    failed = "failed"
    """It ended with an error."""
    died = "died"
    """It ended without a word: killed, out of memory or time, or its node is gone."""


ENDED_BADLY = frozenset({State.interrupted, State.cancelled, State.failed, State.died})
LIVE = frozenset({State.running, State.starting, State.queued, State.preempted, State.silent})

_SUSPENDED = (State.preempted, "suspended until Slurm or whoever suspended it resumes it")
SILENT_BY_RIGHT: Mapping[str, tuple[State, str]] = {
    "SUSPENDED": _SUSPENDED,
    "STOPPED": _SUSPENDED,
    "CONFIGURING": (State.starting, "its nodes are being prepared"),
    "COMPLETED": (State.starting, "it ended well, its files do not show here yet"),
}
"""Slurm's states of jobs that have nodes, or had them a moment ago, but cannot write a heartbeat: what each is doing,
and the note."""

REASONS: Mapping[str, tuple[str, str]] = {
    "Resources": ("waits for free resources", ""),
    "Priority": ("jobs of higher priority go first", ""),
    PARENT_FAILED: ("what it builds on failed", "the cause of that first, then salmask retry"),
    "Dependency": ("waits for the job that it builds on", ""),
    "JobArrayTaskLimit": ("the sweep's throttle is reached", ""),
    "BeginTime": ("was put back in the queue, starts again soon", ""),
    "JobHeldUser": ("held", "scontrol release {job}"),
    "ReservationDeleted": (
        "held, its reservation is gone",
        "salmask cancel, another in the profile, salmask retry",
    ),
    "JobHeldAdmin": ("held by an administrator", "ask them"),
    "JobHoldMaxRequeue": ("held, its nodes failed to start it again and again", "scontrol release {job}"),
    "job requeued in held state": ("held by whoever put it back in the queue", "scontrol release {job}"),
    "launch failed requeued held": ("no node could start it", "salmask doctor, then scontrol release {job}"),
    "BadConstraints": ("no node has what the profile asks for", "the profile's constraint"),
    "PartitionNodeLimit": ("asks for more nodes than its partition gives", "the profile's nodes"),
    "PartitionTimeLimit": ("asks for more time than its partition gives", "the profile's time"),
    "PartitionDown": ("the partition is down", "another one in the profile"),
    "ReqNodeNotAvail": ("the nodes that it could run on are down or reserved", ""),
    "Nodes required for job are DOWN": ("the nodes that it could run on are down or reserved", ""),
}
"""The beginnings of Slurm's reasons, each with its meaning and the mend, if there is one; the first match counts."""
_NEVER_STARTS = re.compile(
    # The partition or its nodes lack what was asked for, or are down.
    r"BadConstraints|Partition(NodeLimit|TimeLimit|Down|Inactive)|NodeDown|ReqNodeNotAvail.*Unavailable\w*:\w"
    r"|JobHeldAdmin|JobHoldMaxRequeue|launch failed requeued held|ReservationDeleted"
    r"|(Account|QOS)NotAllowed|Invalid(Account|QOS)"
    # More, or less, than a single job may ask for, whatever else runs.
    r"|(Assoc|QOS)Max\w*Per(Job|Node)|MaxMemPerLimit|QOSMin"
    # What an account may use up altogether, which other jobs do not give back: not its `Grp…RunMinutes`.
    r"|(Assoc|QOS)Grp(Wall|(?!\w*Run)\w*Minutes)"
)
"""The beginnings of Slurm's reasons for which waiting does not help: a person has to act."""


def judge(
    sweep: Path, key: Key, status: Status | None, entry: Submission | None, queue: QueueSnapshot, now: float
) -> tuple[State, str]:
    """Returns what a job without a result is doing, and a note on it.

    There are three sources, each of which can be wrong: the status file, which a killed process leaves as it was; the
    ledger, which a killed launcher leaves incomplete; and the queue, which may not answer, may forget a job, or not
    know one that was started by hand. The order of the checks says which source is believed.

    Args:
        sweep: The sweep's folder.
        key: Of the job.
        status: What the job's process wrote last; None: nothing.
        entry: The submission made last; None: no launcher knows of the job.
        queue: From `slurm.monitoring.queue.snapshot`.
        now: The time, in seconds since the epoch.
    """
    job = queue.find(entry) if entry else None
    live = queue.live(entry) if entry else None
    if live and job is not None and job.waiting:
        return _in_the_queue(status, entry, job, now)
    # A status that is older than the submission, or than the job's present start (after a requeue), tells of an earlier
    # attempt. A fresh heartbeat counts all the same: the new attempt will soon write the next, or else somebody has
    # started the job by hand.
    if status is not None and (before(status, entry) or _before_its_start(status, job)) and not status.alive(now):
        status = None
    if live or (just_completed(job, now) and _is_of_its_end(status, job)):
        return _on_a_node(status, job, now)
    # From here on, neither Slurm nor this machine knows of a live process, but one that was started by hand may give
    # heartbeats. Those from before the job's end are its own last ones, and prove nothing.
    if status is not None and not _before_its_end(status, job) and (found := _by_hand(sweep, key, status, now)):
        return found
    if status is not None and status.state == "failed":  # its own error says more than Slurm's exit status
        return State.failed, _failure(sweep, status, entry)
    if status is None:
        return _never_said_a_word(sweep, entry, job, live, queue)
    return _ended(sweep, key, status, entry, job, now)


def _in_the_queue(status: Status | None, entry: Submission | None, job: QueuedJob, now: float) -> tuple[State, str]:
    """Returns the state of a job that waits in the queue."""
    if status is not None and status.alive(now) and _of_another(status, job):
        return State.running, f"on {status.host}, while {job.job} waits in the queue"
    # A waiting job has no process, so its status is of an earlier attempt, and only tells that there was one. A job
    # that failed and was submitted again does not resume: it is queued as if for the first time.
    has_begun = status is not None and status.state in ("running", "interrupted")
    if entry is not None and entry.lane and not entry.after and job.reason == "Dependency":
        # It builds on nothing: what it waits for is what comes before it in its lane (`slurm.submission.lanes`).
        return State.preempted if has_begun else State.queued, f"{job.reason}: the sweep's throttle is reached"
    if not has_begun and job.reason == "BeginTime":
        # Either its profile names a time, or a node failed to start it and Slurm put it back: nothing tells which.
        return State.queued, f"{job.reason}: may not start before its time"
    return State.preempted if has_begun else State.queued, with_mend(*reason_and_mend(job))


def _on_a_node(status: Status | None, job: QueuedJob | None, now: float) -> tuple[State, str]:
    """Returns the state of a job that has a node according to Slurm, or a process on this machine."""
    where = f"on {job.nodes}" if job and job.nodes else ""
    if job is not None and job.state in SILENT_BY_RIGHT:
        state, words = SILENT_BY_RIGHT[job.state]
        return state, ", ".join(filter(None, (where, words)))
    return _by_its_signs(status, job, where, now)


def _by_its_signs(status: Status | None, job: QueuedJob | None, where: str, now: float) -> tuple[State, str]:
    """Returns the state of a job whose process can write heartbeats, by its last one."""
    if status is None:
        # Importing torch and waiting for other ranks takes its time; after as long as a lock needs to grow stale,
        # silence means that it hangs.
        elapsed = now - job.start if job and job.start else 0.0
        if elapsed > STALE_SECONDS:
            note = with_mend(f"{where} for {duration_text(elapsed)} without a heartbeat", "salmask logs")
            return State.silent, note
        return State.starting, where
    if status.state == "failed":  # the scheduler is still clearing up
        return State.failed, status.error
    if status.state != "running":
        return State.starting, where  # it is about to end, or to begin anew
    silence = now - status.heartbeat
    if silence > STALE_SECONDS:
        note = with_mend(f"no heartbeat for {duration_text(silence)}", "salmask cancel, then salmask retry")
        return State.silent, note
    return State.running, ""


def _by_hand(sweep: Path, key: Key, status: Status, now: float) -> tuple[State, str] | None:
    """Returns the state of a job that was started by hand; None if it has no process, as far as can be seen."""
    if status.alive(now):
        return State.running, ""
    folder, task = key
    if not RunFolder(sweep / folder).is_held_here(task, status.holder):
        return None
    silence = duration_text(max(0.0, now - status.heartbeat))  # if a clock jumped, it may lie in the future
    what = f"no heartbeat for {silence} from process {status.pid}, which is here and holds its lock"
    mend = f"kill -CONT {status.pid} if it was suspended; else kill it, then salmask retry"
    return State.silent, with_mend(what, mend)


def _never_said_a_word(
    sweep: Path, entry: Submission | None, job: QueuedJob | None, live: bool | None, queue: QueueSnapshot
) -> tuple[State, str]:
    """Returns the state of a job that neither runs nor wrote a status in this attempt."""
    if entry is None:
        return State.planned, "not started"
    if live is None:  # nobody could be asked: the job may well wait in the queue, and must not be called dead
        return State.unknown, queue.trouble if entry.executor == "slurm" else _only(entry.host)
    if cancelled := _cancelled(entry, job, began=False):
        return cancelled
    if not entry.job and job is None:
        return _not_submitted(sweep, entry)
    unheard = "Slurm no longer knows it" if entry.executor == "slurm" else "its process is gone"
    if job is None and _never_began(sweep, entry):
        # Without accounting, nothing tells whether a person cancelled it, or Slurm did since its parent failed.
        return State.cancelled, f"left the queue before it began, {unheard}"
    what = f"never wrote a heartbeat, {_word(job) or unheard}"
    if not exists(sweep / entry.folder):  # a launch had made it, before it submitted the job
        mend = "put it back if it was renamed; else the same salmask sweep again, which makes it anew"
        what = with_mend("its run's folder is gone", mend)
    return State.died, _with_last_line(sweep, entry, what)


def _ended(
    sweep: Path, key: Key, status: Status, entry: Submission | None, job: QueuedJob | None, now: float
) -> tuple[State, str]:
    """Returns how a job ended that wrote a status in this attempt and writes no more heartbeats."""
    if status.state == "done":
        return State.failed, "it says that it is done, but its result is not there"
    if cancelled := _cancelled(entry, job, began=True):
        return cancelled
    if status.state == "interrupted":
        folder, task = key
        return State.interrupted, _word(job) or f"{goes_on(RunFolder(sweep / folder), task)} when started again"
    # "running", and it is not: it was killed before it could write anything else.
    note = _word(job) or f"no heartbeat for {duration_text(now - status.heartbeat)}"
    return State.died, _with_last_line(sweep, entry, note)


def _cancelled(entry: Submission | None, job: QueuedJob | None, *, began: bool) -> tuple[State, str] | None:
    """Returns the state of a job that a person cancelled, or Slurm since its parent failed; None: neither did.

    Args:
        entry: As of `judge`.
        job: What Slurm says of the job, which is over; None: nothing.
        began: Whether the job ever had a process.
    """
    if entry is not None and entry.superseded:
        return State.cancelled, SUPERSEDED
    if job is None:  # Slurm forgets jobs, soon if it has no accounting; the ledger remembers `salmask cancel`
        return (State.cancelled, BY_US) if entry is not None and entry.cancelled else None
    if job.state != "CANCELLED":
        return None
    if entry is not None and entry.cancelled:
        return State.cancelled, BY_US
    # sacct does not always keep the reason: a child that never started was cancelled since its parent failed. Not so a
    # report, which waits for its parents to end in any way; nor a child that a person cancelled, see below.
    unmet = (
        entry is not None and entry.after and entry.task != REPORT and (job.reason == PARENT_FAILED or not job.start)
    )
    if unmet:
        return State.cancelled, NOT_STARTED
    # Of a job that was cancelled while it waited, squeue gives the reason for which it waited, and its end as its start
    # too; sacct tells who cancelled it.
    waited = job.reason and job.start in (None, job.end) and not job.reason.startswith("by ")
    return State.cancelled, "left the queue before it began" + " again" * began if waited else job.reason


def _failure(sweep: Path, status: Status, entry: Submission | None) -> str:
    """Returns why a job failed: its own error or, if that is only the loss of another rank, that rank's."""
    if entry is None or not is_lost_peer(status.error):
        return status.error
    # Rank 0 writes the status; what happened to another rank stands in that one's log, and in what srun says.
    tails = error_tails(sweep / LOGS / entry.submission, entry.job)
    return cause_of_ranks(tails, *_asked_for(entry)) or status.error


def _not_submitted(sweep: Path, entry: Submission) -> tuple[State, str]:
    """Returns the state of a job that is only an intent so far."""
    if entry.refused:
        what = f"Slurm did not take it: {entry.refused}"
        return State.planned, with_mend(what, mend_of(entry.refused, entry.cluster))
    if entry.executor != "slurm" and entry.host != socket.gethostname():
        return State.unknown, _only(entry.host)  # only that machine's locks tell whether its launcher runs
    if entry.executor != "slurm" and has_local_launcher(sweep):
        return State.queued, "waits for its turn on this machine"
    return State.planned, with_mend("its launcher ended before it was submitted", "salmask retry")


def _only(host: str) -> str:
    return with_mend(f"only {host} can tell", "salmask status there, or the same salmask sweep again")


def _never_began(sweep: Path, entry: Submission) -> bool:
    """Returns whether Slurm never started a job: the first that it does is to make the job's log files."""
    folder = sweep / LOGS / entry.submission
    return entry.executor == "slurm" and folder.is_dir() and not any(folder.glob(f"{entry.job}_*_log.*"))


def _word(job: QueuedJob | None) -> str:
    """Returns what Slurm says of a job that ended; empty if it says nothing."""
    return f"Slurm says {job.state}{f', {job.reason}' if job.reason else ''}" if job is not None else ""


def _with_last_line(sweep: Path, entry: Submission | None, note: str) -> str:
    """Returns a note with the cause that the job's log names; if it names none, with its last line."""
    if entry is None:
        return note
    logs = [entry.log(sweep, stream) for stream in ("err", "out")]
    if cause := cause_of("\n".join(tail(log) for log in reversed(logs)), *_asked_for(entry)):
        return f"{note}; {cause}"
    last = last_line(logs[0]) or last_line(logs[1])
    return f"{note}; last line: {last}" if last else note


def _asked_for(entry: Submission) -> tuple[float, int]:
    """Returns the gigabytes and minutes to which Slurm limited a job; 0 for what its profile left open."""
    return (entry.memory, entry.minutes) if entry.executor == "slurm" else (0.0, 0)


def _of_another(status: Status, job: QueuedJob) -> bool:
    """Returns whether a status was surely not written by this Slurm job, but by a process started by hand or locally.

    A status holds SLURM_JOB_ID. Each job of an array has one of its own, which is not the `812_3` of squeue and sbatch:
    so for an array, any id in the status may be the job's.
    """
    return status.job != job.job if array_of(job.job) == job.job else not status.job


def before(status: Status, entry: Submission | None) -> bool:
    """Returns whether a status is older than the submission."""
    return entry is not None and status.heartbeat < entry.written_at - CLOCKS_SECONDS


def just_completed(job: QueuedJob | None, now: float) -> bool:
    """Returns whether a job ended well according to Slurm, but so lately that its files may not show here yet."""
    return job is not None and job.state == "COMPLETED" and job.end is not None and now - job.end < HIDDEN_SECONDS


def _is_of_its_end(status: Status | None, job: QueuedJob | None) -> bool:
    """Returns whether a status fits a job that just ended well, and whose last status may not show here yet."""
    if status is None or status.state == "done":
        return True
    return status.state == "running" and _before_its_end(status, job)


def _before_its_start(status: Status, job: QueuedJob | None) -> bool:
    """Returns whether a status is older than the start of the present attempt, according to Slurm."""
    return job is not None and job.start is not None and status.heartbeat < job.start - CLOCKS_SECONDS


def _before_its_end(status: Status, job: QueuedJob | None) -> bool:
    """Returns whether a status was written before the job ended; False if Slurm knows of no end."""
    return job is not None and job.end is not None and status.heartbeat <= job.end + CLOCKS_SECONDS


def reason_and_mend(job: QueuedJob) -> tuple[str, str]:
    """Returns why a job waits: Slurm's reason, with its meaning if that is known; and the mend, if there is one."""
    sentence = _sentence(job)
    for beginning, (words, mend) in REASONS.items():
        if sentence.startswith(beginning):
            return f"{job.reason}: {words}", mend.format(job=job.job)
    # QOSMaxJobsPerUserLimit, AssocGrpGRES and dozens more, all of which say the same.
    limit = "Max" in job.reason or "Grp" in job.reason
    return f"{job.reason}: a limit of your account or QOS" if limit else job.reason, ""


def never_starts(job: QueuedJob) -> bool:
    """Returns whether a job waits for what does not come by itself: its partition is down, or it asks for too much.

    A job of several partitions may start in another one than the one that Slurm's reason is about. A job that a user
    holds may be released by that user.
    """
    return job.waiting and "," not in job.partition and _NEVER_STARTS.match(_sentence(job)) is not None


def _sentence(job: QueuedJob) -> str:
    return job.reason.replace("_", " ")  # older versions write spaces
