"""What the runs at hand say about the paper's claims, question by question."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from repro.quantities import counted, number_text
from results.claims.predictions import ColumnPredictions
from results.claims.spreads import TESTS, SharedSpreads, SpreadOf
from results.collection.scored_images import SCORED_IMAGES
from results.collection.training_images import TRAINING_IMAGES
from results.paper.paper_claims import Claim, Question, margin, questions
from results.paper.published import TABLES, published
from results.statistics.paired import (
    LEVEL,
    NO_NUMBERS,
    Comparison,
    holm,
    p_text,
    paired,
    points_text,
    seeds_needed,
)
from results.tables.columns import Column
from results.tables.references import without_untrained
from results.tables.selection import METRICS, ValuesByCell, measured_columns

SUPPORTED, TIE, CONTRADICTED, UNDECIDED, NOT_RUN = "supported", "tie", "contradicted", "undecided", "not run"
OUTCOMES = (SUPPORTED, TIE, CONTRADICTED, UNDECIDED, NOT_RUN)
"""The possible outcomes of a verdict."""

_IMAGES = {TRAINING_IMAGES: "trained", SCORED_IMAGES: "scored"}
"""Images in which runs may differ and still be compared -> the word by which the verdict names them."""
_REVERSED = {SUPPORTED: CONTRADICTED, CONTRADICTED: SUPPORTED}


MeasuredColumn = tuple[Column, ValuesByCell, ColumnPredictions | None]
"""A column, its values by method and metric, and its predictions; None if these are not to judge."""


@dataclass(frozen=True)
class Verdict:
    """What the runs at hand say about a question.

    Attributes:
        question: What is asked.
        comparison: The differences, seed by seed.
        column: Our column in which the two methods were compared; None where nothing was run.
        outcome: One of `OUTCOMES`, for the claim in whose direction the question is asked.
        p: The p value, corrected for `tested` comparisons; None where no test could be taken.
        tested: Number of different comparisons of its sentence that were tested in this setting, this one included.
        both_run: Whether runs of both methods are at hand, compared or not; else the outcome is `NOT_RUN`.
        unlike: Settings in which the two methods' runs differ although the rows do not; then the runs are not compared.
        spread_of: Whose spread judges the difference, if images do not.
        unusable: Runs whose predictions cannot be used, although their results name them; then seeds alone judge.
        apart: Its split, its protocol or both, if several of them measured the same data at one fidelity and scale, as
            kNN with two numbers of neighbours does; else empty. Each of them is a setting of its own, as they are two
            looks at the same runs.
    """

    question: Question
    comparison: Comparison
    column: Column | None = None
    outcome: str = UNDECIDED
    p: float | None = None
    tested: int = 1
    both_run: bool = False
    unlike: tuple[str, ...] = ()
    spread_of: SpreadOf = SpreadOf.sentence
    unusable: tuple[str, ...] = ()
    apart: str = ""

    @property
    def sweeps(self) -> tuple[str, ...]:
        """The sweeps that its runs are of."""
        if self.column is None:
            return ()
        of_both = [self.column.sweeps.get(method, ()) for method in (self.claim.better, self.claim.worse)]
        return tuple(sorted({sweep for sweeps in of_both for sweep in sweeps}))

    @property
    def protocol(self) -> str:
        """The protocol by which its runs were measured; empty where nothing was run."""
        return "" if self.column is None else self.column.protocol

    @property
    def metric(self) -> str:
        """The metric by which it is judged: the claim's, or the one that was asked for in its place."""
        return self.claim.metric if self.column is None else _metric(self.claim, self.column)

    @property
    def paper_of(self) -> str:
        """The measure of the published difference, `linear top-1`, if the runs are judged by another; else empty."""
        paper = published(self.claim.table)
        if self.column is None or (paper.task in ("", self.column.task) and paper.prints(self.metric)):
            return ""
        return f"{paper.task} {METRICS[self.claim.metric]}"

    @property
    def claim(self) -> Claim:
        """The claim in whose direction the question is asked."""
        return self.question.claim

    def outcome_for(self, claim: Claim) -> str:
        """Returns the outcome for one of the question's claims, which may say the opposite of the first one."""
        return self.outcome if self.question.agrees(claim) else _REVERSED.get(self.outcome, self.outcome)

    @property
    def corrected_interval(self) -> tuple[float, float] | None:
        """The interval in points, corrected so that all those of its sentence hold together with 95 % (Bonferroni)."""
        return self.comparison.interval(1 - LEVEL / max(self.tested, 1))

    @property
    def where(self) -> str:
        """Our column, or the paper's if nothing was run, with the metric's printed name."""
        if self.column is None:
            return self.claim.column
        printed = self.column.group.metrics.get(self.metric, self.metric)
        return f"{self.column.title} {printed}".strip()

    @property
    def why(self) -> str:
        """What the verdict rests on, in a few words."""
        unlike = self.column.unlike(self.claim.better, self.claim.worse) if self.column and self.comparison.n else ()
        done = " and ".join(done for images, done in _IMAGES.items() if images in unlike)
        alone = self.comparison.unpaired if self.comparison.n else 0
        left_out = f"; left out: {counted(alone, 'seed')} that only one of the two has" if alone else ""
        lost = "; predictions cannot be used, so that seeds alone judge" if self.unusable else ""
        return self._why + left_out + lost + (f"; their runs were not {done} on the same images" if done else "")

    @property
    def _why(self) -> str:
        """What the verdict rests on, without remarks on seeds that were left out and on images."""
        if self.unlike:
            return f"not compared: the runs differ in more than the method: {', '.join(self.unlike)}"
        # First the reasons why there was no test, then the reasons for each outcome of a test.
        if self.comparison.n == 0:
            one_of_them = "only one of the two was run" if self.comparison.unpaired else "not run"
            return "no seed that both have" if self.both_run else one_of_them
        if self.comparison.n == 1:
            return "one pair of runs has no spread to judge by"
        if not self.comparison.finite:
            return NO_NUMBERS
        if not self.comparison.testable:
            return "all pairs differ by the same amount: no spread to judge by"
        return {
            SUPPORTED: "the corrected test finds the difference",
            CONTRADICTED: "the corrected test finds the opposite difference",
            TIE: f"the interval lies within ±{points_text(margin())}",
        }.get(self.outcome) or self._why_undecided()

    def _why_undecided(self) -> str:
        """Returns why two or more pairs of runs were not enough."""
        # The difference to be found: the paper's, but at least the margin.
        size = max(abs(self.claim.published), margin())
        # At Bonferroni's level, which is stricter than Holm's at all steps but the first: the number may be too high.
        images = self.comparison.by_images
        seeds = seeds_needed(self.comparison, size, level=LEVEL / max(self.tested, 1)) if images is None else None
        more = f"; about {seeds} seeds would show {points_text(size)} at this spread" if seeds else ""
        if images is not None and images.smallest is not None:
            more = f"; without correction, these seeds and images could show {number_text(images.smallest)} points"
        low, high = self.comparison.interval() or (0.0, 0.0)
        p = self.comparison.p
        if p is not None and (low > 0 or high < 0):
            return (
                f"a difference only without correction (p = {p_text(p)}) for the {self.tested} comparisons of its "
                f"sentence{more}"
            )
        return f"the interval contains zero as well as more than {points_text(margin())}{more}"


