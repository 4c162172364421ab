"""What the training of a detector took."""

import os
from dataclasses import dataclass

import torch

from repro.runs.usage_meter import largest_memory


@dataclass(frozen=True)
class Cost:
    """What the training of one trial took."""

    seconds: float
    """Over all attempts."""
    peak_memory_gib: float
    """Peak memory of the last attempt."""


def peak_memory_gib(device: torch.device) -> float:
    """Returns the peak memory of this process in GiB: of its GPU, or of the machine if it computes on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return largest_memory(os.getpid()) / 2**30
