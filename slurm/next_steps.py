"""What `salmask` says when it is called without a command: how far the runs are, and a few commands to go on with.

It only reads folders, and asks no scheduler, so that the answer comes at once.
"""

import shlex
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from repro.errors import UserError
from repro.filesystem.presence import is_file, is_filled
from repro.runs.folder import RunFolder
from repro.runs.records import read
from repro.runs.status import PRETRAIN, Status
from slurm.monitoring.job_files import finished, status_of
from slurm.monitoring.queue import QueueSnapshot
from slurm.monitoring.states import before
from slurm.sweep_folder.ledger import Ledger, Submission
from slurm.sweep_folder.local_lock import has_local_launcher
from slurm.targets import roots_of_sweeps, runs_of, sweeps


@dataclass(frozen=True)
class NextStep:
    """A command line, and what it is for."""

    command: str
    purpose: str


@dataclass(frozen=True)
class Standing:
    """How far the runs are, in a sentence, and the steps from there."""

    sentence: str
    steps: Sequence[NextStep]


def standing(now: float | None = None) -> Standing:
    """Returns how far the runs are, by their folders below `runs/` and where the profiles put sweeps.

    Args:
        now: The time, in seconds since the epoch; None: asks the clock.
    """
    now = time.time() if now is None else now
    folders = [sweep for sweep in sweeps(roots_of_sweeps()) if any(runs_of(sweep))]  # a ledger alone is not a run
    if not folders:
        return Standing("There are no runs yet.", _BEGIN)
    states = {folder: _states(folder, now) for folder in folders}
    totals = Counter(state for of_runs in states.values() for state in of_runs.values())
    counted = ", ".join(f"{totals[state]} {state}" for state in _STATES if totals[state])
    where = str(folders[0]) if len(folders) == 1 else f"{len(folders)} sweeps"
    # What the steps are about: the first sweep in which there is something to do.
    for state, steps in ((_RUNNING, _watch), (_SUBMITTED, _watch), (_STOPPED, _mend), (_NOT_STARTED, _start)):
        for folder, of_runs in states.items():
            if there := [run for run, of_run in of_runs.items() if of_run == state]:
                return Standing(f"Runs in {where}: {counted}.", steps(folder, _newest(there)))
    done = next((folder for folder, of_runs in states.items() if _DONE in of_runs.values()), folders[0])
    return Standing(f"Runs in {where}: {counted}.", _read(done))


_RUNNING, _SUBMITTED, _STOPPED, _NOT_STARTED, _DONE = "in progress", "submitted", "stopped", "not started", "done"
_STATES = (_RUNNING, _SUBMITTED, _STOPPED, _NOT_STARTED, _DONE)


def _states(sweep: Path, now: float) -> dict[Path, str]:
    """Returns the state of each run of a sweep."""
    by_folder: dict[str, list[Submission]] = {}
    with suppress(UserError):  # a ledger that cannot be read tells nothing
        for entry in Ledger(sweep).newest().values():
            by_folder.setdefault(entry.folder, []).append(entry)
    launching = has_local_launcher(sweep)
    return {
        path: _state(sweep, RunFolder(path), by_folder.get(str(path.relative_to(sweep)), ()), now, launching=launching)
        for path in runs_of(sweep)
    }


def _state(sweep: Path, folder: RunFolder, entries: Sequence[Submission], now: float, *, launching: bool) -> str:
    """Returns which of `_STATES` a run is in, as far as its folder and the ledger alone tell.

    Args:
        sweep: The sweep's folder.
        folder: Of the run.
        entries: The newest submission of each of its jobs.
        now: The time, in seconds since the epoch.
        launching: Whether a launcher on this machine is at work on the sweep.
    """
    try:
        statuses = {task: status_of(folder, task)[0] for task in folder.tasks_begun()}  # None: unreadable
    except UserError:
        return _STOPPED
    said = statuses.values()
    if any(
        status and (status.alive(now) or folder.is_held_here(task, status.holder)) for task, status in statuses.items()
    ):
        return _RUNNING  # also a suspended process, as for `salmask status`: a retry would not start its job again
    pretraining = statuses.get(PRETRAIN)
    if pretraining and pretraining.state == "failed" and not folder.pretrained:
        # Its evaluations will not run, unless the pretraining was submitted again.
        entries = [entry for entry in entries if entry.task == PRETRAIN]
    if any(_may_come(sweep, statuses.get(entry.task), entry, launching=launching) for entry in entries):
        return _SUBMITTED
    # Recorded runs keep no backbone: the status of the pretraining is enough. Imported weights have no such status.
    if statuses or folder.pretrained:
        return _DONE if all(status and status.state == "done" for status in said) else _STOPPED
    return _STOPPED if any(entry.job for entry in entries) else _NOT_STARTED


