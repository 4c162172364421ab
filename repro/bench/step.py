"""How fast a method trains on this machine, measured over a few steps with the real learner and loader."""

import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor, nn

from repro.bench.throughput import StepMeasurement, kind_of
from repro.bench.timing import wait_for_device
from repro.processes.distributed import device_name, initialise, unwrapped, world_size
from repro.runs.folder import RunFolder
from repro.settings.run import Run
from repro.training.learner import Build
from repro.training.pretraining import build_training, open_data, plan_batches


class _EnoughError(Exception):
    """Ends a training that is run only to be timed.

    It is an exception because mmengine's own `stop_training` takes effect only at the end of an epoch, which may be
    hours away.
    """


class StepTimer(Hook):
    """Times the steps after a warm-up, then half as many on their last batch, and ends the training.

    The latter load nothing, but the loader's workers still fill their queues beside the first of them. They come right
    after the others, as a device changes its clock within minutes.

    Attributes:
        seconds: Of a step, with the loader.
        seconds_repeated: Of a step on the batch before.
        state_bytes: Size of the tensors of the model's and the optimizers' states.
    """

    priority = "LOWEST"  # after all other hooks, whose work is part of a step

    def __init__(self, warm_up: int, steps: int) -> None:
        """Sets up the timer.

        Args:
            warm_up: Steps that are not timed, at least one.
            steps: Steps that are timed.
        """
        self.warm_up, self.steps = warm_up, steps
        self.seconds = self.seconds_repeated = 0.0
        self.state_bytes = 0
        self._start = 0.0

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        """Starts the clock after the last step of the warm-up; ends the training after the last timed step."""
        steps_done = runner.iter + 1  # mmengine increments it only after the hooks
        if steps_done == self.warm_up:
            self._start_clock()
        elif steps_done == self.warm_up + self.steps:
            self.seconds = self._seconds_each(self.steps)
            repeats = max(1, self.steps // 2)
            self._start_clock()
            for _ in range(repeats):
                runner.make_step(data_batch)
            self.seconds_repeated = self._seconds_each(repeats)
            states = (unwrapped(runner.model).state_dict(), runner.optim_wrapper.state_dict())
            self.state_bytes = sum(_bytes(state) for state in states)
            raise _EnoughError

    def _start_clock(self) -> None:
        wait_for_device()
        self._start = time.perf_counter()

    def _seconds_each(self, steps: int) -> float:
        """Returns the seconds of a step; `steps` of them were begun since the clock was started."""
        wait_for_device()
        return (time.perf_counter() - self._start) / steps


def measure(run: Run, build: Build, *, warm_up: int, steps: int) -> StepMeasurement:
    """Trains for a few steps in a temporary folder, and times them, with loading and without.

    Args:
        run: What to train; its images are decoded, augmented and masked as in a real training.
        build: Makes what is trained.
        warm_up: Steps that are not timed, at least one.
        steps: Steps that are timed with loading; half as many are timed without.

    Returns:
        The rates over all processes, and the sizes of a checkpoint and a backbone.

    Raises:
        UserError: Data or settings do not fit.
    """
    device = initialise(run.machine.device)
    images = open_data(run, "train")
    # At least 1, so that `plan_batches` is reached, which refuses data smaller than a batch in plain words.
    per_epoch = max(1, len(images) // run.optimization.batch)
    epochs = math.ceil((warm_up + steps) / per_epoch) + 1  # one too many, so that the timer ends the training
    run = replace(run, optimization=replace(run.optimization, epochs=epochs))
    batches = plan_batches(run, images, device)
    learner = build(run, images, device)
    timer = StepTimer(warm_up, steps)
    with tempfile.TemporaryDirectory() as folder:
        training = build_training(run, RunFolder(Path(folder)), learner, batches, device)
        try:
            # The timer replaces the gallery, which would be drawn before the first step. Nothing is saved, not even at
            # the end of an epoch, of which a few images give several.
            replace(training, hooks=[timer], saves=False).run()
        except _EnoughError:
            # After the training, as this puts the encoder into evaluation mode.
            forward = forward_rate(learner.encoder, run.data.crop, device)
    return StepMeasurement(
        kind=kind_of(run),
        method=run.method,
        images_per_second=round(run.optimization.batch / timer.seconds, 2),
        forward_images_per_second=round(forward * world_size(), 2),
        checkpoint_bytes=timer.state_bytes,
        backbone_bytes=_bytes(learner.encoder.state_dict()),
        device=device_name(device),
        processes=world_size(),
        repeated_images_per_second=round(run.optimization.batch / timer.seconds_repeated, 2),
    )


FORWARD_BATCH = 64
"""Batch size of the timed forward passes."""

FORWARD_ROUNDS = 5
"""Number of forward passes, of which the fastest counts; the first ones also warm up."""


@torch.no_grad()
def forward_rate(encoder: nn.Module, size: int, device: torch.device) -> float:
    """Measures how many images per second pass through a frozen network, in the fastest of a few rounds.

    The network is never compiled: this is the rate of an evaluation, whose network is not compiled either.

    Args:
        encoder: The network, on the device; it is left in evaluation mode.
        size: Pixels a side of the images, which are noise.
        device: Where the encoder is.
    """
    encoder.eval()
    images = torch.randn(FORWARD_BATCH, 3, size, size, device=device)
    fastest = math.inf
    with torch.compiler.set_stance("force_eager"):
        for _ in range(FORWARD_ROUNDS):
            wait_for_device()
            start = time.perf_counter()
            encoder(images)
            wait_for_device()
            fastest = min(fastest, time.perf_counter() - start)
    return FORWARD_BATCH / fastest


def _bytes(state: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(state))


def _tensors(state: Any) -> Iterator[Tensor]:
    """Yields the tensors of a state dict, however deep; an optimizer's is nested."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _tensors(value)
