"""The tables of the study's page, from the runs that are there.

    python -m examples.study.tables examples/study/runs

Prints three Markdown tables of top-1. First, by logistic regression, both frameworks side by side, each row with its
difference from the framework alone. Then each row's mean and standard deviation over seeds by kNN and by logistic
regression. Then, by logistic regression, each registered comparison's difference in points, paired by seed, with its
95 % interval, the interval and p value corrected over the comparisons of its questions, and the outcome; then the same
by the pooled spread.
"""

import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev

from examples.study.command import print_tables
from examples.study.decide import FRAMEWORKS, PARTS, QUESTIONS, Values, decide, spread_of, top1
from repro.runs.labels import label
from repro.text_tables import markdown_table
from results.collect import collect
from results.paired import p_text, paired

ENDS = (
    *("", "+mscn", "+adios", "+ours-hp", "+ours-blur", "+ours-mean"),
    *("+ours-hp-no-masks", "+ours-hp-no-hard-negative", "+ours-hp-random"),
)
"""The rows of the first table: what follows the framework in a method's name."""


def summary(values: Values) -> str:
    """Returns the table of both frameworks side by side.

    A difference from the framework alone is paired by seed. Its 95 % interval is by the spread of all rows of that
    framework, and not corrected for their number.
    """
    spreads = {framework: spread_of(values, framework, PARTS) for framework in FRAMEWORKS}
    heads = [head for framework in FRAMEWORKS for head in (label(framework), "− alone")]
    rows = []
    for end in ENDS:
        cells = [label(FRAMEWORKS[0] + end).removeprefix(label(FRAMEWORKS[0])).strip() or "alone"]
        for framework in FRAMEWORKS:
            by_seed = values.get(framework + end, {})
            difference = paired(by_seed, values.get(framework, {}), spreads[framework])
            shown = end and difference.mean is not None
            gain = f"{difference.mean:+.1f} ({interval_text(difference.interval())})" if shown else ""
            cells += [cell_of(by_seed.values()), gain]
        rows.append(cells)
    return markdown_table(["", *heads], rows, heads)


def means(knn: Values, logistic: Values) -> str:
    """Returns the table of the rows that were run, in the order of the registered comparisons."""
    registered = [method for pairs in QUESTIONS.values() for pair in pairs for method in reversed(pair)]
    methods = [method for method in dict.fromkeys([*registered, *sorted(logistic)]) if method in logistic]
    heads = ("seeds", "kNN, k = 20", "logistic regression")
    rows = [
        [f"`{method}`", str(len(logistic[method])), *(cell_of(v.get(method, {}).values()) for v in (knn, logistic))]
        for method in methods
    ]
    return markdown_table(["row", *heads], rows, heads)


def comparisons(values: Values) -> str:
    """Returns the table of all registered comparisons."""
    heads = ("question", "comparison", "seeds", "difference", "95 %", "corrected", "p", "outcome", "pooled: 95 %")
    own, pooled = decide(values, pooled=False), decide(values, pooled=True)
    rows = [
        [
            question,
            f"`{decision.first}` − `{decision.second}`",
            str(decision.comparison.n),
            difference_text(decision.comparison.mean),
            interval_text(decision.comparison.interval()),
            interval_text(decision.corrected_interval),
            p_cell(decision.p),
            decision.outcome,
            interval_text(together.comparison.interval()),
            p_cell(together.p),
            together.outcome,
        ]
        for question, decisions in own.items()
        for decision, together in zip(decisions, pooled[question], strict=True)
    ]
    return markdown_table([*heads, "p", "outcome"], rows, ("seeds", "difference", "p"))


def cell_of(values: Collection[float]) -> str:
    """Returns mean and sample standard deviation as text; of one value itself; a dash of none."""
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "") if values else "–"


def interval_text(interval: tuple[float, float] | None, digits: int = 1) -> str:
    """Returns an interval as text; a dash where none could be taken."""
    return "–" if interval is None else f"{interval[0]:+.{digits}f} to {interval[1]:+.{digits}f}"


def difference_text(difference: float | None) -> str:
    """Returns a difference in points as text; a dash where nothing was run."""
    return "–" if difference is None else f"{difference:+.1f}"


def p_cell(p: float | None) -> str:
    """Returns a p value as text; a dash where none could be taken."""
    return "–" if p is None else p_text(p)


def _tables(folders: Sequence[Path]) -> Iterator[str]:
    frame = collect(folders)
    knn, logistic = (top1(frame, task, PARTS) for task in ("knn", "logistic"))
    yield summary(logistic)
    yield means(knn, logistic)
    yield comparisons(logistic)


if __name__ == "__main__":
    sys.exit(print_tables("Prints the tables of the study's page.", _tables))