def _may_come(sweep: Path, status: Status | None, entry: Submission, *, launching: bool) -> bool:
    """Returns whether a job has not begun and may do so, as far as can be known without asking a scheduler."""
    has_begun = status is not None and not before(status, entry)
    if has_begun or entry.cancelled or entry.superseded or entry.refused:
        return False
    # If the clock of its node is slow, its status looks older than its submission; the result decides.
    if status is not None and finished(sweep, entry.folder, entry.task, entry):
        return False
    if entry.executor == "slurm":
        return True
    return QueueSnapshot().live(entry) is not False if entry.job else launching


_BEGIN = (
    NextStep("salmask sweep demo --local", "the paper's Table 1 in miniature, from drawn images, in minutes"),
    NextStep("salmask methods", "the rows that can be trained"),
    NextStep("salmask doctor", "whether this machine has what it takes"),
    NextStep("salmask data list", "the data sets, and where their roots are looked for"),
    NextStep("salmask sweep table1 --plan", "what the whole table would cost"),
)


def _watch(folder: Path, newest: Path) -> Sequence[NextStep]:
    """Returns the steps of a sweep in progress; the run is the newest of those that are."""
    sweep, run = _words(folder, newest)
    return (
        NextStep(f"salmask status {sweep} --watch", "how far each job is, until nothing is under way"),
        NextStep(f"salmask logs {run} -f", "what the newest of them prints"),
        NextStep(f"salmask table table1 --runs {sweep}", _so_far(folder)),
        NextStep(f"salmask cancel {sweep}", "end its jobs; each saves a checkpoint"),
        NextStep(f"salmask retry {sweep}", "start again what failed meanwhile"),
    )


def _mend(folder: Path, newest: Path) -> Sequence[NextStep]:
    """Returns the steps of a sweep in which runs have stopped; the run is the newest of these."""
    sweep, run = _words(folder, newest)
    return (
        NextStep(f"salmask status {sweep}", "why they stopped"),
        NextStep(f"salmask logs {run}", "what the newest of them printed"),
        NextStep("salmask doctor", "whether this machine has what it takes"),
        NextStep(f"salmask retry {sweep}", "start again what stopped, from its last checkpoint if it has one"),
        NextStep(f"salmask table table1 --runs {sweep}", _so_far(folder)),
    )


def _start(folder: Path, _: Path) -> Sequence[NextStep]:
    """Returns the steps of a sweep of which runs have not begun: Slurm refused them, or their launcher was killed."""
    (sweep,) = _words(folder)
    return (
        NextStep(f"salmask status {sweep}", "why they have not started"),
        NextStep("salmask doctor", "whether this machine has what it takes"),
        NextStep(f"salmask retry {sweep}", "start them"),
        NextStep(f"salmask table table1 --runs {sweep}", _so_far(folder)),
    )


def _read(folder: Path) -> Sequence[NextStep]:
    newest = _newest(runs_of(folder))
    sweep, run = _words(folder, newest)
    table = f"salmask table table1 --runs {sweep}"
    if not _is_evaluated(folder):
        return (
            NextStep(
                f"salmask eval {run} --task knn", "evaluate the newest backbone by nearest neighbours: the fastest"
            ),
            NextStep(f"salmask eval {run} --task logistic", "by logistic regression"),
            NextStep(f"salmask eval {run} --task linear", "by the paper's linear probe"),
            NextStep(table, "then: the paper's table with these numbers beside it"),
            NextStep(f"salmask report --runs {sweep}", "then: all of it as one page"),
        )
    further = NextStep(f"salmask plot all --runs {sweep}", "every plot of them")
    if RunFolder(newest).pretrained:  # recorded runs keep no backbone
        task = _not_measured(newest)
        further = NextStep(f"salmask eval {run} --task {task}", "evaluate the newest backbone by another task")
    return (
        NextStep(table, "the paper's table with these numbers beside it"),
        NextStep(f"salmask claims --runs {sweep}", "what these runs say about the paper's claims"),
        NextStep(f"salmask report --runs {sweep}", "all of it as one page"),
        further,
        NextStep(f"salmask pack --runs {sweep}", "one archive of results, settings and pages, to pass on"),
    )


def _is_evaluated(folder: Path) -> bool:
    """Returns whether a run of a sweep has a number. Until then, a table would be refused."""
    return any(is_filled(RunFolder(path).results) for path in runs_of(folder))


def _so_far(folder: Path) -> str:
    return "the table so far" if _is_evaluated(folder) else "the table, once a run has been evaluated"


def _not_measured(run: Path) -> str:
    """Returns a task that a run was not evaluated by, the fastest first."""
    results = RunFolder(run).results
    measured: set[str] = set()
    with suppress(UserError):  # `salmask eval` says what cannot be read
        measured = {row.task for row in read(results)[0]} if is_file(results) else measured
    return next((task for task in ("knn", "logistic", "linear") if task not in measured), "finetune")


def _newest(runs: Iterable[Path]) -> Path:
    return max(runs, key=lambda path: path.stat().st_mtime)


def _words(*folders: Path) -> list[str]:
    """Returns folders as a shell reads them."""
    return [shlex.quote(str(folder)) for folder in folders]
