"""What the paper claims, and what the runs at hand say to it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

import pandas as pd
import yaml

from results.collect import refuse_mixed
from results.columns import Column, find_columns
from results.paired import LEVEL, TEST, Comparison, holm, paired, seeds_needed
from results.published import PAPER, TABLES, PublishedGroup, published
from results.tables import select_results

SUPPORTED, TIE, CONTRADICTED, TOO_FEW = "supported", "tie", "contradicted", "not enough runs"
OUTCOMES = (SUPPORTED, TIE, CONTRADICTED, TOO_FEW)
"""What a verdict can come to."""

ValuesBySeed = Mapping[int, float]
"""Seed -> value in percent."""


@dataclass(frozen=True)
class Claim:
    """One comparison that the paper makes.

    Attributes:
        id: `ours-beats-baseline`, ..., or `ranking` for what a table prints in bold and colour.
        says: The claim in words.
        source: Where the paper says it.
        table: `table1`, `table2` or `table3`.
        group: Name of the column group of that table.
        metric: Our name of the metric.
        better: Method that is said to be better.
        worse: Method that is said to be worse.
        published: Published difference in points; negative where the paper's own numbers do not bear the claim out.
    """

    id: str
    says: str
    source: str
    table: str
    group: str
    metric: str
    better: str
    worse: str
    published: float

    @property
    def label(self) -> str:
        """The two rows as the tables print them, `MoCov2 + OURS, high-pass > MoCov2`."""
        rows = published(self.table).rows
        return f"{rows[self.better].label} > {rows[self.worse].label}"


@dataclass(frozen=True)
class Verdict:
    """What the runs at hand say to a claim.

    Attributes:
        claim: What is claimed.
        outcome: One of `OUTCOMES`.
        comparison: The differences, seed by seed.
        column: Our column in which the two methods were compared; None where nothing was run.
        p: The p value, corrected for the number of comparisons; None where no test could be taken.
        margin: Points within which a difference counts as none.
        tested: Number of different comparisons that were tested in all, this one included.
    """

    claim: Claim
    outcome: str
    comparison: Comparison
    column: Column | None
    p: float | None
    margin: float
    tested: int = 1

    @property
    def corrected_interval(self) -> tuple[float, float] | None:
        """The interval that holds for all comparisons at once with 95 % (Bonferroni), in points."""
        return self.comparison.interval(1 - LEVEL / max(self.tested, 1))

    @property
    def where(self) -> str:
        """Our column, or the paper's where nothing was run, with the metric's printed name."""
        claim = self.claim
        group = next(group for group in published(claim.table).groups if group.name == claim.group)
        title = self.column.title if self.column else group.title
        return f"{title} {group.metrics.get(claim.metric, '')}".strip()

    @property
    def why(self) -> str:
        """What the verdict rests on, in a few words."""
        # From what was not run to what was run and does not tell; only then do the outcomes differ.
        if self.comparison.n == 0:
            unpaired = self.comparison.unpaired
            return f"no seed that both have ({unpaired} with one of them alone)" if unpaired else "not run"
        if self.comparison.n == 1:
            return "one pair tells nothing about its spread"
        if not self.comparison.testable:
            return "all pairs differ by the same amount: no spread to judge by"
        return {
            SUPPORTED: "the difference is there after correction",
            CONTRADICTED: "the difference is there after correction, the other way round",
            TIE: f"the interval lies within ±{self.margin:g} points",
        }.get(self.outcome) or self._why_too_few()

    def _why_too_few(self) -> str:
        """Returns why two or more pairs were not enough."""
        # The difference that is worth finding: the paper's, but nothing within the margin.
        size = max(abs(self.claim.published), self.margin)
        # Bonferroni's level: stricter than Holm's at every step but the first, so the number is rather too high.
        seeds = seeds_needed(self.comparison, size, level=LEVEL / max(self.tested, 1))
        more = f"; about {seeds} seeds would show {size:g} points at this spread" if seeds else ""
        low, high = self.comparison.interval() or (0.0, 0.0)
        if low > 0 or high < 0:
            return (
                f"alone it would count (p = {self.comparison.p:.3f}), among {self.tested} comparisons it does not{more}"
            )
        return f"the interval holds no difference as well as more than {self.margin:g} points{more}"


def claims() -> list[Claim]:
    """Returns every claim of `results/paper/claims.yaml`, one for each pair of rows, column and metric."""
    content = _content()
    return [*_statements(content["statements"]), *_rankings(content["rankings"])]


def margin() -> float:
    """Returns the points within which a difference counts as none."""
    return float(_content()["margin"])


def judge(frame: pd.DataFrame | None) -> list[Verdict]:
    """Hold every claim against the runs at hand.

    In each of our columns (data set, split, protocol, fidelity, scale) two methods are compared seed by seed. A claim
    is *supported* or *contradicted* where the paired t-test, corrected by Holm for the number of different comparisons
    that could be tested at all, finds a difference; it is a *tie* where the 95 % interval lies within the margin; else
    there are *not enough runs*. One pair of runs never decides anything.

    Args:
        frame: What `results.collect.collect` returns; None where nothing was run.

    Returns:
        One verdict for each claim and column of ours, by table and then in the order of the claims; a claim that
        nothing was run for has one as well.

    Raises:
        UserError: Runs that exclude each other.
    """
    undecided: list[Verdict] = []
    for table in TABLES:
        columns = _values_by_column(frame, table)
        for claim in claims():
            if claim.table == table:
                comparisons = [_compare(claim, column, values) for column, values in columns if _fits(claim, column)]
                undecided += comparisons or [_compare(claim, None, {})]
    # Only now: the correction needs to know how many comparisons there are in all tables together.
    return _decide(undecided)


def count(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Returns how many verdicts come to each of `OUTCOMES`, in their order, zeros included."""
    return {outcome: sum(verdict.outcome == outcome for verdict in verdicts) for outcome in OUTCOMES}


