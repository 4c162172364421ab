"""How a task on a run goes, as its status file tells it."""

import json
from dataclasses import dataclass
from pathlib import Path

from repro.runs.lock import Holder

PRETRAIN = "pretrain"


@dataclass(frozen=True)
class Status:
    """How a task on a run goes, as `status.json` or `status-TASK.json` tells it."""

    state: str
    """`running`, `done`, `failed` or `interrupted`."""
    task: str = ""
    """`pretrain`, a downstream task (`linear`, `linear@caltech101`) or, of a whole sweep, `report`."""
    step: int = 0
    steps: int = 0
    attempt: int = 1
    heartbeat: float = 0.0
    """Seconds since the epoch; old in a run that says it is running: the process died."""
    host: str = ""
    error: str = ""
    pid: int = 0
    job: str = ""
    """The scheduler's id; empty without one."""

    @property
    def holder(self) -> Holder | None:
        """Who holds the task's lock; nobody unless it runs."""
        return Holder(self.host, self.pid, self.heartbeat, self.job) if self.state == "running" else None


def _read_status(path: Path) -> Status | None:
    try:
        return Status(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
