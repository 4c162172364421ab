"""What every job of a sweep is doing: from its folders, its ledger and one look at the queue, without side effects.

The folders are the truth: a result that is there is done, whatever Slurm says, and a process that gives no sign of life
is dead, whatever its last words were. The queue adds why a job waits, and that one is gone which could say nothing.
"""

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from repro.errors import UserError, with_mend
from repro.runs.detection import DETECTION_TASKS
from repro.runs.evaluation import Evaluation, task_and_dataset
from repro.runs.folder import TASK_FOLDERS, RunFolder
from repro.runs.lock import STALE_SECONDS
from repro.runs.records import Result, read
from repro.runs.status import PRETRAIN, Status
from slurm.ledger import REPORT, Key, Ledger, Submission
from slurm.logs import last_line, tail
from slurm.orders import ordered_run
from slurm.queue import PARENT_FAILED, QueuedJob, QueueSnapshot

CLOCKS_SECONDS = 5.0
"""By how much the clocks of two machines of a cluster may differ."""
PACE_ROWS = 5
"""Log lines that a pace is the median of: the last ones."""
HEADLINES = ("top1", "bbox_AP")
"""The metric that stands for a task: the first of these that it has, else its first."""


class State(StrEnum):
    """What a job is doing, in the order in which they are counted."""

    done = "done"
    """Its result is there."""
    running = "running"
    """It gave a sign of life lately."""
    starting = "starting"
    """It is on a node and has not said anything yet."""
    queued = "queued"
    preempted = "preempted"
    """It ran, and waits in the queue for its turn to go on."""
    planned = "planned"
    """It was not handed to a scheduler."""
    unknown = "unknown"
    """It was handed over, and nobody who can be asked knows what became of it."""
    silent = "silent"
    """Its scheduler says that it runs, but it gives no sign of life."""
    interrupted = "interrupted"
    """It was asked to stop, did so, and is not in the queue."""
    cancelled = "cancelled"
    failed = "failed"
    """It ended with an error."""
    died = "died"
    """It ended without a word: killed, out of memory or time, or its node is gone."""


ENDED_BADLY = frozenset({State.interrupted, State.cancelled, State.failed, State.died})
LIVE = frozenset({State.running, State.starting, State.queued, State.preempted, State.silent})

REASONS: Mapping[str, tuple[str, str]] = {
    "Resources": ("waits for free resources", ""),
    "Priority": ("others go first", ""),
    PARENT_FAILED: ("what it builds on failed", "that first, then salmask retry"),
    "Dependency": ("waits for the job that it builds on", ""),
    "JobArrayTaskLimit": ("the sweep runs so many at a time", ""),
    "BeginTime": ("was put back in the queue, starts again soon", ""),
    "JobHeldUser": ("held", "scontrol release {job}"),
    "JobHeldAdmin": ("held by an administrator", "ask them"),
    "launch failed requeued held": ("no node could start it", "salmask doctor, then scontrol release {job}"),
    "BadConstraints": ("no node has what the profile asks for", "the profile's constraint"),
    "PartitionTimeLimit": ("asks for more time than its partition gives", "the profile's time"),
    "PartitionDown": ("the partition is down", "another one in the profile"),
    "ReqNodeNotAvail": ("the nodes that it could run on are down or reserved", ""),
}
"""Slurm's reasons, by their beginnings, in words and with the mend, if there is any; the first that fits counts."""

TrackedJob = tuple[str, str, Submission | None]
"""Folder relative to the sweep's, task, and the submission made last; None: no launcher knows of it."""


@dataclass(frozen=True)
class JobRow:
    """One job: a task of a run."""

    run: str
    """`METHOD sSEED`, or the sweep's name for its report."""
    task: str
    state: State
    folder: str
    """Relative to the sweep's."""
    note: str = ""
    """Why: the queue's reason, the last line of an error, the protocol of a result."""
    step: int = 0
    steps: int = 0
    eta_s: float | None = None
    images_per_second: float | None = None
    metric: str = ""
    value: float | None = None
    """The headline number of a task that is done."""
    job: str = ""
    attempt: int = 0
    host: str = ""
    silent_s: float | None = None
    """Since its last sign of life."""


