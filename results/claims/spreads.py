"""The spread from seed to seed by which the difference of a claim is judged."""

from enum import StrEnum

from repro.settings.method_name import MethodName
from results.paper.paper_claims import Claim, compared_rows
from results.statistics.paired import Spread, pooled_spread, spreading_alike
from results.tables.selection import ValuesByCell


class SpreadOf(StrEnum):
    """The rows whose spread from seed to seed judges a difference."""

    sentence = "sentence"
    """All rows that the claim's sentence compares in the same column. They are more than the pair, and what was run for
    another sentence plays no part."""
    framework = "framework"
    """All rows of the claim's framework in the same column, for whichever sentence they were run."""
    pair = "pair"
    """The two rows alone."""


TESTS = {
    SpreadOf.sentence: (
        "Each comparison is a two-sided t-test on the seeds that both methods have. Its spread is pooled over all rows "
        "that the sentence compares in the column (residuals of row + seed within each framework); a row that spreads "
        "unlike the others is judged by its own pairs."
    ),
    SpreadOf.framework: (
        "Each comparison is a two-sided t-test on the seeds that both methods have. Its spread is pooled over all rows "
        "of the framework in the same setting (residuals of row + seed), which assumes that they spread alike."
    ),
    SpreadOf.pair: "Each comparison is a two-sided paired t-test on the seeds that both methods have.",
}
"""Member of `SpreadOf` -> its test, as pages describe it."""


class SharedSpreads:
    """The spreads that rows of one column share, each computed once: all claims of a sentence need the same one."""

    def __init__(self, values: ValuesByCell, spread_of: SpreadOf) -> None:
        """Takes the values of one column, and whose spread judges its differences."""
        self.spread_of = spread_of
        self._values = values
        self._known: dict[tuple[str, ...], tuple[set[str], Spread | None]] = {}

    def of(self, claim: Claim, metric: str) -> Spread | None:
        """Returns the spread that a claim's two rows share with others; None if their own spread judges the claim."""
        if self.spread_of is SpreadOf.pair:
            return None
        pair = (claim.better, claim.worse)
        rows = compared_rows(claim)
        if self.spread_of is SpreadOf.framework:
            frameworks = set(map(_framework, pair))
            rows = tuple(method for method, its in self._values if its == metric and _framework(method) in frameworks)
        alike, spread = self._spread(metric, rows)
        return spread if alike.issuperset(pair) else None

    def _spread(self, metric: str, rows: tuple[str, ...]) -> tuple[set[str], Spread | None]:
        """Returns which of some rows share a spread, and that spread."""
        key = (metric, *rows)
        if key not in self._known:
            measured = {row: self._values[row, metric] for row in rows if (row, metric) in self._values}
            if self.spread_of is SpreadOf.framework:
                self._known[key] = set(measured), pooled_spread(measured.values())
            else:
                # A seed may shift all rows of one framework alike, but those of the two frameworks differently.
                apart = {
                    row: {(_framework(row), seed): value for seed, value in by_seed.items()}
                    for row, by_seed in measured.items()
                }
                alike = spreading_alike(apart)
                self._known[key] = alike, pooled_spread(by_seed for row, by_seed in apart.items() if row in alike)
        return self._known[key]


def _framework(method: str) -> str:
    """Returns the framework of a row, which begins its name."""
    return MethodName.parse(method).framework
