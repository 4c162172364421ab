"""A run's folder: everything that made a run and everything that it made.

`runs/<sweep>/<method>/s<seed>-<id>/` holds `run.yaml`, `provenance.json`, `status.json`, `metrics.jsonl`,
`results.jsonl`, `predictions/`, `checkpoints/`, `backbone.pth`, `gallery/`, `logs/`, `usage/`; `health.json` where a
training exploded or collapsed, and `foregrounds.json` where the true masks are known and maps are of whole images. Its
name follows from the run alone. Downstream tasks of a run may be carried out at once: each has a status and a lock of
its own, `status-TASK.json` and `.lock-TASK`.
"""

import contextlib
import itertools
import json
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from repro.background import repeated
from repro.errors import UserError, interruption, one_line, trouble_of_machine
from repro.files import is_of_a_full_disk, is_temporary, write_json, write_over, write_text
from repro.paths import require_utf8
from repro.presence import exists, is_file
from repro.runs.detection import COCO, VOC
from repro.runs.lock import STALE_SECONDS, Holder, held, is_open_in, job_id
from repro.runs.run import Run
from repro.runs.status import PRETRAIN, Status, read_status

BEAT_SECONDS = 15.0
"""Time between two signs of life; far below `repro.runs.lock.STALE_SECONDS`, so that a late one proves nothing."""
PROGRESS_SECONDS = 10.0
"""Least time between two entries of a task's progress: a step may take a millisecond, and each entry writes a file."""
FEATURES = "features"
"""Folder below a run's for the pooled features that its linear, logistic and kNN tasks share."""
TASK_FOLDERS: Mapping[str, str] = {
    "linear": "probes",
    "finetune": "finetune",
    "semi-1": "finetune",
    "semi-10": "finetune",
    VOC: "detection",
    COCO: "detection",
}
"""Task -> folder below a run's for the files of its trainings. Tasks that take no steps have none."""

LONGEST_ERROR = 1500
"""Letters of an error that a status keeps, so that it fits into the block that it has, also on a full disk."""

log = logging.getLogger("salmask")

_ID_LINE = re.compile(rb"# run ([0-9a-f]{10})\r?\n")
"""First line of a `run.yaml`: the id of the run that was written there. The first files had no such line."""
_ID_NAME = re.compile(r"s\d+-([0-9a-f]{10})")
"""Name of a run's folder; one that was copied or moved by hand may have any other."""

_WRITING = threading.RLock()
"""Held while a status is read and written again, which the training's thread and the heartbeat's both do."""


