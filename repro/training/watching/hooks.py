"""Hooks that watch a training from outside: logged numbers, non-finite gradients, throughput and heartbeats."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook, RuntimeInfoHook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.visualization.vis_backend import BaseVisBackend, TensorboardVisBackend
from torch import Tensor

from repro.errors import UserError, one_line, with_mend
from repro.filesystem.files import mend_of_place, write_text
from repro.processes.distributed import gather, mean_of_ranks, world_size
from repro.quantities import counted
from repro.runs.folder import PROGRESS_SECONDS, RunFolder
from repro.runs.metrics import metrics_text, parse_row
from repro.training.batches.feed import Feed

LONGEST_DATA_WAIT = 0.1
"""Share of the time that steps may wait for data before a warning says so."""

log = logging.getLogger("salmask")


def is_logged(runner: Any, batch_idx: int, every: int) -> bool:
    """Returns whether the logger writes a line at the end of a step.

    Args:
        runner: Of the training.
        batch_idx: Number of the step in its epoch, from 0.
        every: Steps between two lines; an epoch's last step has one, too.
    """
    steps = batch_idx + 1
    return steps % every == 0 or steps == len(runner.train_dataloader)


class RuntimeInfo(RuntimeInfoHook):
    """mmengine's hook that hands a step's losses to the log, but without waiting for the device at each step.

    mmengine's own turns every number of a step into a Python float at once. Here the numbers stay on the device until
    the next log line, for which those of all steps since the last line are read in one go. Where several processes
    share a batch, the log has the means over all of them.
    """

    def __init__(self, every: int) -> None:
        """Reads the numbers every `every` steps, and at the end of each epoch."""
        super().__init__()
        self.every = every
        self._unread_steps: list[dict[str, Tensor]] = []

    def before_train_epoch(self, runner: Any) -> None:
        """Forgets the numbers that an interrupted epoch left."""
        super().before_train_epoch(runner)
        self._unread_steps.clear()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        """Keeps a step's scalars, and hands on all kept ones where the log has a line."""
        if outputs is not None:
            # Without `detach` each step's graph would live until the next log line.
            self._unread_steps.append({name: value.detach() for name, value in outputs.items()})
        if is_logged(runner, batch_idx, self.every):  # this hook has a higher priority than the logger, and comes first
            self._hand_on(runner)

    def window(self, runner: Any) -> dict[str, list[float]]:
        """Returns the last numbers by name, over which the next log lines take their means; a collective."""
        self._hand_on(runner)
        history = runner.message_hub.log_scalars
        return {name: history[name].data[0][-self.every :].tolist() for name in history}

    def _hand_on(self, runner: Any) -> None:
        """Gives the log the numbers of all steps since the last line; a collective."""
        scalars = [(name, value) for step in self._unread_steps for name, value in step.items()]
        self._unread_steps.clear()
        if scalars:
            # Stacked first, so that one collective, one transfer and one wait bring them all. They are handed on step
            # by step, as the log shows means over steps.
            numbers = mean_of_ranks(torch.stack([value.float() for _, value in scalars])).tolist()
            for (name, _), number in zip(scalars, numbers, strict=True):
                runner.message_hub.update_scalar(f"train/{name}", number)


def restore_window(runner: Any, window: Mapping[str, Any]) -> None:
    """Gives the log the numbers that `RuntimeInfo.window` returned before the training was interrupted."""
    for name, numbers in window.items():
        for number in numbers:
            runner.message_hub.update_scalar(name, float(number))


WHEN_DIVERGED = (
    "a lower optimization.lr (with ADIOS also adios.lr), a longer optimization.warmup_share, or "
    "optimization.precision=fp32 or bf16"
)
"""The mend of a pretraining whose numbers are not finite."""


class DivergenceError(UserError):
    """Gradients, losses or weights are not finite, or the monitor ends the run."""


