"""What the training of a detector took."""

import resource
import sys
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Cost:
    """Of one trial."""

    seconds: float
    """Over all attempts."""
    peak_memory_gib: float | None
    """The most memory of the last attempt; None of a detector that an older version trained."""


def peak_memory_gib(device: torch.device) -> float:
    """Returns the most memory that this process used: of its GPU, or on a CPU of the machine, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    # The kernel's unit: bytes on macOS, kibibytes on Linux.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
