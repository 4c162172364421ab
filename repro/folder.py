"""A run's folder: everything that made a run and everything that it made.

`runs/<sweep>/<method>/s<seed>-<id>/` holds `run.yaml`, `provenance.json`, `status.json`, `metrics.jsonl`,
`results.jsonl`, `checkpoints/`, `backbone.pth`, `gallery/` and `logs/`. Its name follows from the run alone.
"""

import json
import platform
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from repro.errors import UserError, one_line
from repro.files import held, write_atomically, write_json
from repro.run import Run
from repro.settings import load

RECORDED_PACKAGES = ("torch", "torchvision", "timm", "mmengine-lite", "numpy", "pillow", "pandas", "submitit")


@dataclass(frozen=True)
class Status:
    """What a run is doing, as `status.json` tells it."""

    state: str
    """`running`, `done`, `failed` or `interrupted`."""
    task: str = ""
    """`pretrain` or the downstream task that the state is about."""
    step: int = 0
    steps: int = 0
    attempt: int = 1
    heartbeat: float = 0.0
    """Seconds since the epoch; old in a run that says it is running: the process died."""
    host: str = ""
    error: str = ""


@dataclass(frozen=True)
class Source:
    """The state of the code."""

    commit: str
    dirty: bool


def source() -> Source:
    """Commit of the code that runs, and whether it was edited since; `unknown` outside a git checkout."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return Source(git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no")))
    except (OSError, subprocess.CalledProcessError):
        return Source("unknown", False)


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


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
        self._status = path / "status.json"

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
            held = load(self.run_yaml)
            if held.id != run.id:
                raise UserError(f"{self.path} holds run {held.id}, not {run.id}; mend: choose another --out")
            return
        write_atomically(self.run_yaml, lambda file: file.write(run.to_yaml().encode()))

    def load(self) -> Run:
        """The run that this folder belongs to.

        Raises:
            UserError: the folder is none of a run.
        """
        if not self.run_yaml.is_file():
            raise UserError(f"{self.path} is no run folder: it has no run.yaml; mend: name runs/SWEEP/METHOD/sSEED-ID")
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
                f"the data changed since {self.path} was begun (fingerprint {earlier[-1]['data']}, now {data}); "
                "mend: restore it, or choose another --out"
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
        words = ("salmask", "pretrain", self.load().method, "--config", str(self.run_yaml), "--out")
        return shlex.join((*words, str(self.path.parent.parent)))

    def status(self) -> Status | None:
        """What `status.json` says; nothing where the run never started."""
        try:
            return Status(**json.loads(self._status.read_text()))
        except FileNotFoundError:
            return None

    @property
    def pretrained(self) -> bool:
        """Whether the backbone is there, which is written last."""
        return self.backbone.exists()

    def set_status(self, state: str, **changes: Any) -> None:
        """Write the state, its other values kept unless given."""
        before = asdict(self.status() or Status(state))
        fresh = {"state": state, "heartbeat": time.time(), "host": socket.gethostname()}
        write_json(self._status, {**before, **fresh, **changes})

    @contextmanager
    def attempt(self, task: str) -> Iterator[None]:
        """Carry a task out: hold the folder, and keep `status.json` true however it ends.

        The lock goes with the process, so a killed one leaves none behind.

        Raises:
            UserError: another process holds the folder, or it cannot be written to.
        """
        taken = f"{self.path} is in use by another process; mend: wait for it, or stop it"
        with held(self.path / ".lock", taken=taken, unwritable="choose another --out"):
            before = self.status()
            self.set_status("running", task=task, attempt=before.attempt + 1 if before else 1, error="")
            try:
                yield
            except (KeyboardInterrupt, SystemExit):
                self.set_status("interrupted")
                raise
            except BaseException as error:
                self.set_status("failed", error=one_line(error))
                raise
            self.set_status("done")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
