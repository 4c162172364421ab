"""How the benchmarks time: rivals take turns, so that a slow spell of the machine falls on all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

ROUNDS = 7
"""Rounds that count; odd, so that the median is one of them."""


def timed_in_turn(rivals: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Times several functions round by round, each once a round.

    Args:
        rivals: by name, what is timed; called `rounds + 1` times each.
        rounds: how many rounds count.

    Returns:
        For each name the median of its seconds.
    """
    durations: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(rounds + 1):
        for name, run in rivals.items():
            wait_for_device()
            start = time.perf_counter()
            run()
            wait_for_device()
            if number:  # round 0 warms up: it pays for allocations, and for cuDNN's choice of algorithms
                durations[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in durations.items()}


def wait_for_device() -> None:
    """Blocks until the GPU, if there is one, has done all that was queued.

    Calls to a GPU return before their work is done: without this, a clock would measure how fast work is queued.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
