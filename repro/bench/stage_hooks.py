"""Hooks that tell a clock of a training's stages: one before all other hooks, one after them."""

from typing import Any

from mmengine.hooks import Hook

from repro.bench.stage_clock import StageClock
from repro.bench.timing import wait_for_device


class EpochOverError(Exception):
    """Ends a training whose stages are all timed."""


class FirstHook(Hook):
    """Runs before all other hooks, so that their work is timed."""

    priority = "HIGHEST"

    def __init__(self, clock: StageClock) -> None:
        self.clock = clock

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Records what comes before the first step."""
        if batch_idx == 0:
            self.clock.end("gallery, logs, workers")

    def after_train_epoch(self, runner: Any) -> None:
        """Starts the clock anew, so that the steps after the second one do not count."""
        self.clock.begin()


class LastHook(Hook):
    """Runs after all other hooks, so that their work is timed."""

    priority = "LOWEST"

    def __init__(self, clock: StageClock) -> None:
        self.clock = clock

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Records the first and the second step."""
        if batch_idx < 2:
            wait_for_device()
            self.clock.end(("first step", "second step")[batch_idx])

    def after_train_epoch(self, runner: Any) -> None:
        """Records the end of the epoch, and ends the training.

        Raises:
            EpochOverError: always.
        """
        self.clock.end("end of an epoch: monitor, checkpoint")
        raise EpochOverError
