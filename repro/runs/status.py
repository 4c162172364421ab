"""How a task on a run goes, as its status file tells it."""

import json
from dataclasses import dataclass
from pathlib import Path

from repro.runs.lock import Holder

PRETRAIN = "pretrain"
"""The task that makes a backbone; all others measure it."""


@dataclass(frozen=True)
class Status:
    """How a task on a run goes, as `status.json` or `status-TASK.json` tells it."""

    state: str
    """`running`, `done`, `failed` or `interrupted`."""
    task: str = ""
    """`pretrain`, a downstream task (`linear`, `linear@caltech101`) or, of a whole sweep, `report`."""
    step: int = 0
    """Steps done."""
    steps: int = 0
    """Steps in all; 0 before they are known."""
    attempt: int = 1
    """Which attempt at the task this is, from 1; a process that sees another number here was taken over."""
    heartbeat: float = 0.0
    """Seconds since the epoch; old in a run that says it is running: the process died."""
    host: str = ""
    error: str = ""
    """Why it failed, in one line."""
    pid: int = 0
    job: str = ""
    """The scheduler's id; empty without one."""

    @property
    def holder(self) -> Holder | None:
        """Who holds the task's lock; nobody unless it runs."""
        return Holder(self.host, self.pid, self.heartbeat, self.job) if self.state == "running" else None


def read_status(path: Path) -> Status | None:
    """Returns the status that a file holds, or None where there is no such file.

    Raises:
        ValueError: The file holds no JSON.
        TypeError: It holds something else than a status.
        OSError: It cannot be read.
    """
    # Status files are written atomically, so a torn one comes from elsewhere: it is not passed over here.
    try:
        return Status(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
