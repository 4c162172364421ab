"""The bar of a training: steps, rate, time left and the loss of the last log line."""

import time
from typing import Any

from mmengine.hooks import Hook
from rich.progress import TaskID

from repro.command_line.progress import REDRAW_SECONDS, ProgressBars
from repro.training.watching.hooks import is_logged

SCORED = "scored"
"""Key in mmengine's message hub of the last epoch's score, a text which the bar shows beside the loss."""


class StepBar(Hook):
    """Shows how far a training is without waiting for the device: the loss changes only at log lines."""

    priority = "VERY_LOW"  # after `RuntimeInfo`, which reads the losses where the log has a line

    def __init__(self, task: str, every: int, bars: ProgressBars) -> None:
        """Shows `task` on `bars`, which are started at the first step; the log has a line every `every` steps."""
        self.task, self.every, self.bars = task, every, bars
        self._bar = TaskID(0)
        self._told = 0.0

    def before_train(self, runner: Any) -> None:
        """Adds the bar, whose clock starts now."""
        self._bar = self.bars.add_task(
            self.task, total=runner.max_iters, completed=runner.iter, unit="steps", summary=True
        )

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Moves the bar; most steps only look at the clock."""
        now, step = time.monotonic(), runner.iter + 1
        has_line = is_logged(runner, batch_idx, self.every)
        if not has_line and now - self._told < REDRAW_SECONDS:
            return
        self._told = now
        changes = {"note": _note(runner)} if has_line else {}
        self.bars.start()
        self.bars.update(self._bar, completed=step, **changes)


def _note(runner: Any) -> str:
    """Returns the newest loss that the log was given, and the score of the last epoch where epochs are scored."""
    hub = runner.message_hub
    history = hub.log_scalars.get("train/loss")
    loss = f"loss {history.current():.4g}" if history is not None else ""
    return ", ".join(filter(None, [loss, hub.runtime_info.get(SCORED, "")]))
