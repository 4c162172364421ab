"""By whose spread from seed to seed a claim's difference is judged, and that spread."""

from enum import StrEnum

from repro.runs.method_name import MethodName
from results.paper.paper_claims import Claim, compared_rows
from results.statistics.paired import Spread, pooled_spread, spreading_alike
from results.tables.selection import ValuesByCell


class SpreadOf(StrEnum):
    """By whose spread from seed to seed a difference is judged."""

    sentence = "sentence"
    """All rows that its sentence compares in the same column: more than the three numbers of a pair, and nothing that
    was run for another sentence."""
    framework = "framework"
    """All rows of its framework in the same column, whatever they are for."""
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
"""The test that each takes, as pages name it."""


class SharedSpreads:
    """The spreads that rows of one column share, each worked out once: all claims of a sentence ask for the same."""

    def __init__(self, values: ValuesByCell, spread_of: SpreadOf) -> None:
        """Takes the values of one column, and by whose spread its differences are to be judged."""
        self.spread_of = spread_of
        self._values = values
        self._known: dict[tuple[str, ...], tuple[set[str], Spread | None]] = {}

    def of(self, claim: Claim, metric: str) -> Spread | None:
        """Returns the spread that a claim's two rows share with others; None where their own judges."""
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
        """Returns which of some rows share a spread, and that."""
        key = (metric, *rows)
        if key not in self._known:
            measured = {row: self._values[row, metric] for row in rows if (row, metric) in self._values}
            if self.spread_of is SpreadOf.framework:
                self._known[key] = set(measured), pooled_spread(measured.values())
            else:
                # What a seed does to all rows of a framework it need not do to those of the other one.
                apart = {
                    row: {(_framework(row), seed): value for seed, value in by_seed.items()}
                    for row, by_seed in measured.items()
                }
                alike = spreading_alike(apart)
                self._known[key] = alike, pooled_spread(by_seed for row, by_seed in apart.items() if row in alike)
        return self._known[key]


def _framework(method: str) -> str:
    """Returns the framework of a row, with which its name begins."""
    return MethodName.parse(method).framework