class _Place:
    """A file or folder in a run's, as a path that is made when it is asked for: of thousands of runs few are needed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, folder: "RunFolder", _: type) -> Path:
        return folder.path / self._name


class RunFolder:
    """Paths and small files of one run."""

    run_yaml = _Place("run.yaml")
    provenance = _Place("provenance.json")
    metrics = _Place("metrics.jsonl")
    results = _Place("results.jsonl")
    backbone = _Place("backbone.pth")
    checkpoints = _Place("checkpoints")
    gallery = _Place("gallery")
    foregrounds = _Place("foregrounds.json")
    health = _Place("health.json")
    logs = _Place("logs")

    def __init__(self, path: Path) -> None:
        """Names the folder; nothing is created."""
        self.path = path
        self._attempt: tuple[str, int] | None = None
        """Task and number of the attempt that this process makes."""
        self._has_settings = False
        """Whether `run.yaml` has been there since that began: it stays until somebody moves or removes the folder."""

    @classmethod
    def of(cls, run: Run, out: Path) -> "RunFolder":
        """Returns the folder of a run.

        Args:
            run: The run.
            out: The sweep's folder.

        Raises:
            UserError: Its name is no UTF-8.
        """
        require_utf8(out)
        return cls(out / run.folder)

    @property
    def sweep(self) -> str:
        """Name of the sweep: the folder above the method's."""
        return self.path.resolve().parent.parent.name

    def prepare(self, run: Run) -> None:
        """Creates the folder and writes `run.yaml`, once.

        Raises:
            UserError: The folder cannot be written to, or holds another run.
        """
        if is_file(self.run_yaml):
            run_there = self.load("remove it, and the same again writes it anew")
            if run_there.id != run.id:
                raise UserError(f"{self.path} holds run {run_there.id}, not {run.id}", mend="choose another --out")
        else:
            write_text(self.run_yaml, f"# run {run.id}\n{run.to_yaml()}")
        self._has_settings = True

    def load(self, unreadable: str = "") -> Run:
        """Returns the run that this folder belongs to; `unreadable` is the mend as `repro.runs.reading.load` takes it.

        Raises:
            UserError: The folder is none of a run, or its `run.yaml` was edited into another run's.
        """
        if not is_file(self.run_yaml):
            raise UserError(f"{self.path} is no run folder: it has no run.yaml", mend="name runs/SWEEP/METHOD/sSEED-ID")
        from repro.runs.reading import load  # needs omegaconf, which `salmask status` should not wait for

        run = load(self.run_yaml, unreadable)
        # Whatever is in the folder was made by the run that was written there first. A number that is measured of it
        # must not go by the name of another.
        if written := sorted(self._ids_on_record() - {run.id}):
            raise UserError(
                f"{self.run_yaml} describes run {run.id}, and the folder is of run {written[0]}: it was edited",
                mend="undo the edit; a run with other settings has a folder of its own, which salmask pretrain makes",
            )
        return run

    def _ids_on_record(self) -> set[str]:
        """Returns the ids that the folder's name and the first line of `run.yaml` name; none where neither does."""
        with self.run_yaml.open("rb") as file:
            line = _ID_LINE.fullmatch(file.readline(64))
        name = _ID_NAME.fullmatch(self.path.resolve().name)
        return {*([line[1].decode()] if line else []), *([name[1]] if name else [])}

    def status(self, task: str = "") -> Status | None:
        """Returns how a task goes, or None where it never started.

        Args:
            task: The task; empty: the one that gave the last sign of life.

        Raises:
            UserError: A status file cannot be read, or holds something else.
        """
        if task:
            return read_status(self._status_file(task))
        statuses = [read_status(self._status_file(begun)) for begun in self.tasks_begun()]
        return max((status for status in statuses if status), key=lambda status: status.heartbeat, default=None)

    def _readable_status(self, task: str) -> Status | None:
        """Returns how a task goes; None also where that cannot be read, which its next attempt writes anew."""
        try:
            return self.status(task)
        except UserError:
            return None

    def _holder(self, task: str) -> Holder | None:
        """Returns who holds a task's lock by its status; nobody where that cannot be read, and flock alone decides."""
        status = self._readable_status(task)
        return status.holder if status else None

    def is_held_here(self, task: str, holder: Holder | None) -> bool:
        """Returns whether the holder of a task's lock is a process of this machine that has it still, however silent.

        Args:
            task: The task.
            holder: By its status; None: nobody.
        """
        return holder is not None and holder.here and is_open_in(holder.pid, self._lock_file(task))

    def tasks_begun(self) -> list[str]:
        """Returns the tasks that wrote a status, the pretraining first; whether it can be read is another question."""
        evaluations = sorted(path.stem.removeprefix("status-") for path in self.path.glob("status-*.json"))
        return [task for task in (PRETRAIN, *evaluations) if exists(self._status_file(task))]

    def _status_file(self, task: str) -> Path:
        return self.path / ("status.json" if task == PRETRAIN else f"status-{task}.json")

    def _lock_file(self, task: str) -> Path:
        return self.path / (".lock" if task == PRETRAIN else f".lock-{task}")

    @property
    def pretrained(self) -> bool:
        """Whether the backbone is there, which is written last."""
        return exists(self.backbone)

    def set_status(self, state: str, **changes: Any) -> None:
        """Writes the state of a task, its other values kept unless given.

        Nothing is written where another process has taken over the task: what it says counts.

        Args:
            state: The new state.
            changes: Other values; `task` says whose state it is, unless an attempt goes on, whose task it then is.
        """
        task, number = self._attempt or (changes.get("task", PRETRAIN), None)
        with _WRITING:
            before = self._readable_status(task) or Status(state, attempt=number or 1)
            if number not in (None, before.attempt):
                return
            changes = {
                "state": state,
                "heartbeat": time.time(),
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "job": job_id(),
                **changes,
                "task": task,  # last: an attempt's own task wins over one that is given
            }
            self._write_status(self._status_file(task), {**asdict(before), **changes})

    def tell_progress(self, task: str, step: int, steps: int, unit: str, *, work: str = "training") -> None:
        """Writes how many steps of a task are made; of what keeps it from being written only a full disk is an error.

        Args:
            task: Whose status it is.
            step: How many steps are made.
            steps: Of how many.
            unit: What a step is, in the plural.
            work: What goes on, for the log.

        Raises:
            UserError: The disk is full.
        """
        try:
            self.set_status("running", task=task, step=step, steps=steps, unit=unit)
        except UserError as error:
            if is_of_a_full_disk(error):
                raise
            # A server that is away for a moment: that is no reason to lose the steps since the last checkpoint.
            log.warning("%s; the %s goes on", error.what, work)

    def _write_status(self, path: Path, content: Mapping[str, Any]) -> None:
        """Writes a status, on a full disk over the one that is there: it is what tells of the full disk."""
        try:
            write_json(path, content)
        except UserError as error:
            if not is_of_a_full_disk(error):
                raise
            try:
                write_over(path, json.dumps(content).encode() + b"\n")
            except OSError:
                raise error from error.__cause__

    @contextmanager
    def attempt(self, task: str, *, wait: float = 0.0) -> Iterator[None]:
        """Carries a task out within the block: holds its lock, and keeps its status true however the block ends.

        Args:
            task: `pretrain`, or what is done with the backbone.
            wait: Seconds to wait while another process holds the lock.

        Raises:
            UserError: Another process holds the lock, the folder cannot be written to, or it was moved while it was in
                use, which ends the block.
        """
        lock = held(
            self._lock_file(task),
            taken=lambda: UserError(
                f"{self.path} is in use by another process", mend=f"wait for {self._holder(task) or 'it'}, or stop it"
            ),
            unwritable="choose another --out" if task == PRETRAIN else "have it made writable",
            holder=lambda: self._holder(task),
            wait=wait,
        )
        with lock:
            # The number tells a process that was suspended, and whose lock was taken over meanwhile, that it is not its
            # attempt any more: it then finds a higher one in the status.
            try:
                before = self.status(task)
            except UserError as error:
                log.warning("%s; this attempt writes it anew", error.what)
                before = None
            number = before.attempt + 1 if before else 1
            self._remove_leftovers(task)
            self._attempt = None  # nothing of an earlier attempt may keep `set_status` from writing the new number
            try:
                self.set_status("running", task=task, attempt=number, error="")
            except (KeyboardInterrupt, SystemExit):
                # Who waits for "running" to ask it to stop may be answered before the file's folder is synced.
                self._end("interrupted", task=task, attempt=number)
                raise
            self._attempt, self._has_settings = (task, number), exists(self.run_yaml)
            try:
                with self._beating(task, number):
                    yield
            except BaseException as error:
                self._require_place(error)  # whatever the error is, it came of that
                if asked := interruption(error):
                    self._end("interrupted")
                    raise asked from None
                self._end("failed", error=(trouble_of_machine(error) or one_line(error))[:LONGEST_ERROR])
                raise
            else:
                self._require_place()
                self.set_status("done")
            finally:
                self._attempt = None

    def _require_place(self, error: BaseException | None = None) -> None:
        """Raises a UserError, caused by another error, where the folder of an attempt is gone."""
        if self._is_gone():
            what = f"{self.path} was moved or removed while it was in use"
            mend = "put it back, in the place of what was written there since, and repeat"
            raise UserError(what, mend=mend) from error

    def _is_gone(self) -> bool:
        """Returns whether the folder of an attempt is not where it was; what is written since made another one."""
        try:
            return self._has_settings and not exists(self.run_yaml)
        except UserError:  # of a server that is away nobody knows
            return False

    def _end(self, state: str, **changes: Any) -> None:
        """Writes the state in which an error ends an attempt; that error is told, whatever comes of this."""
        try:
            self.set_status(state, **changes)
        except UserError as error:
            log.warning("%s; so its status says still that it runs, until its process is missed", error.what)

    def _remove_leftovers(self, task: str) -> None:
        """Removes what processes that were killed left of files that they wrote; the lock of the task is held.

        Where another task of the run is being carried out, it may be writing at this moment: then only what is old
        goes, and what was to be this task's own status.
        """
        leftovers = [path for path in self.path.rglob(".*") if is_temporary(path) and path.is_file()]
        alone = bool(leftovers) and all(self._is_free(other) for other in self.tasks_begun() if other != task)
        for path in leftovers:
            with contextlib.suppress(FileNotFoundError):  # another task has renamed it
                is_own = path.name.startswith(f".{self._status_file(task).name}.")
                if alone or is_own or time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()

    def _is_free(self, task: str) -> bool:
        """Returns whether nobody carries a task out at this moment."""
        try:
            with held(
                self._lock_file(task),
                taken=lambda: UserError(f"{task} is being carried out"),
                unwritable="",
                holder=lambda: self._holder(task),
                watch=False,
            ):
                return True
        except UserError:
            return False

    @contextmanager
    def _beating(self, task: str, number: int) -> Iterator[None]:
        """Gives signs of life during the block, also while no step ends; ends this process where it may not go on."""

        def beat() -> bool:
            with _WRITING:
                try:
                    status = self.status(task)
                except UserError as error:
                    if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, PermissionError):
                        return True  # a server that is away, and nobody's attempt: the next beat asks again
                    # Somebody spoilt it: this attempt has the lock, and writes it anew.
                    status = Status("running", task, attempt=number)
                if status is None or status.attempt != number or self._is_gone():
                    # Two processes must not write one run's files, nor one where the run's settings are not. This
                    # thread can end the training's only by a signal, and this is the one that the training listens to.
                    os.kill(os.getpid(), signal.SIGTERM)
                    return False
                with contextlib.suppress(UserError, OSError):  # a full disk is the training's to report
                    self.set_status(status.state)
            return True

        # Waited for at the end, so that no late beat writes `running` over the state in which the attempt ends.
        with repeated(beat, itertools.repeat(BEAT_SECONDS), "heartbeat"):
            yield
