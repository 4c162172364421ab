"""Run folders as the results see them: which there are, and in what state."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.runs.lock import STALE_SECONDS
from repro.runs.provenance import SNAPSHOT
from repro.runs.run import Run
from repro.runs.status import Status

RESULTS = "results.jsonl"
MARKERS = (RESULTS, "run.yaml", "status.json")
"""A folder that holds any of these is a run's."""


@dataclass(frozen=True)
class RunRecord:
    """One run folder, read when asked."""

    path: Path

    @cached_property
    def folder(self) -> RunFolder:
        """Its files."""
        return RunFolder(self.path)

    @property
    def method(self) -> str:
        """The method that the folder is named after."""
        return self.path.resolve().parent.name

    @property
    def sweep(self) -> str:
        """The sweep that it belongs to."""
        return self.folder.sweep

    @property
    def name(self) -> str:
        """`SWEEP/METHOD/sSEED-ID`."""
        return "/".join(self.path.resolve().parts[-3:])

    @cached_property
    def run(self) -> Run | None:
        """What was run; None where `run.yaml` is missing or of another version."""
        try:
            return self.folder.load()
        except UserError:
            return None

    @cached_property
    def status(self) -> Status | None:
        """What `status.json` says; None where there is none, state `unreadable` where it is broken."""
        try:
            return self.folder.status()
        except (ValueError, TypeError, OSError):
            return Status("unreadable")

    @property
    def state(self) -> str:
        """`not started`, `running`, `silent` (no heartbeat for long), `done`, `failed` or `interrupted`.

        `pretrained` is a run whose backbone is there and that nothing was measured of.
        """
        status = self.status
        if status is None:
            return "not started"
        if status.state == "running" and time.time() - status.heartbeat > STALE_SECONDS:
            return "silent"
        if status.state == "done" and not self.folder.results.exists():
            return "pretrained"
        return status.state

    @cached_property
    def attempts(self) -> list[dict[str, Any]]:
        """What each attempt ran on, oldest first; empty where `provenance.json` is missing or broken."""
        try:
            content = json.loads(self.folder.provenance.read_text())
        except (OSError, ValueError):
            return []
        return [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []

    @property
    def logs(self) -> list[Path]:
        """Its log files, oldest first."""
        return sorted(self.folder.logs.rglob("*.log"))

    @property
    def galleries(self) -> list[Path]:
        """Its pictures."""
        return sorted(path for path in self.folder.gallery.glob("*") if path.suffix in (".png", ".jpg"))

    @cached_property
    def metrics(self) -> list[dict[str, float]]:
        """The lines of the pretraining's `metrics.jsonl`."""
        return read_metrics(self.folder.metrics)

    @cached_property
    def probes(self) -> dict[str, list[dict[str, float]]]:
        """The metrics of each probe, by the name of its folder."""
        return {path.parent.name: read_metrics(path) for path in sorted(self.path.glob("probes/*/metrics.jsonl"))}

    @property
    def training_seconds(self) -> float | None:
        """How long the pretraining's steps took, as its metrics tell; None where they do not."""
        seconds, before = 0.0, 0.0
        for row in self.metrics:
            if "time" in row:
                seconds += row["time"] * (row["step"] - before)
                before = row["step"]
        return seconds or None


def find_runs(roots: Sequence[Path], *, sweep: str = "") -> list[RunRecord]:
    """List the run folders below the given ones, each once, by path.

    Args:
        roots: Run folders, sweep folders, or any folder above them (`runs/<sweep>/<method>/s<seed>-<id>/`).
        sweep: Only runs of this sweep, where given.

    Raises:
        UserError: A root is missing, a folder cannot be listed, or there is no such sweep.
    """
    folders = sorted({path.resolve(): path for root in roots for path in _walk(root)}.values())
    runs = [RunRecord(path) for path in folders]
    if not sweep:
        return runs
    chosen = [run for run in runs if run.sweep == sweep]
    if runs and not chosen:
        known = ", ".join(sorted({run.sweep for run in runs}))
        raise UserError(f"no sweep {sweep!r} below {listed(roots)}; there is: {known}")
    return chosen


def listed(roots: Sequence[Path]) -> str:
    """Folders as a message names them."""
    return ", ".join(map(str, roots))


def _walk(root: Path) -> Iterator[Path]:
    if not root.is_dir():
        raise UserError(f"no folder {root}; give a run folder, or one above it")
    for folder, below, files in os.walk(root, onerror=_refuse):
        if not set(MARKERS).isdisjoint(files):
            yield Path(folder)
            below.clear()  # a run's checkpoints and galleries hold no further runs
        elif SNAPSHOT in files:
            below.clear()  # the code that a sweep's jobs import, with the runs that are recorded beside it
        else:
            below[:] = [name for name in below if not name.startswith(".")]


def _refuse(error: OSError) -> NoReturn:
    """Stop at a folder that cannot be listed: a table that lacks its runs would not show it."""
    raise UserError(
        f"cannot look into {error.filename}: {error.strerror}; mend its permissions or give a narrower path"
    )


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.jsonl` by line; a torn line is left out, a missing file has none."""
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the line that was being written when the process died
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
    return rows
