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

from repro.runs.detection import COCO, VOC, without_batch
from repro.runs.folder import RunFolder
from repro.runs.lock import STALE_SECONDS
from repro.runs.records import Result, read
from repro.runs.status import PRETRAIN, Status
from slurm.ledger import REPORT, Ledger, Submission
from slurm.logs import last_line, tail
from slurm.queue import QueuedJob, QueueSnapshot

CLOCKS_SECONDS = 5.0
"""By how much the clocks of two machines of a cluster may differ."""
PACE_ROWS = 5
"""Log lines that a pace is the median of: the last ones."""
HEADLINES = ("top1", "bbox_AP")
"""The metric that stands for a task: the first of these that it has, else its first."""
METRICS = {"linear": "probes", "finetune": "finetune", "semi-1": "finetune", "semi-10": "finetune"} | {
    VOC: "detection",
    COCO: "detection",
}
"""Task -> folder in the run's, below which each training writes its `metrics.jsonl`."""


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

REASONS: Mapping[str, str] = {
    "Resources": "waits for free resources",
    "Priority": "others go first",
    "DependencyNeverSatisfied": "what it builds on failed; mend: that first, then salmask retry",
    "Dependency": "waits for the job that it builds on",
    "JobArrayTaskLimit": "the sweep runs so many at a time",
    "BeginTime": "was put back in the queue, starts again soon",
    "JobHeldUser": "held; mend: scontrol release {job}",
    "JobHeldAdmin": "held by an administrator; mend: ask them",
    "launch failed requeued held": "no node could start it; mend: salmask doctor, then scontrol release {job}",
    "BadConstraints": "no node has what the profile asks for; mend: the profile's constraint",
    "PartitionTimeLimit": "asks for more time than its partition gives; mend: the profile's time",
    "PartitionDown": "the partition is down; mend: another one in the profile",
    "ReqNodeNotAvail": "the nodes that it could run on are down or reserved",
}
"""Slurm's reasons, by their beginnings, in words."""

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
    """Every job of a sweep: what its ledger names, and what its folders hold besides."""
    found: dict[tuple[str, str], Submission | None] = dict(ledger.newest())
    for path in sorted(ledger.sweep.glob("*/s*/")):
        folder = str(path.relative_to(ledger.sweep))
        statuses = sorted(path.glob("status-*.json"))
        if statuses or (path / "run.yaml").exists() or (path / "status.json").exists():
            for task in (PRETRAIN, *(status.stem.removeprefix("status-") for status in statuses)):
                found.setdefault((folder, task), None)
    keys = sorted(found, key=lambda key: (key[1] == REPORT, key[0], key[1] != PRETRAIN, key[1]))
    return [(*key, found[key]) for key in keys]


def ids_to_ask(sweep: Path, jobs: Iterable[TrackedJob]) -> list[str]:
    """Slurm's ids of the jobs without a result: those whose end it would be good to know."""
    return [
        entry.job
        for folder, task, entry in jobs
        if entry is not None and entry.executor == "slurm" and entry.job and not finished(sweep, folder, task, entry)
    ]


def rows(ledger: Ledger, queue: QueueSnapshot, now: float) -> list[JobRow]:
    """The state of every job of a sweep.

    Args:
        ledger: of the sweep.
        queue: from `slurm.queue.snapshot`.
        now: the time, in seconds since the epoch.
    """
    return [row(ledger.sweep, key, queue, now) for key in jobs_of(ledger)]


def row(sweep: Path, key: TrackedJob, queue: QueueSnapshot, now: float) -> JobRow:
    """The state of one job; see `rows`."""
    folder, task, entry = key
    place = RunFolder(sweep / folder)
    status, broken = _status_of(place, task)
    name = sweep.resolve().name if task == REPORT else f"{place.path.parent.name} {place.path.name.split('-')[0]}"
    row = JobRow(name, task, State.failed, folder, broken, job=entry.job if entry else "")
    if status is not None:
        row = replace(row, step=status.step, steps=status.steps, attempt=status.attempt, host=status.host)
        row = replace(row, silent_s=round(max(0.0, now - status.heartbeat), 1))
    if finished(sweep, folder, task, entry):
        return _with_result(row, place, task, entry)
    if broken:
        return row
    state, note = _judge(sweep, status, entry, queue, now)
    row = replace(row, state=state, note=note)
    return _with_pace(row, place, task) if state is State.running else row


