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
from results.tables import choose

SUPPORTED, TIE, CONTRADICTED, TOO_FEW = "supported", "tie", "contradicted", "not enough runs"
VERDICTS = (SUPPORTED, TIE, CONTRADICTED, TOO_FEW)


@dataclass(frozen=True)
class Claim:
    """One comparison that the paper makes.

    Attributes:
        id: `ours-beats-baseline`, ..., or `ranking` for what a table prints in bold and colour.
        says: In words.
        source: Where the paper says it.
        table: `table1`, `table2` or `table3`.
        group: Name of the column group of that table.
        metric: Ours.
        better: Method that is said to be better.
        worse: Than this one.
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
        """`MoCov2 + OURS, high-pass > MoCov2`."""
        rows = published(self.table).rows
        return f"{rows[self.better].label} > {rows[self.worse].label}"


@dataclass(frozen=True)
class Verdict:
    """What the runs at hand say to a claim.

    Attributes:
        claim: What is claimed.
        verdict: One of `VERDICTS`.
        comparison: The differences, seed by seed.
        column: Our column that it was looked at in; None where nothing was run.
        p: Corrected for the number of comparisons; None where no test could be taken.
        margin: Points within which a difference counts as none.
        tested: Number of different comparisons that were tested beside it, itself included.
    """

    claim: Claim
    verdict: str
    comparison: Comparison
    column: Column | None
    p: float | None
    margin: float
    tested: int = 1

    @property
    def corrected_interval(self) -> tuple[float, float] | None:
        """The interval that holds for all comparisons at once with 95 % (Bonferroni)."""
        return self.comparison.interval(1 - LEVEL / max(self.tested, 1))

    @property
    def where(self) -> str:
        """Our column, with the metric's printed name."""
        claim = self.claim
        group = next(group for group in published(claim.table).groups if group.name == claim.group)
        title = self.column.title if self.column else group.title
        return f"{title} {group.metrics.get(claim.metric, '')}".strip()

    @property
    def why(self) -> str:
        """What the verdict rests on, in a few words."""
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
        }.get(self.verdict) or self._short_of()

    def _short_of(self) -> str:
        """Why two or more pairs were not enough."""
        size = max(abs(self.claim.published), self.margin)
        needed = seeds_needed(self.comparison, size, level=LEVEL / max(self.tested, 1))
        more = f"; about {needed} seeds would show {size:g} points at this spread" if needed else ""
        low, high = self.comparison.interval() or (0.0, 0.0)
        if low > 0 or high < 0:
            return (
                f"alone it would count (p = {self.comparison.p:.3f}), among {self.tested} comparisons it does not{more}"
            )
        return f"the interval holds no difference as well as more than {self.margin:g} points{more}"


def claims() -> list[Claim]:
    """Every claim of `results/paper/claims.yaml`, one for each pair of rows and column."""
    content = _content()
    return [*_statements(content["statements"]), *_rankings(content["rankings"])]


