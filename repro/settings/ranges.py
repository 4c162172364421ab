"""Ranges of numbers, and what is wrong with a setting outside of its own."""

import math
from dataclasses import dataclass
from typing import NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong with a run; `repro.settings.run.Run` makes a `UserError` of it."""

    what: str
    mend: str


@dataclass(frozen=True)
class Limit:
    """A range of finite numbers."""

    low: float = 0.0
    high: float = math.inf
    above: bool = False
    """Whether `low` itself is excluded."""

    def allows(self, value: float) -> bool:
        """Returns whether a value is finite and within the range."""
        # The last comparison refuses infinity where `high` is infinite; NaN fails every comparison.
        return (self.low < value if self.above else self.low <= value) and value <= self.high and value < math.inf

    def __str__(self) -> str:
        """Returns the range in words, as the mend of a value outside of it."""
        if self.above:
            return f"more than {self.low:g}" + (f", at most {self.high:g}" if self.high < math.inf else "")
        return f"{self.low:g}..{self.high:g}" if self.high < math.inf else f"{self.low:g} or more"


SHARE, POSITIVE, NOT_NEGATIVE, COUNT = Limit(high=1.0), Limit(above=True), Limit(), Limit(low=1)