def finished(sweep: Path, folder: str, task: str, entry: Submission | None) -> bool:
    """Whether the result of a job is there: its files decide."""
    place = RunFolder(sweep / folder)
    if task == PRETRAIN:
        return place.pretrained
    status, _ = _status_of(place, task)
    said_so = status is not None and status.state == "done" and not _before(status, entry)
    if task == REPORT:
        return said_so
    found = _results(place, task, entry)
    return bool(found and (said_so or not entry or not entry.protocol or _asked_for(found, entry)))


def counts(table: Sequence[JobRow]) -> dict[str, int]:
    """How many jobs are in each state, without zeros."""
    found = Counter(row.state for row in table)
    return {state.value: found[state] for state in State if found[state]}


def as_json_of(table: Sequence[JobRow], sweep: Path, queue: QueueSnapshot) -> dict[str, Any]:
    """What `salmask status --json` prints for a sweep."""
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
    job = queue.find(entry) if entry else None
    live = queue.live(entry) if entry else None
    if live and job is not None and job.waiting:
        begun = status is not None and status.state in ("running", "interrupted")
        return State.preempted if begun else State.queued, _reason(job)
    if status is not None and (_before(status, entry) or _before_its_start(status, job)) and not _alive(status, now):
        status = None  # it tells of an earlier attempt
    if live:
        return _on_a_node(status, job, now)
    if status is not None and _alive(status, now) and not _before_its_end(status, job):
        return State.running, ""  # nobody who can be asked knows of it, and yet it moves: it was started by hand
    if status is not None and status.state == "failed":
        return State.failed, status.error
    if status is None:
        return _never_said_a_word(sweep, entry, job, live, queue)
    return _ended(sweep, status, entry, job, now)


def _on_a_node(status: Status | None, job: QueuedJob | None, now: float) -> tuple[State, str]:
    where = f"on {job.nodes}" if job and job.nodes else ""
    if status is None:
        since = now - job.start if job and job.start else 0.0
        if since > STALE_SECONDS:
            return State.silent, f"{where} for {duration(since)} without a word; mend: salmask logs"
        return State.starting, where
    if status.state == "failed":
        return State.failed, status.error
    if status.state != "running":
        return State.starting, where  # it is about to end, or to begin anew
    silence = now - status.heartbeat
    if silence > STALE_SECONDS:
        return State.silent, f"no sign of life for {duration(silence)}; mend: salmask cancel, then salmask retry"
    return State.running, ""


def _never_said_a_word(
    sweep: Path, entry: Submission | None, job: QueuedJob | None, live: bool | None, queue: QueueSnapshot
) -> tuple[State, str]:
    if entry is None:
        return State.planned, "not started"
    if live is None:
        return State.unknown, queue.trouble if entry.executor == "slurm" else f"only {entry.host} can tell"
    if job is not None and job.state == "CANCELLED":
        return _cancelled(entry, job)
    if not entry.job and job is None:
        return State.planned, "its launcher ended before it was handed over; mend: salmask retry"
    unknown = "Slurm no longer knows it" if entry.executor == "slurm" else "its process is gone"
    return State.died, _with_last_line(sweep, entry, f"never said a word, {_word(job) or unknown}")


def _ended(
    sweep: Path, status: Status, entry: Submission | None, job: QueuedJob | None, now: float
) -> tuple[State, str]:
    if status.state == "done":
        return State.failed, "it says that it is done, but its result is not there"
    if job is not None and job.state == "CANCELLED":
        return _cancelled(entry, job)
    if status.state == "interrupted":
        return State.interrupted, _word(job) or "goes on from its last checkpoint when started again"
    note = _word(job) or f"no sign of life for {duration(now - status.heartbeat)}"
    return State.died, _with_last_line(sweep, entry, note)


def _cancelled(entry: Submission | None, job: QueuedJob) -> tuple[State, str]:
    unmet = entry is not None and entry.after and (job.reason.startswith("Dependency") or job.start is None)
    return State.cancelled, "not started: what it builds on failed" if unmet else job.reason


def _word(job: QueuedJob | None) -> str:
    """Slurm's word on a job that ended."""
    if job is None or job.live:
        return ""
    return f"Slurm says {job.state}{f', {job.reason}' if job.reason else ''}"


