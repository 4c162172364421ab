"""How sure a difference is: paired by seed, and corrected for how many comparisons were made."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from repro.quantities import counted, number_text
from results.statistics.distributions import difference_found, f_above, t_quantile, two_sided_p

LEVEL = 0.05
"""The level of the test, shared by the comparisons that are corrected together."""
NO_NUMBERS = "values that are no numbers, or too large to compute with"
"""Why a difference with infinite or undefined values has no verdict."""
MOST_DIGITS = 6
"""The most decimals of a p value."""
MOST_PAIRS = 100
"""The largest number of seeds that `seeds_needed` returns."""


@dataclass(frozen=True)
class Spread:
    """How far the differences of two rows scatter from seed to seed, estimated from more rows than the two.

    Attributes:
        deviation: Standard deviation of the difference of two rows with the same seed, in points.
        degrees: Degrees of freedom that it was estimated with.
    """

    deviation: float
    degrees: int


class Judgement(Protocol):
    """How sure a difference is by seeds and images: what `results.statistics.imagewise.Difference` provides."""

    @property
    def images(self) -> int:
        """Number of images."""

    @property
    def p(self) -> float | None:
        """The two-sided p value of no difference; None where it cannot be taken."""

    @property
    def smallest(self) -> float | None:
        """The smallest true difference, in points, that such data would show with a chance of 80 %."""

    def interval(self, confidence: float) -> tuple[float, float] | None:
        """Returns the interval that holds the difference with this confidence, in points."""


@dataclass(frozen=True)
class Comparison:
    """Differences of two methods, seed by seed.

    Attributes:
        differences: First method − second, in points, one per seed that both have.
        unpaired: Seeds that only one of them has.
        seeds: The seeds of the differences.
        spread: The pooled spread by which to judge them; None: their own.
        by_images: The judgement by images and the same seeds; None: there are no predictions, and seeds alone decide.
    """

    differences: tuple[float, ...]
    unpaired: int = 0
    seeds: tuple[int, ...] = ()
    spread: Spread | None = None
    by_images: Judgement | None = None

    @property
    def by_seed(self) -> dict[int, float]:
        """Seed -> difference in points."""
        return dict(zip(self.seeds, self.differences, strict=True))

    @property
    def n(self) -> int:
        """The number of pairs."""
        return len(self.differences)

    @property
    def mean(self) -> float | None:
        """The mean difference in points; None without a pair."""
        return float(np.mean(self.differences)) if self.n else None

    @property
    def testable(self) -> bool:
        """Whether there is a spread to judge the mean by.

        Accuracies are whole counts of images: two seeds can differ by exactly the same count by chance, and a t-test
        on their own spread of 0 would be certain of anything. A pooled spread avoids that.
        """
        if self.by_images is not None:
            return self.by_images.p is not None
        if self.n < 2 or not self.finite:
            return False
        return self.spread is not None or float(np.ptp(self.differences)) > 1e-9

    @property
    def finite(self) -> bool:
        """Whether differences and their spread are numbers; those of a damaged file, 1e200, may be too large."""
        return self.n < 2 or (math.isfinite(np.mean(self.differences)) and math.isfinite(self._standard_error()[0]))

    @property
    def p(self) -> float | None:
        """The p value before correction; None if no test can be taken."""
        if not self.testable:
            return None
        if self.by_images is not None:
            return self.by_images.p
        error, degrees = self._standard_error()
        return two_sided_p(float(np.mean(self.differences)) / error, degrees)

    def interval(self, confidence: float = 1 - LEVEL) -> tuple[float, float] | None:
        """Returns the interval of the mean difference, in points; None if no test can be taken.

        It is Student's, or the bootstrap's if images judge.

        Args:
            confidence: The share of such intervals that hold the true difference.
        """
        if not self.testable:
            return None
        if self.by_images is not None:
            return self.by_images.interval(confidence)
        error, degrees = self._standard_error()
        mean, margin = float(np.mean(self.differences)), float(t_quantile((1 + confidence) / 2, degrees)) * error
        return mean - margin, mean + margin

    @property
    def basis(self) -> str:
        """What the judgement rests on, `3 seeds` or `3 seeds, 5,000 images`; empty without a pair."""
        images = f", {self.by_images.images:,} images" if self.by_images is not None else ""
        return f"{counted(self.n, 'seed')}{images}" if self.n else ""

    def _standard_error(self) -> tuple[float, int]:
        """Returns the mean difference's standard error in points, and its degrees of freedom."""
        with np.errstate(over="ignore", invalid="ignore"):  # of values as large as only a damaged file has
            spread = self.spread or Spread(float(np.std(self.differences, ddof=1)), self.n - 1)
        return float(spread.deviation / np.sqrt(self.n)), spread.degrees


def pooled_spread(values: Iterable[Mapping[Any, float]]) -> Spread | None:
    """Estimates the spread of a difference from all rows that were run with the same seeds.

    The model of a value is an effect of its row, plus an effect of its seed that is the same for all rows, plus noise
    of the same size for all. The noise is the residual of a least-squares fit of the effects. With two rows, the spread
    is that of the paired t-test.

    Args:
        values: For each row: seed -> value in percent; rows need not have all seeds. If a seed has different effects on
            some rows, as on those of two frameworks, each group of rows has its own key for the seed.

    Returns:
        The spread of the difference of any two rows; None if row and seed effects explain everything.
    """
    squares, degrees = _unexplained(list(values))
    return Spread(float(np.sqrt(2 * squares / degrees)), degrees) if degrees and squares > 1e-9 else None


