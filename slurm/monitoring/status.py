"""What every job of a sweep is doing: from its folders, its ledger and one look at the queue, without side effects.

The folders decide: a job whose result is there is done, whatever Slurm says. What a job without a result is doing is
judged in `slurm.monitoring.states`.
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from repro.errors import UserError, with_mend
from repro.filesystem.files import tail
from repro.filesystem.presence import exists
from repro.runs.evaluation import HEADLINES, task_and_dataset
from repro.runs.folder import TASK_FOLDERS, RunFolder
from repro.runs.lock import STALE_SECONDS
from repro.runs.metrics import parse_metrics
from repro.runs.status import PRETRAIN
from repro.runs.sweep_names import RENDERED
from repro.runs.task_results import ReadResults, has_result, rows_of
from repro.settings.run_name import RunName
from slurm.jobs.orders import ordered_tables
from slurm.monitoring.job_files import JobFiles, TrackedJob, files_of, finished, status_of
from slurm.monitoring.queue import PARENT_FAILED, QueueSnapshot
from slurm.monitoring.states import ENDED_BADLY, LIVE, NOT_STARTED, REASONS, State, before, judge
from slurm.sweep_folder.ledger import REPORT, Key, Ledger, Submission
from slurm.sweep_folder.local_lock import has_local_launcher

PACE_ROWS = 5
"""The pace is the median of this many last log lines."""


@dataclass(frozen=True)
class JobRow:
    """One job: a task of a run."""

    run: str
    """`METHOD sSEED`, with `-ID` if the sweep has several such runs; for the report, the sweep's name."""
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
    """Seconds since its last heartbeat."""
    warnings: tuple[str, ...] = ()
    """What its last attempt has warned of."""

    @property
    def key(self) -> Key:
        """What names the job in the ledger."""
        return self.folder, self.task


def jobs_of(ledger: Ledger) -> list[TrackedJob]:
    """Returns every job of a sweep: what its ledger names, and what its folders hold besides."""
    newest: dict[Key, Submission | None] = dict(ledger.newest())
    for path in sorted(ledger.sweep.glob("*/s*/")):
        folder = str(path.relative_to(ledger.sweep))
        for task in _tasks_of(RunFolder(path)):
            newest.setdefault((folder, task), None)
    keys = sorted(newest, key=lambda key: (key[1] == REPORT, key[0], key[1] != PRETRAIN, key[1]))
    return [(*key, newest[key]) for key in keys]


def _tasks_of(run_folder: RunFolder) -> Sequence[str]:
    """Returns the tasks of a run's folder; none if it is not a run's, the pretraining alone if it cannot be read."""
    try:
        tasks = run_folder.tasks_begun()
        return (PRETRAIN, *tasks) if tasks or exists(run_folder.run_yaml) else ()
    except UserError:  # the row of the pretraining says what is wrong
        return (PRETRAIN,)


def ids_to_ask(ledger: Ledger) -> list[str]:
    """Returns Slurm's ids of the jobs without a result, of which the accounting may know how they ended."""
    read_results = cache(rows_of)
    newest = ledger.newest().values()
    sent = [entry for entry in newest if entry.executor == "slurm" and entry.job]
    return [entry.job for entry in sent if not _surely_finished(ledger.sweep, entry, read_results)]


def _surely_finished(sweep: Path, entry: Submission, read_results: ReadResults) -> bool:
    """Returns whether the result of a job is there, as far as that can be read."""
    try:
        return files_of(sweep, (*entry.key, entry), read_results).finished
    except UserError:
        return False


def rows(ledger: Ledger, queue: QueueSnapshot, now: float) -> list[JobRow]:
    """Returns the state of every job of a sweep.

    If several runs have the same method and seed, as after a setting was changed, their rows show the ids too.

    Args:
        ledger: Of the sweep.
        queue: From `slurm.monitoring.queue.snapshot`.
        now: The time, in seconds since the epoch.
    """
    read_results = cache(rows_of)
    jobs = jobs_of(ledger)
    table = _without_parents([row(ledger.sweep, job, queue, now, read_results) for job in jobs], jobs)
    table = [_with_next_report(row, ledger) if row.task == REPORT else row for row in table]
    table += _unmade_report(table, ledger, queue, now, read_results)
    # A report has the sweep's name, however many there are.
    runs = Counter(run for run, _ in {(row.run, row.folder) for row in table if row.task != REPORT})
    return [replace(row, run=row.folder.replace("/", " ")) if runs[row.run] > 1 else row for row in table]


