"""Hooks by which a training tells a clock of its stages: one ahead of all others, one behind them."""

from typing import Any

from mmengine.hooks import Hook

from repro.bench.stage_clock import StageClock
from repro.bench.timing import wait_for_device


class EpochOverError(Exception):
    """Ends a training whose stages are all timed."""


class FirstHook(Hook):
    """Comes before all other hooks: what they do from then on is timed."""

    priority = "HIGHEST"

    def __init__(self, clock: StageClock) -> None:
        self.clock = clock

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Notes the end of all that comes before the first step."""
        if batch_idx == 0:
            self.clock.end("gallery, logs, workers")

    def after_train_epoch(self, runner: Any) -> None:
        """Leaves out the steps after the second one."""
        self.clock.begin()


class LastHook(Hook):
    """Comes after all other hooks: what they did is timed."""

    priority = "LOWEST"

    def __init__(self, clock: StageClock) -> None:
        self.clock = clock

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Notes the end of the first step and of the second one."""
        if batch_idx < 2:
            wait_for_device()
            self.clock.end(("first step", "second step")[batch_idx])

    def after_train_epoch(self, runner: Any) -> None:
        """Notes what an epoch ends with, and ends the training.

        Raises:
            EpochOverError: always.
        """
        self.clock.end("end of an epoch: monitor, checkpoint")
        raise EpochOverError