def spreading_alike(values: Mapping[str, Mapping[Any, float]]) -> set[str]:
    """Returns which rows may share a spread: all but those that scatter far more than the others, as diverged ones do.

    A row is left out if its residuals are larger than the noise of the others explains, by an F test at 5 %, corrected
    for the number of rows. This is repeated as long as three rows are left.

    Args:
        values: Row -> seed -> value in percent, as for `pooled_spread`.
    """
    rows = dict(values)
    while len(rows) > 2:
        squares, degrees = _unexplained(list(rows.values()))
        chances = {}
        for row in rows:
            others, its = _unexplained([by_seed for name, by_seed in rows.items() if name != row])
            if its and degrees > its and others > 1e-9:
                ratio = ((squares - others) / (degrees - its)) / (others / its)
                chances[row] = f_above(ratio, degrees - its, its)
            elif its > 1 and others <= 1e-9 < squares:
                # The others do not scatter at all, like rows that collapsed to a guess. One degree of freedom would not
                # show that: two seeds differ by the same count of images now and then.
                chances[row] = 0.0
        outlier = min(chances, key=lambda row: chances[row], default="")
        if not outlier or chances[outlier] >= LEVEL / len(rows):
            break
        del rows[outlier]
    return set(rows)


@np.errstate(over="ignore", invalid="ignore")  # of values as large as only a damaged file has
def _unexplained(values: Sequence[Mapping[Any, float]]) -> tuple[float, int]:
    """Returns the sum of squared residuals of the fit of `pooled_spread`, and its degrees of freedom."""
    places: dict[Any, int] = {}
    cells = [
        (row, places.setdefault(seed, len(places)), value)
        for row, by_seed in enumerate(values)
        for seed, value in by_seed.items()
    ]
    if not cells:
        return 0.0, 0
    rows, seeds, measured = (np.array(column) for column in zip(*cells, strict=True))
    # The seeds' effects are expressed by those of the rows, which are few: a fit of both at once took minutes with
    # hundreds of seeds.
    counts = np.zeros((len(values), len(places)))
    np.add.at(counts, (rows, seeds), 1)
    measured = measured - measured.mean()
    of_rows, of_seeds = counts.sum(axis=1), counts.sum(axis=0)
    sums = np.bincount(seeds, measured)
    design = np.diag(of_rows) - counts / of_seeds @ counts.T
    target = np.bincount(rows, measured, minlength=len(values)) - counts @ (sums / of_seeds)
    effects, _, rank, _ = np.linalg.lstsq(design, target, rcond=1e-9)
    seed_effects = (sums - effects @ counts) / of_seeds
    left = measured - effects[rows] - seed_effects[seeds]
    return float(np.sum(left**2)), len(cells) - len(places) - int(rank)


def paired(first: Mapping[int, float], second: Mapping[int, float], spread: Spread | None = None) -> Comparison:
    """Pairs two methods by seed.

    Args:
        first: Seed -> value in percent.
        second: The same of the other method.
        spread: The pooled spread by which to judge the differences; None: their own.

    Returns:
        The differences of the seeds that both have, by seed, and how many seeds only one of them has.
    """
    seeds = tuple(sorted(first.keys() & second.keys()))
    differences = tuple(first[seed] - second[seed] for seed in seeds)
    return Comparison(differences, len(first.keys() ^ second.keys()), seeds, spread)


def p_text(p: float, digits: int = 3) -> str:
    """Returns a p value for people; one that would be rounded to 0 is shown as `< 0.001`.

    Args:
        p: The value, in 0…1.
        digits: Decimals; more if the value would be rounded to `LEVEL`, so that its side of it is seen.
    """
    least = 10**-digits
    while p != LEVEL and round(p, digits) == LEVEL and digits < MOST_DIGITS:
        digits += 1
    return f"< {least:.{digits}f}" if p < least / 2 else f"{p:.{digits}f}"


def difference_text(points: float | None) -> str:
    """Returns a difference in points for people, `+1.20`; a dash where there is none."""
    return "–" if points is None else number_text(points, sign="+")


def interval_text(interval: tuple[float, float] | None) -> str:
    """Returns an interval of a difference for people, `+0.40 … +2.00`; a dash where there is none."""
    return "–" if interval is None else " … ".join(map(difference_text, interval))


def points_text(points: float) -> str:
    """Returns percentage points for people, `1 point` or `0.5 points`."""
    return f"{points:g} point{'' if points == 1 else 's'}"


def holm(ps: Sequence[float]) -> list[float]:
    """Corrects p values by Holm's step-down method: the chance of any false alarm among all stays below the level.

    Args:
        ps: Raw p values.

    Returns:
        Corrected ones, in the same order (Holm 1979; scipy offers only the false discovery rate).
    """
    order = np.argsort(ps, kind="stable")
    # The smallest of m is multiplied by m, the next by m - 1, ...; the running maximum keeps the order of the raw ones.
    steps = np.asarray(ps, dtype=float)[order] * (len(ps) - np.arange(len(ps)))
    corrected = np.empty(len(ps))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(p) for p in corrected]


def seeds_needed(comparison: Comparison, difference: float, *, level: float = LEVEL) -> int | None:
    """Returns how many seeds would find a true difference with a chance of `POWER`, at the spread seen so far.

    Args:
        comparison: Supplies the spread, its own or the pooled one.
        difference: The true difference in points that should be found.
        level: The level of the two-sided test.

    Returns:
        The number of pairs; None without a spread, or beyond `MOST_PAIRS`.
    """
    if not comparison.testable:
        return None
    spread = comparison.spread.deviation if comparison.spread else np.std(comparison.differences, ddof=1)
    n = np.arange(2, MOST_PAIRS + 1)
    enough = abs(difference) * np.sqrt(n) / spread >= difference_found(n - 1, level)
    return int(n[enough][0]) if enough.any() else None
