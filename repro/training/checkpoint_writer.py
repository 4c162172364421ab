"""Checkpoints written beside the training: steps go on while the disk is at work."""

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


class BackgroundWriter:
    """Writes one snapshot at a time in a thread of its own.

    A snapshot is copied before `write` returns, so that the training may go on changing what it was taken of. A write
    that failed is reported by the next call of any method, and by `wait` at the latest.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def write(self, content: dict[str, Any], save: Callable[[dict[str, Any]], None]) -> None:
        """Copies a snapshot to the host, and lets the thread save it once the one before is saved.

        Args:
            content: Tensors and plain values, nested in dictionaries, lists and tuples.
            save: Writes it; called in the thread.

        Raises:
            UserError: The snapshot before could not be written.
        """
        self.wait()
        self._pending = self._thread.submit(save, copied_to_host(content))

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
            UserError: It could not be.
        """
        if self._pending is None:
            return
        try:
            self._pending.result()
        finally:
            # Only what has ended is forgotten: a wait that a signal broke off leaves the write in flight to the next.
            if self._pending.done():
                self._pending = None


def copied_to_host(content: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy of nested tensors on the host that nothing else refers to; plain values are as they were."""
    snapshot: dict[str, Any] = _copied(content)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # for all copies at once
    return snapshot


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        if not value.is_cuda:
            return value.detach().clone()
        # Into pinned memory, so that the device copies all tensors in one go while the host goes on asking.
        return torch.empty_like(value, device="cpu", pin_memory=True).copy_(value.detach(), non_blocking=True)
    if isinstance(value, dict):
        # A copy first: a state dict carries the versions of its modules' layouts as an attribute.
        copied = copy.copy(value)
        for name, item in value.items():
            copied[name] = _copied(item)  # one by one: a Counter's `update` counts instead
        return copied
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value
