"""How the benchmarks time: rivals take turns, so that a slow phase of the machine affects all of them alike."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch

from repro.processes.distributed import computes_on_gpu
from repro.processes.freed_memory import keep_freed_memory

ROUNDS = 7
"""Number of timed rounds; odd, so that the median is one of them."""


class Seconds(NamedTuple):
    """The time that a call of a function takes."""

    wall: float
    """Wall-clock time, which includes what others do on a shared machine."""
    cpu: float
    """CPU time of all of this process's threads."""


def seconds_in_turn(
    rivals: Mapping[str, Callable[[], object]], rounds: int = ROUNDS, calls: int = 1
) -> dict[str, Seconds]:
    """Times several functions round by round.

    Args:
        rivals: The functions to time, by name.
        rounds: Number of timed rounds, after one that warms up.
        calls: Calls of each function in a round, one after the other. The device is waited for only before the first
            and after the last of them: in between, the host may run ahead of it, as in a training.

    Returns:
        For each name, the median seconds of a call.
    """
    keep_freed_memory()  # as a training does, which is what the figures are for
    walls: dict[str, list[float]] = {name: [] for name in rivals}
    cpus: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(rounds + 1):
        for name, run in rivals.items():
            wait_for_device()
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(calls):
                run()
            wait_for_device()
            if number:  # round 0 warms up: it pays for allocations and cuDNN's choice of algorithms
                walls[name].append((time.perf_counter() - wall) / calls)
                cpus[name].append((time.process_time() - cpu) / calls)
    return {name: Seconds(statistics.median(walls[name]), statistics.median(cpus[name])) for name in rivals}


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the block, keeps torch to one thread, as in a loader's process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def best_device() -> torch.device:
    """Returns the GPU, or the CPU if there is none: for benchmarks without a run whose settings name a device."""
    return torch.device("cuda" if computes_on_gpu("auto") else "cpu")


def wait_for_device() -> None:
    """Waits until the GPU, if there is one, has done all queued work.

    Calls to a GPU return before their work is done: without this, only the queueing of work would be timed.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