class FiniteGuard(Hook):
    """Stops a training in which the gradients of any optimizer, or the losses, are no longer finite.

    The check runs on the device at every step and costs no wait. The number of the first bad step stays there, and is
    read at each log line, where the host waits anyway, and before each checkpoint, so that no checkpoint is written
    after a bad step. In fp16, gradients that overflow are left to the loss scaler: the guard sees only gradients of
    steps that are taken. It sees the losses of every step, unscaled, as no other scale could make them finite.

    All processes end together. Where the scaler drops a step, the loss on one process may be the only sign, and the
    other processes would wait for that one in their next collective.
    """

    priority = "HIGH"  # before the logger and the checkpoint

    def __init__(self, every: int, mend: str = WHEN_DIVERGED) -> None:
        """Prepares to watch.

        Args:
            every: Steps between two readings of the result. A single process on a CPU reads it at every step, as that
                is free there.
            mend: What a person can do where numbers are not finite.
        """
        self.every, self.mend = every, mend
        self.kept: Callable[[], str] = lambda: "no checkpoint is written"
        """Returns what the error says on checkpoints to go back to; `SaveCheckpoint` replaces it."""
        self._first_bad = torch.tensor(-1)
        """Number of the first bad step, -1 for none; a tensor, as an `if` on the host would wait at each step."""

    def before_train(self, runner: Any) -> None:
        """Begins to watch the optimizers."""
        self._first_bad = torch.tensor(-1, device=next(runner.model.parameters()).device)
        self._step = runner.iter
        # mmengine clears the gradients within the step, so that its own hooks find none. Hooks of the optimizer see
        # them just before they are used: without fp16's scale and reduced by DDP, hence equal on every rank.
        self._handles = [
            wrapper.optimizer.register_step_pre_hook(self._check_gradients)
            for wrapper in _wrappers(runner.optim_wrapper)
        ]

    def after_train(self, runner: Any) -> None:
        """Stops watching the optimizers."""
        for handle in self._handles:
            handle.remove()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Remembers the number of the step, which optimizers do not know."""
        self._step = runner.iter

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        """Checks the losses and what is logged beside them, and reads the result where it is due."""
        for value in (outputs or {}).values():
            self._note(~value.detach().isfinite())
        is_free = not (self._first_bad.is_cuda or world_size() > 1)
        # The logger runs after this hook, so that no log line has a bad number.
        if is_free or is_logged(runner, batch_idx, self.every):
            self.verify()

    def verify(self) -> None:
        """Raises an error if any step so far was bad on any rank; waits for the device, and is a collective.

        Raises:
            DivergenceError: The gradient or a loss of a step was not finite; it names the first such step.
        """
        if bad := [step for step in gather(self._first_bad.unsqueeze(0)).tolist() if step >= 0]:
            raise DivergenceError(
                f"the gradient or loss of step {min(bad) + 1} is not finite; {self.kept()}",
                mend=self.mend,
            )

    def _check_gradients(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Looks at the gradients of an optimizer that is about to step."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        # The norm over all gradients is finite only if every entry is: one number to check instead of one per tensor.
        self._note(~torch.nn.utils.get_total_norm(gradients).isfinite())

    def _note(self, bad: Tensor) -> None:
        """Remembers this step as the first bad one if `bad`, a boolean scalar, is true and no earlier one was."""
        self._first_bad.copy_(
            torch.where((self._first_bad < 0) & bad.to(self._first_bad.device), self._step, self._first_bad)
        )


def _wrappers(wrapper: OptimWrapper) -> list[OptimWrapper]:
    """Returns the wrapper of each optimizer."""
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


class Throughput(Hook):
    """Logs the images per second over all devices, and the share of the time in which steps waited for data.

    Both cover the time since the last log line, and are logged as `images_per_second` and `data_wait` (0 to 1). A large
    share is warned of once, with the mend, but not at a process's first line, which covers the start of the workers.
    """

    priority = "ABOVE_NORMAL"  # before the logger, which reads the numbers

    def __init__(self, feed: Feed, batch: int, every: int, mend: str) -> None:
        """Prepares to count.

        Args:
            feed: Knows how long steps waited for data.
            batch: Images of a step, over all devices.
            every: Steps between two log lines.
            mend: What a person can do about long waits.
        """
        self.feed, self.batch, self.every, self.mend = feed, batch, every, mend
        self._is_first, self._is_said = True, False

    def before_train_epoch(self, runner: Any) -> None:
        """Starts the clock, so that the time between two epochs does not count."""
        self.feed.waited()
        self._since, self._from = time.perf_counter(), runner.iter

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        """Hands both numbers to the log where it writes a line, and restarts the clock."""
        if not is_logged(runner, batch_idx, self.every):
            return
        waited, now, step = self.feed.waited(), time.perf_counter(), runner.iter + 1
        seconds = now - self._since
        share = min(1.0, waited / seconds)
        runner.message_hub.update_scalar("train/images_per_second", self.batch * (step - self._from) / seconds)
        runner.message_hub.update_scalar("train/data_wait", share)
        if share > LONGEST_DATA_WAIT and not self._is_first and not self._is_said and runner.rank == 0:
            log.warning("%s", with_mend(f"steps wait for data {share:.0%} of the time", self.mend))
            self._is_said = True
        self._is_first, self._since, self._from = False, now, step


class Heartbeat(Hook):
    """Keeps `status.json` up to date while a training runs, on rank 0.

    If it cannot be written, only a full disk ends the training.
    """

    def __init__(self, folder: RunFolder, task: str) -> None:
        """Writes the progress of a task of a run at most every `PROGRESS_SECONDS`."""
        self.folder, self.task, self._last = folder, task, 0.0

    def before_train(self, runner: Any) -> None:
        """Writes that the training runs, and from which step."""
        self._write(runner, runner.iter, resumed_at=runner.iter)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        """Writes how far the training is."""
        if time.monotonic() - self._last > PROGRESS_SECONDS:
            self._write(runner, runner.iter + 1)

    def after_train(self, runner: Any) -> None:
        """Writes that every step is done."""
        self._write(runner, runner.iter)

    def _write(self, runner: Any, step: int, **more: Any) -> None:
        if runner.rank == 0:
            self._last = time.monotonic()
            self.folder.tell_progress(self.task, step, runner.max_iters, "steps", **more)


class MetricsFile(BaseVisBackend):
    """Writes a training's scalars as lines of `metrics.jsonl`, from which plots and reports are made."""

    def __init__(self, path: Path) -> None:
        """Names the file to append to."""
        super().__init__(save_dir=str(path.parent))
        self.path = path
        self._env_initialized = True  # otherwise mmengine warns that it calls `_init_env` itself

    def _init_env(self) -> None:
        """Opens nothing: the file is opened and closed for each line, so that a killed run leaves whole lines."""

    @property
    def experiment(self) -> "MetricsFile":
        """The backend itself, which mmengine asks each backend for."""
        return self

    def add_scalars(self, scalar_dict: dict[str, Any], step: int = 0, file_path: str | None = None, **_: Any) -> None:
        """Appends the scalars of a step as one line; values that are not numbers are left out.

        Raises:
            UserError: The file cannot be written to, or the disk is full.
        """
        values = {k: float(v) for k, v in scalar_dict.items() if isinstance(v, int | float | Tensor) and k != "step"}
        append_metrics(self.path, {"step": step, **values})


