"""Student's t and F distributions of scipy.special; scipy.stats has them too, and takes a second more to import."""

from typing import Any

from numpy.typing import ArrayLike
from scipy import special

POWER = 0.8
"""The chance with which a test should find a true difference."""


def two_sided_p(statistic: float, degrees: float) -> float:
    """Returns the p value of a t statistic: the chance of one at least as far from zero, if there is no effect."""
    return float(2 * special.stdtr(degrees, -abs(statistic)))


def t_quantile(share: float, degrees: ArrayLike) -> Any:
    """Returns the value below which a share of Student's t distribution lies, for each number of degrees of freedom."""
    return special.stdtrit(degrees, share)


def difference_found(degrees: ArrayLike, level: float) -> Any:
    """Returns how many standard errors a true difference measures that a t test finds with a chance of `POWER`.

    With a true difference, the t statistic follows the noncentral t distribution. This is the noncentrality at which it
    exceeds the critical value with that chance; the other tail adds next to nothing.

    Args:
        degrees: Degrees of freedom of the standard error; one number or several.
        level: The level of the two-sided test.
    """
    return special.nctdtrinc(degrees, 1 - POWER, t_quantile(1 - level / 2, degrees))


def f_above(ratio: float, numerator: float, denominator: float) -> float:
    """Returns the share of the F distribution above a ratio of variances with these degrees of freedom."""
    return float(special.fdtrc(numerator, denominator, ratio))


def fair_coin_p(heads: int, tails: int) -> float:
    """Returns the exact two-sided p value of counts of heads and tails, if the coin is fair: the binomial test."""
    return min(1.0, 2 * float(special.bdtr(min(heads, tails), heads + tails, 0.5)))
