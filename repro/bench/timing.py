"""How the benchmarks time: rivals take turns, so that a slow spell of the machine falls on all of them alike."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch

from repro.distributed import computes_on_gpu

ROUNDS = 7
"""Rounds that count; odd, so that the median is one of them."""


def timed_in_turn(rivals: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Times several functions round by round, as `seconds_in_turn` does, by the clock on the wall."""
    return {name: seconds.wall for name, seconds in seconds_in_turn(rivals, rounds).items()}


class Seconds(NamedTuple):
    """What a call of a function takes."""

    wall: float
    """By the clock on the wall, which counts what others do on a shared machine too."""
    cpu: float
    """Of all of this process's threads on their cores."""


def seconds_in_turn(
    rivals: Mapping[str, Callable[[], object]], rounds: int = ROUNDS, calls: int = 1
) -> dict[str, Seconds]:
    """Times several functions round by round.

    Args:
        rivals: By name, what is timed.
        rounds: How many rounds count, after one that warms up.
        calls: Of each function a round, one after the other. Only before the first and after the last of them the
            device is waited for: between them the host may be ahead of it, as it is in a training.

    Returns:
        For each name the medians of the seconds of a call.
    """
    walls: dict[str, list[float]] = {name: [] for name in rivals}
    cpus: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(rounds + 1):
        for name, run in rivals.items():
            wait_for_device()
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(calls):
                run()
            wait_for_device()
            if number:  # round 0 warms up: it pays for allocations, and for cuDNN's choice of algorithms
                walls[name].append((time.perf_counter() - wall) / calls)
                cpus[name].append((time.process_time() - cpu) / calls)
    return {name: Seconds(statistics.median(walls[name]), statistics.median(cpus[name])) for name in rivals}


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps torch to one thread, as in a loader's process, for the length of a `with` block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def best_device() -> torch.device:
    """Returns the GPU, if there is one, else the CPU: for what has no run whose settings name a device."""
    return torch.device("cuda" if computes_on_gpu("auto") else "cpu")


def wait_for_device() -> None:
    """Blocks until the GPU, if there is one, has done all that was queued.

    Calls to a GPU return before their work is done: without this, a clock would measure how fast work is queued.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
