"""The status of a task on a run, as its file tells it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.filesystem.files import is_of_a_full_disk, write_json, write_over
from repro.filesystem.presence import exists
from repro.runs.lock import STALE_SECONDS, Holder
from repro.runs.schemas import STATUS

PRETRAIN = "pretrain"
"""The task that makes a backbone; all others measure it."""


@dataclass(frozen=True)
class Status:
    """The status of a task on a run, as `status.json` or `status-TASK.json` holds it."""

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
    """Number of the attempt at the task, from 1; a process that finds another number here was taken over."""
    resumed_at: int = 0
    """The step from which its training last went on; 0: it began anew."""
    heartbeat: float = 0.0
    """Time of the last heartbeat in seconds since the epoch; if it is old in state `running`, the process died."""
    host: str = ""
    error: str = ""
    """Why it failed, in one line."""
    pid: int = 0
    job: str = ""
    """The scheduler's id; empty without one."""
    warnings: tuple[str, ...] = ()
    """What the attempt has warned of, each once, with its mend."""

    def silent(self, now: float) -> bool:
        """Returns whether the state is `running` but the process dead or silent, as far as files and this machine tell.

        Either its process ended on this machine, or its last heartbeat is more than `STALE_SECONDS` old, or as far in
        the future, which only a clock that jumped can have written.

        Args:
            now: The time, in seconds since the epoch.
        """
        holder = self.holder
        return holder is not None and (holder.ended or abs(now - self.heartbeat) > STALE_SECONDS)

    def alive(self, now: float) -> bool:
        """Returns whether the task runs, as far as its files and, where it ran here, this machine can tell.

        Args:
            now: As for `silent`.
        """
        return self.holder is not None and not self.silent(now)

    @property
    def holder(self) -> Holder | None:
        """The holder of the task's lock; None unless the state is `running`."""
        return Holder(self.host, self.pid, self.heartbeat, self.job) if self.state == "running" else None


def read_status(path: Path) -> Status | None:
    """Returns the status that a file holds, or None where there is no such file.

    Raises:
        UserError: The file cannot be read, or holds something else than a status.
    """
    # Status files are written atomically: one that is torn was damaged by something else, and must be told of.
    if not exists(path):
        return None
    values = {name: value for name, value in STATUS.read(path).items() if name in STATUS.fields}
    return Status(**{**values, "warnings": tuple(values.get("warnings", ()))})


def write_status(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a status; on a full disk, in place over the old one, so that it can still tell of the full disk.

    Raises:
        UserError: It cannot be written.
    """
    try:
        write_json(path, content)
    except UserError as error:
        if not is_of_a_full_disk(error):
            raise
        try:
            write_over(path, json.dumps(content).encode() + b"\n")
        except OSError:
            raise error from error.__cause__
