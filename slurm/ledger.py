"""The ledger of a sweep: which jobs went out, to whom, for what; `jobs.jsonl` in the sweep's folder.

One JSON object a line, only ever added, under a lock on the file; a line that cannot be read (torn by a kill) is left
out. A job has two lines: the intent, written before it is handed over, with an empty `job`; and the same again with the
scheduler's id. Where a launcher was killed in between, only the first is there, and the next launcher asks the
scheduler for a job of the *submission*'s name. What a job did is told by its folder, not here: see
`RunFolder.status(task)`, and `slurm.queue` for what the scheduler thinks of it.

    {"time": "2026-11-22T10:00:00+00:00", "job": "812_3", "executor": "slurm", "cluster": "mycluster",
     "submission": "table1-linear-5f0c3a9e", "run": "45df9c0eca", "folder": "mocov2/s0-45df9c0eca", "task": "linear",
     "protocol": "linear-moco-v1", "after": ["811_3"], "host": "login1"}

Beside it stand `logs/SUBMISSION/`, submitit's files (`JOB_0_log.out`, `JOB_0_log.err`, `JOB_submission.sh`, pickles),
and `code/`, the snapshots that the jobs run.
"""

import json
import socket
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.files import append_lines
from repro.runs.folder import RunFolder
from repro.runs.provenance import now

LEDGER = "jobs.jsonl"
LOGS = "logs"
REPORT = "report"
"""The task that renders the tables; its folder is the sweep's own, `.`."""


@dataclass(frozen=True)
class Submission:
    """One job that was handed to a scheduler, or was about to be."""

    submission: str
    """Unique name of what was handed over at once, a job or an array: submitit's folder below `logs/`, Slurm's job
    name."""
    executor: str
    """`slurm`, `local` or `debug`."""
    cluster: str
    """Name of the profile."""
    run: str
    """Id of the run; empty for the report."""
    folder: str
    """Of the run, relative to the sweep's; `.` for the report."""
    task: str
    """`pretrain`, a downstream task (`linear`, `linear@caltech101`) or `report`."""
    job: str = ""
    """Slurm's id (`812`, or `812_3` in an array) or the process id of a local one; empty: only an intent so far."""
    protocol: str = ""
    after: tuple[str, ...] = ()
    """Ids of the jobs that it waits for."""
    host: str = field(default_factory=socket.gethostname)
    """Where it was handed over; where it runs, too, unless Slurm runs it."""
    time: str = field(default_factory=now)
    """ISO 8601, UTC."""

    @property
    def key(self) -> tuple[str, str]:
        """What it is for: (folder, task)."""
        return self.folder, self.task

    def log(self, sweep: Path, stream: str = "out", rank: int = 0) -> Path:
        """File of what the job printed.

        Args:
            sweep: the sweep's folder.
            stream: `out` or `err`.
            rank: of several processes.
        """
        return sweep / LOGS / self.submission / f"{self.job}_{rank}_log.{stream}"

    def run_folder(self, sweep: Path) -> RunFolder:
        """The folder that it works on; its `status(task)` says how far it is."""
        return RunFolder(sweep / self.folder)


_KNOWN = {f.name for f in fields(Submission)}


class Ledger:
    """`jobs.jsonl` of one sweep."""

    def __init__(self, sweep: Path) -> None:
        """Name the file; nothing is created."""
        self.sweep = sweep
        self.path = sweep / LEDGER
        self.logs = sweep / LOGS

    def submissions(self) -> list[Submission]:
        """Every job that ever went out or was about to, oldest first, each with all that is known of it.

        Raises:
            UserError: the file is there and cannot be read.
        """
        known: dict[tuple[str, str, str], Submission] = {}
        for entry in self._entries():
            known[(entry.submission, *entry.key)] = entry
        return list(known.values())

    def newest(self) -> dict[tuple[str, str], Submission]:
        """Of each (folder, task) the submission made last."""
        return {entry.key: entry for entry in self.submissions()}

    def intend(self, entries: Sequence[Submission]) -> None:
        """Write down what is about to be handed over.

        Raises:
            UserError: the file cannot be written to.
        """
        self._append(replace(entry, job="") for entry in entries)

    def submitted(self, entries: Sequence[Submission]) -> None:
        """Write down what was, with its ids.

        Raises:
            UserError: the file cannot be written to.
        """
        self._append(entries)

    def _append(self, entries: Iterable[Submission]) -> None:
        lines = "".join(json.dumps({**asdict(entry), "after": list(entry.after)}) + "\n" for entry in entries)
        try:
            self.sweep.mkdir(parents=True, exist_ok=True)
            append_lines(self.path, lines.encode())
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot write {self.path}: {reason}", mend="choose another --out") from error

    def _entries(self) -> Iterable[Submission]:
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}", mend="its permissions") from error
        for line in lines:
            entry = _parsed(line)
            if entry is not None:
                yield entry


def _parsed(line: bytes) -> Submission | None:
    """A line; None where it is torn. Keys of later versions are left out."""
    try:
        content: Any = json.loads(line)
        known = {key: value for key, value in content.items() if key in _KNOWN}
        return Submission(**{**known, "after": tuple(known.get("after", ()))})
    except (ValueError, TypeError, AttributeError):
        return None
