"""Run folders as the results see them: how they are found, and in what state they are."""

import os
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import yaml

from repro.errors import UserError, nearest
from repro.filesystem.clutter import is_clutter
from repro.filesystem.files import read_regular
from repro.filesystem.paths import require_utf8
from repro.filesystem.presence import exists, is_file, is_filled, is_folder
from repro.runs.folder import TASK_FOLDERS, RunFolder
from repro.runs.health import Symptom, read_symptoms
from repro.runs.metrics import read_metrics, training_seconds
from repro.runs.provenance import SNAPSHOT
from repro.runs.schemas import ATTEMPT
from repro.runs.status import PRETRAIN, Status
from repro.runs.sweep_names import ADHOC, IMPORTED, LEDGER, LOGS
from repro.runs.task_results import has_result
from repro.settings.run import Run
from repro.settings.sections import Framework
from repro.settings.yaml_text import LONGEST_TEXT, parse_yaml
from results.collection.row_comparison import Recipe, RowComparison

_NAMES = RunFolder(Path())
RESULTS = _NAMES.results.name
MARKERS = (RESULTS, _NAMES.run_yaml.name, "status.json")
"""A folder that holds any of these files is a run folder."""
_TO_RUNS = tuple(f"{above}{name}" for above in ("", "s*-*/", "*/s*-*/") for name in MARKERS)
"""Patterns of such a file, from the folder of a run, of a method or of a sweep."""
_TO_SWEEPS = (f"*/{LEDGER}", ADHOC, IMPORTED)
"""Patterns of what marks a folder of sweeps; to look for their runs would take long among a data set's images."""
_IMPORTED = " (imported)"
"""Follows the name that a user gave to imported weights; no name of a row of the tables ends so."""


def method_name(name: str, framework: str) -> str:
    """Returns the name of the row in which a run stands; imported weights always have a row of their own.

    Args:
        name: The method's name; that of imported weights may be any, even the name of a row of the paper.
        framework: `Result.framework`.
    """
    return name + _IMPORTED if framework == Framework.external.name else name