def _without_parents(table: Sequence[JobRow], jobs: Sequence[TrackedJob]) -> list[JobRow]:
    """Returns the rows of `jobs`, in which those that their launcher here has given up do not wait for their turn.

    Only the row of the pretraining tells whether it ended badly, or was begun anew since, perhaps by another launcher.
    """
    failed = {row.folder for row in table if row.task == PRETRAIN and row.state in ENDED_BADLY}
    given_up = with_mend(NOT_STARTED, REASONS[PARENT_FAILED][1])
    return [
        replace(row, state=State.planned, note=given_up)
        if row.folder in failed and row.task != PRETRAIN and _waits_here(row, entry)
        else row
        for row, (_, _, entry) in zip(table, jobs, strict=True)
    ]


def _waits_here(row: JobRow, entry: Submission | None) -> bool:
    """Returns whether a job waits, or has waited, for a launcher of this machine to start it."""
    by_launcher = entry is not None and entry.executor != "slurm" and not entry.job
    return by_launcher and row.state in (State.queued, State.planned)


def _with_next_report(report: JobRow, ledger: Ledger) -> JobRow:
    """Returns the row of a report; if it is done, but Slurm took evaluations since, of the next one.

    A launch submits its report last: it ended before that, or Slurm had no room.
    """
    took = (entry for entry in reversed(ledger.submissions()) if entry.executor == "slurm" and entry.job)
    sent = next((entry for entry in took if entry.task != PRETRAIN), None)  # the report itself, or an evaluation
    if report.state is not State.done or sent is None or finished(ledger.sweep, *report.key, sent):
        return report
    note = with_mend("jobs were submitted since the last one", "salmask retry")
    return replace(report, state=State.planned, note=note)


def _unmade_report(
    table: Sequence[JobRow], ledger: Ledger, queue: QueueSnapshot, now: float, read_results: ReadResults
) -> list[JobRow]:
    """Returns the row of a report that no launch has submitted, if there is something to tabulate; else no row.

    The launch was killed before, or Slurm had no room. A launch on this machine makes the tables itself, at its end.
    """
    newest, sweep = ledger.newest(), ledger.sweep
    counts = {State.done, *LIVE}
    measures = any(row.task != PRETRAIN and row.state in counts and row.key in newest for row in table)
    if (".", REPORT) in newest or not measures or not ordered_tables(sweep) or has_local_launcher(sweep):
        return []
    report = row(sweep, (".", REPORT, None), queue, now, read_results)  # a retry here may have begun it
    if report.state is State.done or exists(sweep / RENDERED):
        return []
    is_planned = report.state is State.planned
    return [replace(report, note=with_mend("no launch has submitted it", "salmask retry")) if is_planned else report]


def row(sweep: Path, job: TrackedJob, queue: QueueSnapshot, now: float, read_results: ReadResults) -> JobRow:
    """Returns the state of one job; arguments as of `rows`."""
    folder, task, entry = job
    name = RunName.of(sweep / folder)
    run = sweep.resolve().name if task == REPORT else f"{name.method} {name.seed}"
    row = JobRow(run, task, State.unknown, folder, job=entry.job if entry else "")
    try:
        return _judged(row, files_of(sweep, job, read_results), sweep, queue, now)
    except UserError as error:  # a file that cannot be read must not hide the other jobs
        return replace(row, note=str(error))


def _judged(row: JobRow, files: JobFiles, sweep: Path, queue: QueueSnapshot, now: float) -> JobRow:
    """Returns a row with what its job is doing, or with its result.

    Raises:
        UserError: A file or folder of the job cannot be read.
    """
    status = files.status
    if status is not None:
        row = replace(row, step=status.step, steps=status.steps, attempt=status.attempt, host=status.host)
        row = replace(row, silent_s=round(max(0.0, now - status.heartbeat), 1), warnings=status.warnings)
    # Before anything else: a job whose result is there is done, however that attempt, or a later one, ended.
    if files.finished:
        return _with_result(row, files)
    # A recorded run, which no launcher knows of. For one that was launched here, a missing backbone is a failure.
    if files.entry is None and row.task == PRETRAIN and has_result(files.run_folder, row.task, status):
        return replace(_with_result(row, files), note="its backbone is not kept here")
    state, note = judge(sweep, row.key, status, files.entry, queue, now)
    if files.unreadable and state is not State.unknown:
        # A job that is queued, or has a node, writes its status anew; how any other one ended is unknown.
        state, note = state if state in LIVE else State.failed, files.unreadable
    row = replace(row, state=state, note=note)
    return _with_pace(row, files.run_folder) if state is State.running else row