def jobs_of(ledger: Ledger) -> list[TrackedJob]:
    """Returns every job of a sweep: what its ledger names, and what its folders hold besides."""
    newest: dict[Key, Submission | None] = dict(ledger.newest())
    for path in sorted(ledger.sweep.glob("*/s*/")):
        folder = str(path.relative_to(ledger.sweep))
        run_folder = RunFolder(path)
        tasks = run_folder.tasks_begun()
        if tasks or run_folder.run_yaml.exists():
            for task in (PRETRAIN, *tasks):
                newest.setdefault((folder, task), None)
    keys = sorted(newest, key=lambda key: (key[1] == REPORT, key[0], key[1] != PRETRAIN, key[1]))
    return [(*key, newest[key]) for key in keys]


def ids_to_ask(sweep: Path, jobs: Iterable[TrackedJob]) -> list[str]:
    """Returns Slurm's ids of the jobs without a result: those whose end it would be good to know."""
    return [
        entry.job
        for folder, task, entry in jobs
        if entry is not None and entry.executor == "slurm" and entry.job and not finished(sweep, folder, task, entry)
    ]


def rows(ledger: Ledger, queue: QueueSnapshot, now: float) -> list[JobRow]:
    """Returns the state of every job of a sweep.

    Args:
        ledger: of the sweep.
        queue: from `slurm.queue.snapshot`.
        now: the time, in seconds since the epoch.
    """
    return [row(ledger.sweep, job, queue, now) for job in jobs_of(ledger)]


def row(sweep: Path, job: TrackedJob, queue: QueueSnapshot, now: float) -> JobRow:
    """Returns the state of one job; see `rows`."""
    folder, task, entry = job
    run_folder = RunFolder(sweep / folder)
    status, unreadable = _status_of(run_folder, task)
    method, name = run_folder.path.parent.name, run_folder.path.name
    run = sweep.resolve().name if task == REPORT else f"{method} {name.split('-')[0]}"
    row = JobRow(run, task, State.failed, folder, unreadable, job=entry.job if entry else "")
    if status is not None:
        row = replace(row, step=status.step, steps=status.steps, attempt=status.attempt, host=status.host)
        row = replace(row, silent_s=round(max(0.0, now - status.heartbeat), 1))
    # Before anything else: what is there is done, however the job that made it, or a later one, ended.
    if finished(sweep, folder, task, entry):
        return _with_result(row, run_folder, task, entry)
    if unreadable:
        return row
    state, note = _judge(sweep, status, entry, queue, now)
    row = replace(row, state=state, note=note)
    return _with_pace(row, run_folder, task) if state is State.running else row


def finished(sweep: Path, folder: str, task: str, entry: Submission | None) -> bool:
    """Returns whether the result of a job is there: its files decide.

    Args:
        sweep: the sweep's folder.
        folder: of the run, relative to the sweep's.
        task: of the job.
        entry: the submission made last; None: no launcher knows of it.
    """
    run_folder = RunFolder(sweep / folder)
    if task == PRETRAIN:
        return run_folder.pretrained
    status, _ = _status_of(run_folder, task)
    # A report that was handed over again is to be rendered again: the word of an earlier one does not count.
    says_so = status is not None and status.state == "done" and not _before(status, entry)
    if task == REPORT:
        return says_so
    results = _results(run_folder, task)
    if not results:
        return False
    # Rows of the task may be of another protocol than the one that was asked for. Where nobody asked, or the job itself
    # says that it is done, any will do.
    return says_so or entry is None or not entry.protocol or bool(_asked_for(results, run_folder, task, entry))


