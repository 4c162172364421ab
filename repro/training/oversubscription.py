"""Warns of oversubscribed cores: a training on the CPU whose threads have fewer cores than they are.

oneDNN's threads meet several times in the backward pass of a convolution, and spin until the last one is there. If
another process has the core of that one, all the others burn theirs meanwhile: beside two busy processes, a step of two
threads on two cores took twenty times as long as one of a single thread (`docs/performance.md`).
"""

import logging
import time
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor

from repro.cores import busy_seconds, cores_beside
from repro.errors import with_mend

LOOK_SECONDS = 20.0
"""How long a training is looked at before something is said; the first look begins after the first step."""
TOLERANCE = 0.3
"""Cores that others may take of those which the threads need; the kernel's own tasks take less."""

log = logging.getLogger("salmask")


class OversubscribedCores(Hook):
    """Warns once where a limit, or other processes, the loader's among them, leave less than a core to each thread."""

    def before_train(self, runner: Any) -> None:
        """Forgets an earlier look: the first step pays for what is allocated and compiled once."""
        self._since: float | None = None
        self._busy = 0.0
        self._is_said = runner.rank > 0  # the first process speaks for all

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        """Looks from the first step on, each time for some seconds."""
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
        cores: How many it has to itself.
    """
    if threads <= max(1.0, cores + TOLERANCE):
        return ""
    left = f"{max(0.0, cores):.1f} cores"
    what = f"{threads} threads wait for each other: other processes, or a limit, leave {left} to them"
    return with_mend(what, f"OMP_NUM_THREADS={max(1, int(cores))} before the command")
