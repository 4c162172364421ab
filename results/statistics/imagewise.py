"""How sure the difference of two methods is, image by image: McNemar's test, and a bootstrap over seeds and images.

The images are the same for all runs, so a difference varies for two reasons that add up: which seeds were trained, and
which images were scored. The bootstrap draws both. An image that several drawn splits score is drawn with all that it
adds to the accuracy: its scores are alike, and counted as images of their own they would claim more images than there
are. Three seeds cannot show the tails of their spread: their level is
drawn from a normal distribution with the spread of both methods' seeds together (4 degrees of freedom of three seeds
each, where pairs of seeds leave 2), and how far off that spread may be is drawn as well (Satterthwaite's degrees of
freedom); the images' level resamples the images. What the images' spread owes to the seeds alone is taken off, so that
nothing counts twice (as variances of a crossed layout are estimated: Searle, Casella and McCulloch 1992, chapter 4).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from repro.randomness import Purpose, stream
from results.statistics.paired import LEVEL

REPLICATES = 20_000
"""Draws of the bootstrap: p values in steps of 0.0001."""
KINDS = 256
"""Kinds of images that are told apart in the draws, see `_kinds`."""
DRAWN_AT_ONCE = 1000
"""Draws of the bootstrap that lie in memory together: 2 MB of so many kinds."""
POWER = 0.8
"""Chance with which the smallest difference that the data could show would be found."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class McNemar:
    """Two runs on the same images.

    Attributes:
        first_only: Number of images that only the first run gets right.
        second_only: Number of images that only the second run gets right.
        p: Exact and two-sided: the binomial test of these two numbers against a half.
    """

    first_only: int
    second_only: int
    p: float


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemar:
    """Returns McNemar's exact test of two runs, from N images' correctness each."""
    first_only, second_only = int(np.sum(first & ~second)), int(np.sum(~first & second))
    total = first_only + second_only
    p = float(stats.binomtest(first_only, total).pvalue) if total else 1.0
    return McNemar(first_only, second_only, p)


@dataclass(frozen=True)
class Difference:
    """The difference of two methods in points, and draws of what it might have been.

    Attributes:
        mean: First − second.
        draws: `REPLICATES` draws around it; empty where there is no spread to judge by.
        spread: Standard error; NaN where values are no numbers, or too large to compute with.
        freedom: Degrees of freedom of that standard error (Satterthwaite).
        of_seeds: Whether the spread of seeds is part of it; without, it is of these very runs and not of the methods.
        images: Number of distinct images whose predictions it is made of; 0 where it is made of seeds alone.
    """

    mean: float
    draws: Floats
    spread: float
    freedom: float
    of_seeds: bool
    images: int = 0

    @property
    def of_images(self) -> bool:
        """Whether the spread of images is part of it, of which a single one tells none; else it is of these images."""
        return self.images > 1

    @property
    def finite(self) -> bool:
        """Whether mean and spread are numbers; values of a damaged file, 1e200, may be too large."""
        return math.isfinite(self.mean) and math.isfinite(self.spread)

    def interval(self, confidence: float = 1 - LEVEL) -> tuple[float, float] | None:
        """Returns the interval that holds the difference with this confidence, in points."""
        if not self.draws.size:
            return None
        tail = (1 - confidence) / 2
        low, high = np.quantile(self.draws, [tail, 1 - tail])
        return float(low), float(high)

    @property
    def p(self) -> float | None:
        """The two-sided p value of no difference; None where there is no spread."""
        return min(1.0, 2 * min(self._below(0.0), self._above(0.0))) if self.draws.size else None

    @property
    def smallest(self) -> float | None:
        """The smallest true difference, in points, that such data would show with a chance of `POWER`."""
        if not self.draws.size:
            return None
        critical = stats.t.isf(LEVEL / 2, self.freedom)
        # Of a true difference the t statistic follows the noncentral t distribution; that centre is looked for at which
        # it passes the critical value so often. The other tail adds next to nothing.
        return float(special.nctdtrinc(self.freedom, 1 - POWER, critical) * self.spread)

    def p_of_equivalence(self, value: float, margin: float) -> float | None:
        """Returns the p value of two one-sided tests (TOST) that the difference lies within a margin of a value.

        Args:
            value: In points, for instance the published difference.
            margin: In points.
        """
        return max(self._below(value - margin), self._above(value + margin)) if self.draws.size else None

    def reversed(self) -> "Difference":
        """Returns the difference second − first, of the same draws."""
        return replace(self, mean=-self.mean, draws=-self.draws)

    # One more draw on either side: a p value of 0 would claim more than so many draws can tell.
    def _below(self, value: float) -> float:
        return (1 + int(np.sum(self.draws <= value))) / (1 + self.draws.size)

    def _above(self, value: float) -> float:
        return (1 + int(np.sum(self.draws >= value))) / (1 + self.draws.size)


def difference_of_seeds(first: Sequence[float], second: Sequence[float], *names: int) -> Difference:
    """Compares two methods by their runs' values alone, on these very images.

    Args:
        first: Values of one method's runs, in points.
        second: The other's.
        names: Whole numbers that name the draws.
    """
    values = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    spread, freedom = _spread_of_seeds(*values)
    return _difference(float(values[0].mean()) - float(values[1].mean()), spread, freedom, None, names)


