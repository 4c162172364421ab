"""How fast a method trains on this machine: real learner, real loader, a few steps."""

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
from repro.distributed import device_name, initialise, world_size
from repro.runs.folder import RunFolder
from repro.runs.run import Run
from repro.training.learner import Build
from repro.training.pretraining import build_training, open_data, plan_batches
from repro.training.resume import unwrapped

FORWARD_BATCH = 64
FORWARD_ROUNDS = 5


class _EnoughError(Exception):
    """Ends a training that was only to be timed."""


class StepTimer(Hook):
    """Times steps after some to warm up, and ends the training."""

    priority = "LOWEST"

    def __init__(self, warm_up: int, steps: int) -> None:
        self.warm_up, self.steps = warm_up, steps
        self.seconds = 0.0
        self.state_bytes = 0
        self._start = 0.0

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        """Start and stop the clock when the device is done."""
        done = runner.iter + 1
        if done == self.warm_up:
            _wait()
            self._start = time.perf_counter()
        elif done == self.warm_up + self.steps:
            _wait()
            self.seconds = time.perf_counter() - self._start
            states = (unwrapped(runner.model).state_dict(), runner.optim_wrapper.state_dict())
            self.state_bytes = sum(_bytes(state) for state in states)
            raise _EnoughError


def measure(run: Run, build: Build, *, warm_up: int, steps: int) -> StepMeasurement:
    """Train for a few steps in a folder of its own that goes away.

    Args:
        run: what to train; its data are read as in earnest.
        build: makes what is trained.
        warm_up: steps that do not count, at least one.
        steps: steps that do.

    Raises:
        UserError: data or settings do not fit.
    """
    device = initialise(run.machine.device)
    images = open_data(run, "train")
    per_epoch = max(1, len(images) // run.optimization.batch)
    epochs = math.ceil((warm_up + steps) / per_epoch) + 1  # as many as it takes; the stopwatch ends it
    never = replace(run.machine, checkpoint_every=10**9)
    run = replace(run, optimization=replace(run.optimization, epochs=epochs), machine=never)
    batches = plan_batches(run, images, device)
    learner = build(run, images, device)
    watch = StepTimer(warm_up, steps)
    with tempfile.TemporaryDirectory() as place:
        training = build_training(run, RunFolder(Path(place)), learner, batches, device)
        try:
            replace(training, hooks=[watch]).run()
        except _EnoughError:
            forward = forward_rate(learner.encoder, run.data.crop, device)
    return StepMeasurement(
        kind=kind_of(run),
        method=run.method,
        images_per_second=round(run.optimization.batch * steps / watch.seconds, 2),
        forward_images_per_second=round(forward * world_size(), 2),
        checkpoint_bytes=watch.state_bytes,
        backbone_bytes=_bytes(learner.encoder.state_dict()),
        device=device_name(device),
        processes=world_size(),
    )


@torch.no_grad()
def forward_rate(encoder: nn.Module, size: int, device: torch.device) -> float:
    """Images per second of a frozen network in evaluation mode; the fastest of a few rounds."""
    encoder.eval()
    images = torch.randn(FORWARD_BATCH, 3, size, size, device=device)
    best = math.inf
    for _ in range(FORWARD_ROUNDS):
        _wait()
        start = time.perf_counter()
        encoder(images)
        _wait()
        best = min(best, time.perf_counter() - start)
    return FORWARD_BATCH / best


def _bytes(state: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(state))


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _tensors(value)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
