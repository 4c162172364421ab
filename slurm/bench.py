"""Work of the launcher for `salmask bench scale`: planning a sweep, and looking at its folders."""

import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path

from repro.runs.folder import RunFolder
from repro.settings.rows import Resolve
from slurm.monitoring.queue import QueueSnapshot
from slurm.monitoring.status import as_json_of, rows
from slurm.plan import SweepPlan, say_plan_as_json
from slurm.planning.job_costs import estimate, survey
from slurm.planning.sweep import Part, Sweep, expand
from slurm.sweep_folder.ledger import Ledger

METHODS = ("mocov2", "mocov2+ours-hp")
"""Rows whose seeds make up the sweep."""


@contextmanager
def runs_to_plan(count: int, *, resolve: Resolve) -> Iterator[Callable[[], object]]:
    """Makes a sweep of runs, each with a linear probe; yields the work of `salmask sweep --plan --json` on it.

    Args:
        count: Number of runs.
        resolve: Turns a method into a Run.
    """
    sweep = Sweep("scale", (Part(METHODS, tuple(range(count // len(METHODS)))),))
    with tempfile.TemporaryDirectory() as folder:

        def plan() -> None:
            graph = expand(sweep, Path(folder) / sweep.name, resolve, {})
            finished, evidence = survey(graph)
            costs = estimate(graph, None, evidence, finished)
            with redirect_stdout(io.StringIO()):
                say_plan_as_json(SweepPlan(graph, costs, finished, None, 4))

        yield plan


@contextmanager
def folders_to_look_at(count: int, *, resolve: Resolve) -> Iterator[Callable[[], object]]:
    """Makes run folders that are half-way through training; yields the work of `salmask status --json` on them.

    Args:
        count: Number of run folders.
        resolve: Turns a method into a Run.
    """
    with tempfile.TemporaryDirectory() as folder:
        place, now = Path(folder), time.time()
        recipe = resolve(METHODS[0])
        for seed in range(count):
            run_folder = RunFolder.of(replace(recipe, seed=seed), place)
            run_folder.path.mkdir(parents=True)
            status = {"state": "running", "task": "pretrain", "heartbeat": now, "host": "node1", "pid": 1, "step": 50}
            (run_folder.path / "status.json").write_text(json.dumps({**status, "steps": 100}), encoding="utf-8")
            # `status` only looks whether the file is there.
            run_folder.run_yaml.write_text("", encoding="utf-8")
            run_folder.metrics.write_text('{"step": 50, "images_per_second": 800.0}\n' * 20, encoding="utf-8")
        yield lambda: json.dumps(as_json_of(rows(Ledger(place), QueueSnapshot(), now), place, QueueSnapshot()))
