"""A sweep's folder to be filled, and a fake Slurm that prints what a test has written down."""

import json
import socket
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from run_samples import RESULT
from tiny_runs import tiny

from repro.runs.evaluation import task_and_dataset
from repro.runs.folder import RunFolder
from repro.runs.records import append
from repro.runs.task_results import rows_of
from repro.settings.run import Run
from slurm.monitoring.queue import QueuedJob, QueueSnapshot
from slurm.monitoring.status import JobRow, row
from slurm.sweep_folder.ledger import Ledger, Submission

NOW = 1_800_000_000.0
RUN = tiny()
HERE = socket.gethostname()
ELSEWHERE = "node7"


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


@dataclass
class Sweep:
    """A sweep's folder, to be filled."""

    place: Path
    run: Run = RUN

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.place)

    @property
    def folder(self) -> RunFolder:
        return RunFolder.of(self.run, self.place)

    @property
    def key(self) -> str:
        return str(self.folder.path.relative_to(self.place))

    def submitted(self, task: str = "pretrain", job: str = "812", **changes: Any) -> Submission:
        """Put a job into the ledger that was submitted an hour ago."""
        protocols = () if task == "pretrain" else (self.run.probe.protocol().name,)
        dataset = "" if task == "pretrain" else task_and_dataset(task)[1] or self.run.data.dataset
        entry = Submission(
            **{
                "submission": f"sweep-{task}-{job or 'none'}",
                "executor": "slurm",
                "cluster": "mine",
                "run": self.run.id,
                "folder": self.key,
                "task": task,
                "job": job,
                "protocols": protocols,
                "dataset": dataset,
                "time": iso(NOW - 3600),
                **changes,
            }
        )
        self.ledger.intend([entry])
        if job:
            self.ledger.submitted([entry])
        return entry

    def status_file(self, task: str = "pretrain") -> Path:
        return self.folder.path / ("status.json" if task == "pretrain" else f"status-{task}.json")

    def says(self, state: str, *, age: float = 5.0, task: str = "pretrain", **changes: Any) -> None:
        """Write a status whose heartbeat is `age` seconds old."""
        self.folder.prepare(self.run)
        status = {"state": state, "task": task, "heartbeat": NOW - age, "host": ELSEWHERE, "pid": 1, **changes}
        self.status_file(task).write_text(json.dumps(status))

    def measured(self, value: float = 61.5, **changes: Any) -> None:
        rows = [
            replace(
                RESULT,
                **{
                    "run_id": self.run.id,
                    "dataset": self.run.data.dataset,
                    "protocol": self.run.probe.protocol().name,
                    "metric": m,
                    "value": v,
                    **changes,
                },
            )
            for m, v in (("top5", 90.0), ("top1", value))
        ]
        append(self.folder.results, rows)

    def row(self, queue: QueueSnapshot, task: str = "pretrain", *, entry: bool = True) -> JobRow:
        newest = self.ledger.newest().get((self.key, task)) if entry else None
        return row(self.place, (self.key, task, newest), queue, NOW, rows_of)


def queue_of(
    state: str, reason: str = "", *, job: str = "812", start: float | None = -600.0, **more: Any
) -> QueueSnapshot:
    """A queue with one job, by default that of `Sweep.submitted`; times are relative to `NOW`."""
    name = more.pop("name", f"sweep-{'linear' if job == '813' else 'pretrain'}-{job}")
    times = {name: None if t is None else NOW + t for name, t in {"start": start, "end": more.pop("end", None)}.items()}
    return QueueSnapshot({job: QueuedJob(job, name, state, reason, **times, nodes="n3", **more)})


GONE = QueueSnapshot()
SILENT = QueueSnapshot(trouble="squeue: slurm_load_jobs error: Unable to contact slurm controller")


class FakeSlurm:
    """squeue, sacct and scancel that print what a test has written, and record their calls."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        for name in ("squeue", "sacct", "scancel"):
            script = place / name
            script.write_text(
                f'#!/bin/sh\necho "{name} $*" >> {place}/calls\n'
                f"[ -e {place}/{name}.err ] && {{ cat {place}/{name}.err >&2; exit 1; }}\n"
                f'[ "$SLURM_TIME_FORMAT" = %s ] || exit 3\ncat {place}/{name}.out 2>/dev/null; exit 0\n'
            )
            script.chmod(0o755)

    def says(self, command: str, *lines: str) -> None:
        (self.place / f"{command}.out").write_text("".join(line + "\n" for line in lines))

    def fails(self, command: str, message: str) -> None:
        (self.place / f"{command}.err").write_text(message + "\n")

    def is_a_colleagues(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Makes ada the owner of all files, and squeue list its jobs only if asked for ada's."""
        monkeypatch.setattr(Path, "owner", lambda path: "ada")
        listing = f'case "$*" in *--user=ada*) cat {self.place}/squeue.out;; esac'
        (self.place / "squeue").write_text(f"#!/bin/sh\n{listing}\n")

    @property
    def calls(self) -> list[str]:
        log = self.place / "calls"
        return log.read_text().splitlines() if log.exists() else []