def counts(table: Sequence[JobRow]) -> dict[str, int]:
    """Returns how many jobs are in each state, without zeros, in the order of the states."""
    numbers = Counter(row.state for row in table)
    return {state.value: numbers[state] for state in State if numbers[state]}


def as_json_of(table: Sequence[JobRow], sweep: Path, queue: QueueSnapshot) -> dict[str, Any]:
    """Returns what `salmask status --json` prints for a sweep."""
    return {
        "sweep": sweep.resolve().name,
        "folder": str(sweep),
        "trouble": queue.trouble,
        "counts": counts(table),
        "jobs": [asdict(row) for row in table],
    }


# ------------------------------------------------------------------------------------------------ jobs without a result


def _judge(
    sweep: Path, status: Status | None, entry: Submission | None, queue: QueueSnapshot, now: float
) -> tuple[State, str]:
    """Returns what a job without a result is doing, and a note on it.

    There are three witnesses, each of which can be wrong: the status file, which a killed process leaves as it was; the
    ledger, which a killed launcher leaves half written; and the queue, which may not answer, forget, or not know of a
    job that was started by hand. The order of the questions says whom to believe.

    Args:
        sweep: the sweep's folder.
        status: what the job's process wrote last; None: nothing.
        entry: the submission made last; None: no launcher knows of the job.
        queue: from `slurm.queue.snapshot`.
        now: the time, in seconds since the epoch.
    """
    job = queue.find(entry) if entry else None
    live = queue.live(entry) if entry else None
    # What waits in the queue has no process, so its status is of the attempt before and can only tell that there was
    # one. Of a job that failed and was handed over again, nothing goes on: it is queued as if for the first time.
    if live and job is not None and job.waiting:
        has_begun = status is not None and status.state in ("running", "interrupted")
        return State.preempted if has_begun else State.queued, _reason(job)
    # A status that is older than the submission, or than the job's present start (after a requeue), tells of an earlier
    # attempt. A fresh sign of life counts all the same: the new attempt will soon write the next, or else somebody has
    # started the job by hand.
    if status is not None and (_before(status, entry) or _before_its_start(status, job)) and not _alive(status, now):
        status = None
    if live:
        return _on_a_node(status, job, now)
    # From here on nobody who can be asked knows of a living process, and yet one may give signs of life: it was started
    # by hand. Signs from before the job's end are its own last ones and prove nothing.
    if status is not None and _alive(status, now) and not _before_its_end(status, job):
        return State.running, ""
    if status is not None and status.state == "failed":  # its own error says more than Slurm's exit status
        return State.failed, status.error
    if status is None:
        return _never_said_a_word(sweep, entry, job, live, queue)
    return _ended(sweep, status, entry, job, now)


def _on_a_node(status: Status | None, job: QueuedJob | None, now: float) -> tuple[State, str]:
    """Returns the state of a job that has a node by its scheduler's word, or a process on this machine."""
    where = f"on {job.nodes}" if job and job.nodes else ""
    if status is None:
        # Importing torch and waiting for other ranks takes its time; after as long as a lock needs to grow stale,
        # silence means that it hangs.
        elapsed = now - job.start if job and job.start else 0.0
        if elapsed > STALE_SECONDS:
            return State.silent, with_mend(f"{where} for {duration(elapsed)} without a word", "salmask logs")
        return State.starting, where
    if status.state == "failed":  # the scheduler is still clearing up
        return State.failed, status.error
    if status.state != "running":
        return State.starting, where  # it is about to end, or to begin anew
    silence = now - status.heartbeat
    if silence > STALE_SECONDS:
        note = with_mend(f"no sign of life for {duration(silence)}", "salmask cancel, then salmask retry")
        return State.silent, note
    return State.running, ""


