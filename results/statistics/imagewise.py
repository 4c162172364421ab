"""How sure the difference of two methods is, image by image: McNemar's test, and a bootstrap over seeds and images.

The images are the same for all runs, so a difference varies for two reasons that add up: which seeds were trained, and
which images were scored. The bootstrap draws both.

The part of the seeds is drawn from a normal distribution, as three seeds cannot show the tails of theirs. Its spread is
that of both methods' seeds together (4 degrees of freedom with three seeds each, where pairs of seeds leave 2). How far
off this spread may be is drawn as well (Satterthwaite's degrees of freedom).

The part of the images is drawn by resampling them. An image that several drawn splits score is drawn with all that it
adds to the accuracy: its scores are alike, and counted as separate images they would claim more images than there are.
The part of the images' spread that comes from the seeds is subtracted, so that nothing counts twice (as variances of a
crossed layout are estimated: Searle, Casella and McCulloch 1992, chapter 4).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from repro.randomness import Purpose, stream
from results.statistics.distributions import difference_found, fair_coin_p
from results.statistics.paired import LEVEL

REPLICATES = 20_000
"""Draws of the bootstrap: p values in steps of 0.0001."""
KINDS = 256
"""The most kinds of images that the draws tell apart, see `_kinds`."""
DRAWN_AT_ONCE = 1000
"""Draws of the bootstrap that are in memory at once: 2 MB with so many kinds."""
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
    return McNemar(first_only, second_only, fair_coin_p(first_only, second_only))


@dataclass(frozen=True)
class Difference:
    """The difference of two methods in points, and draws around it.

    Attributes:
        mean: First − second.
        draws: `REPLICATES` draws of what the difference might have been; empty if there is no spread to judge by.
        spread: Standard error in points; NaN if values are no numbers, or too large to compute with.
        freedom: Degrees of freedom of that standard error (Satterthwaite).
        of_seeds: Whether the spread includes that of seeds; if not, the difference is of these runs, not of methods.
        images: Number of distinct images whose predictions are compared; 0 if seeds alone are compared.
    """

    mean: float
    draws: Floats
    spread: float
    freedom: float
    of_seeds: bool
    images: int = 0

    @property
    def of_images(self) -> bool:
        """Whether the spread includes that of images, which takes two; if not, the difference is of these images."""
        return self.images > 1

    @property
    def finite(self) -> bool:
        """Whether mean and spread are numbers; those of a damaged file, such as 1e200, may be too large."""
        return math.isfinite(self.mean) and math.isfinite(self.spread)

    def interval(self, confidence: float = 1 - LEVEL) -> tuple[float, float] | None:
        """Returns the interval of the difference with this confidence, in points; None without a spread."""
        if not self.draws.size:
            return None
        tail = (1 - confidence) / 2
        low, high = np.quantile(self.draws, [tail, 1 - tail])
        return float(low), float(high)

    @property
    def p(self) -> float | None:
        """The two-sided p value of no difference; None without a spread."""
        return min(1.0, 2 * min(self._below(0.0), self._above(0.0))) if self.draws.size else None

    @property
    def smallest(self) -> float | None:
        """The smallest true difference, in points, that such data would show with a chance of `POWER`."""
        if not self.draws.size:
            return None
        return float(difference_found(self.freedom, LEVEL) * self.spread)

    def p_of_equivalence(self, value: float, margin: float) -> float | None:
        """Returns the p value of two one-sided tests (TOST) that the difference is near a value; None without a spread.

        Args:
            value: In points, for instance the published difference.
            margin: In points.
        """
        return max(self._below(value - margin), self._above(value + margin)) if self.draws.size else None

    def reversed(self) -> "Difference":
        """Returns the difference second − first, of the same draws."""
        return replace(self, mean=-self.mean, draws=-self.draws)

    # One draw is added on either side: a p value of 0 would claim more than the draws can tell.
    def _below(self, value: float) -> float:
        return (1 + int(np.sum(self.draws <= value))) / (1 + self.draws.size)

    def _above(self, value: float) -> float:
        return (1 + int(np.sum(self.draws >= value))) / (1 + self.draws.size)


def difference_of_seeds(first: Sequence[float], second: Sequence[float], *names: int) -> Difference:
    """Compares two methods by the values of their runs alone; the images count as fixed.

    Args:
        first: Values of one method's runs, in points.
        second: The other's.
        names: Whole numbers that name the draws.
    """
    values = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    spread, freedom = _spread_of_seeds(*values)
    return _difference(float(values[0].mean()) - float(values[1].mean()), spread, freedom, None, names)


def difference_of_images(first: Floats, second: Floats, *names: int) -> Difference:
    """Compares two methods by what each of their runs predicts for each image.

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
    """Returns the part of the variance of images' points that comes from the seeds.

    A single run adds nothing, as its noise cannot be told from what is its images': it counts with both parts. Taking
    it to be the other method's would call too much different, up to one of ten null pairs of 1 run against 2.
    """
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
        freedom: Degrees of freedom of that standard error; 0: one run of each, which has no spread.
        images: Contributions of N images in points, and the part of their variance that comes from the seeds; None:
            there are no predictions.
        names: Whole numbers that name the draws.
    """
    rng = stream(0, Purpose.bootstrap, *names)
    # By products: of a too large number they are infinite, while `**` raises an error.
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
    # There is no test if the variance is rounding alone, with which any difference is certain, or is not finite.
    if not 1e-18 < variance < math.inf:
        known = 0.0 if variance <= 1e-18 else math.nan
        return Difference(mean, np.empty(0), known, 0.0, freedom > 0, count)
    degrees = variance**2 / of_freedom
    # How far off a spread of so few seeds may be is drawn as well; without images this makes Student's t.
    stretch = np.sqrt(degrees / rng.chisquare(degrees, REPLICATES))
    return Difference(mean, mean + noise * stretch, math.sqrt(variance), degrees, freedom > 0, count)


def _kinds(contributions: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """Returns what an image of each kind contributes, and how many images there are of each kind.

    Images with the same contribution are of one kind, and a draw is a number of images for each kind. If there are more
    than `KINDS` contributions, as with classes of many sizes, their range is cut into so many equal steps; the images
    of a step are one kind, with their mean contribution. That keeps the mean. It takes some 0.05 % off the variance,
    which the scale of the draws puts back.
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
    # In parts, to save memory; the draws are the same as in one piece.
    parts = [min(DRAWN_AT_ONCE, REPLICATES - begun) for begun in range(0, REPLICATES, DRAWN_AT_ONCE)]
    return np.concatenate([rng.multinomial(count, sizes / count, part) @ values / count for part in parts])
