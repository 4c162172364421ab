"""What a sweep leaves behind and nobody needs any more. Results, backbones, metrics and settings are never touched."""

import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from repro.errors import UserError
from repro.filesystem.files import folder_size, is_torn
from repro.runs.folder import FEATURES, RunFolder
from repro.runs.status import PRETRAIN
from repro.runs.step_files import UNFINISHED, checkpoints
from slurm.jobs.snapshot import CODE
from slurm.monitoring.job_files import TrackedJob, finished
from slurm.monitoring.queue import QueueSnapshot
from slurm.monitoring.states import LIVE, State
from slurm.monitoring.status import jobs_of, rows
from slurm.sweep_folder.ledger import Key, Ledger, Submission

_WRITTEN = (UNFINISHED, "*.npy", ".*.npy.*")
"""Patterns of features, complete or half-written, and of half-written checkpoints."""


@dataclass(frozen=True)
class Leftover:
    """A file or folder that can go."""

    path: Path
    why: str
    size: int
    """Bytes; of a folder, all that it holds."""


def leftovers(ledger: Ledger, queue: QueueSnapshot) -> list[Leftover]:
    """Returns everything in a sweep's folder that no job will miss.

    These are checkpoints of finished pretrainings; features and checkpoints of runs whose tasks are all done; logs and
    calls of jobs that are done or were submitted again; code that no job runs; and files that a killed process left
    half-written. Nothing is returned of a job that runs or waits, or may do so. Locks stay: somebody may have started a
    run since, and if its lock's file were removed, a second process could lock it too.

    Args:
        ledger: Of the sweep.
        queue: From `slurm.monitoring.queue.snapshot`.
    """
    now = time.time()
    jobs = jobs_of(ledger)
    states = {row.key: row.state for row in rows(ledger, queue, now)}
    # Two sources, either of which is enough: a job that was started by hand shows in its folder alone, and an older
    # submission of a job that was submitted again may still wait in the queue. "Not known" (None) counts as busy.
    busy = {key for key, state in states.items() if state in LIVE | {State.unknown}}
    busy |= {entry.key for entry in ledger.submissions() if queue.live(entry) is not False}
    by_folder: dict[str, list[TrackedJob]] = defaultdict(list)
    for job in jobs:
        by_folder[job[0]].append(job)
    unneeded: list[Leftover] = []
    for folder, members in by_folder.items():
        if not any((folder, task) in busy for _, task, _ in members) and folder != ".":
            unneeded += _of_run(ledger.sweep, folder, members)
    unneeded += _of_submissions(ledger, queue, states)
    unneeded += _of_code(ledger, queue)
    # Half-written files of the sweep itself, such as its tables; `_of_run` finds those of a run.
    unneeded += _torn(chain(ledger.sweep.glob(".*"), ledger.sweep.glob("*/.*")))
    return unneeded


def remove(unneeded: Sequence[Leftover]) -> None:
    """Removes leftovers.

    If a folder is a link (to a faster disk, say), the link and what the run wrote behind it are removed; other files
    there may belong to somebody else.

    Raises:
        UserError: One or more cannot be removed; the others are gone.
    """
    troubles: list[tuple[Path, OSError]] = []
    for leftover in unneeded:
        try:
            _remove(leftover.path)
        except OSError as error:
            troubles.append((leftover.path, error))
    if troubles:
        path, trouble = troubles[0]
        more = f", and {len(troubles) - 1} more" if troubles[1:] else ""
        raise UserError(
            f"cannot remove {path}{more}: {trouble.strerror or trouble}", mend="its permissions"
        ) from trouble


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        return
    for file in _written_behind(path):
        file.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _written_behind(link: Path) -> list[Path]:
    """Returns the files that a run wrote into the folder behind a link; none if the path is a file."""
    return [file for file in chain(checkpoints(link), *map(link.glob, _WRITTEN)) if file.is_file()]


def _of_run(sweep: Path, folder: str, jobs: Sequence[TrackedJob]) -> Iterator[Leftover]:
    """Yields what can go of one run, none of whose jobs is busy."""
    run_folder = RunFolder(sweep / folder)
    if run_folder.pretrained and run_folder.checkpoints.is_dir():
        yield _leftover(run_folder.checkpoints, "checkpoints of a finished pretraining")
    # A sweep of pretrainings alone may be evaluated by hand later: its features are left.
    if all(finished(sweep, *job) for job in jobs) and any(task != PRETRAIN for _, task, _ in jobs):
        for path in sorted(run_folder.path.glob("*/*/checkpoints/")):
            yield _leftover(path, "checkpoints of finished tasks")
        if (run_folder.path / FEATURES).is_dir():
            yield _leftover(run_folder.path / FEATURES, "features, computed again where they are needed")
    yield from _torn(run_folder.path.rglob(".*"))


def _torn(paths: Iterable[Path]) -> Iterator[Leftover]:
    """Yields those hidden files that a killed process left half-written."""
    for path in sorted(paths):
        with suppress(FileNotFoundError):  # a run that was started by hand has given it its final name meanwhile
            if is_torn(path):
                yield _leftover(path, "half written by a process that was killed")


def _of_submissions(ledger: Ledger, queue: QueueSnapshot, states: Mapping[Key, State]) -> Iterator[Leftover]:
    """Yields folders of submissions that neither a person nor a job needs any more."""
    newest = ledger.newest()
    by_submission: dict[str, list[Submission]] = defaultdict(list)
    for entry in ledger.submissions():
        by_submission[entry.submission].append(entry)
    for name, entries in by_submission.items():
        logs = ledger.logs / name
        # The newest logs of a job that is not done say why. A folder holds the logs of all jobs of an array.
        needed = any(newest[entry.key] == entry and states.get(entry.key) is not State.done for entry in entries)
        if logs.is_dir() and not needed and not any(queue.live(entry) is not False for entry in entries):
            yield _leftover(logs, "logs and calls of jobs that are done or were submitted again")


def _of_code(ledger: Ledger, queue: QueueSnapshot) -> Iterator[Leftover]:
    """Yields copies of the code that no script of a job that may still run points to."""
    live = {entry.submission for entry in ledger.submissions() if queue.live(entry) is not False}
    paths = [list((ledger.logs / name).glob("*.sh")) for name in live]
    scripts = [path.read_text(encoding="utf-8") for of_one in paths for path in of_one]
    # If a job that may be alive has no script (a local one, say), nothing names its copy: then all of them stay.
    unclear = not all(paths)
    for path in sorted((ledger.sweep / CODE).glob("*/")):
        if not unclear and not any(path.name in script for script in scripts):
            yield _leftover(path, "code that no job runs; its commit, and any difference from it, stay on record")


def _leftover(path: Path, why: str) -> Leftover:
    if path.is_dir() and not path.is_symlink():
        return Leftover(path, why, folder_size(path))
    files = _written_behind(path) if path.is_symlink() else [path]
    return Leftover(path, why, sum(file.stat().st_size for file in files))
