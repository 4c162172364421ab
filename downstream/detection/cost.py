"""What the training of a detector took."""

import os
from dataclasses import dataclass

import torch

from repro.runs.usage_meter import largest_memory


@dataclass(frozen=True)
class Cost:
    """Of one trial."""

    seconds: float
    """Over all attempts."""
    peak_memory_gib: float
    """The most memory of the last attempt."""


def peak_memory_gib(device: torch.device) -> float:
    """Returns the most memory that this process used: of its GPU, or on a CPU of the machine, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return largest_memory(os.getpid()) / 2**30
