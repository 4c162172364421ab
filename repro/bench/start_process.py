"""The process that `repro.bench.start` measures: it trains for an epoch, as a job does, and prints its stages' times.

torch and mmengine are imported late, so that their imports are timed.
"""

import json
import pkgutil
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from repro.bench.stage_clock import StageClock
from repro.bench.start import REFUSED
from repro.command_line.terminal import say
from repro.errors import UserError
from repro.processes.garbage import imports_frozen
from repro.runs.folder import RunFolder

if TYPE_CHECKING:
    from repro.training.learner import Build
    from repro.training.runner import Training


def main(folder: Path, build: str) -> None:
    """Trains for an epoch in this process, and prints the times of its stages as one line of JSON.

    Args:
        folder: The run's folder, with its settings.
        build: `MODULE:FUNCTION` that makes what is trained.

    Raises:
        UserError: The run's settings or data are refused.
    """
    clock = StageClock()
    build_learner = _import(build, clock)
    training = _prepare(RunFolder(folder), build_learner, clock)
    _train(training, clock)
    say(json.dumps(clock.times))


def _import(build: str, clock: StageClock) -> "Build":
    """Imports everything that a training needs, and returns the function that makes its learner."""
    with imports_frozen():  # as jobs import
        import torch  # noqa: F401  # timed here; later imports cost nothing

        clock.end("import torch")
        import repro.bench.stage_hooks
        import repro.processes.distributed
        import repro.training.pretraining  # noqa: F401  # likewise

        build_learner: Build = pkgutil.resolve_name(build)
    clock.end("import the training")
    return build_learner


def _prepare(folder: RunFolder, build_learner: "Build", clock: StageClock) -> "Training":
    """Opens a run's data and builds what is trained."""
    from repro.bench.timing import wait_for_device
    from repro.processes.distributed import initialise
    from repro.training.pretraining import build_training, open_data, plan_batches

    run = folder.load()
    device = initialise(run.machine.device)
    images = open_data(run, "train")
    batches = plan_batches(run, images, device)
    learner = build_learner(run, images, device)
    wait_for_device()
    clock.end("open data, build networks and localizer")
    return build_training(run, folder, learner, batches, device)


def _train(training: "Training", clock: StageClock) -> None:
    """Trains to the end of the first epoch."""
    from repro.bench.stage_hooks import EpochOverError, FirstHook, LastHook

    with suppress(EpochOverError):
        replace(training, hooks=[FirstHook(clock), *training.hooks, LastHook(clock)]).run()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except UserError as error:
        say(json.dumps({"what": error.what, "mend": error.mend}))
        sys.exit(REFUSED)
