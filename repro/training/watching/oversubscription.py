"""Warns of oversubscribed cores: a training on the CPU whose threads have fewer cores than they are.

oneDNN's threads synchronise several times in the backward pass of a convolution, and spin until the last one arrives.
If another process occupies that thread's core, all other threads burn theirs meanwhile: beside two busy processes, a
step of two threads on two cores took twenty times as long as one of a single thread (`docs/performance.md`).
"""

import logging
import time
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor

from repro.errors import with_mend
from repro.processes.cores import busy_seconds, cores_beside

LOOK_SECONDS = 20.0
"""How long the use of the cores is measured before a warning; the first measurement begins after the first step."""
TOLERANCE = 0.3
"""How much of a core the threads may lack without a warning; the kernel's own tasks take less."""

log = logging.getLogger("salmask")


class OversubscribedCores(Hook):
    """Warns once if a limit, or other processes such as the loader's, leave less than one core to each thread."""

    def before_train(self, runner: Any) -> None:
        """Begins anew; the first step is not measured, as it allocates and compiles."""
        self._since: float | None = None
        self._busy = 0.0
        self._is_said = runner.rank > 0  # only the first process warns

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        """Measures in intervals of `LOOK_SECONDS`, from the end of the first step on."""
        if self._is_said:
            return
        now = time.monotonic()
        if self._since is not None and now < self._since + LOOK_SECONDS:
            return
        busy = busy_seconds() - time.process_time()
        if self._since is not None:
            self._warn((busy - self._busy) / (now - self._since))
        self._since, self._busy = now, busy

    def _warn(self, others: float) -> None:
        line = caution(torch.get_num_threads(), cores_beside(others))
        if line:
            log.warning("%s", line)
            self._is_said = True


def caution(threads: int, cores: float) -> str:
    """Returns what is wrong with a number of threads, and the mend; empty where each of them has a core.

    Args:
        threads: Of this process.
        cores: How many the process has to itself.
    """
    if threads <= max(1.0, cores + TOLERANCE):
        return ""
    left = f"{max(0.0, cores):.1f} cores"
    what = f"{threads} threads wait for each other: other processes, or a limit, leave {left} to them"
    return with_mend(what, f"OMP_NUM_THREADS={max(1, int(cores))} before the command")
