"""Ranges of numbers, and what is said of a setting that is out of its own."""

import math
from dataclasses import dataclass
from typing import NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong with a run; becomes a `UserError`."""

    what: str
    mend: str


@dataclass(frozen=True)
class Limit:
    """A range of finite numbers."""

    low: float = 0.0
    high: float = math.inf
    above: bool = False
    """Whether `low` itself is out."""

    def allows(self, value: float) -> bool:
        """Whether a value is finite and within."""
        return (self.low < value if self.above else self.low <= value) and value <= self.high and value < math.inf

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"{self.low:g}..{self.high:g}"
        return f"more than {self.low:g}" if self.above else f"{self.low:g} or more"


SHARE, POSITIVE, NOT_NEGATIVE, COUNT = Limit(high=1.0), Limit(above=True), Limit(), Limit(low=1)
