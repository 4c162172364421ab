"""Decides the study's comparisons by the tests that its page registered, from the runs that are there.

Holm's steps decide: a comparison's corrected interval is taken at the level at which they judged it, so that it
excludes 0 if and only if its corrected p value is below 0.05. `tables.py` prints the decisions.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import pandas as pd

from repro.errors import UserError
from repro.settings.method_name import MethodName
from results.claims.verdicts import CONTRADICTED, NOT_RUN, SUPPORTED, UNDECIDED
from results.collection.collect import refuse_mixed
from results.statistics.paired import LEVEL, Comparison, Spread, holm, paired, pooled_spread
from slurm.planning.sweep import load

Questions = Mapping[str, Sequence[tuple[str, str]]]
"""What is asked -> pairs of methods, first − second, which are corrected together; in the order of registration."""
Values = Mapping[str, Mapping[int, float]]
"""Method -> seed -> top-1 in percent."""

HP = "mocov2+ours-hp"
QUESTIONS: Questions = {
    "1": [
        (f"{framework}+ours-{strategy}", framework)
        for framework in ("mocov2", "simclr")
        for strategy in ("hp", "blur", "mean")
    ],
    "2 to 6": [
        (HP, other)
        for other in (
            f"{HP}-random",
            f"{HP}-no-hard-negative",
            f"{HP}-no-masks",
            f"{HP}@key",
            f"{HP}@both",
            f"{HP}-released",
        )
    ],
    "SimCLR's parts": [
        ("simclr+ours-hp", f"simclr+ours-hp-{part}") for part in ("no-masks", "no-hard-negative", "random")
    ],
}
"""The comparisons that were registered for the drawn scenes."""
FRAMEWORKS = ("mocov2", "simclr")


def _filter_and_whole(framework: str) -> list[tuple[str, str]]:
    """Returns the pairs for a framework on other images: filter alone, whole method, and what the rest of it adds."""
    whole = f"{framework}+ours-hp"
    return [(f"{whole}-no-masks", framework), (whole, framework), (whole, f"{whole}-no-masks")]


CLIP_ART: Questions = {
    "MoCo v2 on clip art": _filter_and_whole("mocov2"),
    "SimCLR on clip art": _filter_and_whole("simclr"),
}
"""The comparisons that were registered for clip art."""
PHOTOGRAPHS: Questions = {
    "MoCo v2 on photographs": [*_filter_and_whole("mocov2"), ("mocov2+ours-mean", "mocov2")],
    "SimCLR on photographs": _filter_and_whole("simclr"),
    "SimCLR on photographs, no filter": [(f"simclr+ours-{fill}", "simclr") for fill in ("blur", "mean")],
}
"""The comparisons that were registered for photographs."""
COLOURS: Questions = {
    "coloured scenes": [(f"{framework}+ours-hp-no-masks", framework) for framework in FRAMEWORKS],
}
"""The comparisons that were registered for scenes whose classes have colours: the filter alone."""

STUDY, PARTS = ("study",), ("study", "study-parts")
"""Sweeps: those registered first, and those with the parts of SimCLR's lead added."""
ONE_REGIME = "give folders of one regime alone"
"""The mend if runs cannot be compared."""
PAPERS = "the paper's"
"""What a message calls an empty scale."""


@dataclass(frozen=True)
class Decision:
    """What the runs say about one comparison.

    Attributes:
        first: The method that is asked about.
        second: The method that it is compared with.
        comparison: Differences, seed by seed.
        level: The level at which Holm's steps judged it, among all that it is corrected with, run or not.
        p: The corrected p value; None if none could be taken.
    """

    first: str
    second: str
    comparison: Comparison
    level: float
    p: float | None

    @property
    def corrected_interval(self) -> tuple[float, float] | None:
        """The interval at the level at which Holm's steps judged it, in points; None if none could be taken."""
        return self.comparison.interval(1 - self.level)

    @property
    def half_width(self) -> float | None:
        """Half of the corrected interval's width: the smallest difference that these runs could have shown."""
        interval = self.corrected_interval
        return None if interval is None else (interval[1] - interval[0]) / 2

    @property
    def outcome(self) -> str:
        """Supported or contradicted if the corrected p value is below 0.05, else undecided or not run."""
        return NOT_RUN if self.comparison.mean is None else outcome_by_sign(self.comparison.mean, self.p)


def outcome_by_sign(value: float, p: float | None) -> str:
    """Returns the outcome for a difference or a slope that is predicted to be above 0, with its corrected p value."""
    if p is None or p >= LEVEL:
        return UNDECIDED
    return SUPPORTED if value > 0 else CONTRADICTED


def holm_levels(ps: Sequence[float]) -> list[float]:
    """Returns the level at which Holm's step-down method judges each p value.

    The smallest of m is held against a m-th of the level, the next against a (m - 1)-th, until one is not below: all
    that are left share the level at which the steps ended.

    Args:
        ps: Raw p values.
    """
    levels, step = [0.0] * len(ps), 0
    for index in sorted(range(len(ps)), key=lambda index: ps[index]):
        levels[index] = LEVEL / (len(ps) - step)
        step += ps[index] < levels[index]
    return levels


