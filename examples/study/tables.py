"""The tables of the study's page, from the runs that are there.

    python -m examples.study.tables examples/study/runs

Prints three Markdown tables of top-1. First, by logistic regression, both frameworks side by side, each row with its
difference from the framework alone. Then each row's mean and standard deviation over seeds by kNN and by logistic
regression. Then, by logistic regression, each registered comparison's difference in points, paired by seed, with its
95 % interval, the interval and p value corrected over the comparisons of its questions, and the outcome; then the same
by the pooled spread.
"""

import sys
from collections.abc import Collection
from pathlib import Path
from statistics import mean, stdev

from examples.study.decide import QUESTIONS, SWEEPS, Values, decide, spread_of, top1
from results.paired import p_text, paired

FRAMEWORKS = ("mocov2", "simclr")
ENDS = {
    "": "alone",
    "+mscn": "+ MSCN",
    "+adios": "+ ADIOS",
    "+ours-hp": "+ ours (high-pass)",
    "+ours-blur": "+ ours (strong blur)",
    "+ours-mean": "+ ours (mean fill)",
    "+ours-hp-no-masks": "high-pass, **no masks**",
    "+ours-hp-no-hard-negative": "high-pass, no hard negative",
    "+ours-hp-random": "high-pass, patches at random",
}
"""The rows of the first table: what follows the framework in a method's name -> how the page words it."""


def summary(values: Values) -> str:
    """Returns the table of both frameworks side by side.

    A difference from the framework alone is paired by seed. Its 95 % interval is by the spread of all rows of that
    framework, and not corrected for their number.
    """
    lines = ["| | MoCo v2 | − alone | SimCLR | − alone |", "| --- | ---: | ---: | ---: | ---: |"]
    spreads = {framework: spread_of(values, framework) for framework in FRAMEWORKS}
    for end, words in ENDS.items():
        cells = [words]
        for framework in FRAMEWORKS:
            by_seed = values.get(framework + end, {})
            difference = paired(by_seed, values.get(framework, {}), spreads[framework])
            shown = end and difference.mean is not None
            gain = f"{difference.mean:+.1f} ({interval_text(difference.interval())})" if shown else ""
            cells += [cell_of(by_seed.values()), gain]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


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
    print(summary(of_logistic), means(of_knn, of_logistic), markdown(of_logistic), sep="\n\n")