def judge(
    frame: pd.DataFrame | None, *, spread: SpreadOf = SpreadOf.sentence, task: str = "", metric: str = ""
) -> list[Verdict]:
    """Judges every question by the runs at hand.

    In each of our columns (data set, split, protocol, fidelity, scale) two methods are compared seed by seed, unless
    their runs differ in settings in which their rows do not. If all of these runs have predictions of the same images,
    seeds and images judge the difference (`results.statistics.imagewise`), else a t-test over the common seeds. Holm's
    method corrects p for the number of different comparisons of the sentence that could be tested in the setting: data,
    fidelity, scale, and split and protocol if several measured the same data. Runs for another sentence or in another
    setting change no p.

    A claim is *supported* or *contradicted* if the corrected test finds a difference. It is a *tie* if the 95 %
    interval lies within the margin, *not run* if one of the two methods has no run, else *undecided*. One pair of runs
    never decides anything.

    Args:
        frame: What `results.collection.collect.collect` returns; None if nothing was run.
        spread: Whose spread judges a difference. `SpreadOf.sentence` gives way to predictions, if there are any; with
            the others, predictions play no part.
        task: The evaluation by which rows of Tables 1 and 3 are compared, such as `logistic` or `knn`; empty: the
            paper's. Detection always has its own.
        metric: The metric of Tables 1 and 3, such as `top5`; empty: their first.

    Returns:
        One verdict for each question and column of ours, by table and then in the order of the questions; a question
        for which nothing was run has one as well.

    Raises:
        UserError: Runs that must not be averaged (`refuse_mixed`).
    """
    if frame is None:
        return judge_columns({table: [] for table in TABLES}, spread)
    # An untrained network is not a run of the method whose name it has, but a reference below the tables.
    trained = without_untrained(frame)
    by_images = spread is SpreadOf.sentence
    measured: dict[str, list[MeasuredColumn]] = {
        table: [
            (column, values, ColumnPredictions(column, trained) if by_images else None)
            for column, values in measured_columns(trained, published(table), task=task, metric=metric)
        ]
        for table in TABLES
    }
    return judge_columns(measured, spread)


