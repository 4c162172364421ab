"""Rivals timed in turn, so that a machine's moods fall on all alike."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

ROUNDS = 7


def timed_in_turn(sides: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each, run in turn so that a machine's moods fall on all alike."""
    took: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, run in sides.items():
            _wait()
            start = time.perf_counter()
            run()
            _wait()
            if turn:  # the first one warms up
                took[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in took.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
