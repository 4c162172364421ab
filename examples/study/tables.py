"""The tables of the study's page, from the runs that are there.

    python -m examples.study.tables examples/study/runs

Prints three Markdown tables of top-1. First, by logistic regression, both frameworks side by side, each row with its
difference from the framework alone. Then each row's mean and standard deviation over seeds by kNN and by logistic
regression, the loss of its last epoch beside that at chance, and which seeds collapsed or failed. Then, by logistic
regression, each registered comparison's difference in points, paired by seed, with its 95 % interval, the interval
corrected over the comparisons of its questions (Holm), half of its width as the smallest difference that these runs
could have shown, the corrected p value and the outcome; then the same by the pooled spread.
"""

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

import pandas as pd

from examples.study.collapse import Ending, endings
from examples.study.command import gathered, print_tables
from examples.study.decide import (
    FRAMEWORKS,
    PARTS,
    QUESTIONS,
    Decision,
    Questions,
    Values,
    decide,
    rows_for,
    spread_of,
    top1,
)
from repro.command_line.text_tables import markdown_table
from repro.quantities import number_text
from repro.settings.labels import label
from results.collection.runs import RunRecord
from results.statistics.paired import p_text, paired

ENDS = (
    *("", "+mscn", "+adios", "+ours-hp", "+ours-blur", "+ours-mean"),
    *("+ours-hp-no-masks", "+ours-hp-no-hard-negative", "+ours-hp-random"),
)
"""The rows of the first table: what follows the framework in a method's name."""


def summary(values: Values) -> str:
    """Returns the table of both frameworks side by side.

    A difference from the framework alone is paired by seed. Its 95 % interval is not corrected for the number of
    differences. It is taken by the pooled spread that judges the same difference in `comparisons`, which no row changes
    that was registered later (see `rows_for`).
    """
    heads = [head for framework in FRAMEWORKS for head in (label(framework), "− alone")]
    rows = []
    for end in ENDS:
        cells = [label(FRAMEWORKS[0] + end).removeprefix(label(FRAMEWORKS[0])).strip() or "alone"]
        for framework in FRAMEWORKS:
            by_seed = values.get(framework + end, {})
            spread = spread_of(values, framework, rows_for(framework + end, framework))
            difference = paired(by_seed, values.get(framework, {}), spread)
            shown = end and difference.mean is not None
            gain = f"{difference_text(difference.mean)} ({interval_text(difference.interval())})" if shown else ""
            cells += [cell_of(by_seed.values()), gain]
        rows.append(cells)
    return markdown_table(["", *heads], rows, heads)


def of_questions(folders: Sequence[Path], questions: Questions, sweeps: Sequence[str]) -> Iterator[str]:
    """Yields both tables for other data than the drawn scenes, `means` and `comparisons`.

    Args:
        folders: Runs, or folders above them.
        questions: The registered comparisons.
        sweeps: Sweeps whose rows count.
    """
    yield from of_runs(*gathered(folders), questions, sweeps)


def of_runs(
    runs: Sequence[RunRecord], frame: pd.DataFrame, questions: Questions, sweeps: Sequence[str]
) -> Iterator[str]:
    """Yields the tables of `of_questions` from what `gathered` returned."""
    knn, logistic = (top1(frame, task, sweeps) for task in ("knn", "logistic"))
    yield means(knn, logistic, endings(runs, sweeps), questions)
    yield comparisons(logistic, questions)


def means(
    knn: Values, logistic: Values, ended: Mapping[str, Mapping[int, Ending]], questions: Questions = QUESTIONS
) -> str:
    """Returns the table of the rows that were run, in the order of the registered comparisons.

    Args:
        knn: Top-1 by kNN.
        logistic: Top-1 by logistic regression.
        ended: Method -> seed -> how its training ended.
        questions: The registered comparisons.
    """
    registered = [method for pairs in questions.values() for pair in pairs for method in reversed(pair)]
    failed = {method for method, by_seed in ended.items() if any(ending.failed for ending in by_seed.values())}
    there = logistic.keys() | failed
    methods = [method for method in dict.fromkeys([*registered, *sorted(there)]) if method in there]
    heads = ("seeds", "kNN, k = 20", "logistic regression", "last loss (at chance)", "collapsed or failed")
    rows = [
        [
            f"`{method}`",
            str(len(logistic.get(method, {}))),
            _knn_cell(knn.get(method, {}), logistic.get(method, {})),
            cell_of(logistic.get(method, {}).values()),
            *_ending_cells(ended.get(method, {})),
        ]
        for method in methods
    ]
    return markdown_table(["row", *heads], rows, heads[:-1])