def judge_columns(measured: Mapping[str, Sequence[MeasuredColumn]], spread: SpreadOf) -> list[Verdict]:
    """Judges every question by measured columns; see `judge`.

    Args:
        measured: Name of a table -> its measured columns.
        spread: Whose spread judges a difference, if there are no predictions.
    """
    undecided: list[Verdict] = []
    spreads = {
        table: [SharedSpreads(values, spread) for _, values, _ in columns] for table, columns in measured.items()
    }
    for question in questions():
        claim = question.claim
        columns = zip(measured[claim.table], spreads[claim.table], strict=True)
        comparisons = [
            _compare(question, *of_column, shared) for of_column, shared in columns if _fits(claim, of_column[0])
        ]
        undecided += comparisons or [Verdict(question, Comparison(()), spread_of=spread)]
    ways = _ways_of_measuring(column for columns in measured.values() for column, *_ in columns)
    undecided = [
        replace(verdict, apart=_apart(verdict.column, ways)) if verdict.column else verdict for verdict in undecided
    ]
    undecided.sort(key=lambda verdict: list(TABLES).index(verdict.claim.table))
    # Only now, as the correction counts the comparisons of a sentence in all tables together.
    return _decide(undecided)


def outcome_of(comparison: Comparison, p: float | None) -> str:
    """Returns the outcome of a comparison.

    Args:
        comparison: The differences, positive where they support the claim.
        p: The corrected p value; None if no test could be taken.

    Returns:
        One of `OUTCOMES` except `NOT_RUN`; `UNDECIDED` without a test.
    """
    interval, mean = comparison.interval(), comparison.mean
    if p is None or interval is None or mean is None:
        return UNDECIDED
    if p < LEVEL:
        return SUPPORTED if mean > 0 else CONTRADICTED
    # Not finding a difference does not show that there is none: for a tie, the interval must lie within the margin.
    return TIE if -margin() < interval[0] and interval[1] < margin() else UNDECIDED


