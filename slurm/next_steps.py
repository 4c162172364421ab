"""What `salmask` says when it is called without a command: where one stands, and the five steps from there.

It reads the folders alone and asks no scheduler, so that the answer is there at once.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.runs.lock import STALE_SECONDS
from slurm.status import status_of
from slurm.targets import roots_of_sweeps, runs_of, sweeps


@dataclass(frozen=True)
class NextStep:
    """A command line, and what it is for."""

    command: str
    purpose: str


@dataclass(frozen=True)
class Standing:
    """Where one stands, in a sentence, and the steps from there."""

    sentence: str
    steps: Sequence[NextStep]


def standing(now: float | None = None) -> Standing:
    """Returns where one stands, by the run folders below `runs/` and where the profiles put sweeps.

    Args:
        now: the time, in seconds since the epoch; None: asks the clock.
    """
    now = time.time() if now is None else now
    folders = [sweep for sweep in sweeps(roots_of_sweeps()) if any(runs_of(sweep))]  # a ledger alone is no run
    if not folders:
        return Standing("There are no runs yet.", _BEGIN)
    states = {folder: Counter(_state(RunFolder(path), now) for path in runs_of(folder)) for folder in folders}
    totals = sum(states.values(), Counter[str]())
    counted = ", ".join(f"{totals[state]} {state}" for state in _STATES if totals[state])
    where = str(folders[0]) if len(folders) == 1 else f"{len(folders)} sweeps"
    # What the steps are about: the first sweep in which there is something to do.
    for state, steps in ((_RUNNING, _watch), (_STOPPED, _mend)):
        for folder, counts in states.items():
            if counts[state]:
                return Standing(f"Runs in {where}: {counted}.", steps(folder))
    done = next((folder for folder, counts in states.items() if counts[_DONE]), folders[0])
    return Standing(f"Runs in {where}: {counted}.", _read(done))


_RUNNING, _STOPPED, _DONE = "in progress", "stopped", "done"
_STATES = (_RUNNING, _STOPPED, _DONE)


def _state(folder: RunFolder, now: float) -> str:
    """Returns what a run's folder alone tells: whether something is under way, all is done, or neither."""
    try:
        statuses = [status_of(folder, task)[0] for task in folder.tasks_begun()]  # None: it cannot be read
    except UserError:
        return _STOPPED
    if any(status and status.state == "running" and now - status.heartbeat < STALE_SECONDS for status in statuses):
        return _RUNNING
    # Recorded runs have no backbone any more: a pretraining's word is enough.
    return _DONE if statuses and all(status and status.state == "done" for status in statuses) else _STOPPED


_BEGIN = (
    NextStep("salmask sweep demo --local", "the paper's Table 1 in miniature, from drawn images, in minutes"),
    NextStep("salmask methods", "the rows that can be trained"),
    NextStep("salmask doctor", "whether this machine has what it takes"),
    NextStep("salmask data list", "the data sets, and where their roots are looked for"),
    NextStep("salmask sweep table1 --plan", "what the whole table would cost"),
)


def _watch(folder: Path) -> Sequence[NextStep]:
    return (
        NextStep(f"salmask status {folder} --watch", "how far each job is, until nothing is under way"),
        NextStep(f"salmask logs {_newest(folder)} -f", "what the newest run prints"),
        NextStep(f"salmask table table1 --runs {folder}", "the table so far"),
        NextStep(f"salmask cancel {folder}", "end its jobs; each saves a checkpoint"),
        NextStep(f"salmask retry {folder}", "hand over again what failed meanwhile"),
    )


def _mend(folder: Path) -> Sequence[NextStep]:
    return (
        NextStep(f"salmask status {folder}", "why they stopped"),
        NextStep(f"salmask logs {_newest(folder)}", "what the newest run printed"),
        NextStep("salmask doctor", "whether this machine has what it takes"),
        NextStep(f"salmask retry {folder}", "hand over again what stopped, from its last checkpoint"),
        NextStep(f"salmask table table1 --runs {folder}", "the table so far"),
    )


def _read(folder: Path) -> Sequence[NextStep]:
    return (
        NextStep(f"salmask table table1 --runs {folder}", "the paper's table with these numbers beside"),
        NextStep(f"salmask claims --runs {folder}", "what these runs say to the paper's claims"),
        NextStep(f"salmask report --runs {folder}", "all of it as one page"),
        NextStep(f"salmask eval {_newest(folder)} --task knn", "measure a backbone in another way"),
        NextStep(f"salmask export {_newest(folder)} --to torchvision", "take a backbone elsewhere"),
    )


def _newest(folder: Path) -> Path:
    return max(runs_of(folder), key=lambda path: path.stat().st_mtime)