@dataclass(frozen=True)
class RunRecord:
    """One run folder; each of its files is read when it is first needed."""

    path: Path
    """The folder, `runs/<sweep>/<method>/s<seed>-<id>`."""
    recipe: Recipe | None = None
    """Makes the row with which the run is compared; None: it is not compared."""

    @cached_property
    def folder(self) -> RunFolder:
        """The paths of its files."""
        return RunFolder(self.path)

    @cached_property
    def method(self) -> str:
        """The method after which the folder is named; imported weights are marked, as by `method_name`."""
        return method_name(self.path.resolve().parent.name, self._framework)

    @property
    def _framework(self) -> str:
        """The framework as `run.yaml` names it, read without the slow checks of `run`; empty if unknown."""
        try:
            content = parse_yaml(read_regular(self.folder.run_yaml, LONGEST_TEXT).decode())
        except (OSError, UserError, ValueError, RecursionError, yaml.YAMLError):
            return ""
        return str(content.get("framework", "")) if isinstance(content, dict) else ""

    @property
    def sweep(self) -> str:
        """The name of the sweep that it belongs to."""
        return self.folder.sweep

    @property
    def name(self) -> str:
        """The run's name as pages print it, `SWEEP/METHOD/sSEED-ID`."""
        return "/".join(self.path.resolve().parts[-3:])

    @property
    def path_of_rows(self) -> str:
        """The file of its results, as the column `path` of the long table names it."""
        return str(self.folder.results)

    @cached_property
    def run(self) -> Run | None:
        """What was run; None where `run.yaml` is missing or of another version."""
        try:
            return self.folder.load()
        except UserError:
            return None

    @cached_property
    def comparison(self) -> RowComparison:
        """How the run departs from its method's row."""
        return RowComparison.of(self.run, self.recipe)

    @cached_property
    def status(self) -> Status | None:
        """What `status.json` says; None where there is none, state `unreadable` where it is broken."""
        try:
            return self.folder.status()
        except UserError:
            return Status("unreadable")

    @cached_property
    def symptoms(self) -> list[Symptom]:
        """What its training warned of."""
        return read_symptoms(self.folder.health)

    @property
    def state(self) -> str:
        """The state of the run, by its `status.json` and its results.

        `not started`, `running`, `silent` (it says that it is running, but had no heartbeat for `STALE_SECONDS`),
        `done`, `failed`, `interrupted`, `unreadable`, or `pretrained` (its last task is done, but it has no results).
        """
        status = self.status
        if status is None:
            return "not started"
        # A task whose result exists is done even if a later attempt at it failed, as in `salmask status`.
        state = self._state_of(status)
        return "pretrained" if state == "done" and not is_filled(self.folder.results) else state

    @cached_property
    def unfinished_evaluations(self) -> dict[str, str]:
        """The evaluations that were started and gave no result -> their states, as in `state`."""
        states: dict[str, str] = {}
        for task in self.folder.tasks_begun():
            if task == PRETRAIN:
                continue
            try:
                status = self.folder.status(task)
            except UserError:
                states[task] = "unreadable"
                continue
            if status is not None:
                states[task] = self._state_of(status)
        return {task: state for task, state in states.items() if state != "done"}

    def _state_of(self, status: Status) -> str:
        """Returns the state of a task by its status, its heartbeat, and whether its result exists."""
        evaluation = status.task if status.state != "done" and status.task != PRETRAIN else ""
        state = "done" if evaluation and has_result(self.folder, evaluation, status) else status.state
        return "silent" if state == "running" and status.silent(time.time()) else state

    @cached_property
    def attempts(self) -> list[dict[str, Any]]:
        """What each attempt ran on, oldest first; empty where `provenance.json` is missing or broken."""
        try:
            return ATTEMPT.read_list(self.folder.provenance)
        except UserError:
            return []

    @property
    def last_attempt(self) -> dict[str, Any]:
        """What the newest attempt ran on; empty where nothing is recorded."""
        return self.attempts[-1] if self.attempts else {}

    @property
    def trained_on(self) -> str:
        """The fingerprint of the images on which it was trained; empty if unknown, as for imported weights."""
        fingerprint = self.last_attempt.get("data", {}).get("train")
        return fingerprint if isinstance(fingerprint, str) else ""

    @property
    def logs(self) -> list[Path]:
        """Its log files, oldest first."""
        # mmengine names a log and its folder after the time at which the attempt started.
        return sorted(path for path in self.folder.logs.rglob("*.log") if not is_clutter(path.name))

    @property
    def galleries(self) -> list[Path]:
        """The pictures of what its network saw, `.png` or `.jpg`, by name."""
        pictures = (path for path in self.folder.gallery.glob("*") if path.suffix in (".png", ".jpg"))
        return sorted(path for path in pictures if not is_clutter(path.name))

    @cached_property
    def metrics(self) -> list[dict[str, float]]:
        """The rows of the pretraining's `metrics.jsonl`; none if it cannot be read."""
        return _rows(self.folder.metrics)

    @cached_property
    def probes(self) -> dict[str, list[dict[str, float]]]:
        """The metrics of each linear probe, by the name of its folder, `DATASET-PROTOCOL`."""
        files = sorted((self.path / TASK_FOLDERS["linear"]).glob("*/metrics.jsonl"))
        return {file.parent.name: _rows(file) for file in files}

    @property
    def training_seconds(self) -> float | None:
        """The seconds that the pretraining's steps took, by its metrics; None if these do not tell."""
        return training_seconds(self.metrics) or None


def symptoms_text(runs: Iterable[RunRecord], count: int) -> str:
    """Returns what trainings warned of, `collapsed embeddings in 2 of 3 runs (first at step 40)`; empty if of nothing.

    Args:
        runs: All runs that warned; others may be among them.
        count: The number of runs in all, those without a warning included.
    """
    steps: dict[str, list[int]] = {}
    for symptom in (symptom for run in runs for symptom in run.symptoms):
        steps.setdefault(symptom.kind, []).append(symptom.step)
    return ", ".join(f"{kind} in {len(at)} of {count} runs (first at step {min(at)})" for kind, at in steps.items())


def by_path_of_rows(runs: Iterable[RunRecord]) -> dict[str, RunRecord]:
    """Returns the value of the column `path` of the long table -> the run, to find the run of a row.

    Args:
        runs: The run folders at hand.
    """
    return {run.path_of_rows: run for run in runs}