def _knn_cell(knn: Mapping[int, float], logistic: Mapping[int, float]) -> str:
    """Returns a row's cell by kNN, with its seeds if they differ from those of logistic regression in the same row."""
    other = f" (seeds {', '.join(map(str, sorted(knn)))})" if knn and knn.keys() != logistic.keys() else ""
    return cell_of(knn.values()) + other


def _ending_cells(by_seed: Mapping[int, Ending]) -> list[str]:
    """Returns the last losses with that at chance, and the seeds that collapsed or failed; dashes if none was run."""
    if not by_seed:
        return ["–", "–"]
    chance_losses = "/".join(dict.fromkeys(f"{ending.chance_loss:.2f}" for ending in by_seed.values()))
    losses = sorted(ending.loss for ending in by_seed.values() if not ending.failed)
    ends = " to ".join(dict.fromkeys(map(number_text, (*losses[:1], *losses[-1:])))) or "–"
    gone = [
        f"seed {seed} {'failed' if ending.failed else 'collapsed'}"
        for seed, ending in sorted(by_seed.items())
        if ending.failed or ending.collapsed
    ]
    return [f"{ends} ({chance_losses})", ", ".join(gone) or "none"]


def comparisons(values: Values, questions: Questions = QUESTIONS) -> str:
    """Returns the table of all registered comparisons.

    Args:
        values: Top-1 by logistic regression.
        questions: The registered comparisons.
    """
    heads = ("question", "comparison", "seeds", "difference", "95 %", "corrected", "smallest", "p", "outcome")
    pooled_heads = ("pooled: 95 %", "smallest", "p", "outcome")
    own, pooled = (decide(values, pooled=pooled, questions=questions) for pooled in (False, True))
    rows = [
        [
            question,
            f"`{decision.first}` − `{decision.second}`",
            str(decision.comparison.n),
            difference_text(decision.comparison.mean),
            interval_text(decision.comparison.interval()),
            interval_text(decision.corrected_interval),
            _half_width_cell(decision),
            p_cell(decision.p),
            decision.outcome,
            interval_text(together.comparison.interval()),
            _half_width_cell(together),
            p_cell(together.p),
            together.outcome,
        ]
        for question, decisions in own.items()
        for decision, together in zip(decisions, pooled[question], strict=True)
    ]
    return markdown_table([*heads, *pooled_heads], rows, ("seeds", "difference", "smallest", "p"))


def _half_width_cell(decision: Decision) -> str:
    return "–" if decision.half_width is None else number_text(decision.half_width, 1)


def cell_of(values: Collection[float]) -> str:
    """Returns mean and sample standard deviation as text; for one value only itself, for none a dash."""
    if not values:
        return "–"
    spread = f" ± {number_text(stdev(values), 1)}" if len(values) > 1 else ""
    return f"{number_text(mean(values), 1)}{spread}"


def interval_text(interval: tuple[float, float] | None, digits: int = 1) -> str:
    """Returns an interval as text; a dash if none could be taken."""
    return "–" if interval is None else " to ".join(number_text(end, digits, "+") for end in interval)


def difference_text(difference: float | None) -> str:
    """Returns a difference in points as text; a dash if it was not run."""
    return "–" if difference is None else number_text(difference, 1, "+")


def p_cell(p: float | None) -> str:
    """Returns a p value as text; a dash if none could be taken."""
    return "–" if p is None else p_text(p)


def _tables(folders: Sequence[Path]) -> Iterator[str]:
    runs, frame = gathered(folders)
    knn, logistic = (top1(frame, task, PARTS) for task in ("knn", "logistic"))
    yield summary(logistic)
    yield means(knn, logistic, endings(runs, PARTS))
    yield comparisons(logistic)


if __name__ == "__main__":
    sys.exit(print_tables("Prints the tables of the study's page.", _tables))
