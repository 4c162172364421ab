"""What a sweep leaves behind and nobody needs any more. Results, backbones, metrics and settings are never touched."""

import re
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.runs.status import PRETRAIN
from slurm.ledger import Ledger, Submission
from slurm.queue import QueueSnapshot
from slurm.snapshot import CODE
from slurm.status import LIVE, State, TrackedJob, finished, jobs_of, row

TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")
"""Names that `repro.files.write_atomically` gives to what it has not finished."""
TORN_SECONDS = 3600.0
"""A file that is still being written is younger."""


@dataclass(frozen=True)
class Leftover:
    """A file or folder that can go."""

    path: Path
    why: str
    size: int
    """Bytes."""


def leftovers(ledger: Ledger, queue: QueueSnapshot) -> list[Leftover]:
    """Everything in a sweep's folder that no job will miss.

    Checkpoints and features of runs all of whose tasks are done; their locks; submitit's files of jobs that are done or
    were handed over again; code that no job runs; what a killed process had half written. Nothing of a job that runs or
    waits, or of which that cannot be known.

    Args:
        ledger: of the sweep.
        queue: from `slurm.queue.snapshot`.
    """
    now = time.time()
    jobs = jobs_of(ledger)
    states = {
        (folder, task): row(ledger.sweep, (folder, task, entry), queue, now).state for folder, task, entry in jobs
    }
    busy = {key for key, state in states.items() if state in LIVE | {State.unknown}}
    busy |= {entry.key for entry in ledger.submissions() if queue.live(entry) is not False}
    by_folder: dict[str, list[TrackedJob]] = defaultdict(list)
    for key in jobs:
        by_folder[key[0]].append(key)
    found: list[Leftover] = []
    for folder, keys in by_folder.items():
        if not any((folder, task) in busy for _, task, _ in keys) and folder != ".":
            found += _of_run(ledger.sweep, folder, keys, now)
    found += _of_submissions(ledger, queue, states)
    found += _of_code(ledger, queue)
    return found


def remove(found: Sequence[Leftover]) -> None:
    """Remove leftovers.

    Raises:
        UserError: one cannot be removed; those before it are gone.
    """
    for leftover in found:
        try:
            if leftover.path.is_dir():
                shutil.rmtree(leftover.path)
            else:
                leftover.path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot remove {leftover.path}: {error.strerror}", mend="its permissions") from error


def _of_run(sweep: Path, folder: str, keys: Sequence[TrackedJob], now: float) -> Iterator[Leftover]:
    place = RunFolder(sweep / folder)
    if place.pretrained and place.checkpoints.is_dir():
        yield _leftover(place.checkpoints, "checkpoints of a finished pretraining")
    if all(finished(sweep, *key) for key in keys) and any(task != PRETRAIN for _, task, _ in keys):
        for path in sorted(place.path.glob("*/*/checkpoints/")):
            yield _leftover(path, "checkpoints of finished tasks")
        if (place.path / "features").is_dir():
            yield _leftover(place.path / "features", "features, computed again where they are needed")
        for path in sorted(place.path.glob(".lock*")):
            yield _leftover(path, "locks of a finished run")
    for path in sorted(place.path.rglob(".*")):
        if path.is_file() and TEMPORARY.fullmatch(path.name) and now - path.stat().st_mtime > TORN_SECONDS:
            yield _leftover(path, "half written by a process that was killed")


def _of_submissions(ledger: Ledger, queue: QueueSnapshot, states: dict[tuple[str, str], State]) -> Iterator[Leftover]:
    newest = ledger.newest()
    of_folder: dict[str, list[Submission]] = defaultdict(list)
    for entry in ledger.submissions():
        of_folder[entry.submission].append(entry)
    for name, entries in of_folder.items():
        place = ledger.logs / name
        needed = any(newest[entry.key] == entry and states.get(entry.key) is not State.done for entry in entries)
        if place.is_dir() and not needed and not any(queue.live(entry) is not False for entry in entries):
            yield _leftover(place, "logs and pickles of jobs that are done or were handed over again")


def _of_code(ledger: Ledger, queue: QueueSnapshot) -> Iterator[Leftover]:
    live = {entry.submission for entry in ledger.submissions() if queue.live(entry) is not False}
    scripts = [path.read_text() for name in live for path in (ledger.logs / name).glob("*.sh")]
    unclear = any(not list((ledger.logs / name).glob("*.sh")) for name in live)
    for path in sorted((ledger.sweep / CODE).glob("*/")):
        if not unclear and not any(path.name in script for script in scripts):
            yield _leftover(path, "code that no job runs; its commit, and any difference from it, stay on record")


def _leftover(path: Path, why: str) -> Leftover:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return Leftover(path, why, sum(file.stat().st_size for file in files))