def _never_said_a_word(
    sweep: Path, entry: Submission | None, job: QueuedJob | None, live: bool | None, queue: QueueSnapshot
) -> tuple[State, str]:
    """Returns the state of a job that neither runs nor wrote a status in this attempt."""
    if entry is None:
        return State.planned, "not started"
    if live is None:  # nobody could be asked: it may well wait in the queue, and must not be called dead
        return State.unknown, queue.trouble if entry.executor == "slurm" else f"only {entry.host} can tell"
    if job is not None and job.state == "CANCELLED":
        return _cancelled(entry, job)
    if not entry.job and job is None:
        return State.planned, with_mend("its launcher ended before it was handed over", "salmask retry")
    unheard = "Slurm no longer knows it" if entry.executor == "slurm" else "its process is gone"
    return State.died, _with_last_line(sweep, entry, f"never said a word, {_word(job) or unheard}")


def _ended(
    sweep: Path, status: Status, entry: Submission | None, job: QueuedJob | None, now: float
) -> tuple[State, str]:
    """Returns how a job ended that wrote a status in this attempt and gives no more signs of life."""
    if status.state == "done":
        return State.failed, "it says that it is done, but its result is not there"
    if job is not None and job.state == "CANCELLED":
        return _cancelled(entry, job)
    if status.state == "interrupted":
        return State.interrupted, _word(job) or "goes on from its last checkpoint when started again"
    # "running", and it is not: it was killed before it could write anything else.
    note = _word(job) or f"no sign of life for {duration(now - status.heartbeat)}"
    return State.died, _with_last_line(sweep, entry, note)


def _cancelled(entry: Submission | None, job: QueuedJob) -> tuple[State, str]:
    """Returns the state of a job that a person took out of the queue, or Slurm did since what it waits for failed."""
    # sacct does not always keep the reason: a child that never started was cancelled with its parent.
    unmet = entry is not None and entry.after and (job.reason.startswith("Dependency") or job.start is None)
    return State.cancelled, "not started: what it builds on failed" if unmet else job.reason


def _word(job: QueuedJob | None) -> str:
    """Returns Slurm's word on a job that ended; empty where it has none."""
    if job is None or job.live:
        return ""
    return f"Slurm says {job.state}{f', {job.reason}' if job.reason else ''}"


def _with_last_line(sweep: Path, entry: Submission | None, note: str) -> str:
    """Returns a note with the last line of the job's log, which often names the reason."""
    last = (last_line(entry.log(sweep, "err")) or last_line(entry.log(sweep, "out"))) if entry else ""
    return f"{note}; last line: {last}" if last else note


def _alive(status: Status, now: float) -> bool:
    """Returns whether a process runs, as far as its files and, where it ran here, this machine can tell."""
    holder = status.holder
    return holder is not None and not holder.ended and now - status.heartbeat <= STALE_SECONDS


def _before(status: Status, entry: Submission | None) -> bool:
    """Returns whether a status is older than the submission."""
    return entry is not None and status.heartbeat < datetime.fromisoformat(entry.time).timestamp() - CLOCKS_SECONDS


def _before_its_start(status: Status, job: QueuedJob | None) -> bool:
    """Returns whether a status is older than the present attempt, by Slurm's word."""
    return job is not None and job.start is not None and status.heartbeat < job.start - CLOCKS_SECONDS


def _before_its_end(status: Status, job: QueuedJob | None) -> bool:
    """Returns whether a status was written before the job ended, by Slurm's word; not where Slurm knows of no end."""
    return job is not None and job.end is not None and status.heartbeat <= job.end + CLOCKS_SECONDS


def _reason(job: QueuedJob) -> str:
    """Returns Slurm's reason for which a job waits, in words where there are any."""
    for beginning, (words, mend) in REASONS.items():
        if job.reason.startswith(beginning):
            return f"{job.reason}: {with_mend(words, mend.format(job=job.job))}"
    # QOSMaxJobsPerUserLimit, AssocGrpGRES and dozens more, all of which say the same.
    limit = "Max" in job.reason or "Grp" in job.reason
    return f"{job.reason}: a limit of your account or QOS" if limit else job.reason


