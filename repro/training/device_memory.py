"""How much memory a device has, and how much of it is free: of main memory, what this process was given."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch

MEMORY = Path("/proc/meminfo")
"""What the kernel says of the whole machine's memory; not there on macOS."""
GROUPS = Path("/proc/self/cgroup")
"""The control groups that this process is in: a line `ID:CONTROLLERS:PATH` for each hierarchy."""
HIERARCHIES = Path("/sys/fs/cgroup")
"""Where the hierarchies of control groups are mounted."""

_FILES = {
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    "": ("memory.max", "memory.current", "inactive_file"),
}
"""Of the first version of control groups, with a hierarchy for each controller, and of the second, with one for all:
the files of a group's limit and use, and the line of `memory.stat` that tells what the kernel drops when it must."""


def total_bytes(device: torch.device) -> float:
    """Returns the bytes of memory that a device has, used or not."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([whole, *(limit for limit, _ in _limits())])


def free_bytes(device: torch.device) -> float:
    """Returns how much memory is free on a device; infinite where the system does not tell."""
    if device.type == "cuda":
        # What torch holds for later use is free too.
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    kibibytes = _numbers(MEMORY).get("MemAvailable", float("inf"))
    return min([1024.0 * kibibytes, *(limit - used for limit, used in _limits())])


def _limits() -> Iterator[tuple[int, int]]:
    """Yields limit and use, in bytes, of each control group around this process that has a limit.

    A Slurm job or a container may use less than its machine has, and is killed for more. The limit often stands at a
    group far above the process's own.
    """
    for line in _text(GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if not _FILES.keys() & controllers.split(","):
            continue
        names = _FILES["memory" if controllers else ""]
        root = HIERARCHIES / controllers
        # Within a container the path may be the host's, of which nothing but the root is to be seen.
        for group in (PurePosixPath(path), *PurePosixPath(path).parents):
            limit, used = (_text(root / str(group).lstrip("/") / name).strip() for name in names[:2])
            if limit.isdecimal() and used.isdecimal():
                dropped = _numbers(root / str(group).lstrip("/") / "memory.stat").get(names[2], 0)
                yield int(limit), int(used) - dropped


def _numbers(path: Path) -> dict[str, int]:
    """Returns the numbers of a file of lines `NAME NUMBER`; none where there is no such file."""
    words = (line.replace(":", " ").split() for line in _text(path).splitlines())
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdecimal()}


def _text(path: Path) -> str:
    """Returns the text of a file of the kernel; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