def is_under_way(sweep: Path, key: Key, sent: Submission | None, queue: QueueSnapshot, now: float) -> bool:
    """Returns whether a job has a process, whoever started it: a launcher, one on another machine, or a person.

    Args:
        sweep: The sweep's folder.
        key: Of the job.
        sent: As of `Ledger.newest_sent`. A later intent in its place would hide how this one ended.
        queue: As of `rows`.
        now: As of `rows`.
    """
    folder, task = key
    status, _ = status_of(RunFolder(sweep / folder), task)
    if sent is not None and (status is None or before(status, sent)) and _has_just_begun_elsewhere(sent, queue, now):
        return True
    return status is not None and judge(sweep, key, status, sent, queue, now)[0] in {State.running, State.silent}


def _has_just_begun_elsewhere(sent: Submission, queue: QueueSnapshot, now: float) -> bool:
    """Returns whether a launcher on another machine began a job so lately that it need not have said anything yet."""
    return sent.executor != "slurm" and queue.live(sent) is None and abs(now - sent.written_at) < STALE_SECONDS


def counts(table: Sequence[JobRow]) -> dict[str, int]:
    """Returns how many jobs are in each state, without zeros, in the order of the states."""
    numbers = Counter(row.state for row in table)
    return {state.value: numbers[state] for state in State if numbers[state]}


def warning_lines(table: Sequence[JobRow]) -> dict[frozenset[str], str]:
    """Returns a line for each kind of warning of jobs without a result, by its texts.

    A line has one job's text, and how many more jobs gave such. What jobs with a result warned of is in `--json`, and
    in their logs.
    """
    by_kind: dict[str, list[tuple[JobRow, str]]] = {}
    for row in table:
        for text in row.warnings if row.state is not State.done else ():
            by_kind.setdefault(_kind(text), []).append((row, text))
    return {frozenset(text for _, text in told): _line(told) for told in by_kind.values()}


def _kind(warning: str) -> str:
    """Returns what warnings of a kind have in common: their words, without those that hold a digit.

    Shares, steps and ids of runs differ from job to job: a sweep may warn of one thing in as many texts as it has jobs.
    """
    return " ".join(word for word in warning.split() if not any(map(str.isdigit, word)))


def _line(told: Sequence[tuple[JobRow, str]]) -> str:
    row, text = told[0]
    others = {other.key: words for other, words in reversed(told) if other.key != row.key}
    alike = ", alike," if any(words != text for words in others.values()) else ""
    return f"{row.task} {row.run}{f' and {len(others)} more{alike}' if others else ''} warned: {text}"


def may_change(table: Sequence[JobRow], queue: QueueSnapshot) -> bool:
    """Returns whether anything is under way, as far as that can be known: a queue that is silent may answer again.

    Args:
        table: Jobs, from `rows`.
        queue: The queue that they were judged by.
    """
    waited_for = LIVE | {State.unknown} if queue.trouble and not queue.absent else LIVE
    return any(row.state in waited_for for row in table)


def as_json_of(table: Sequence[JobRow], sweep: Path, queue: QueueSnapshot) -> dict[str, Any]:
    """Returns what `salmask status --json` prints for a sweep."""
    return {
        "sweep": sweep.resolve().name,
        "folder": str(sweep),
        "trouble": queue.trouble,
        "counts": counts(table),
        "jobs": [asdict(row) for row in table],
    }


def _with_result(row: JobRow, files: JobFiles) -> JobRow:
    """Returns the row of a job that is done, with its headline number."""
    row = replace(row, state=State.done, silent_s=None, note="")
    if row.task == PRETRAIN:
        return replace(row, images_per_second=pace(files.run_folder.metrics)[1])
    results = files.asked_for() or files.results
    if not results:
        return row
    names = [name for name in HEADLINES if any(result.metric == name for result in results)]
    metric = names[0] if names else results[0].metric
    newest = [result for result in results if result.metric == metric][-1]
    return replace(row, metric=metric, value=newest.value, note=f"{newest.protocol}, {newest.dataset}")


def _with_pace(row: JobRow, run_folder: RunFolder) -> JobRow:
    """Returns the row of a job that runs, with its speed and the time that is left."""
    name, dataset = task_and_dataset(row.task)
    if row.task == PRETRAIN:
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
    """Returns the seconds per step and the images per second, from the last lines of a `metrics.jsonl`.

    Returns:
        The medians of the last few values; None where the lines hold none.
    """
    # Twice as many lines as count, since not every one holds both.
    lines = parse_metrics("\n".join(tail(metrics).splitlines()[-2 * PACE_ROWS :]))
    return _median(lines, "time"), _median(lines, "images_per_second")


def _median(lines: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [line[key] for line in lines if isinstance(line.get(key), int | float) and math.isfinite(line[key])]
    return statistics.median(values[-PACE_ROWS:]) if values else None


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
