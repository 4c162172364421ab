"""One way of doing a part of the input, as the input benchmark holds it against others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rival:
    """One way of doing something."""

    stage: str
    name: str
    run: Callable[[], object] | None
    """Does it for all photographs; None where what it needs is not installed."""
    departure: Callable[[], int] | None = None
    """Returns its largest difference from Pillow's pixels; None where they are not comparable."""
    note: str = ""
    times: float = 1
    """How often it does it for all of them in a round; a share where it does so for fewer."""
    on_device: bool = False
    """Whether the work is not the CPU's, so that the clock on the wall counts."""


def difference(one: NDArray[Any], other: NDArray[Any]) -> int:
    """Returns the largest difference of two arrays of pixels, in levels of 255."""
    return int(np.abs(one.astype(np.int16) - other).max())
