"""A run's folder: its settings and everything that it produced.

`runs/<sweep>/<method>/s<seed>-<id>/` holds `run.yaml`, `provenance.json`, `status.json`, `metrics.jsonl`,
`results.jsonl`, `predictions/`, `checkpoints/`, `backbone.pth`, `gallery/`, `logs/`, `usage/`; `health.json` if a
training exploded or collapsed, and `foregrounds.json` if the true masks are known and maps are of whole images. The
folder's name depends on the run only. Downstream tasks of a run may run at the same time: each has its own status and
lock, `status-TASK.json` and `.lock-TASK`.
"""

import contextlib
import itertools
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from repro.errors import UserError, interruption, one_line, trouble_of_machine
from repro.filesystem.files import is_of_a_full_disk, is_temporary, write_text
from repro.filesystem.paths import require_utf8
from repro.filesystem.presence import exists, is_file
from repro.processes.background import repeated
from repro.runs.lock import STALE_SECONDS, Holder, held, is_open_in, job_id
from repro.runs.status import PRETRAIN, Status, read_status, write_status
from repro.runs.told_warnings import warnings_kept
from repro.settings.detection import COCO, VOC
from repro.settings.run import Run

BEAT_SECONDS = 15.0
"""Seconds between two heartbeats; far below `repro.runs.lock.STALE_SECONDS`, so that a late one proves nothing."""
PROGRESS_SECONDS = 10.0
"""Shortest time between two updates of a task's progress: each writes a file, and a step may take a millisecond."""
FEATURES = "features"
"""Folder in a run's for the pooled features that its linear, logistic and kNN tasks share."""
TASK_FOLDERS: Mapping[str, str] = {
    "linear": "probes",
    "finetune": "finetune",
    "semi-1": "finetune",
    "semi-10": "finetune",
    VOC: "detection",
    COCO: "detection",
}
"""Task -> folder in a run's for the files of its trainings. Tasks that take no steps have none."""

LONGEST_ERROR = 1500
"""Most characters of an error in a status, which must fit into the disk block that it has if the disk is full."""

log = logging.getLogger("salmask")

_ID_LINE = re.compile(rb"# run ([0-9a-f]{10})\r?\n")
"""First line of a `run.yaml`: the id of the run that was first written there. The earliest files lack this line."""
_ID_NAME = re.compile(r"s\d+-([0-9a-f]{10})")
"""Name of a run's folder; one that was copied or moved by hand may have any other."""

_WRITING = threading.RLock()
"""Held while a status is read and rewritten, which the training's thread and the heartbeat's both do."""


