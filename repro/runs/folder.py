"""A run's folder: everything that made a run and everything that it made.

`runs/<sweep>/<method>/s<seed>-<id>/` holds `run.yaml`, `provenance.json`, `status.json`, `metrics.jsonl`,
`results.jsonl`, `checkpoints/`, `backbone.pth`, `gallery/` and `logs/`. Its name follows from the run alone. Downstream
tasks of a run may be carried out at once: each has a status and a lock of its own, `status-TASK.json`, `.lock-TASK`.
"""

import contextlib
import json
import os
import platform
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from repro.errors import UserError, one_line
from repro.files import write_atomically, write_json
from repro.runs.lock import held, job_id
from repro.runs.provenance import RECORDED_PACKAGES, _version, now, source
from repro.runs.run import Run
from repro.runs.status import PRETRAIN, Status, _read_status

BEAT_SECONDS = 15.0


_WRITING = threading.RLock()
"""Held while a status is read and written: the heart beats in a thread of its own."""


class RunFolder:
    """Paths and small files of one run."""

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is created."""
        self.path = path
        self.run_yaml = path / "run.yaml"
        self.provenance = path / "provenance.json"
        self.metrics = path / "metrics.jsonl"
        self.results = path / "results.jsonl"
        self.backbone = path / "backbone.pth"
        self.checkpoints = path / "checkpoints"
        self.gallery = path / "gallery"
        self.logs = path / "logs"
        self._attempt: tuple[str, int] | None = None
        """Task and number of the attempt that this process makes."""

    @classmethod
    def of(cls, run: Run, out: Path) -> "RunFolder":
        """The folder of a run below a sweep's folder."""
        return cls(out / run.folder)

    @property
    def sweep(self) -> str:
        """Name of the sweep: the folder above the method's."""
        return self.path.resolve().parent.parent.name

    def prepare(self, run: Run) -> None:
        """Create the folder and write `run.yaml`, once.

        Raises:
            UserError: it cannot be written to, or holds another run.
        """
        if self.run_yaml.exists():
            held = self.load()
            if held.id != run.id:
                raise UserError(f"{self.path} holds run {held.id}, not {run.id}", mend="choose another --out")
            return
        write_atomically(self.run_yaml, lambda file: file.write(run.to_yaml().encode()))

    def load(self) -> Run:
        """The run that this folder belongs to.

        Raises:
            UserError: the folder is none of a run.
        """
        if not self.run_yaml.is_file():
            raise UserError(f"{self.path} is no run folder: it has no run.yaml", mend="name runs/SWEEP/METHOD/sSEED-ID")
        from repro.runs.reading import load  # needs omegaconf, which `salmask status` should not wait for

        return load(self.run_yaml)

    def record_provenance(self, device: str, data: dict[str, str]) -> None:
        """Write what this attempt runs on, keeping what earlier attempts ran on.

        Args:
            device: name of the device.
            data: fingerprints of the data set's splits.

        Raises:
            UserError: an earlier attempt saw other data.
        """
        earlier = json.loads(self.provenance.read_text()) if self.provenance.exists() else []
        if earlier and earlier[-1]["data"] != data:
            raise UserError(
                f"the data changed since {self.path} was begun (fingerprint {earlier[-1]['data']}, now {data})",
                mend="restore it, or choose another --out",
            )
        attempt = {
            "started": now(),
            **asdict(source()),
            "command": self._redo(),
            "process": shlex.join(sys.argv),
            "host": socket.gethostname(),
            "device": device,
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in RECORDED_PACKAGES},
            "data": data,
        }
        write_json(self.provenance, [*earlier, attempt])

    def _redo(self) -> str:
        """The command that makes this run again, also where a launcher's process made it."""
        run, out = self.load(), str(self.path.parent.parent)
        if run.imported.weights:
            words = ["eval", "--checkpoint", run.imported.origin, "--arch", run.encoder.arch, "--name", run.method]
        else:
            words = ["pretrain", run.method, "--config", str(self.run_yaml)]
        return shlex.join(["salmask", *words, "--out", out])

    def status(self, task: str = "") -> Status | None:
        """How a task goes; nothing where it never started.

        Args:
            task: which; empty: the one that was heard of last.
        """
        if task:
            return _read_status(self._status(task))
        found = [_read_status(path) for path in (self._status(PRETRAIN), *self.path.glob("status-*.json"))]
        return max((status for status in found if status), key=lambda status: status.heartbeat, default=None)

    def _status(self, task: str) -> Path:
        return self.path / ("status.json" if task in (PRETRAIN, "") else f"status-{task}.json")

    def _lock(self, task: str) -> Path:
        return self.path / (".lock" if task == PRETRAIN else f".lock-{task}")

    @property
    def pretrained(self) -> bool:
        """Whether the backbone is there, which is written last."""
        return self.backbone.exists()

    def set_status(self, state: str, **changes: Any) -> None:
        """Write the state of a task, its other values kept unless given.

        Args:
            state: the new one.
            changes: other values; `task` says whose state it is, unless an attempt goes on, whose task it then is.
        """
        task, number = self._attempt or (changes.get("task", PRETRAIN), None)
        with _WRITING:
            before = self.status(task) or Status(state)
            if number not in (None, before.attempt):
                return  # another process has taken over: its word counts
            fresh = {"state": state, "heartbeat": time.time(), "host": socket.gethostname(), "pid": os.getpid()}
            changes = {**fresh, "job": job_id(), **changes, "task": task}
            write_json(self._status(task), {**asdict(before), **changes})

    @contextmanager
    def attempt(self, task: str, *, wait: float = 0.0) -> Iterator[None]:
        """Carry a task out: hold its lock, and keep its status true however it ends.

        Args:
            task: `pretrain`, or what is done with the backbone.
            wait: seconds to wait while another process holds the lock.

        Raises:
            UserError: another process holds it, or the folder cannot be written to.
        """
        taken = UserError(f"{self.path} is in use by another process", mend="wait for it, or stop it")
        lock = held(
            self._lock(task),
            taken=taken,
            unwritable="choose another --out",
            holder=lambda: getattr(self.status(task), "holder", None),
            wait=wait,
        )
        with lock:
            before = self.status(task)
            number = before.attempt + 1 if before else 1
            self._attempt = None
            self.set_status("running", task=task, attempt=number, error="")
            self._attempt = task, number
            try:
                with self._beating(task, number):
                    yield
            except (KeyboardInterrupt, SystemExit):
                self.set_status("interrupted")
                raise
            except BaseException as error:
                self.set_status("failed", error=one_line(error))
                raise
            else:
                self.set_status("done")
            finally:
                self._attempt = None

    @contextmanager
    def _beating(self, task: str, number: int) -> Iterator[None]:
        """Give signs of life, also while no step ends; end this process where another has taken over."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(BEAT_SECONDS):
                with _WRITING:
                    now_there = self.status(task)
                    if now_there is None or now_there.attempt != number:
                        os.kill(os.getpid(), signal.SIGTERM)
                        return
                    with contextlib.suppress(UserError):  # a full disk is the training's to report
                        self.set_status(now_there.state)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
