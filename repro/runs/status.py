"""How a task on a run goes, as its status file tells it."""

from dataclasses import dataclass
from pathlib import Path

from repro.presence import exists
from repro.runs.lock import STALE_SECONDS, Holder
from repro.runs.schemas import STATUS

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
    unit: str = ""
    """What a step is, in the plural: `steps` of a training, `images`, `fits`; empty: of an older version."""
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

    def silent(self, now: float) -> bool:
        """Returns whether the task says that it runs, and shows no life, for all that its files and this machine tell.

        Its process ended here, or its last sign of life is older than `STALE_SECONDS`, or of the future, which only a
        clock that jumped can have written.

        Args:
            now: The time, in seconds since the epoch.
        """
        holder = self.holder
        return holder is not None and (holder.ended or abs(now - self.heartbeat) > STALE_SECONDS)

    def alive(self, now: float) -> bool:
        """Returns whether the task runs, as far as its files and, where it ran here, this machine can tell.

        Args:
            now: As of `silent`.
        """
        return self.holder is not None and not self.silent(now)

    @property
    def holder(self) -> Holder | None:
        """Who holds the task's lock; nobody unless it runs."""
        return Holder(self.host, self.pid, self.heartbeat, self.job) if self.state == "running" else None


def read_status(path: Path) -> Status | None:
    """Returns the status that a file holds, or None where there is no such file.

    Raises:
        UserError: The file cannot be read, or holds something else than a status.
    """
    # Status files are written atomically, so a torn one comes from elsewhere: it is not passed over here.
    if not exists(path):
        return None
    return Status(**{name: value for name, value in STATUS.read(path).items() if name in STATUS.fields})
