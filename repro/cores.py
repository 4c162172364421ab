"""How many processor cores there are for this process, and how many of them other processes leave to it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

LOADS = Path("/proc/stat")
"""What the kernel says of each core's time; not there on macOS."""
LOOK_SECONDS = 0.3
"""How long is looked on to see which cores are idle: thirty of the kernel's ticks."""


def usable_cores() -> int:
    """Returns the number of cores that this process may use: what a job was given, rather than what its node has."""
    return len(_own_cores())


def idle_cores() -> int:
    """Returns how many of those cores nobody uses right now, but never less than one; looks on for a moment.

    Where the system does not tell, all are idle.
    """
    before, since = busy_seconds(), time.monotonic()
    time.sleep(LOOK_SECONDS)
    busy = (busy_seconds() - before) / (time.monotonic() - since)
    return max(1, round(usable_cores() - busy))


def busy_seconds() -> float:
    """Returns for how long the cores that this process may use were busy since the machine began, summed over them.

    Where the system does not tell, they never were.
    """
    ticks = os.sysconf("SC_CLK_TCK")
    return sum(_busy_ticks()) / ticks


def _busy_ticks() -> Iterator[int]:
    """Yields the ticks for which each core was busy."""
    names = {f"cpu{core}" for core in _own_cores()}
    try:
        lines = LOADS.read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for name, *words in map(str.split, lines):
        if name in names:
            user, nice, system, _idle, _waiting, interrupt, soft_interrupt, stolen = map(int, words[:8])
            yield user + nice + system + interrupt + soft_interrupt + stolen


def _own_cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
