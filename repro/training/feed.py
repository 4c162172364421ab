"""The way of a loader's batches to the device, and how long the training waits for them."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

IMAGE_DIMENSIONS = 4
"""Of a batch of images; what else is in a batch is small, and read on the host."""


class Feed:
    """Hands batches out, their images on the device, and remembers how long the device had nothing to do meanwhile.

    On a GPU the images are copied on a stream of their own, beside the step that is still being worked off. A step is
    queued long before it is done, so what the host waits for a batch says little there: a pair of events tells how long
    the GPU itself had nothing to do between two steps.
    """

    def __init__(self, device: torch.device) -> None:
        """Takes the device that the images go to."""
        self.device = device
        self._on_gpu = device.type == "cuda"
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._stream = torch.cuda.Stream(device) if self._on_gpu else None

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Yields the loader's batches, images on the device; between two, the caller queues a step on it."""
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
        """Returns the seconds that were waited for batches since the last call; waits for the GPU."""
        seconds, self._seconds = self._seconds, 0.0
        pairs, self._events = self._events, []
        if pairs:
            pairs[-1][1].synchronize()
        return seconds + sum(queued.elapsed_time(came) for queued, came in pairs) / 1000

    def _event(self) -> torch.cuda.Event | None:
        """Returns an event that notes when the GPU is done with all that was queued; None where there is no GPU."""
        if not self._on_gpu:
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _on_device(self, batch: Any) -> Any:
        """Returns a batch with its images on the GPU; where there is none, or it is no dictionary, as it is."""
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
            value.record_stream(current)  # else its memory could be given away while the step reads it
        return batch | moved