def difference_of_images(first: Floats, second: Floats, *names: int) -> Difference:
    """Compares two methods by what each of their runs makes of each image.

    Args:
        first: S×N, points that each of N distinct images adds to the accuracy of each of one method's S runs: what
            `Predictions.points` returns.
        second: T×N, of the other method's T runs.
        names: Whole numbers that name the draws.
    """
    count = first.shape[1]
    values = first.sum(axis=1), second.sum(axis=1)
    if count < 2:
        return replace(difference_of_seeds(*values, *names), images=count)
    spread, freedom = _spread_of_seeds(*values)
    contributions = count * (first.mean(axis=0) - second.mean(axis=0))
    noise = count**2 * _noise_of_seeds(first, second)
    return _difference(float(contributions.mean()), spread, freedom, (contributions, noise), names)


def _spread_of_seeds(first: Floats, second: Floats) -> tuple[float, int]:
    """Returns the standard error of a difference by the seeds of both methods together, and its degrees of freedom."""
    freedom = len(first) + len(second) - 2
    if freedom < 1:
        return 0.0, 0
    with np.errstate(over="ignore", invalid="ignore"):  # of values as large as only a damaged file has
        squares = sum(float(np.sum((values - values.mean()) ** 2)) for values in (first, second))
    return math.sqrt(squares / freedom * (1 / len(first) + 1 / len(second))), freedom


def _noise_of_seeds(first: Floats, second: Floats) -> float:
    """Returns how much of the variance of an image's points is that of the seeds; 0 where it cannot be known."""
    return sum(
        float(np.mean(points.var(axis=0, ddof=1) / len(points))) for points in (first, second) if len(points) > 1
    )


def _difference(
    mean: float, spread: float, freedom: int, images: tuple[Floats, float] | None, names: Sequence[int]
) -> Difference:
    """Draws around a difference: what other seeds and other images would have made of it.

    Args:
        mean: The difference in points.
        spread: Its standard error by the seeds.
        freedom: The degrees of freedom of that; 0: there are no seeds to tell it.
        images: Contributions of N images in points, and how much of their variance is the seeds'; None: not at hand.
        names: Name the draws.
    """
    rng = stream(0, Purpose.bootstrap, *names)
    # By products, which are infinite where a power of too large a number raises an error.
    noise, variance, count = np.zeros(REPLICATES), spread * spread, 0
    of_freedom = variance * variance / max(freedom, 1)
    if 0 < spread < math.inf:
        noise = spread * rng.standard_normal(REPLICATES)
    if images is not None:
        contributions, of_seeds = images
        count, total = len(contributions), float(np.var(contributions, ddof=1))
        own = max(total - of_seeds, 0.0) / count
        if own > 0:
            values, sizes = _kinds(contributions)
            resampled = _resampled(rng, values, sizes) - contributions.mean()
            kept = float(np.average((values - contributions.mean()) ** 2, weights=sizes)) * count / (count - 1)
            noise += resampled * math.sqrt(own * count / kept)
        variance, of_freedom = variance + own, of_freedom + own**2 / (count - 1)
    # Of rounding alone a test would be certain of everything, and of values that are no numbers of anything.
    if not 1e-18 < variance < math.inf:
        known = 0.0 if variance <= 1e-18 else math.nan
        return Difference(mean, np.empty(0), known, 0.0, freedom > 0, count)
    degrees = variance**2 / of_freedom
    # Drawn with the rest, how far off a spread of so few seeds may be: of seeds alone it makes Student's t.
    stretch = np.sqrt(degrees / rng.chisquare(degrees, REPLICATES))
    return Difference(mean, mean + noise * stretch, math.sqrt(variance), degrees, freedom > 0, count)


def _kinds(contributions: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """Returns what each kind of image contributes, and how many there are of it.

    Images that contribute alike are alike: their numbers are drawn, not each of them. Where there are more than
    `KINDS`, as with classes of many sizes, those of one of so many equal steps count as alike, each with the mean of
    its step. That keeps the mean; what it takes off the variance, some 0.05 % of it, the scale of the draws puts back.
    """
    values, sizes = np.unique(contributions, return_counts=True)
    if len(values) <= KINDS:
        return values, sizes
    steps = np.linspace(values[0], values[-1], KINDS + 1)
    kinds = np.searchsorted(steps[1:-1], contributions, side="right")
    sizes = np.bincount(kinds, minlength=KINDS)
    sums = np.bincount(kinds, weights=contributions, minlength=KINDS)
    return sums[sizes > 0] / sizes[sizes > 0], sizes[sizes > 0]


def _resampled(rng: np.random.Generator, values: Floats, sizes: NDArray[np.intp]) -> Floats:
    """Returns `REPLICATES` means of as many images as there are, drawn with replacement."""
    count = int(sizes.sum())
    # A few at a time, which are the same draws: all numbers of all kinds at once were a gigabyte.
    parts = [min(DRAWN_AT_ONCE, REPLICATES - begun) for begun in range(0, REPLICATES, DRAWN_AT_ONCE)]
    return np.concatenate([rng.multinomial(count, sizes / count, part) @ values / count for part in parts])