def count(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Returns the number of verdicts with each of `OUTCOMES`, in their order, zeros included.

    `NOT_RUN` counts questions instead, and only those that were run in no column.
    """
    answered = {verdict.question for verdict in verdicts if verdict.outcome != NOT_RUN}
    counts = {outcome: sum(verdict.outcome == outcome for verdict in verdicts) for outcome in OUTCOMES}
    return counts | {NOT_RUN: len({verdict.question for verdict in verdicts} - answered)}


def method_notes(verdicts: Sequence[Verdict]) -> list[str]:
    """Returns how the verdicts were reached: the test, its correction, intervals, and ties."""
    tested = max((verdict.tested for verdict in verdicts), default=0)
    test = TESTS[verdicts[0].spread_of if verdicts else SpreadOf.sentence]
    here = f"Here these are at most {tested}" if tested else "Here none could be"
    compared = [verdict for verdict in verdicts if verdict.comparison.n > 1]
    by_images = sum(verdict.comparison.by_images is not None for verdict in compared)
    images = (
        f"{by_images} of {len(compared)} comparisons here have predictions of the same images from all of their runs: "
        "there a bootstrap over seeds and images replaces the t-test, and the row says so."
        if by_images
        else ""
    )
    notes = [
        test,
        images,
        "P values are corrected by Holm for the comparisons of one sentence that could be tested in one setting: data, "
        f"fidelity and scale, and the split and protocol where several measured the same. {here}; what was run for "
        f"other sentences or in other settings changes no p. The level is {LEVEL:g}.",
        "Intervals are 95 % each, the corrected ones 95 % for all of these together (Bonferroni).",
        f"Tie: the interval lies within ±{points_text(margin())}. One pair of runs never decides anything.",
    ]
    return [note for note in notes if note]


def _fits(claim: Claim, column: Column) -> bool:
    return column.group.name == claim.group and _metric(claim, column) in dict(column.metrics)


def _metric(claim: Claim, column: Column) -> str:
    """Returns the metric that judges a claim in a column: the column's if the paper names none, else the claim's."""
    return column.metrics[0][0] if published(claim.table).metrics else claim.metric


def _compare(
    question: Question,
    column: Column,
    values: ValuesByCell,
    predictions: ColumnPredictions | None,
    spreads: SharedSpreads,
) -> Verdict:
    """Pairs the two methods of a question by seed; `_decide` adds the outcome, when all comparisons are known."""
    claim = question.claim
    metric = _metric(claim, column)
    better, worse = (values.get((method, metric), {}) for method in (claim.better, claim.worse))
    both_run = bool(better and worse)
    unlike = tuple(name for name in column.unlike(claim.better, claim.worse) if name not in _IMAGES) if both_run else ()
    # If the runs of the two methods were not altered alike, the difference may come from the settings as well.
    comparison = Comparison(()) if unlike else paired(better, worse)
    unusable: tuple[str, ...] = ()
    if comparison.n > 1:
        images = predictions.judge(claim.better, claim.worse, metric, comparison.seeds) if predictions else None
        comparison = replace(comparison, by_images=images, spread=None if images else spreads.of(claim, metric))
        if predictions and images is None:
            unusable = predictions.unusable((claim.better, claim.worse), metric, comparison.seeds)
    return Verdict(
        question,
        comparison,
        column,
        both_run=both_run,
        unlike=unlike,
        unusable=unusable,
        spread_of=spreads.spread_of,
    )


def _key(verdict: Verdict) -> tuple[Any, ...]:
    """Returns what identifies a comparison: it counts once, although two tables may have the same column of ours."""
    claim, column = verdict.claim, verdict.column
    pair = tuple(sorted((claim.better, claim.worse)))  # a > b and b > a are one two-sided test
    return (pair, claim.metric, column.key if column else ())


def _data_of(column: Column) -> tuple[str, ...]:
    """Returns what columns share that measured the same data, whatever their splits and protocols."""
    return (column.task, column.dataset, column.fidelity, column.scale)


def _ways_of_measuring(columns: Iterable[Column]) -> dict[tuple[str, ...], set[tuple[str, str]]]:
    """Returns, for each value of `_data_of`, by which splits and protocols it was measured."""
    ways: dict[tuple[str, ...], set[tuple[str, str]]] = {}
    for column in columns:
        ways.setdefault(_data_of(column), set()).add((column.split, column.protocol))
    return ways


def _apart(column: Column, ways: Mapping[tuple[str, ...], set[tuple[str, str]]]) -> str:
    """Returns what tells a column from others of the same data; see `Verdict.apart`."""
    splits, protocols = map(set, zip(*ways[_data_of(column)], strict=True))
    split = f"split {column.split}" if len(splits) > 1 else ""
    return ", ".join(filter(None, [split, column.protocol if len(protocols) > 1 else ""]))


def _corrected_together(verdict: Verdict) -> tuple[str, ...]:
    """Returns what verdicts share that are corrected together: sentence and setting.

    A setting is data, fidelity and scale, and split and protocol if there are several. A question that several
    sentences ask counts with the first of them.
    """
    column = verdict.column
    if column is None:
        return (verdict.claim.family.id,)
    data = "" if column.of_the_paper else column.dataset
    return (verdict.claim.family.id, data, column.fidelity, column.scale, verdict.apart)


def _decide(undecided: Sequence[Verdict]) -> list[Verdict]:
    """Corrects the p values within each sentence and setting, and gives each verdict its outcome."""
    p_values: dict[tuple[str, ...], dict[tuple[Any, ...], float]] = {}
    for verdict in undecided:
        if verdict.comparison.p is not None:
            p_values.setdefault(_corrected_together(verdict), {})[_key(verdict)] = verdict.comparison.p
    corrected = {group: dict(zip(ps, holm(list(ps.values())), strict=True)) for group, ps in p_values.items()}
    return [_decided(verdict, corrected.get(_corrected_together(verdict), {})) for verdict in undecided]


def _decided(verdict: Verdict, corrected: Mapping[tuple[Any, ...], float]) -> Verdict:
    """Returns a verdict with its outcome; `corrected` are the p values that are corrected with its own, by `_key`."""
    p = corrected.get(_key(verdict))
    outcome = outcome_of(verdict.comparison, p) if verdict.both_run else NOT_RUN
    return replace(verdict, p=p, outcome=outcome, tested=len(corrected))