def margin() -> float:
    """Points within which a difference counts as none."""
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
        One finding for each claim and column of ours, in the order of the claims; a claim that nothing was run for has
        one as well.

    Raises:
        UserError: Runs that exclude each other.
    """
    findings: list[Verdict] = []
    for table in TABLES:
        values = _values(frame, table)
        wanted = [claim for claim in claims() if claim.table == table]
        for claim in wanted:
            fitting = [_compare(claim, column, held) for column, held in values if _fits(claim, column)]
            findings += fitting or [_compare(claim, None, {})]
    return _decide(findings)


def count(findings: Sequence[Verdict]) -> dict[str, int]:
    """How many findings have each verdict."""
    return {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in VERDICTS}


def method_note(findings: Sequence[Verdict]) -> str:
    """One sentence that says how the verdicts were reached."""
    tested = max((finding.tested for finding in findings), default=0)
    return (
        f"{TEST} over the {tested} comparison(s) that could be tested, level {LEVEL:g}. Intervals are 95 % each, the "
        "corrected ones 95 % for all of them together (Bonferroni). Tie: the interval lies within "
        f"±{margin():g} points. One pair of runs never decides anything."
    )


def as_frame(findings: Sequence[Verdict]) -> pd.DataFrame:
    """The findings as data, one line each."""
    return pd.DataFrame(
        {
            "claim": finding.claim.id,
            "table": finding.claim.table,
            "where": finding.where,
            "better": finding.claim.better,
            "worse": finding.claim.worse,
            "published": finding.claim.published,
            "verdict": finding.verdict,
            "n": finding.comparison.n,
            "difference": finding.comparison.mean,
            "low": (finding.comparison.interval() or (None, None))[0],
            "high": (finding.comparison.interval() or (None, None))[1],
            "low_corrected": (finding.corrected_interval or (None, None))[0],
            "high_corrected": (finding.corrected_interval or (None, None))[1],
            "p": finding.comparison.p,
            "p_corrected": finding.p,
            "scale": finding.column.scale if finding.column else "",
            "why": finding.why,
            "says": finding.claim.says,
            "source": finding.claim.source,
        }
        for finding in findings
    )


@cache
def _content() -> dict[str, Any]:
    content = yaml.safe_load((PAPER / "claims.yaml").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def _statements(entries: Sequence[Mapping[str, Any]]) -> Iterator[Claim]:
    for entry in entries:
        for table in entry["tables"]:
            for group in published(table).groups:
                for metric in group.metrics:
                    for better, worse in entry["pairs"]:
                        yield _claim(entry["id"], entry["says"], entry["source"], table, group, metric, better, worse)


def _rankings(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Claim]:
    says = "best and second best of the block, in bold and colour"
    for table, entries in tables.items():
        groups = {group.name: group for group in published(table).groups}
        for entry in entries:
            for better, worse in pairwise(entry["order"]):
                source = f"Table {table[-1]}"
                yield _claim("ranking", says, source, table, groups[entry["column"]], entry["metric"], better, worse)


def _claim(
    id: str, says: str, source: str, table: str, group: PublishedGroup, metric: str, better: str, worse: str
) -> Claim:
    values = published(table).values
    place = (group.name, group.metrics[metric])
    difference = round(values[better, *place] - values[worse, *place], 2)
    return Claim(id, says, source, table, group.name, metric, better, worse, difference)


def _values(frame: pd.DataFrame | None, table: str) -> list[tuple[Column, dict[tuple[str, str], dict[int, float]]]]:
    """Our columns, each with seed -> value by (method, metric)."""
    if frame is None:
        return []
    paper = published(table)
    metric = paper.metrics[0] if paper.metrics else ""
    chosen = choose(frame, paper, metric)
    refuse_mixed(chosen)
    found = []
    for column in find_columns(chosen, paper, metric, every=False):
        values: dict[tuple[str, str], dict[int, float]] = {}
        for row in column.rows_of(chosen).itertuples():
            values.setdefault((str(row.method), str(row.metric)), {})[int(str(row.seed))] = float(str(row.value))
        found.append((column, values))
    return found


def _fits(claim: Claim, column: Column) -> bool:
    return column.group.name == claim.group and claim.metric in dict(column.metrics)


def _compare(claim: Claim, column: Column | None, values: Mapping[tuple[str, str], Mapping[int, float]]) -> Verdict:
    first, second = (values.get((method, claim.metric), {}) for method in (claim.better, claim.worse))
    return Verdict(claim, TOO_FEW, paired(first, second), column, None, margin())


def _key(finding: Verdict) -> tuple[Any, ...]:
    """What makes two findings the same comparison, to be counted once: tables and statements overlap."""
    claim, column = finding.claim, finding.column
    pair = tuple(sorted((claim.better, claim.worse)))
    return (pair, claim.metric, column.key if column else (), column.group.dataset if column else "")


def _decide(findings: Sequence[Verdict]) -> list[Verdict]:
    raw = {_key(finding): p for finding in findings if (p := finding.comparison.p) is not None}
    corrected = dict(zip(raw, holm(list(raw.values())), strict=True))
    return [
        replace(
            finding,
            p=corrected.get(_key(finding)),
            verdict=_verdict(finding, corrected.get(_key(finding))),
            tested=len(corrected),
        )
        for finding in findings
    ]


def _verdict(finding: Verdict, p: float | None) -> str:
    interval, mean = finding.comparison.interval(), finding.comparison.mean
    if p is None or interval is None or mean is None:
        return TOO_FEW
    if p < LEVEL:
        return SUPPORTED if mean > 0 else CONTRADICTED
    return TIE if -finding.margin < interval[0] and interval[1] < finding.margin else TOO_FEW
