"""The ledger of a sweep: which jobs were submitted, to whom, for what; `jobs.jsonl` in the sweep's folder.

Each line is a JSON object. Lines are only ever added, under a lock on the file; one that cannot be read (torn by a
kill) is left out. A job has two lines: the intent, written before it is submitted, with an empty `job`; and the same
again with the scheduler's id, or with the words by which it was `refused`. A third says that a person has `cancelled`
it, or that it was `superseded` by one of other settings. If a launcher was killed after the first, the next launcher
asks the scheduler for a job of the *submission*'s name. How a job went is told by its folder, not here: see
`RunFolder.status(task)`, and `slurm.monitoring.queue` for what the scheduler says of it.

    {"time": "2026-11-22T10:00:00+00:00", "job": "812_3", "executor": "slurm", "cluster": "mycluster",
     "submission": "table1-linear-5f0c3a9e", "run": "45df9c0eca", "folder": "mocov2/s0-45df9c0eca", "task": "linear",
     "protocols": ["linear-moco-v1"], "dataset": "imagenet100", "after": ["811_3"], "host": "login1"}

Beside it stand `logs/SUBMISSION/`, private to whoever launched (`JOB_0_log.out`, `JOB_0_log.err`, `submission.sh`,
`calls.json`; of local jobs the same but for the script), and `code/`, the snapshots that the jobs run.
"""

import json
import math
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.filesystem.files import append_lines, mend_of_place, read_regular
from repro.runs.metrics import LARGEST_BYTES
from repro.runs.provenance import now
from repro.runs.sweep_names import LEDGER, LOGS

CANCELS = ".cancels.jsonl"
"""The calls of `salmask cancel` in a sweep's folder: a line for each, with its time, and the run (empty: all runs)."""
LOCAL_LOCK = ".local.lock"
"""Held in a sweep's folder by launchers that run its jobs on their own machine; see `slurm.sweep_folder.local_lock`."""
LOCAL_START_LOCK = ".local-start.lock"
"""Held there by such a launcher for the moment in which it looks for what to start, and starts it."""
REPORT = "report"
"""The task that renders the tables; its folder is the sweep's own, `.`."""

Key = tuple[str, str]
"""(Folder relative to the sweep's, task): what names a job."""


@dataclass(frozen=True)
class Submission:
    """One job that was submitted, or was about to be."""

    submission: str
    """Unique name of what was submitted at once, a job or an array: a folder below `logs/`, Slurm's job name."""
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
    protocols: tuple[str, ...] = ()
    """Names of the protocols that it measures by."""
    dataset: str = ""
    """The data set that it measures on; empty if it measures nothing."""
    after: tuple[str, ...] = ()
    """Ids of the jobs that it waits for."""
    host: str = field(default_factory=socket.gethostname)
    """Where it was submitted; where it runs, too, unless Slurm runs it."""
    time: str = field(default_factory=now)
    """ISO 8601, UTC."""
    refused: str = ""
    """Slurm's words if it did not take the job; empty: it did, or nobody knows."""
    cancelled: str = ""
    """When `salmask cancel` asked the job to end, ISO 8601, UTC; empty: it did not."""
    superseded: str = ""
    """When `--replace` took the job out since the sweep had other settings, ISO 8601, UTC; empty: it did not."""
    nodes: int = 0
    """What was asked for, as are the next five."""
    processes: int = 0
    """On all nodes."""
    gpus: int = 0
    """On all nodes."""
    cpus: int = 0
    """Of all processes; 0: none in particular."""
    memory: float = 0.0
    """GiB per node; 0: none in particular."""
    minutes: int = 0
    """The time limit; 0: none in particular."""
    lane: str = ""
    """Its lane (`slurm.submission.lanes`); empty: none."""
    at_a_time: int = 0
    """How many jobs of its array run at a time; 0: no lane limits them."""
    devices: tuple[str, ...] = ()
    """GPUs that a local job holds, as CUDA_VISIBLE_DEVICES names them; none: it sees those of its launcher."""
    planned_s: float | None = None
    """Seconds that a plan expected of the job when it was submitted; None: nobody knew."""

    @property
    def key(self) -> Key:
        """The job that was submitted, whichever submission of it this is."""
        return self.folder, self.task

    @property
    def written_at(self) -> float:
        """`time` in seconds since the epoch, by the clock of its host."""
        return datetime.fromisoformat(self.time).timestamp()

    def log(self, sweep: Path, stream: str = "out", rank: int = 0) -> Path:
        """Returns the file of what the job printed.

        Args:
            sweep: The sweep's folder.
            stream: `out` or `err`.
            rank: The number of the process, of several.
        """
        return sweep / LOGS / self.submission / f"{self.job}_{rank}_log.{stream}"


_FIELDS = {f.name for f in fields(Submission)}
_LISTS = frozenset({"after", "protocols", "devices"})
_WHOLE_NUMBERS = frozenset({"nodes", "processes", "gpus", "cpus", "minutes", "at_a_time"})
_NUMBERS = _WHOLE_NUMBERS | {"memory", "planned_s"}