def duration(seconds: float) -> str:
    """Returns a duration for people: `45 s`, `12 min`, `3.4 h`."""
    if seconds < STALE_SECONDS:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"


# ------------------------------------------------------------------------------------------------ what the folders hold


def _status_of(run_folder: RunFolder, task: str) -> tuple[Status | None, str]:
    """Returns the status of a task, and what is wrong with its file."""
    try:
        return run_folder.status(task), ""
    except (ValueError, TypeError, OSError) as error:
        return None, f"its status cannot be read: {error}"


def _results(run_folder: RunFolder, task: str) -> list[Result]:
    """Returns every row of a task, whatever its protocol."""
    name, dataset = task_and_dataset(task)
    if not run_folder.results.exists():
        return []
    return [row for row in read(run_folder.results)[0] if row.task == name and dataset in ("", row.dataset)]


def _asked_for(results: Sequence[Result], run_folder: RunFolder, task: str, entry: Submission | None) -> list[Result]:
    """Returns the rows of a task whose protocol was asked for; none where nobody asked."""
    if entry is None or not entry.protocol:
        return []
    protocols = entry.protocol.split(", ")
    matching_rows = [row for row in results if row.protocol in protocols]
    if len(matching_rows) == len(results) or task_and_dataset(task)[0] not in DETECTION_TASKS:
        return matching_rows
    # A detection may leave the batch to the devices at hand. Its rows name the batch that they were measured with,
    # which the ledger could not know: only the settings say whether the two are the same protocol. They are read last,
    # since that takes longer than all the rest.
    try:
        run = ordered_run(run_folder, task)
        return Evaluation.parse(task, run).recorded(run, results)
    except UserError:  # the order is gone, or of a version with other settings: the names alone count
        return matching_rows


def _with_result(row: JobRow, run_folder: RunFolder, task: str, entry: Submission | None) -> JobRow:
    """Returns the row of a job that is done, with its headline number."""
    row = replace(row, state=State.done, silent_s=None, note="")
    if task == PRETRAIN:
        return replace(row, images_per_second=pace(run_folder.metrics)[1])
    all_rows = _results(run_folder, task)
    results = _asked_for(all_rows, run_folder, task, entry) or all_rows
    if not results:
        return row
    names = [name for name in HEADLINES if any(result.metric == name for result in results)]
    metric = names[0] if names else results[0].metric
    newest = [result for result in results if result.metric == metric][-1]
    return replace(row, metric=metric, value=newest.value, note=f"{newest.protocol}, {newest.dataset}")


def _with_pace(row: JobRow, run_folder: RunFolder, task: str) -> JobRow:
    """Returns the row of a job that runs, with its speed and the time that is left."""
    name, dataset = task_and_dataset(task)
    if task == PRETRAIN:
        files = [run_folder.metrics]
    elif name in TASK_FOLDERS:
        files = [*run_folder.path.glob(f"{TASK_FOLDERS[name]}/{dataset}*/metrics.jsonl")]
    else:
        files = []  # the task trains by no steps
    # Several data sets and protocols may have been trained; the one that runs writes to the file that changed last.
    seconds, speed = pace(max(files, key=_changed)) if files else (None, None)
    eta = (row.steps - row.step) * seconds if seconds is not None and row.steps else None
    return replace(row, eta_s=eta, images_per_second=speed)


def pace(metrics: Path) -> tuple[float | None, float | None]:
    """Returns the seconds a step and the images per second that the last lines of a `metrics.jsonl` tell.

    Returns:
        The medians of the last few values; None where the lines hold none.
    """
    lines = []
    for line in tail(metrics).splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            continue  # the tail begins within a line, and the last one may be torn
        if isinstance(content, dict):
            lines.append(content)
    return _median(lines, "time"), _median(lines, "images_per_second")


def _median(lines: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [line[key] for line in lines if isinstance(line.get(key), int | float) and math.isfinite(line[key])]
    return statistics.median(values[-PACE_ROWS:]) if values else None


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
