"""The verdict on top of the page: what was asked, at what scale, what came out, and by which part of the method."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from repro.quantities import counted
from results.claims.families import FamilyVerdict
from results.claims.parts import MethodPart, parts_in_words
from results.claims.verdicts import NOT_RUN, OUTCOMES
from results.collection.collect import seeds_text
from results.collection.row_comparison import ALTERED, TINY
from results.formats.layout import Table
from results.paper.paper_claims import margin
from results.statistics.paired import difference_text, interval_text, points_text
from results.tables.references import without_untrained

MOST_NAMES = 4
"""How many altered settings the second line names at most."""


@dataclass(frozen=True)
class Headline:
    """The lines of the headline.

    Attributes:
        asked: Which sentences of the paper the runs test.
        scale: At what scale, with how many runs and which altered settings.
        outcome: The verdict on the first of the sentences, one of `results.claims.verdicts.OUTCOMES`.
        result: Its numbers, and how the other sentences and the tables came out.
        by_part: What each part of the method adds in the same setting, a line each; empty if no two rows show it.
    """

    asked: str
    scale: str
    outcome: str
    result: str
    by_part: tuple[str, ...] = ()


def headline(
    families: Sequence[FamilyVerdict],
    frame: pd.DataFrame | None,
    tables: Sequence[Table],
    judged_by: str = "",
    parts: Sequence[MethodPart] = (),
) -> Headline:
    """Sums the page up.

    Args:
        families: What `judge_families` returns.
        frame: The results; None if nothing was evaluated.
        tables: The page's tables, whose differences to the published numbers are counted.
        judged_by: The sentence of `results.tables.selection.judged_by`.
        parts: What `results.claims.parts.parts` returns.
    """
    if frame is None:
        return Headline(
            "nothing yet: no result is at hand", "below are the paper's numbers only", NOT_RUN, "every sentence"
        )
    settings = list(dict.fromkeys(verdict.setting for verdict in families if verdict.outcome != NOT_RUN))
    if not settings:
        asked = "no sentence of the paper: none compares two methods at hand that were measured alike"
        return Headline(asked, _scale(without_untrained(frame)), NOT_RUN, f"every sentence{_met(tables)}")
    shown, which = _richest(families, settings)
    of_shown = [verdict for verdict in families if verdict.setting == shown]
    told = [verdict for verdict in of_shown if verdict.outcome in OUTCOMES[:-1]] or of_shown
    elsewhere = f" Of {len(settings)} settings, {which} is shown here." if len(settings) > 1 else ""
    own = {column.key for verdict in of_shown for column in verdict.columns}
    return Headline(
        _asked(told, judged_by),
        _scale_of_setting(of_shown, without_untrained(frame)) + elsewhere,
        told[0].outcome,
        _result(told) + _met(tables),
        parts_in_words([part for part in parts if part.column.key in own]),
    )


def _richest(families: Sequence[FamilyVerdict], settings: Sequence[str]) -> tuple[str, str]:
    """Returns the setting with the most comparisons, the first of several, and how that choice is told.

    The headline is about this one; the others are further down the page.
    """
    counts = {setting: _compared(families, setting) for setting in settings}
    most = max(counts.values())
    richest = [setting for setting, count in counts.items() if count == most]
    among = "the one" if len(richest) == 1 else f"the first of the {len(richest)}"
    return richest[0], f"{among} with the most comparisons"


def _asked(told: Sequence[FamilyVerdict], judged_by: str) -> str:
    """Returns the question: the first sentence of the paper that the runs test, and how many more there are."""
    others = len(told) - 1
    more = f", and {counted(others, 'further sentence')} of the paper" if others else ""
    return f"is it true that {told[0].family.says}{more}? {judged_by}".rstrip()


def _result(told: Sequence[FamilyVerdict]) -> str:
    """Returns the numbers of the first sentence, and how the others came out."""
    outcomes = Counter(verdict.outcome for verdict in told[1:])
    others = ", ".join(f"{outcomes[outcome]} {outcome}" for outcome in OUTCOMES if outcomes[outcome])
    return "; ".join(filter(None, [_numbers(told[0]), f"the further ones: {others}" if others else ""]))


def _compared(families: Sequence[FamilyVerdict], setting: str) -> tuple[bool, int, int]:
    """Returns whether any seeds were compared in a setting, in how many comparisons, and by how many seeds."""
    of_setting = [verdict for verdict in families if verdict.setting == setting]
    run = sum(sum(verdict.counts.values()) - verdict.counts[NOT_RUN] for verdict in of_setting)
    n = max(verdict.comparison.n for verdict in of_setting)
    return n > 0, run, n


def _numbers(verdict: FamilyVerdict) -> str:
    """Returns the mean difference with its interval, beside the paper's."""
    mean, interval = verdict.comparison.mean, verdict.comparison.interval()
    if mean is None or verdict.published is None or not verdict.comparison.finite:
        return verdict.why
    spread = f" (95 % {interval_text(interval)})" if interval else ""
    of = f" by {verdict.paper_of}" if verdict.paper_of else ""
    return (
        f"{difference_text(mean)} points{spread} where the paper has {difference_text(verdict.published)}{of}, mean of "
        f"{counted(verdict.compared, 'comparison')} over {counted(verdict.comparison.n, 'seed')}"
    )


