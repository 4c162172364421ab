"""One way of doing a part of the input, which the input benchmark compares with others."""

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
    """Does the work for all photographs; None if something that it needs is not installed."""
    departure: Callable[[], int] | None = None
    """Returns the largest difference of its pixels from Pillow's; None if they are not comparable."""
    note: str = ""
    times: float = 1
    """How many times `run` does the work for all photographs; a fraction if it does so for fewer."""
    on_device: bool = False
    """Whether a GPU does the work, so that wall-clock time counts."""


def difference(one: NDArray[Any], other: NDArray[Any]) -> int:
    """Returns the largest difference of two arrays of pixels, in levels of 255."""
    return int(np.abs(one.astype(np.int16) - other).max())
