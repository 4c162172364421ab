"""How many CPU cores this process may use, and how many of them are idle."""

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

from repro.processes.control_groups import groups_around, kernel_text

LOADS = Path("/proc/stat")
"""The kernel's file with the CPU time of each core; does not exist on macOS."""
LOOK_SECONDS = 0.3
"""How long `idle_cores` watches the load: thirty of the kernel's ticks."""


def usable_cores() -> int:
    """Returns the number of cores that this process may use: those of its job, not those of its node."""
    return max(1, int(cores_beside(0)))


def idle_cores() -> int:
    """Returns how many of the usable cores are idle now, at least one; takes `LOOK_SECONDS`.

    Where the system does not report the load, all count as idle.
    """
    before, since = busy_seconds(), time.monotonic()
    time.sleep(LOOK_SECONDS)
    busy = (busy_seconds() - before) / (time.monotonic() - since)
    return max(1, round(cores_beside(busy)))


def cores_beside(busy: float) -> float:
    """Returns how many cores are left to this process while others keep `busy` cores busy.

    A container may run on all cores of its machine, but only with the CPU time of two. Others take nothing of that as
    long as two cores are idle.
    """
    return min(len(_own_cores()) - busy, _allotted_cores())


def busy_seconds() -> float:
    """Returns the seconds for which the cores of this process were busy since the machine began, summed over them.

    Zero where the system does not report the load.
    """
    return sum(_busy_ticks()) / os.sysconf("SC_CLK_TCK")


def _busy_ticks() -> Iterator[int]:
    """Yields for each core of this process the ticks for which it was busy."""
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
    """Returns the CPU time, in cores, that the control groups of this process allow; infinite without a limit."""
    return min(map(_quota, groups_around("cpu")), default=math.inf)


def _quota(group: tuple[Path, bool]) -> float:
    """Returns the CPU time, in cores, that a control group allows; infinite without a limit."""
    folder, is_second_version = group
    if is_second_version:
        words = kernel_text(folder / "cpu.max").split()  # `max 100000` without a limit
    else:
        words = [kernel_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]  # -1 without
    if len(words) == 2 and all(word.isdecimal() and int(word) for word in words):
        return int(words[0]) / int(words[1])
    return math.inf
