"""Which measured numbers are marked: those with a lead, or a gap to the baseline, beyond the spread of seeds."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from results.statistics.paired import paired

LEGEND = "where the 95 % interval of its lead over the next, paired by seed, excludes zero"
"""When a measured number is bold or marked as the second best, as legends say it."""


SIGNS = {"better": "†", "worse": "‡"}
"""How a measured number compares with its framework's without masking -> its mark in every format."""
SIGNIFICANCE = (
    f"{SIGNS['better']} better, {SIGNS['worse']} worse than the framework without masking: the 95 % interval of the "
    "difference, paired by seed, excludes zero (not corrected for the number of rows; one seed is never marked)"
)
"""What the marks say, as legends say it."""


def significance(values: Mapping[int, float], without_masking: Mapping[int, float]) -> str:
    """Returns how a row compares with its framework without masking: a key of `SIGNS`; empty if seeds do not tell.

    Args:
        values: Seed -> value in percent.
        without_masking: The same of the framework's own row.
    """
    interval = paired(values, without_masking).interval()
    if interval is None or interval[0] <= 0 <= interval[1]:
        return ""
    return "better" if interval[0] > 0 else "worse"


def clear_ranks(
    rows: Sequence[Mapping[int, float]], alike: Callable[[int, int], bool] = lambda _first, _second: True
) -> list[int]:
    """Ranks rows by their means, as far as their seeds tell them apart.

    Args:
        rows: For each row that competes, seed -> value in percent.
        alike: Whether two rows, given by their indices, differ in their methods alone; else neither leads the other.

    Returns:
        For each row: 1 if it is the best and clearly leads the second best (`LEGEND`); 2 if it is the second best, the
        best clearly leads it, and it clearly leads the third; else 0. With one seed, no lead is clear.
    """
    means = [float(np.mean(list(values.values()))) for values in rows]
    best_first = sorted(range(len(rows)), key=lambda index: -means[index])
    ranks = [0] * len(rows)
    for rank, (ahead, behind) in enumerate(pairwise(best_first[:3]), start=1):
        interval = paired(rows[ahead], rows[behind]).interval()
        if interval is None or interval[0] <= 0 or not alike(ahead, behind):
            break  # without a clear first row, there is no clear second
        ranks[ahead] = rank
    return ranks
