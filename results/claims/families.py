"""What the runs at hand say about each sentence of the paper: the verdicts on its comparisons, put together."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from repro.quantities import counted
from repro.settings.departures import scale_of
from results.claims.verdicts import NOT_RUN, OUTCOMES, Verdict, outcome_of
from results.collection.row_comparison import ALTERED, TINY
from results.formats.layout import in_one_line
from results.paper.paper_claims import Claim, Family, families
from results.statistics.paired import NO_NUMBERS, Comparison
from results.tables.columns import Column

NO_VERDICT = "no verdict as a whole"
"""Stands in place of a verdict if a family makes no statement about its comparisons as a whole."""
NOTE = (
    "A sentence as a whole is decided by a t-test on the mean of its differences, seed by seed: one test for each "
    "sentence and setting, not corrected for the other sentences."
)
"""How a sentence is decided; printed after `results.claims.verdicts.method_notes`."""


@dataclass(frozen=True)
class FamilyVerdict:
    """What the runs at hand say about a sentence of the paper, in one setting.

    Attributes:
        family: The sentence.
        setting: Data, fidelity, scale and common alterations of the runs, in lines: `scenes`, `TINY: resnet18, 64 px`.
            If several splits or protocols measured the same data, they follow the data. Empty if nothing was run.
        counts: Outcome -> number of the family's comparisons.
        outcome: One of `OUTCOMES` for the whole, or `NO_VERDICT`.
        comparison: Mean difference over the comparisons with two pairs of runs or more, seed by seed. Its p value is
            not corrected for other sentences.
        compared: Number of comparisons in that mean.
        published: The paper's mean over the same comparisons, in points; None if there is none.
        columns: Our columns in which its comparisons were made; they hold the runs of this setting.
        published_by: The evaluations and measures of the paper's mean, each once, as in `Claim.published_by`.
        paper_of: The measure of the paper's mean if the runs are judged by another one, as in `Verdict.paper_of`:
            `linear top-1`, or `in part linear top-1` if some comparisons are judged by the paper's; else empty.
    """

    family: Family
    setting: str
    counts: Mapping[str, int]
    outcome: str
    comparison: Comparison
    compared: int
    published: float | None
    columns: tuple[Column, ...] = ()
    published_by: tuple[str, ...] = ()
    paper_of: str = ""

    @property
    def scope(self) -> str:
        """How many of the comparisons the outcome rests on, `on 1 of 72`; empty if it rests on all or on none."""
        partly = self.family.decided_by_mean and 0 < self.compared < sum(self.counts.values())
        return f"on {self.compared} of {sum(self.counts.values())}" if partly else ""

    @property
    def why(self) -> str:
        """What the verdict rests on, in a few words."""
        total = sum(self.counts.values())
        if self.counts[NOT_RUN] == total:
            return "not run"
        if not self.family.decided_by_mean:
            return "no sentence about the whole"
        if not self.compared:
            return "no comparison has two seeds that both rows have"
        if not self.comparison.finite:
            return NO_NUMBERS
        seeds = counted(self.comparison.n, "seed")
        return f"mean over {self.compared} of {total} comparisons, {seeds} that all of them have"


def judge_families(verdicts: Sequence[Verdict]) -> list[FamilyVerdict]:
    """Puts the verdicts on comparisons together to verdicts on sentences, one for each sentence and setting.

    A sentence about the whole is decided by a paired t-test. Its values are the mean differences over all comparisons
    with two pairs of runs or more, one for each seed that all of these have.

    Args:
        verdicts: What `judge` returns.

    Returns:
        Verdicts in the order of the families; a family for which nothing was run has one as well.
    """
    judged = []
    for family in families():
        members = [
            (verdict, claim) for verdict in verdicts for claim in verdict.question.claims if claim.family == family
        ]
        settings = sorted({setting_of(verdict) for verdict, _ in members if verdict.both_run}) or [""]
        judged += [_roll_up(family, setting, members) for setting in settings]
    return judged


def families_as_frame(verdicts: Sequence[FamilyVerdict]) -> pd.DataFrame:
    """Returns the verdicts on families as data, one line each."""
    return pd.DataFrame(
        {
            "claim": verdict.family.id,
            "says": verdict.family.says,
            "source": str(verdict.family.source),
            "quote": verdict.family.quote,
            "reading": verdict.family.reading,
            "setting": in_one_line(verdict.setting),
            "verdict": verdict.outcome,
            "scope": verdict.scope,
            **{outcome.replace(" ", "_"): verdict.counts[outcome] for outcome in OUTCOMES},
            "compared": verdict.compared,
            "n": verdict.comparison.n,
            "published": verdict.published,
            "published_by": ", ".join(verdict.published_by),
            "difference": verdict.comparison.mean,
            "low": (verdict.comparison.interval() or (None, None))[0],
            "high": (verdict.comparison.interval() or (None, None))[1],
            "p": verdict.comparison.p,
            "why": verdict.why,
        }
        for verdict in verdicts
    )


def setting_of(verdict: Verdict) -> str:
    """Returns the data, fidelity, scale and common alterations of a comparison's runs, over which nothing is averaged.

    Names split and protocol too if several of them measured the same data.
    """
    column = verdict.column
    if column is None:
        return ""
    data = "the paper's data" if column.of_the_paper and column.group.data_named else column.dataset
    fidelity = "" if column.fidelity == "paper" else column.fidelity
    altered = scale_of(departure for departure in column.common if not departure.smaller)
    departures = [f"{kind}: {text}" for kind, text in ((TINY, column.scale), (ALTERED, altered)) if text]
    return "\n".join([", ".join(filter(None, [data, verdict.apart, fidelity])), *departures])


def _roll_up(family: Family, setting: str, members: Sequence[tuple[Verdict, Claim]]) -> FamilyVerdict:
    """Counts a family's outcomes in one setting, and decides it by the mean of its differences, seed by seed."""
    here = [(verdict, claim) for verdict, claim in members if verdict.both_run and setting_of(verdict) == setting]
    counts = Counter(verdict.outcome_for(claim) for verdict, claim in here)
    run = {claim for _, claim in here}
    counts[NOT_RUN] = len({claim for _, claim in members} - run)
    # A comparison with one pair of runs has no spread, and would limit the mean to its single seed.
    compared = [(verdict, claim) for verdict, claim in here if verdict.comparison.n > 1 and family.decided_by_mean]
    comparison = _mean(compared)
    decided = outcome_of(comparison, comparison.p) if family.decided_by_mean else NO_VERDICT
    return FamilyVerdict(
        family,
        setting,
        {outcome: counts[outcome] for outcome in OUTCOMES},
        decided if here else NOT_RUN,
        comparison,
        len(compared),
        float(np.mean([claim.published for _, claim in compared])) if compared else None,
        tuple(verdict.column for verdict, _ in here if verdict.column is not None),
        tuple(dict.fromkeys(claim.published_by for _, claim in compared)),
        _paper_of([verdict for verdict, _ in compared]),
    )


def _paper_of(compared: Sequence[Verdict]) -> str:
    """Returns `FamilyVerdict.paper_of` of some comparisons."""
    measures = {verdict.paper_of for verdict in compared}
    others = " and ".join(sorted(measures - {""}))
    return f"in part {others}" if others and "" in measures else others


def _mean(members: Sequence[tuple[Verdict, Claim]]) -> Comparison:
    """Returns the mean difference for each seed that all comparisons have, each in the direction of its claim."""
    signed = [
        {
            seed: difference if verdict.question.agrees(claim) else -difference
            for seed, difference in verdict.comparison.by_seed.items()
        }
        for verdict, claim in members
    ]
    if not signed:
        return Comparison(())
    seeds = tuple(sorted(set.intersection(*(set(differences) for differences in signed))))
    return Comparison(tuple(float(np.mean([each[seed] for each in signed])) for seed in seeds), seeds=seeds)
