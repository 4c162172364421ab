"""What the tests of claims say of perfect reproductions, which are drawn as the published numbers with noise."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from repro.command_line.progress import tracked
from repro.randomness import Purpose, stream
from results.claims.families import judge_families
from results.claims.spreads import SpreadOf
from results.claims.verdicts import (
    CONTRADICTED,
    OUTCOMES,
    SUPPORTED,
    TIE,
    MeasuredColumn,
    Verdict,
    count,
    judge_columns,
)
from results.paper.paper_claims import margin
from results.paper.published import TABLES, published
from results.tables.columns import paper_columns

SPREADS = (SpreadOf.pair, SpreadOf.sentence, SpreadOf.framework)
"""The tests that are compared."""


def claim_power(seeds: Sequence[int], *, noise: float, draws: int) -> list[dict[str, Any]]:
    """Returns the average outcomes of each test, one line for each number of seeds and test.

    A drawn reproduction has, for each value of Tables 1 and 2 and each seed, the published value plus normal noise.
    Lines hold the number of comparisons with each outcome. `found, %` is the share of the true differences of at least
    the margin that are called supported or contradicted, rightly. `wrong` is the number of comparisons that are called
    the opposite, or a tie although they differ by the margin or more. `sentences` is the number of the three sentences
    that are supported.

    Args:
        seeds: Numbers of seeds.
        noise: Standard deviation of the noise, in points.
        draws: Reproductions drawn for each number of seeds.
    """
    lines = []
    for number in seeds:
        reproductions = [_reproduction(number, noise, draw) for draw in range(draws)]
        for spread in SPREADS:
            what = f"{number} seeds, {spread}"
            judged = [
                [verdict for verdict in judge_columns(reproduction, spread) if verdict.both_run]
                for reproduction in tracked(reproductions, what, draws, unit="draws")
            ]
            lines.append({"seeds": number, "spread of": spread.value, **_summary(judged)})
    return lines


def _reproduction(seeds: int, noise: float, draw: int) -> dict[str, list[MeasuredColumn]]:
    """Draws the measured columns of each table; Table 3 has none, as the paper does not state its setting."""
    generator = stream(0, Purpose.bootstrap, seeds, draw)
    measured: dict[str, list[MeasuredColumn]] = {name: [] for name in TABLES}
    for name in ("table1", "table2"):
        paper = published(name)
        for column in paper_columns(paper):
            values = {
                (method, metric): dict(enumerate(paper.values[method, column.group.name, printed] + of_seeds))
                for metric, printed in column.metrics
                for method, of_seeds in zip(
                    paper.rows, generator.normal(0, noise, (len(paper.rows), seeds)), strict=True
                )
            }
            measured[name].append((column, values, None))
    return measured


def _summary(judged: Sequence[Sequence[Verdict]]) -> dict[str, Any]:
    """Returns the columns of a line that `claim_power` describes, as means over draws."""
    draws = len(judged)
    counts = [count(verdicts) for verdicts in judged]
    every = [verdict for verdicts in judged for verdict in verdicts]
    of_size = [verdict for verdict in every if abs(verdict.claim.published) >= margin()]
    sentences = [verdict for verdicts in judged for verdict in judge_families(verdicts) if verdict.compared]
    return {
        **{outcome: round(float(np.mean([one[outcome] for one in counts])), 1) for outcome in OUTCOMES[:-1]},
        "found, %": round(100 * float(np.mean([_as_it_is(verdict) for verdict in of_size])), 1),
        "wrong": round(sum(map(_wrong, every)) / draws, 2),
        "sentences": round(sum(verdict.outcome == SUPPORTED for verdict in sentences) / draws, 2),
    }


def _as_it_is(verdict: Verdict) -> bool:
    """Whether a verdict finds the true difference, in its direction."""
    return verdict.outcome == (SUPPORTED if verdict.claim.published > 0 else CONTRADICTED)


def _wrong(verdict: Verdict) -> bool:
    """Whether a verdict contradicts the true difference."""
    is_tied = verdict.outcome == TIE and abs(verdict.claim.published) >= margin()
    return is_tied or (verdict.outcome in (SUPPORTED, CONTRADICTED) and not _as_it_is(verdict))
