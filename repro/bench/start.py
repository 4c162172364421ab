"""The benchmark of a training's fixed costs: from an empty process to its first step, and what each epoch ends with.

A training is started in a process of its own, several times, as a job starts it. The clock is the process's own, so
that what is imported counts, and what others do on a shared machine does not.
"""

import json
import pkgutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from repro.errors import UserError
from repro.garbage import imports_unwalked
from repro.runs.folder import RunFolder
from repro.runs.run import Run
from repro.terminal import say

# torch is imported in the process that is measured.

STAGES = (
    "import torch",
    "import the training",
    "open data, build networks and localizer",
    "gallery, logs, workers",
    "first step",
    "second step",
    "end of an epoch: monitor, checkpoint",
)
"""What a training does from its start on, in this order; the second step is one of many, and no fixed cost."""

REFUSED = 2
"""Exit status of a process whose run was refused; what and mend are the last line that it prints."""


def measure_start(run: Run, build: str, rounds: int) -> list[dict[str, Any]]:
    """Starts a training several times, each in a process of its own, and times its stages.

    Args:
        run: what to train, for one epoch of two steps at least.
        build: `MODULE:FUNCTION` that makes what is trained.
        rounds: how many processes; their medians count.

    Returns:
        A row for each stage, and one for all of them up to the end of the first step: seconds on the processor, of all
        threads of the process, and by the clock on the wall.

    Raises:
        UserError: the training is refused, or ended before its first epoch did.
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
    """Returns what one process tells of its stages."""
    with tempfile.TemporaryDirectory() as folder:
        RunFolder(Path(folder)).prepare(run)
        ended = subprocess.run(
            [sys.executable, "-m", "repro.bench.start", folder, build],
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
    return times


class _Marks:
    """Times of stages, each from the end of the one before."""

    def __init__(self) -> None:
        self.times: dict[str, dict[str, float]] = {}
        self.begin()

    def begin(self) -> None:
        """Leaves out what has passed since the last stage."""
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def end(self, stage: str) -> None:
        """Notes a stage that has just ended."""
        now = time.process_time(), time.perf_counter()
        self.times[stage] = {"cpu s": now[0] - self._cpu, "wall s": now[1] - self._wall}
        self.begin()


def main(folder: Path, build: str) -> None:
    """Trains for an epoch in this process, and prints the times of its stages as one line of JSON.

    Args:
        folder: of the run, whose settings lie there.
        build: `MODULE:FUNCTION` that makes what is trained.
    """
    marks = _Marks()
    with imports_unwalked():  # as jobs import
        import torch

        marks.end("import torch")
        from mmengine.hooks import Hook

        from repro.bench.timing import wait_for_device
        from repro.distributed import initialise
        from repro.training.pretraining import build_training, open_data, plan_batches

        build_learner = pkgutil.resolve_name(build)
    marks.end("import the training")

    class Watch(Hook):
        """Marks the stages; priority decides whether it comes before all other hooks, or after them."""

        def __init__(self, *, first: bool) -> None:
            self.first, self.priority = first, "HIGHEST" if first else "LOWEST"
            self.steps = 0

        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            if self.first and batch_idx == 0:
                marks.end("gallery, logs, workers")

        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            if self.first or batch_idx > 1:
                return
            wait_for_device()
            marks.end(("first step", "second step")[batch_idx])

        def after_train_epoch(self, runner: Any) -> None:
            if self.first:
                marks.begin()
                return
            marks.end("end of an epoch: monitor, checkpoint")
            raise _EpochOverError

    class _EpochOverError(Exception):
        """Ends the training."""

    run = RunFolder(folder).load()
    device = initialise(run.machine.device)
    images = open_data(run, "train")
    batches = plan_batches(run, images, device)
    learner = build_learner(run, images, device)
    if device.type == "cuda":
        torch.cuda.synchronize()
    marks.end("open data, build networks and localizer")
    training = build_training(run, RunFolder(folder), learner, batches, device)
    hooks = [Watch(first=True), *training.hooks, Watch(first=False)]
    try:
        replace(training, hooks=hooks).run()
    except _EpochOverError:
        say(json.dumps(marks.times))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except UserError as error:
        say(json.dumps({"what": error.what, "mend": error.mend}))
        sys.exit(REFUSED)
