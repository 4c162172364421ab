"""Decides the study's comparisons by the tests that its page registered, from the runs that are there.

    python -m examples.study.decide examples/study/runs

Prints two Markdown tables, both of top-1. First each row's mean and standard deviation over seeds by kNN and by
logistic regression. Then, by logistic regression, each comparison's difference in points, paired by seed, with its 95 %
interval, the interval and p value corrected over the comparisons of its questions, and the outcome; then the same by
the pooled spread.
"""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from results.collect import collect
from results.paired import LEVEL, Comparison, holm, p_text, paired, pooled_spread
from slurm.sweep import load

HP = "mocov2+ours-hp"
QUESTIONS: Mapping[str, Sequence[tuple[str, str]]] = {
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
"""The registered comparisons, first method − second; those of one entry are corrected together."""

SWEEPS = ("study", "study-parts")
"""Whose rows the page's first tables have."""
SUPPORTED, CONTRADICTED, UNDECIDED, NOT_RUN = "supported", "contradicted", "undecided", "not run"

Values = Mapping[str, Mapping[int, float]]
"""Method -> seed -> top-1 in percent."""


@dataclass(frozen=True)
class Decision:
    """What the runs say to one comparison.

    Attributes:
        first: The method that is asked about.
        second: The method that it is compared with.
        comparison: Differences, seed by seed.
        among: Number of comparisons that it is corrected with, as registered, run or not.
        p: The corrected p value; None where none could be taken.
    """

    first: str
    second: str
    comparison: Comparison
    among: int
    p: float | None

    @property
    def corrected_interval(self) -> tuple[float, float] | None:
        """The interval that holds for all that it is corrected with at once (Bonferroni), in points."""
        return self.comparison.interval(1 - LEVEL / self.among)

    @property
    def outcome(self) -> str:
        """Supported or contradicted where the corrected p value is below the level, else undecided or not run."""
        mean = self.comparison.mean
        if mean is None:
            return NOT_RUN
        if self.p is None or self.p >= LEVEL:
            return UNDECIDED
        return SUPPORTED if mean > 0 else CONTRADICTED


def top1(folders: Sequence[Path], task: str, *sweeps: str) -> dict[str, dict[int, float]]:
    """Returns top-1 of each method and seed below some folders, by one task.

    Args:
        folders: Where runs are.
        task: `knn` or `logistic`.
        sweeps: Whose rows count. The study's spread is that of its own rows, whatever else lies there.
    """
    methods = {method for sweep in sweeps for part in load(sweep).parts for method in part.methods}
    frame = collect(folders)
    rows = frame[(frame["task"] == task) & (frame["metric"] == "top1") & frame["method"].isin(methods)]
    # kNN is scored with the field's 200 neighbours as well; the page registered 20.
    rows = rows[rows["protocol"] != "knn-v1[k=200]"]
    values: dict[str, dict[int, float]] = {}
    for method, seed, value in zip(rows["method"].astype(str), rows["seed"], rows["value"], strict=True):
        values.setdefault(method, {})[int(seed)] = float(value)
    return values


def decide(values: Values, *, pooled: bool) -> dict[str, list[Decision]]:
    """Judges every registered comparison.

    Args:
        values: What `top1` returns.
        pooled: Whether by the spread of all rows of the framework; else by that of the pair.

    Returns:
        For each entry of `QUESTIONS` its decisions, in their order.
    """
    decisions = {}
    for question, pairs in QUESTIONS.items():
        comparisons = []
        for first, second in pairs:
            framework = first.partition("+")[0]
            rows = [by_seed for method, by_seed in values.items() if method.partition("+")[0] == framework]
            spread = pooled_spread(rows) if pooled else None
            comparisons.append(paired(values.get(first, {}), values.get(second, {}), spread))
        ps = [comparison.p for comparison in comparisons]
        # A comparison that was not run still counts: the registered number is corrected for, whatever was run.
        corrected = holm([1.0 if p is None else p for p in ps])
        decisions[question] = [
            Decision(*pair, comparison, len(pairs), None if p is None else corrected_p)
            for pair, comparison, p, corrected_p in zip(pairs, comparisons, ps, corrected, strict=True)
        ]
    return decisions


def markdown(values: Values) -> str:
    """Returns the table of all comparisons."""
    lines = [
        "| question | comparison | seeds | difference | 95 % | corrected | p | outcome | pooled: 95 % | p | outcome |",
        "| --- | --- | ---: | ---: | --- | --- | ---: | --- | --- | ---: | --- |",
    ]
    own, pooled = decide(values, pooled=False), decide(values, pooled=True)
    for question, decisions in own.items():
        for decision, together in zip(decisions, pooled[question], strict=True):
            comparison = decision.comparison
            cells = [
                question,
                f"`{decision.first}` − `{decision.second}`",
                str(comparison.n),
                "–" if comparison.mean is None else f"{comparison.mean:+.1f}",
                interval_text(comparison.interval()),
                interval_text(decision.corrected_interval),
                _p(decision.p),
                decision.outcome,
                interval_text(together.comparison.interval()),
                _p(together.p),
                together.outcome,
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def means(knn: Values, logistic: Values) -> str:
    """Returns the table of the rows that were run, in the order of the registered comparisons."""
    registered = [method for pairs in QUESTIONS.values() for pair in pairs for method in reversed(pair)]
    methods = [method for method in dict.fromkeys([*registered, *sorted(logistic)]) if method in logistic]
    lines = ["| row | seeds | kNN, k = 20 | logistic regression |", "| --- | ---: | ---: | ---: |"]
    for method in methods:
        cells = [cell_of(by_seed.get(method, {}).values()) for by_seed in (knn, logistic)]
        lines.append(f"| `{method}` | {len(logistic[method])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell_of(values: Collection[float]) -> str:
    """Returns mean and sample standard deviation as text; of one value itself; a dash of none."""
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "") if values else "–"


def interval_text(interval: tuple[float, float] | None, digits: int = 1) -> str:
    """Returns an interval as text; a dash where none could be taken."""
    return "–" if interval is None else f"{interval[0]:+.{digits}f} to {interval[1]:+.{digits}f}"


def _p(p: float | None) -> str:
    return "–" if p is None else p_text(p)


if __name__ == "__main__":
    of_knn, of_logistic = (top1([Path(sys.argv[1])], task, *SWEEPS) for task in ("knn", "logistic"))
    print(means(of_knn, of_logistic), markdown(of_logistic), sep="\n\n")