def _scale_of_setting(of_setting: Sequence[FamilyVerdict], frame: pd.DataFrame) -> str:
    """Returns the scale of the runs that a setting's verdicts are about, and how many other runs there are."""
    columns = {(column.key, column.metrics): column for verdict in of_setting for column in verdict.columns}
    own = pd.concat([column.rows_of(frame) for column in columns.values()])
    others = frame[~frame["path"].isin(own["path"].unique())]
    if others.empty:
        return _scale(own)
    sizes, runs = set(others["scale"].astype(str)), counted(others["path"].nunique(), "run")
    of_sizes = f" of {counted(len(sizes), 'other size')}" if sizes.isdisjoint(own["scale"].astype(str)) else ""
    return _scale(own, f"; also at hand: {runs}{of_sizes}")


def _scale(frame: pd.DataFrame, beside: str = "") -> str:
    """Returns sizes, numbers of runs and altered settings, and whether published numbers may be compared.

    Args:
        frame: Results of trained networks.
        beside: Text to add at the end.
    """
    runs, methods = frame["path"].nunique(), frame["method"].nunique()
    seeds = seeds_text(frame.groupby("method", observed=True)["seed"].nunique())
    counts = f"{counted(runs, 'run')} of {counted(methods, 'method')}, {seeds}"
    sizes = sorted({str(scale) for scale in frame["scale"] if scale})
    comparisons = list(dict.fromkeys(frame["departures"]))
    altered = dict.fromkeys(departure.what for comparison in comparisons for departure in comparison.altered)
    names = ", ".join(list(altered)[:MOST_NAMES]) + (", …" if len(altered) > MOST_NAMES else "")
    count = counted(len(altered), "setting")
    alone = f"; {count} {ALTERED} ({names})" if altered else ""
    unknown = frame[frame["departures"].map(lambda comparison: comparison.row is None).astype(bool)]["path"].nunique()
    not_known = f"settings of {counted(unknown, 'run')} unknown" if unknown else ""
    if sizes:
        size = sizes[0] if len(sizes) == 1 else f"{len(sizes)} sizes, {sizes[0]} among them"
        alone += f"; {not_known}" if not_known else ""
        return f"{TINY} – {size}: not comparable with the published numbers. {counts}{alone}{beside}."
    whose = not_known or "the paper's"
    return f"{whose}{alone}. {counts}{beside}."


def _met(tables: Sequence[Table]) -> str:
    """Returns how many published numbers were met; empty if no difference may be taken."""
    records = [table.records for table in tables if "difference" in table.records]
    differences = pd.concat([table["difference"].dropna() for table in records]) if records else pd.Series(dtype=float)
    if differences.empty:
        return ""
    close = int((differences.abs() <= margin()).sum())
    return f"; {close} of {len(differences)} published numbers are met within ±{points_text(margin())}"
