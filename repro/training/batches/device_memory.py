"""How much memory a device has, and how much is free; a run that certainly needs more is refused before it is built.

In main memory, limits of control groups count, which may be lower than what the machine has.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from repro.errors import UserError
from repro.processes.control_groups import groups_around, kernel_numbers, kernel_text
from repro.processes.distributed import world_size
from repro.quantities import memory_text
from repro.settings.run import Run
from repro.settings.sections import Framework

MEMORY = Path("/proc/meminfo")
"""The kernel's figures on the whole machine's memory; macOS has no such file."""

_FIRST_VERSION = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_SECOND_VERSION = ("memory.max", "memory.current", "inactive_file")
"""For each version of control groups: the files with a group's limit and use, and the line of `memory.stat` with the
part of the use that the kernel can reclaim."""
_BYTES = 4
"""Bytes of a number in single precision."""
_COPIES = 3
"""Numbers for each learned weight: the weight, its gradient and its momentum."""
_BASIC = ("resnet18", "resnet34")
"""Networks with eight times as many features as the encoder's width; the others have thirty-two times as many."""


def total_bytes(device: torch.device) -> float:
    """Returns the bytes of memory that a device has, used or not."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([whole, *(limit for limit, _ in _limits())])


def free_bytes(device: torch.device) -> float:
    """Returns how much memory is free on a device; infinite where the system does not tell."""
    if device.type == "cuda":
        # Memory that torch holds for later use is free too.
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


def least_bytes(run: Run) -> dict[tuple[str, ...], int]:
    """Returns how many bytes parts of a pretraining take at least on each device, by the settings that decide it."""
    encoder, crop = run.encoder, run.data.crop
    views = 2 * (run.optimization.batch // world_size())  # of this process's share of a batch
    features = encoder.width * (8 if encoder.arch in _BASIC else 32)
    parts: dict[tuple[str, ...], int] = {
        ("encoder.dim", "encoder.width"): _COPIES * _BYTES * features * encoder.dim,
        ("optimization.batch", "data.crop"): _BYTES * 3 * crop * crop * views,
    }
    if run.framework is Framework.mocov2:
        parts["moco.queue", "encoder.dim"] = _BYTES * run.moco.queue * encoder.dim
    return parts


def require_memory(run: Run, device: torch.device) -> None:
    """Refuses a run that certainly needs more memory than its device has.

    Args:
        run: The run to be trained.
        device: The device that it would be trained on.

    Raises:
        UserError: Names the settings that take the most, what they take, and what there is.
    """
    parts = least_bytes(run)
    needed, available = sum(parts.values()), total_bytes(device)
    if needed <= available:
        return
    largest = max(parts, key=lambda keys: parts[keys])
    raise UserError(
        f"the run needs at least {memory_text(needed)} of memory, most of it for {', '.join(largest)}, but there are "
        f"only {memory_text(available)}",
        mend=f"a smaller {largest[0]}",
    )
