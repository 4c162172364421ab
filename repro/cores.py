"""How many processor cores there are for this process, and how many of them other processes leave to it."""

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

from repro.control_groups import groups_around, kernel_text

LOADS = Path("/proc/stat")
"""What the kernel says of each core's time; not there on macOS."""
LOOK_SECONDS = 0.3
"""How long is looked on to see which cores are idle: thirty of the kernel's ticks."""


def usable_cores() -> int:
    """Returns the number of cores that this process may use: what a job was given, rather than what its node has."""
    return max(1, int(cores_beside(0)))


def idle_cores() -> int:
    """Returns how many of those cores nobody uses right now, but never less than one; looks on for a moment.

    Where the system does not tell, all are idle.
    """
    before, since = busy_seconds(), time.monotonic()
    time.sleep(LOOK_SECONDS)
    busy = (busy_seconds() - before) / (time.monotonic() - since)
    return max(1, round(cores_beside(busy)))


def cores_beside(busy: float) -> float:
    """Returns how many cores are left to this process where others keep so many of them busy.

    A container may run on all cores of its machine and have the time of two of them. Others then take none of that, as
    long as there are two beside them.
    """
    return min(len(_own_cores()) - busy, _allotted_cores())


def busy_seconds() -> float:
    """Returns for how long the cores that this process may use were busy since the machine began, summed over them.

    Where the system does not tell, they never were.
    """
    return sum(_busy_ticks()) / os.sysconf("SC_CLK_TCK")


def _busy_ticks() -> Iterator[int]:
    """Yields the ticks for which each core was busy."""
    names = {f"cpu{core}" for core in _own_cores()}
    for name, *words in map(str.split, kernel_text(LOADS).splitlines()):
        if name in names:
            user, nice, system, _idle, _waiting, interrupt, soft_interrupt, stolen = map(int, words[:8])
            yield user + nice + system + interrupt + soft_interrupt + stolen


def _own_cores() -> set[int]:
    """Returns the numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _allotted_cores() -> float:
    """Returns how many cores' time the control groups around this process may take; infinite without a limit."""
    return min(map(_quota, groups_around("cpu")), default=math.inf)


def _quota(group: tuple[Path, bool]) -> float:
    """Returns how many cores' time a control group may take; infinite without a limit."""
    folder, is_second_version = group
    if is_second_version:
        words = kernel_text(folder / "cpu.max").split()  # `max 100000` without a limit
    else:
        words = [kernel_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]  # -1 without
    if len(words) == 2 and all(word.isdecimal() and int(word) for word in words):
        return int(words[0]) / int(words[1])
    return math.inf