class _Place:
    """The path of a file or folder in a run's, made when it is asked for: of thousands of runs, few are needed."""

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
        """Task and number of the attempt that this process makes; None outside of one."""
        self._warnings: Sequence[str] = ()
        """What the attempt has warned of; grows during it."""
        self._has_settings = False
        """Whether `run.yaml` was there when the attempt began. If it is gone later, the folder was moved or removed."""

    @classmethod
    def of(cls, run: Run, out: Path) -> "RunFolder":
        """Returns the folder of a run.

        Args:
            run: The run.
            out: The sweep's folder.

        Raises:
            UserError: The sweep folder's name is not UTF-8.
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
            UserError: The folder cannot be written to, holds another run, or its `run.yaml` cannot be read.
        """
        if is_file(self.run_yaml):
            run_there = self.load("remove it, and repeat the command, which writes it anew")
            if run_there.id != run.id:
                raise UserError(f"{self.path} holds run {run_there.id}, not {run.id}", mend="choose another --out")
        else:
            write_text(self.run_yaml, f"# run {run.id}\n{run.to_yaml()}")
        self._has_settings = True

    def load(self, unreadable: str = "") -> Run:
        """Returns the folder's run; `unreadable`: the mend of an unreadable `run.yaml` (`repro.settings.reading.load`).

        Raises:
            UserError: The folder is not a run's, or its `run.yaml` cannot be read, or was edited into another run's.
        """
        if not is_file(self.run_yaml):
            raise UserError(
                f"{self.path} is not a run folder: it has no run.yaml", mend="name runs/SWEEP/METHOD/sSEED-ID"
            )
        from repro.settings.reading import load  # imports omegaconf, which `salmask status` should not wait for

        run = load(self.run_yaml, unreadable)
        # Everything in the folder belongs to the run that was first written there: no result may go by another id.
        if written := sorted(self._ids_on_record() - {run.id}):
            raise UserError(
                f"{self.run_yaml} describes run {run.id}, but the folder is of run {written[0]}: it was edited",
                mend="undo the edit; a run with other settings has a folder of its own, which salmask pretrain makes",
            )
        return run

    def _ids_on_record(self) -> set[str]:
        """Returns the run ids in the folder's name and in the first line of `run.yaml`; empty if neither has one."""
        with self.run_yaml.open("rb") as file:
            line = _ID_LINE.fullmatch(file.readline(64))
        name = _ID_NAME.fullmatch(self.path.resolve().name)
        return {*([line[1].decode()] if line else []), *([name[1]] if name else [])}

    def status(self, task: str = "") -> Status | None:
        """Returns the status of a task; None if it never started.

        Args:
            task: The task; empty: the one with the latest heartbeat.

        Raises:
            UserError: A status file cannot be read, or holds no status.
        """
        if task:
            return read_status(self._status_file(task))
        statuses = [read_status(self._status_file(begun)) for begun in self.tasks_begun()]
        return max((status for status in statuses if status), key=lambda status: status.heartbeat, default=None)

    def _readable_status(self, task: str) -> Status | None:
        """Returns the status of a task; None also if it cannot be read, as the next attempt rewrites it."""
        try:
            return self.status(task)
        except UserError:
            return None

    def _holder(self, task: str) -> Holder | None:
        """Returns a lock's holder by the task's status; None if that cannot be read, and then flock alone decides."""
        status = self._readable_status(task)
        return status.holder if status else None

    def is_held_here(self, task: str, holder: Holder | None) -> bool:
        """Returns whether a process of this machine still holds a task's lock, even if its heartbeats have stopped.

        Args:
            task: The task.
            holder: The holder by the task's status; None: nobody.
        """
        return holder is not None and holder.here and is_open_in(holder.pid, self._lock_file(task))

    def tasks_begun(self) -> list[str]:
        """Returns the tasks that have a status, the pretraining first; a status may be unreadable."""
        evaluations = sorted(path.stem.removeprefix("status-") for path in self.path.glob("status-*.json"))
        return [task for task in (PRETRAIN, *evaluations) if exists(self._status_file(task))]

    def _status_file(self, task: str) -> Path:
        return self.path / ("status.json" if task == PRETRAIN else f"status-{task}.json")

    def _lock_file(self, task: str) -> Path:
        return self.path / (".lock" if task == PRETRAIN else f".lock-{task}")

    @property
    def pretrained(self) -> bool:
        """Whether the pretraining has its result: the backbone is written last."""
        return exists(self.backbone)

    def set_status(self, state: str, **changes: Any) -> None:
        """Writes the state of a task, and keeps its other values unless they are given.

        Nothing is written if another process has taken over the task: then its status counts.

        Args:
            state: The new state.
            changes: Other values. `task` says whose state it is; during an attempt, it is always the attempt's task.

        Raises:
            UserError: The status cannot be written.
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
                "warnings": self._warnings if number else before.warnings,
                **changes,
                "task": task,  # last: an attempt's own task wins over one that is given
            }
            write_status(self._status_file(task), {**asdict(before), **changes})

    def tell_progress(self, task: str, step: int, steps: int, unit: str, work: str = "training", **more: Any) -> None:
        """Writes how many steps of a task are done. Only a full disk is an error; other failures to write are logged.

        Args:
            task: The task whose status it is.
            step: Number of steps done.
            steps: Number of steps in all.
            unit: What a step is, in the plural.
            work: What goes on if writing fails, for the log.
            more: Other values of the status, such as `resumed_at`.

        Raises:
            UserError: The disk is full.
        """
        try:
            self.set_status("running", task=task, step=step, steps=steps, unit=unit, **more)
        except UserError as error:
            if is_of_a_full_disk(error):
                raise
            # A file server that is briefly unreachable is no reason to lose the steps since the last checkpoint.
            log.warning("%s; the %s goes on", error.what, work)

    @contextmanager
    def attempt(self, task: str, *, wait: float = 0.0) -> Iterator[None]:
        """Runs a task within the block: holds its lock, and keeps its status true however the block ends.

        Args:
            task: `pretrain` or a downstream task.
            wait: Seconds to wait while another process holds the lock.

        Raises:
            UserError: Another process holds the lock, the folder cannot be written to, or it was moved or removed
                during the block.
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
        with lock, warnings_kept() as self._warnings:
            # A process that was suspended while another one took over its lock finds a higher number in the status, and
            # knows that its attempt is over.
            try:
                before = self.status(task)
            except UserError as error:
                log.warning("%s; this attempt writes it anew", error.what)
                before = None
            number = before.attempt + 1 if before else 1
            self._remove_leftovers(task)
            self._attempt = None  # an earlier attempt must not keep `set_status` from writing the new number
            try:
                self.set_status("running", task=task, attempt=number, error="", warnings=self._warnings)
            except (KeyboardInterrupt, SystemExit):
                # Whoever waits for "running" may send a signal before `set_status` has synced the file's folder.
                self._end("interrupted", task=task, attempt=number)
                raise
            self._attempt, self._has_settings = (task, number), exists(self.run_yaml)
            try:
                with self._beating(task, number):
                    yield
            except BaseException as error:
                self._require_place(error)  # a missing folder is the cause of any error
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
        """Raises a UserError, with another error as its cause, if the attempt's folder is gone."""
        if self._is_gone():
            what = f"{self.path} was moved or removed while it was in use"
            mend = "put it back, replacing what was written there since, and repeat"
            raise UserError(what, mend=mend) from error

    def _is_gone(self) -> bool:
        """Returns whether the attempt's folder was moved or removed; later writes may have made a new one."""
        try:
            return self._has_settings and not exists(self.run_yaml)
        except UserError:  # unknown while the file server cannot be reached
            return False

    def _end(self, state: str, **changes: Any) -> None:
        """Writes the state in which an error ends an attempt; a failure is only logged, as the error itself counts."""
        try:
            self.set_status(state, **changes)
        except UserError as error:
            log.warning("%s; so its status is still `running` until its process is found to be gone", error.what)

    def _remove_leftovers(self, task: str) -> None:
        """Removes temporary files of killed processes; the caller holds the task's lock.

        If another task of the run is running, it may be writing such a file. Then only old files are removed, and those
        of this task's own status.
        """
        leftovers = [path for path in self.path.rglob(".*") if is_temporary(path) and path.is_file()]
        alone = bool(leftovers) and all(self._is_free(other) for other in self.tasks_begun() if other != task)
        for path in leftovers:
            with contextlib.suppress(FileNotFoundError):  # another task has renamed it
                is_own = path.name.startswith(f".{self._status_file(task).name}.")
                if alone or is_own or time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()

    def _is_free(self, task: str) -> bool:
        """Returns whether no process is running a task."""
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
        """Writes heartbeats during the block, even while no step ends; stops this process if it may not go on."""

        def beat() -> bool:
            with _WRITING:
                try:
                    status = self.status(task)
                except UserError as error:
                    if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, PermissionError):
                        return True  # the file server cannot be reached: the next beat tries again
                    # The file was damaged: this attempt has the lock, and rewrites it.
                    status = Status("running", task, attempt=number)
                if status is None or status.attempt != number or self._is_gone():
                    # Two processes must not write one run's files, and nobody may write where its settings are gone.
                    # This thread can only stop the training's by a signal, and TERM is one that the training handles.
                    os.kill(os.getpid(), signal.SIGTERM)
                    return False
                with contextlib.suppress(UserError, OSError):  # the training reports a full disk itself
                    self.set_status(status.state)
            return True

        # `repeated` waits for a beat under way, so that none writes `running` over the attempt's final state.
        with repeated(beat, itertools.repeat(BEAT_SECONDS), "heartbeat"):
            yield
