"""The hours that jobs hold, of GPUs and without: one definition for plans, budgets, and what was spent."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Hours:
    """The hours that some jobs hold together."""

    of_gpus: float = 0.0
    """Hours times GPUs."""
    without_gpu: float = 0.0
    """Hours of the jobs that hold no GPU."""

    @classmethod
    def held(cls, seconds: float, gpus: int) -> "Hours":
        """Returns the hours that one job holds."""
        return cls(of_gpus=seconds * gpus / 3600) if gpus else cls(without_gpu=seconds / 3600)

    @classmethod
    def total(cls, parts: Iterable["Hours"]) -> "Hours":
        """Returns the sum of several hours."""
        every = list(parts)
        return cls(math.fsum(part.of_gpus for part in every), math.fsum(part.without_gpu for part in every))

    @property
    def counted(self) -> float:
        """As one number, for budgets: a job without a GPU counts as if it held one."""
        return self.of_gpus + self.without_gpu

    def text(self) -> str:
        """Returns both for people, without one that is 0: `2.0 GPU-hours and 0.3 hours without a GPU`."""
        return " and ".join(f"{hours:.1f} {unit}" for hours, unit in self._parts(self))

    def text_of(self, whole: "Hours") -> str:
        """Returns both as a share of a whole: `0.25 of 2.00 GPU-hours`."""
        return " and ".join(
            f"{part:.2f} of {hours:.2f} {unit}"
            for (part, _), (hours, unit) in zip(self._parts(whole), whole._parts(whole), strict=True)
        )

    def _parts(self, whole: "Hours") -> list[tuple[float, str]]:
        """Returns the numbers with their units, without those that are 0 in the whole."""
        parts = [(self.of_gpus, "GPU-hours")] if whole.of_gpus or not whole.without_gpu else []
        return parts + ([(self.without_gpu, "hours without a GPU")] if whole.without_gpu else [])
