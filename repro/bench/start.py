"""The benchmark of a training's fixed costs: from an empty process to the first step, and at the end of an epoch.

A training is started several times, each time in a process of its own (`start_process.py`), as a job starts it. Imports
count, as the clock is that process's own. CPU time leaves out what others do on a shared machine.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.settings.run import Run

STAGES = (
    "import torch",
    "import the training",
    "open data, build networks and localizer",
    "gallery, logs, workers",
    "first step",
    "second step",
    "end of an epoch: monitor, checkpoint",
)
"""The stages of a training, in order; the second step is one of many, and no fixed cost."""

REFUSED = 2
"""Exit status of a process whose run was refused; its last line is JSON with `what` and `mend`."""


def measure_start(run: Run, build: str, rounds: int) -> list[dict[str, Any]]:
    """Starts a training several times, each in a process of its own, and times its stages.

    Args:
        run: What to train, for one epoch of at least two steps.
        build: `MODULE:FUNCTION` that makes what is trained.
        rounds: How many processes; the medians of their times count.

    Returns:
        A row for each stage, and one for all stages up to the end of the first step: CPU seconds of all threads of the
        process, and wall-clock seconds.

    Raises:
        UserError: The training is refused, ends before its first epoch does, or has a single step per epoch.
    """
    times = [_start(run, build) for _ in range(rounds)]
    until_first_step = STAGES[: STAGES.index("first step") + 1]
    rows: dict[str, tuple[str, ...]] = {stage: (stage,) for stage in until_first_step}
    rows |= {"all until the first step is done": until_first_step} | {stage: (stage,) for stage in STAGES}
    return [
        {
            "stage": name,
            **{
                clock: round(statistics.median(sum(of[stage][clock] for stage in stages) for of in times), 3)
                for clock in ("cpu s", "wall s")
            },
        }
        for name, stages in rows.items()
    ]


def _start(run: Run, build: str) -> dict[str, dict[str, float]]:
    """Returns the times of the stages of one process."""
    with tempfile.TemporaryDirectory() as folder:
        RunFolder(Path(folder)).prepare(run)
        ended = subprocess.run(
            [sys.executable, "-m", "repro.bench.start_process", folder, build],
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
    if ended.returncode == REFUSED:
        raise UserError(**json.loads(ended.stdout.splitlines()[-1]))
    if ended.returncode:
        reason = (ended.stderr.strip() or f"exit {ended.returncode}").splitlines()[-1]
        raise UserError(f"the training did not come to the end of an epoch: {reason}", mend="`salmask doctor`")
    times: dict[str, dict[str, float]] = json.loads(ended.stdout.splitlines()[-1])
    if untimed := [stage for stage in STAGES if stage not in times]:
        raise UserError(f"an epoch has no {untimed[0]}", mend="a smaller optimization.batch, or more images")
    return times