class Ledger:
    """The `jobs.jsonl` of one sweep.

    Attributes:
        sweep: The sweep's folder.
        path: The ledger's file.
        logs: The folder of what the jobs start from and print.
    """

    def __init__(self, sweep: Path) -> None:
        """Names the file of a sweep's folder; nothing is created."""
        self.sweep = sweep
        self.path = sweep / LEDGER
        self.logs = sweep / LOGS
        self._read: tuple[tuple[int, ...], list[Submission]] = ((), [])
        """The file's inode, size and time when it was read last, and what it held: a launch asks several times."""

    def submissions(self) -> list[Submission]:
        """Returns every job that was ever submitted or about to be, oldest first, each with all that is known of it.

        Raises:
            UserError: The file is there and cannot be read.
        """
        looks: tuple[int, ...] = ()
        with suppress(OSError):  # reading the file tells what is wrong
            status = self.path.stat()
            looks = (status.st_ino, status.st_size, status.st_mtime_ns)
        if looks and looks == self._read[0]:
            return list(self._read[1])
        latest: dict[tuple[str, str, str], Submission] = {}
        for entry in filter(None, map(_parsed, self._lines(self.path))):
            # The line with the scheduler's id takes the place of its intent, and the order stays that of the intents.
            latest[(entry.submission, *entry.key)] = entry
        self._read = looks, list(latest.values())
        return list(latest.values())

    def newest(self) -> dict[Key, Submission]:
        """Returns the newest submission of each job.

        Raises:
            UserError: The file is there and cannot be read.
        """
        return {entry.key: entry for entry in self.submissions()}

    def newest_sent(self) -> dict[Key, Submission]:
        """Returns the newest submission of each job that a scheduler, or this machine, took; an intent is none.

        Raises:
            UserError: The file is there and cannot be read.
        """
        return {entry.key: entry for entry in self.submissions() if entry.job}

    def intend(self, entries: Sequence[Submission]) -> None:
        """Writes down what is about to be submitted.

        Raises:
            UserError: The file cannot be written to.
        """
        self._append(replace(entry, job="") for entry in entries)

    def submitted(self, entries: Sequence[Submission]) -> None:
        """Writes down what was submitted, with the ids that the scheduler gave it.

        Raises:
            UserError: The file cannot be written to.
        """
        self._append(entries)

    def refused(self, entries: Sequence[Submission], words: str) -> None:
        """Writes down what the scheduler did not take, so that nobody looks for it.

        Args:
            entries: As of `intend`.
            words: The scheduler's.

        Raises:
            UserError: The file cannot be written to.
        """
        self._append(replace(entry, job="", refused=words) for entry in entries)

    def cancelled(self, entries: Sequence[Submission]) -> None:
        """Writes down which jobs a person cancelled: the scheduler may forget that, or never have known it.

        Args:
            entries: As the ledger holds them.

        Raises:
            UserError: The file cannot be written to.
        """
        when = now()
        self._append(replace(entry, cancelled=when) for entry in entries)

    def superseded(self, entries: Sequence[Submission]) -> None:
        """Writes down which jobs were taken out since the sweep has other settings; no retry submits these again.

        Args:
            entries: As the ledger holds them.

        Raises:
            UserError: The file cannot be written to.
        """
        when = now()
        self._append(replace(entry, superseded=when) for entry in entries)

    def request_cancel(self, folder: str) -> None:
        """Writes down that a person cancels a run or the whole sweep, so that a launch leaves out what is yet to go.

        Args:
            folder: Of the run, relative to the sweep's; empty: of the whole sweep.

        Raises:
            UserError: The file cannot be written to.
        """
        self._append_text(self.sweep / CANCELS, json.dumps({"time": now(), "folder": folder}) + "\n")

    def cancel_requests(self) -> list[str]:
        """Returns the folder of each request, oldest first.

        A launch heeds those that came after it began. It tells them by their number, and not by their times, since the
        clocks of two machines differ.

        Raises:
            UserError: The file is there and cannot be read.
        """
        wishes = []
        for line in self._lines(self.sweep / CANCELS):
            with suppress(ValueError, TypeError, KeyError, RecursionError):  # torn by a kill
                wishes.append(str(json.loads(line)["folder"]))
        return wishes

    def cancelled_since(self, number: int, keys: Iterable[Key]) -> set[Key]:
        """Returns which jobs are cancelled by requests, without the first `number` of these.

        Args:
            number: How many requests do not count.
            keys: Of the jobs that are asked about.
        """
        folders = set(self.cancel_requests()[number:])
        return {key for key in keys if "" in folders or key[0] in folders}

    def _append(self, entries: Iterable[Submission]) -> None:
        lines = "".join(json.dumps(asdict(entry)) + "\n" for entry in entries)
        self._append_text(self.path, lines)

    def _append_text(self, path: Path, lines: str) -> None:
        try:
            self.sweep.mkdir(parents=True, exist_ok=True)
            append_lines(path, lines.encode())
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot write {path}: {reason}", mend=mend_of_place(error)) from error

    def _lines(self, path: Path) -> list[bytes]:
        # Split as bytes: a line that was torn within a character would break the decoding of all the others.
        try:
            return read_regular(path, LARGEST_BYTES).split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}", mend="its permissions") from error


def _parsed(line: bytes) -> Submission | None:
    """Returns what a line says; None where it is torn. Keys of later versions are left out."""
    try:
        content: Any = json.loads(line)
        values = {key: value for key, value in content.items() if key in _FIELDS and value is not None}
        if not all(_has_its_type(key, value) for key, value in values.items()):
            return None
        fields_of_line: dict[str, Any] = {k: tuple(value) if k in _LISTS else value for k, value in values.items()}
        return Submission(**fields_of_line)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _has_its_type(key: str, value: Any) -> bool:
    """Returns whether a value is what its field holds: texts, a text, a time, or a number that is not below 0."""
    if key in _LISTS:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if key not in _NUMBERS:
        return isinstance(value, str) and (key != "time" or _is_a_time(value))
    kinds = int if key in _WHOLE_NUMBERS else int | float
    return isinstance(value, kinds) and not isinstance(value, bool) and 0 <= value < math.inf


def _is_a_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return False
    return True
