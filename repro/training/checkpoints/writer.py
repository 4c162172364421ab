"""Checkpoints written in the background: steps go on while the disk is at work."""

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


class BackgroundWriter:
    """Writes one snapshot at a time in a thread of its own.

    A snapshot is copied before `write` returns, so that the training may change its tensors right away. The next call
    of either method reports a write that failed.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def write(self, content: dict[str, Any], save: Callable[[dict[str, Any]], None]) -> None:
        """Waits until the previous snapshot is saved, copies this one to the host, and lets the thread save it.

        Args:
            content: Tensors and plain values, nested in dictionaries, lists and tuples.
            save: Writes a snapshot; called in the thread.

        Raises:
            UserError: The previous snapshot could not be written.
        """
        self.wait()
        self._pending = self._thread.submit(save, copied_to_host(content))

    def wait(self) -> None:
        """Waits until the last snapshot is saved.

        Raises:
            UserError: It could not be written.
        """
        if self._pending is None:
            return
        try:
            self._pending.result()
        finally:
            # If a signal interrupted this wait, the write is still in progress, and the next call must wait for it.
            if self._pending.done():
                self._pending = None


def copied_to_host(content: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy of nested tensors on the host, which nothing else refers to; plain values are not copied."""
    snapshot: dict[str, Any] = _copied(content)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # for all copies at once
    return snapshot


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        if not value.is_cuda:
            return value.detach().clone()
        # Into pinned memory, so that the host can queue all copies without waiting for each of them.
        return torch.empty_like(value, device="cpu", pin_memory=True).copy_(value.detach(), non_blocking=True)
    if isinstance(value, dict):
        # `copy.copy` keeps the attribute of a state dict that has the versions of its modules' layouts.
        copied = copy.copy(value)
        for name, item in value.items():
            copied[name] = _copied(item)  # one by one, as the `update` of a Counter adds to its counts
        return copied
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value
