"""The way of a loader's batches to the device, and how long the training waits for them."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

IMAGE_DIMENSIONS = 4
"""Dimensions of a batch of images. Everything else in a batch is small, and is read on the host."""


class Feed:
    """Yields batches, their images on the device, and measures how long the training waits for them.

    On a GPU, images are copied on a separate stream while the step before is still running. The host queues a step long
    before the GPU has done it, so that the host's own waiting says little: a pair of CUDA events measures how long the
    GPU was idle between two steps.
    """

    def __init__(self, device: torch.device) -> None:
        """Takes the device that the images go to."""
        self.device = device
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Yields the loader's batches, images on the device; between two batches, the caller queues a step."""
        iterator = iter(loader)
        while True:
            step_queued, start = self._event(), time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            if step_queued is None:
                self._seconds += time.perf_counter() - start
            else:
                batch_came = self._event()
                assert batch_came is not None
                self._events.append((step_queued, batch_came))
            yield self._on_device(batch)

    def waited(self) -> float:
        """Returns the seconds that the training waited for batches since the last call; waits for the GPU."""
        seconds, self._seconds = self._seconds, 0.0
        pairs, self._events = self._events, []
        if pairs:
            pairs[-1][1].synchronize()
        return seconds + sum(queued.elapsed_time(came) for queued, came in pairs) / 1000

    def _event(self) -> torch.cuda.Event | None:
        """Returns an event that records when the GPU has done all that is queued now; None where there is no GPU."""
        if self._stream is None:
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _on_device(self, batch: Any) -> Any:
        """Returns a batch with its images on the GPU; unchanged where there is no GPU, or if it is not a dictionary."""
        if self._stream is None or not isinstance(batch, dict):
            return batch
        current = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._stream):
            moved = {
                name: value.to(self.device, non_blocking=True)
                for name, value in batch.items()
                if isinstance(value, Tensor) and value.ndim == IMAGE_DIMENSIONS
            }
        current.wait_stream(self._stream)  # the step, not the host, waits for the copy
        for value in moved.values():
            value.record_stream(current)  # else its memory could be reused while the step reads it
        return batch | moved