class EventsFile(TensorboardVisBackend):
    """Writes a training's scalars for TensorBoard in a thread, whose errors are raised at the next call."""

    def add_scalars(self, *args: Any, **kwargs: Any) -> None:
        """Hands the scalars of a step to the thread.

        Raises:
            UserError: Earlier scalars could not be written.
        """
        try:
            super().add_scalars(*args, **kwargs)
        except OSError as error:
            raise not_written(Path(self._save_dir), error) from error


def append_metrics(path: Path, row: Mapping[str, float]) -> None:
    """Appends a line to a file of metrics.

    Args:
        path: The file; made if it is not there.
        row: A step and its numbers.

    Raises:
        UserError: The file cannot be written to, or the disk is full.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise not_written(path, error) from error


def not_written(path: Path, error: OSError) -> UserError:
    """Returns the error for a record of a training that cannot be written.

    Args:
        path: Of the file, or its folder.
        error: Why it cannot be written.
    """
    mend = mend_of_place(error, "make sure that its folder exists and can be written to")
    what = f"cannot write {path}: {error.strerror or one_line(error)}"
    return UserError(what, mend=f"{mend}; then the same command continues")


def forget_after(path: Path, step: int) -> int:
    """Drops the metrics of steps that a resumed run will make again, and unreadable lines.

    Args:
        path: Of a file of metrics, one JSON object with a `step` on each line; it need not exist.
        step: The last one whose metrics stay.

    Returns:
        The number of lines that stay.

    Raises:
        UserError: The file cannot be read, or not be written.
    """
    rows = [(line, parse_row(line)) for line in metrics_text(path).splitlines()]
    # A kill may have torn the last line, which is no reason to warn; other bad lines have another cause.
    if odd := sum(row is None for _, row in rows[:-1]):
        log.warning("%s: %s left out that cannot be read as metrics", path, counted(odd, "line"))
    kept = [line for line, row in rows if row is not None and row["step"] <= step]
    if rows:
        write_text(path, "".join(line + "\n" for line in kept))
    return len(kept)