def method_note(verdicts: Sequence[Verdict]) -> str:
    """Returns the sentences that say how the verdicts were reached."""
    tested = max((verdict.tested for verdict in verdicts), default=0)
    return (
        f"{TEST} over the {tested} comparison(s) that could be tested, level {LEVEL:g}. Intervals are 95 % each, the "
        "corrected ones 95 % for all of them together (Bonferroni). Tie: the interval lies within "
        f"±{margin():g} points. One pair of runs never decides anything."
    )


def as_frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Returns the verdicts as data, one line each, as `claims.json` and `salmask claims --json` have them."""
    return pd.DataFrame(
        {
            "claim": verdict.claim.id,
            "table": verdict.claim.table,
            "where": verdict.where,
            "better": verdict.claim.better,
            "worse": verdict.claim.worse,
            "published": verdict.claim.published,
            "verdict": verdict.outcome,
            "n": verdict.comparison.n,
            "difference": verdict.comparison.mean,
            "low": (verdict.comparison.interval() or (None, None))[0],
            "high": (verdict.comparison.interval() or (None, None))[1],
            "low_corrected": (verdict.corrected_interval or (None, None))[0],
            "high_corrected": (verdict.corrected_interval or (None, None))[1],
            "p": verdict.comparison.p,
            "p_corrected": verdict.p,
            "scale": verdict.column.scale if verdict.column else "",
            "why": verdict.why,
            "says": verdict.claim.says,
            "source": verdict.claim.source,
        }
        for verdict in verdicts
    )


@cache
def _content() -> dict[str, Any]:
    """Returns `claims.yaml`, which explains its own layout."""
    content = yaml.safe_load((PAPER / "claims.yaml").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def _statements(entries: Sequence[Mapping[str, Any]]) -> Iterator[Claim]:
    """Yield what the text says: a pair of rows is compared in every column of a table."""
    for entry in entries:
        for table in entry["tables"]:
            for group in published(table).groups:
                for metric in group.metrics:
                    for better, worse in entry["pairs"]:
                        yield _claim(entry["id"], entry["says"], entry["source"], table, group, metric, better, worse)


def _rankings(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Claim]:
    """Yield what the tables mark: in one column the best beats the second best, and that one the best of the rest."""
    says = "best and second best of the block, in bold and colour"
    for table, entries in tables.items():
        groups = {group.name: group for group in published(table).groups}
        for entry in entries:
            for better, worse in pairwise(entry["order"]):
                source, group = published(table).source, groups[entry["column"]]
                yield _claim("ranking", says, source, table, group, entry["metric"], better, worse)


def _claim(
    id: str, says: str, source: str, table: str, group: PublishedGroup, metric: str, better: str, worse: str
) -> Claim:
    """Returns a claim with the published difference between its two rows."""
    values = published(table).values
    column = (group.name, group.metrics[metric])
    # The paper prints two decimals: what lies beyond them comes from the subtraction of floats.
    difference = round(values[better, *column] - values[worse, *column], 2)
    return Claim(id, says, source, table, group.name, metric, better, worse, difference)


def _values_by_column(
    frame: pd.DataFrame | None, table: str
) -> list[tuple[Column, dict[tuple[str, str], dict[int, float]]]]:
    """Returns our columns of a table, each with the values by seed of each (method, metric)."""
    # Of a table that leaves its metric open the first one is judged, top-1 of the last epoch: to judge the best epoch
    # as well would be a second look at the same runs.
    if frame is None:
        return []
    paper = published(table)
    metric = paper.metrics[0] if paper.metrics else ""
    results = select_results(frame, paper, metric)
    refuse_mixed(results)
    columns = []
    for column in find_columns(results, paper, metric, every=False):
        values: dict[tuple[str, str], dict[int, float]] = {}
        for row in column.rows_of(results).to_dict("records"):
            values.setdefault((row["method"], row["metric"]), {})[row["seed"]] = row["value"]
        columns.append((column, values))
    return columns


def _fits(claim: Claim, column: Column) -> bool:
    return column.group.name == claim.group and claim.metric in dict(column.metrics)


def _compare(claim: Claim, column: Column | None, values: Mapping[tuple[str, str], ValuesBySeed]) -> Verdict:
    """Pair the two methods of a claim by seed; what that means is decided when all comparisons are known."""
    better, worse = (values.get((method, claim.metric), {}) for method in (claim.better, claim.worse))
    return Verdict(claim, TOO_FEW, paired(better, worse), column, None, margin())


def _key(verdict: Verdict) -> tuple[Any, ...]:
    """What makes two verdicts the same comparison, to be counted once: tables and statements overlap."""
    claim, column = verdict.claim, verdict.column
    pair = tuple(sorted((claim.better, claim.worse)))  # a > b and b > a are one two-sided test
    return (pair, claim.metric, column.key if column else (), column.group.dataset if column else "")


def _decide(undecided: Sequence[Verdict]) -> list[Verdict]:
    """Correct the p values for the number of different comparisons, and come to an outcome for each verdict."""
    # By key: a comparison that two claims share is one test, and must not make the correction stricter.
    p_values = {_key(verdict): p for verdict in undecided if (p := verdict.comparison.p) is not None}
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return [
        replace(
            verdict,
            p=corrected.get(_key(verdict)),
            outcome=_outcome(verdict, corrected.get(_key(verdict))),
            tested=len(corrected),
        )
        for verdict in undecided
    ]


def _outcome(verdict: Verdict, p: float | None) -> str:
    """Returns one of `OUTCOMES`; `p` is the corrected value."""
    interval, mean = verdict.comparison.interval(), verdict.comparison.mean
    if p is None or interval is None or mean is None:
        return TOO_FEW
    if p < LEVEL:
        return SUPPORTED if mean > 0 else CONTRADICTED
    # No difference found is not yet "there is none": for a tie the interval must lie within the margin.
    return TIE if -verdict.margin < interval[0] and interval[1] < verdict.margin else TOO_FEW
