"""How much memory a device has, and how much of it is free: of main memory, what this process was given."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from repro.control_groups import groups_around, kernel_numbers, kernel_text

MEMORY = Path("/proc/meminfo")
"""What the kernel says of the whole machine's memory; not there on macOS."""

_FIRST_VERSION = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_SECOND_VERSION = ("memory.max", "memory.current", "inactive_file")
"""Of either version of control groups the files of a group's limit and use, and the line of `memory.stat` that tells
how much of the latter the kernel drops when it must."""


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
    kibibytes = kernel_numbers(MEMORY).get("MemAvailable", float("inf"))
    return min([1024.0 * kibibytes, *(limit - used for limit, used in _limits())])


def _limits() -> Iterator[tuple[int, int]]:
    """Yields limit and use, in bytes, of each control group around this process that has a limit."""
    for folder, is_second in groups_around("memory"):
        limit_file, use_file, dropped = _SECOND_VERSION if is_second else _FIRST_VERSION
        limit, used = (kernel_text(folder / name).strip() for name in (limit_file, use_file))
        if limit.isdecimal() and used.isdecimal():
            yield int(limit), int(used) - kernel_numbers(folder / "memory.stat").get(dropped, 0)