def _with_last_line(sweep: Path, entry: Submission | None, note: str) -> str:
    last = (last_line(entry.log(sweep, "err")) or last_line(entry.log(sweep, "out"))) if entry else ""
    return f"{note}; last line: {last}" if last else note


def _alive(status: Status, now: float) -> bool:
    """Whether its process runs, as far as its files and, where it ran here, this machine can tell."""
    holder = status.holder
    return holder is not None and not holder.ended and now - status.heartbeat <= STALE_SECONDS


def _before(status: Status, entry: Submission | None) -> bool:
    """Whether a status is older than the submission."""
    return entry is not None and status.heartbeat < datetime.fromisoformat(entry.time).timestamp() - CLOCKS_SECONDS


def _before_its_start(status: Status, job: QueuedJob | None) -> bool:
    return job is not None and job.start is not None and status.heartbeat < job.start - CLOCKS_SECONDS


def _before_its_end(status: Status, job: QueuedJob | None) -> bool:
    return job is not None and job.end is not None and status.heartbeat <= job.end + CLOCKS_SECONDS


def _reason(job: QueuedJob) -> str:
    for beginning, words in REASONS.items():
        if job.reason.startswith(beginning):
            return f"{job.reason}: {words.format(job=job.job)}"
    limit = "Max" in job.reason or "Grp" in job.reason
    return f"{job.reason}: a limit of your account or QOS" if limit else job.reason


def duration(seconds: float) -> str:
    """For people: `45 s`, `12 min`, `3.4 h`."""
    if seconds < STALE_SECONDS:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"


# ------------------------------------------------------------------------------------------------ what the folders hold


def _status_of(place: RunFolder, task: str) -> tuple[Status | None, str]:
    """The status of a task, and what is wrong with its file."""
    try:
        return place.status(task), ""
    except (ValueError, TypeError, OSError) as error:
        return None, f"its status cannot be read: {error}"


def _results(place: RunFolder, task: str, entry: Submission | None) -> list[Result]:
    """The rows of a task, those of the protocols that were asked for if there are any."""
    name, _, dataset = task.partition("@")
    if not place.results.exists():
        return []
    found = [row for row in read(place.results)[0] if row.task == name and dataset in ("", row.dataset)]
    return _asked_for(found, entry) or found


def _asked_for(found: Sequence[Result], entry: Submission | None) -> list[Result]:
    wanted = entry.protocol.split(", ") if entry else []
    return [row for row in found if row.protocol in wanted or without_batch(row.protocol) in wanted]


def _with_result(row: JobRow, place: RunFolder, task: str, entry: Submission | None) -> JobRow:
    row = replace(row, state=State.done, silent_s=None, note="")
    if task == PRETRAIN:
        return replace(row, images_per_second=pace(place.metrics)[1])
    found = _results(place, task, entry)
    if not found:
        return row
    names = [name for name in HEADLINES if any(result.metric == name for result in found)]
    metric = names[0] if names else found[0].metric
    newest = [result for result in found if result.metric == metric][-1]
    return replace(row, metric=metric, value=newest.value, note=f"{newest.protocol}, {newest.dataset}")


def _with_pace(row: JobRow, place: RunFolder, task: str) -> JobRow:
    name, _, dataset = task.partition("@")
    if task == PRETRAIN:
        files = [place.metrics]
    else:
        files = [*place.path.glob(f"{METRICS.get(name, '.none')}/{dataset}*/metrics.jsonl")]
    seconds, speed = pace(max(files, key=_changed)) if files else (None, None)
    left = (row.steps - row.step) * seconds if seconds is not None and row.steps else None
    return replace(row, eta_s=left, images_per_second=speed)


def pace(metrics: Path) -> tuple[float | None, float | None]:
    """Seconds a step and images per second, as the last lines of a `metrics.jsonl` tell; None where they do not."""
    found = []
    for line in tail(metrics).splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            continue  # the tail begins within a line, and the last one may be torn
        if isinstance(content, dict):
            found.append(content)
    return _median(found, "time"), _median(found, "images_per_second")


def _median(lines: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [line[key] for line in lines if isinstance(line.get(key), int | float) and math.isfinite(line[key])]
    return statistics.median(values[-PACE_ROWS:]) if values else None


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
