"""Which of our numbers in a block are marked: those whose lead is more than an accident of the seeds."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from results.paired import paired

LEGEND = "where the 95 % interval of its lead over the next, paired by seed, holds no zero"
"""When one of our numbers is marked, as titles say it."""


def clear_ranks(rows: Sequence[Mapping[int, float]]) -> list[int]:
    """Rank rows by their means, as far as their seeds tell them apart.

    Args:
        rows: Of each row that competes, seed -> value in percent.

    Returns:
        For each row 1 where it is the best and leads the second best clearly (`LEGEND`), 2 where it is the second best,
        the best leads it clearly, and it leads the third so; else 0. One seed leads nobody clearly.
    """
    means = [float(np.mean(list(values.values()))) for values in rows]
    best_first = sorted(range(len(rows)), key=lambda index: -means[index])
    ranks = [0] * len(rows)
    for rank, (ahead, behind) in enumerate(pairwise(best_first[:3]), start=1):
        interval = paired(rows[ahead], rows[behind]).interval()
        if interval is None or interval[0] <= 0:
            break  # who is second is unknown where nobody is first
        ranks[ahead] = rank
    return ranks