@cache
def rows_of(sweeps: Sequence[str]) -> frozenset[str]:
    """Returns the methods of some sweeps."""
    return frozenset(method for sweep in sweeps for part in load(sweep).parts for method in part.methods)


def _registered_by_then(questions: Questions) -> dict[str, frozenset[str]]:
    """Returns for each question the rows of its pairs and of those that were registered before it."""
    rows: frozenset[str] = frozenset()
    by_then = {}
    for question, pairs in questions.items():
        by_then[question] = rows = rows.union(*pairs)
    return by_then


SPREAD_OF: Mapping[str, frozenset[str]] = {
    **{"1": rows_of(STUDY), "2 to 6": rows_of(STUDY), "SimCLR's parts": rows_of(PARTS)},
    **_registered_by_then(CLIP_ART),
    **_registered_by_then(PHOTOGRAPHS),
    **_registered_by_then(COLOURS),
}
"""Question -> the rows that its pooled spread is estimated from; rows registered later do not change it."""


def top1(frame: pd.DataFrame, task: str, sweeps: Sequence[str]) -> dict[str, dict[int, float]]:
    """Returns top-1 of each method and seed by one task.

    Args:
        frame: What `results.collection.collect.collect` returns.
        task: `knn` or `logistic`.
        sweeps: Sweeps whose rows count; other runs are ignored.

    Raises:
        UserError: A row has runs of several recipes, or several of one seed; or its rows were not all measured alike.
    """
    rows = frame[(frame["task"] == task) & (frame["metric"] == "top1") & frame["method"].isin(rows_of(sweeps))]
    # kNN is scored with the field's 200 neighbours as well; the page registered 20.
    rows = rows[rows["protocol"] != "knn-v1[k=200]"]
    refuse_mixed(rows, ["task", "metric", "method"], mend=ONE_REGIME)
    _refuse_unlike(rows)
    values: dict[str, dict[int, float]] = {}
    for method, seed, value in zip(rows["method"].astype(str), rows["seed"], rows["value"], strict=True):
        values.setdefault(method, {})[int(seed)] = float(value)
    return values


def _refuse_unlike(rows: pd.DataFrame) -> None:
    """Refuses rows that differ in more than their methods: in data, protocol or size.

    Sizes are compared within a framework: MoCo v2 alone has a queue.
    """
    of_framework = [together for _, together in rows.groupby("framework", observed=True)]
    for key, groups in (("dataset", [rows]), ("split", [rows]), ("protocol", [rows]), ("scale", of_framework)):
        for together in groups:
            different = together.drop_duplicates(key)
            if len(different) > 1:
                named = [f"{line[key] or PAPERS} ({line['path']})" for line in different.to_dict("records")[:2]]
                task, what = different["task"].iloc[0], key.replace("dataset", "data set")
                raise UserError(f"{task} of several {what}s: {' and '.join(named)}", mend=ONE_REGIME)


def spread_of(values: Values, framework: str, rows: Collection[str]) -> Spread | None:
    """Returns the spread of a difference of two rows of a framework, estimated from its rows among `rows`."""
    of_framework = [method for method in rows if MethodName.parse(method).framework == framework]
    return pooled_spread([values[method] for method in sorted(of_framework) if method in values])


def rows_for(first: str, second: str) -> frozenset[str]:
    """Returns the rows that the pooled spread of a difference on drawn scenes is estimated from.

    They are its question's if it was registered; else those registered first if both rows are among them, else all.
    """
    for question, pairs in QUESTIONS.items():
        if (first, second) in pairs:
            return SPREAD_OF[question]
    return rows_of(STUDY) if {first, second} <= rows_of(STUDY) else rows_of(PARTS)


def decide(values: Values, *, pooled: bool, questions: Questions = QUESTIONS) -> dict[str, list[Decision]]:
    """Judges every registered comparison.

    Args:
        values: What `top1` returns.
        pooled: Whether to judge by the pooled spread of the framework's rows; otherwise by that of the pair.
        questions: What is asked.

    Returns:
        For each question its decisions, in their order.
    """
    decisions = {}
    for question, pairs in questions.items():
        rows = SPREAD_OF[question]
        spreads = {name: spread_of(values, name, rows) if pooled else None for name in FRAMEWORKS}
        comparisons = [
            paired(values.get(first, {}), values.get(second, {}), spreads[MethodName.parse(first).framework])
            for first, second in pairs
        ]
        ps = [comparison.p for comparison in comparisons]
        # A comparison that was not run still counts: the correction is for the registered number.
        raw = [1.0 if p is None else p for p in ps]
        decisions[question] = [
            Decision(*pair, comparison, level, None if p is None else corrected_p)
            for pair, comparison, p, corrected_p, level in zip(
                pairs, comparisons, ps, holm(raw), holm_levels(raw), strict=True
            )
        ]
    return decisions
