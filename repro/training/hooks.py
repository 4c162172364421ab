"""What watches a training from outside: throughput, non-finite gradients, state and heartbeat."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook, RuntimeInfoHook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.visualization.vis_backend import BaseVisBackend
from torch import Tensor

from repro.errors import UserError
from repro.files import write_atomically
from repro.runs.folder import RunFolder


class RuntimeInfo(RuntimeInfoHook):
    """mmengine's, which reads every number of a step at once and so waits for the device at each.

    Here they stay on the device until the next log line, which reads all steps since the last in one go.
    """

    def __init__(self, every: int) -> None:
        """Read the numbers every so many steps, and at the end of each epoch."""
        super().__init__()
        self.every = every
        self._kept: list[dict[str, Tensor]] = []

    def before_train_epoch(self, runner: Any) -> None:
        """Forget what an interrupted epoch left."""
        super().before_train_epoch(runner)
        self._kept.clear()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        """Keep a step's scalars; hand them on where the log asks for them."""
        if outputs is not None:
            self._kept.append({name: value.detach() for name, value in outputs.items()})
        if self.every_n_inner_iters(batch_idx, self.every) or self.end_of_epoch(runner.train_dataloader, batch_idx):
            self._hand_on(runner)

    def _hand_on(self, runner: Any) -> None:
        kept = [(name, value) for step in self._kept for name, value in step.items()]
        self._kept.clear()
        if kept:
            read = torch.stack([value.float() for _, value in kept]).tolist()
            for (name, _), value in zip(kept, read, strict=True):
                runner.message_hub.update_scalar(f"train/{name}", value)


class DivergenceError(UserError):
    """A gradient or loss was not finite."""


class FiniteGuard(Hook):
    """Stops a training whose gradients or losses are no longer finite, those of every optimizer.

    The check runs on the device at every step and costs no wait: the first bad step is remembered there and read where
    the host waits anyway, at each log line, and before each checkpoint, so that none is written after it. With fp16 a
    gradient that overflows is the loss scaler's business; the guard sees only steps that are taken.
    """

    priority = "HIGH"

    def __init__(self, every: int) -> None:
        """Read the verdict every so many steps; at each on a CPU, where reading is free."""
        self.every = every
        self._first_bad: Tensor | None = None

    def before_train(self, runner: Any) -> None:
        """Watch the optimizers."""
        self._first_bad = torch.full((), -1, dtype=torch.long, device=next(runner.model.parameters()).device)
        self._step = runner.iter
        self._handles = [
            wrapper.optimizer.register_step_pre_hook(self._check_gradients)
            for wrapper in _wrappers(runner.optim_wrapper)
        ]

    def after_train(self, runner: Any) -> None:
        """Let go of the optimizers."""
        for handle in self._handles:
            handle.remove()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Remember which step this is."""
        self._step = runner.iter

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        """Look at the losses and what is logged beside them; every so often, at the verdict."""
        for value in (outputs or {}).values():
            self._note(value.detach().isnan())
        if self._first_bad is None or not self._first_bad.is_cuda or self.every_n_train_iters(runner, self.every):
            self.verify()

    def verify(self) -> None:
        """Raise if any step so far was bad.

        Raises:
            DivergenceError: names the step and the mend.
        """
        step = -1 if self._first_bad is None else int(self._first_bad)
        if step >= 0:
            raise DivergenceError(
                f"the gradient or loss of step {step + 1} is not finite; the last good checkpoint is kept",
                mend="a lower optimization.lr (with ADIOS also adios.lr), or optimization.precision=fp32 or bf16",
            )

    def _check_gradients(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._note(~torch.nn.utils.get_total_norm(gradients).isfinite())

    def _note(self, bad: Tensor) -> None:
        assert self._first_bad is not None
        self._first_bad.copy_(
            torch.where((self._first_bad < 0) & bad.to(self._first_bad.device), self._step, self._first_bad)
        )


def _wrappers(wrapper: OptimWrapper) -> list[OptimWrapper]:
    """One for each optimizer."""
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


class Throughput(Hook):
    """Images per second over all devices since the last log line, as `images_per_second`."""

    priority = "ABOVE_NORMAL"

    def __init__(self, batch: int, every: int) -> None:
        """Count `batch` images a step, over all devices."""
        self.batch, self.every = batch, every

    def before_train_epoch(self, runner: Any) -> None:
        """Start the clock."""
        self._since, self._from = time.perf_counter(), runner.iter

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        """Tell the log, and start anew."""
        done = runner.iter + 1 - self._from
        if self.every_n_inner_iters(batch_idx, self.every) or self.end_of_epoch(runner.train_dataloader, batch_idx):
            elapsed = time.perf_counter() - self._since
            runner.message_hub.update_scalar("train/images_per_second", self.batch * done / elapsed)
            self._since, self._from = time.perf_counter(), runner.iter + 1


class Heartbeat(Hook):
    """Keeps `status.json` true while a training runs; rank 0 only."""

    def __init__(self, folder: RunFolder, task: str, seconds: float = 10.0) -> None:
        """Write at most every so many seconds."""
        self.folder, self.task, self.seconds, self._last = folder, task, seconds, 0.0

    def before_train(self, runner: Any) -> None:
        """Say that it runs."""
        self._write(runner, runner.iter)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        """Say how far it is."""
        if time.monotonic() - self._last > self.seconds:
            self._write(runner, runner.iter + 1)

    def after_train(self, runner: Any) -> None:
        """Say that every step is done."""
        self._write(runner, runner.iter)

    def _write(self, runner: Any, step: int) -> None:
        if runner.rank == 0:
            self._last = time.monotonic()
            self.folder.set_status("running", task=self.task, step=step, steps=runner.max_iters)


class MetricsFile(BaseVisBackend):
    """Scalars as lines of `metrics.jsonl`: the truth; TensorBoard stands beside it."""

    def __init__(self, path: Path) -> None:
        """Append to `path`."""
        super().__init__(save_dir=str(path.parent))
        self.path = path
        self._env_initialized = True

    def _init_env(self) -> None:
        """Nothing to open: each line is written and closed, so that a killed run leaves whole lines."""

    @property
    def experiment(self) -> "MetricsFile":
        """The backend itself."""
        return self

    def add_scalars(self, scalar_dict: dict[str, Any], step: int = 0, file_path: str | None = None, **_: Any) -> None:
        """Append one line."""
        values = {k: float(v) for k, v in scalar_dict.items() if isinstance(v, int | float | Tensor) and k != "step"}
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def forget_after(path: Path, step: int) -> None:
    """Drop the metrics of steps that a resumed run will do again, and a line torn by a kill."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["step"] <= step:
            kept.append(line + "\n")
    write_atomically(path, lambda file: file.write("".join(kept).encode()))