def find_runs(roots: Sequence[Path], recipe: Recipe | None = None, *, sweep: str = "") -> list[RunRecord]:
    """Lists the run folders below the given ones, each once, sorted by path.

    Args:
        roots: Run folders, sweep folders, or any folder above them (`runs/<sweep>/<method>/s<seed>-<id>/`).
        recipe: Makes the rows with which the runs are compared. Without it, no run counts as a row of the paper.
        sweep: Only runs of this sweep; empty: all.

    Raises:
        UserError: A root is missing, a folder cannot be listed, its name is not UTF-8, or there is no such sweep.
    """
    # By resolved path: roots may overlap, or a link may lead from one into another. Then its target is kept.
    folders: dict[Path, Path] = {}
    for path in (path for root in roots for path in _walk(root)):
        real = path.resolve()
        known = folders.get(real)
        if known is None or known.absolute() != real:
            folders[real] = path
    for path in folders.values():
        require_utf8(path)
    runs = [RunRecord(path, recipe) for path in sorted(folders.values())]
    if not sweep:
        return runs
    runs_of_sweep = [run for run in runs if run.sweep == sweep]
    if runs and not runs_of_sweep:
        sweeps = sorted({run.sweep for run in runs})
        raise UserError(f"no sweep {sweep!r} below {listed(roots)}", mend=nearest(sweep, sweeps))
    return runs_of_sweep


def listed(roots: Sequence[Path]) -> str:
    """Returns folders as a message names them, with commas between."""
    return ", ".join(map(str, roots))


def _walk(root: Path) -> Iterator[Path]:
    """Yields the run folders below a folder, or the folder itself."""
    if exists(root) and not is_folder(root):
        archive = is_file(root) and zipfile.is_zipfile(root)  # to open a pipe may wait for ever
        mend = "unpack it, and give the folder `runs` that is in it" if archive else "give the folder that it is in"
        raise UserError(f"{root} is {'an archive' if archive else 'a file'}, not a folder with runs", mend=mend)
    if not is_folder(root):
        mend = "give a run folder, or one above it: of a sweep, the one that its launch printed"
        raise UserError(f"no folder {root}", mend=mend)
    followed = {root.resolve()}
    # `os.walk` descends into the subfolders that remain in its list, which is therefore changed in place.
    for folder, subfolders, files in os.walk(root, onerror=_refuse, followlinks=True):
        if not set(MARKERS).isdisjoint(files):
            yield Path(folder)
            subfolders.clear()  # a run's checkpoints and galleries hold no further runs
        elif SNAPSHOT in files:
            subfolders.clear()  # a copy of the code for a sweep's jobs, with recorded runs of its own
        else:
            # Only its owner may look into the logs of a sweep's jobs, where no runs are; others may read its runs.
            closed = LOGS if LEDGER in files else ""
            below = [Path(folder, name) for name in subfolders if not name.startswith(".") and name != closed]
            subfolders[:] = [path.name for path in below if not path.is_symlink() or _is_to_follow(path, followed)]


def _is_to_follow(link: Path, followed: set[Path]) -> bool:
    """Returns whether a link leads to the folder of a run, a method, a sweep or sweeps that was not visited before.

    Other links are not followed: one to a data set leads to a million files. The target is added to `followed`.
    """
    real = link.resolve()
    if real in followed or not any(next(real.glob(pattern), None) for pattern in (*_TO_RUNS, *_TO_SWEEPS)):
        return False
    followed.add(real)
    return True


def _refuse(error: OSError) -> NoReturn:
    """Refuses a folder that cannot be listed, as a table would not show that its runs are missing."""
    raise UserError(
        f"cannot look into {error.filename}: {error.strerror}",
        mend="change its permissions or give a narrower path",
    )


def _rows(metrics: Path) -> list[dict[str, float]]:
    try:
        return read_metrics(metrics)
    except UserError:
        return []


def code_label(commit: str, *, dirty: bool) -> str:
    """Returns a state of the code as pages print it: the commit, and `(dirty)` if there were uncommitted changes."""
    return f"{commit} (dirty)" if dirty else commit
