"""What each part of the paper's method adds: a row compared with the same row without the part.

The paper's sentences are about whole methods. A row may owe its lead over its framework to any of its parts, such as
the high-pass filter or the masks, and no comparison in the paper's tables tells which.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import pandas as pd

from repro.settings.labels import CHANGES, label
from repro.settings.method_name import MethodName
from results.paper.published import published
from results.statistics.paired import Comparison, difference_text, interval_text, paired
from results.tables.columns import Column
from results.tables.references import without_untrained
from results.tables.selection import ValuesByCell, measured_columns

PARTS: Mapping[str, str] = {
    "no-masks": "masks and hard negative",
    "random": "saliency",
    "no-hard-negative": "hard negative",
}
"""Ending of a row's name -> the part of the method that the row lacks."""
PARTS_NOTE = (
    "What each part adds: the row with it minus the row without, in points, by the seeds that both have; 95 % "
    "intervals and p of paired t-tests, not corrected for their number. The paper compares no such rows."
)
"""Shown above or below the parts on every page and terminal."""
_TABLES = ("table1", "table2")


@dataclass(frozen=True)
class MethodPart:
    """What a part of a method adds, in one of our columns.

    Attributes:
        method: The row with the part.
        without: The row without it.
        part: The part, and what the row without it has in its place: `saliency over patches at random`.
        column: Our column in which both were measured.
        metric: The metric's printed name; empty where the table leaves it open.
        comparison: With − without, seed by seed, in points; without differences if no seed is common to both.
        unlike: What else the two rows' runs differ in (`Column.unlike`); that may cause the difference too.
        apart: Split, fidelity or both of the column, if `where` and `how` would otherwise read like another column's.
    """

    method: str
    without: str
    part: str
    column: Column
    metric: str
    comparison: Comparison
    unlike: tuple[str, ...] = ()
    apart: str = ""

    @property
    def where(self) -> str:
        """Our column, with the metric's printed name."""
        return f"{self.column.title} {self.metric}".rstrip()

    @property
    def how(self) -> str:
        """How both were measured: protocol, `apart` and scale."""
        return ", ".join(filter(None, [self.column.protocol, self.apart, self.column.scale]))

    @property
    def remark(self) -> str:
        """Why there is no difference, or what else may cause it; empty if only the part may."""
        if not self.comparison.n:
            return "no seed that both have"
        return f"runs differ in {', '.join(self.unlike)} too" if self.unlike else ""


def parts(frame: pd.DataFrame | None, *, task: str = "", metric: str = "") -> list[MethodPart]:
    """Returns what each part adds, in the order of the tables, columns, names of rows and `PARTS`.

    Args:
        frame: What `results.collection.collect.collect` returns; None where nothing was run.
        task: The evaluation, if it is not the paper's linear probe.
        metric: The metric, if it is not the table's first.

    Raises:
        UserError: Runs that must not be averaged (`refuse_mixed`).
    """
    if frame is None:
        return []
    trained = without_untrained(frame)
    found = [
        part
        for name in _TABLES
        for column, cells in measured_columns(trained, published(name), task=task, metric=metric)
        for part in _of_column(column, cells)
    ]
    ways: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for part in found:
        ways.setdefault((part.where, part.how), set()).add((part.column.split, part.column.fidelity))
    return [replace(part, apart=_apart(part.column, ways[part.where, part.how])) for part in found]


def _of_column(column: Column, cells: ValuesByCell) -> list[MethodPart]:
    """Returns the parts in a column, by its first metric alone, which AP50 and AP75 follow."""
    metric, printed_name = column.metrics[0]
    values = {method: by_seed for (method, its), by_seed in cells.items() if its == metric}
    pairs = [
        (method, without, change)
        for without in values
        if (change := MethodName.parse(without).change) in PARTS
        # A user's own row may be called `mocov2+random`: it lacks no part of another row.
        if (method := without.replace(f"-{change}", "", 1)) in values and method != without
    ]
    order = list(PARTS)
    found = []
    for method, without, change in sorted(pairs, key=lambda pair: (pair[0], order.index(pair[2]))):
        # Rows without a common seed get a line too, which says so: without one they would seem not to have been run.
        comparison, unlike = paired(values[method], values[without]), column.unlike(method, without)
        found.append(MethodPart(method, without, _words(change), column, printed_name, comparison, unlike))
    return found


def _apart(column: Column, ways: Set[tuple[str, str]]) -> str:
    """Returns `MethodPart.apart` of a column.

    Args:
        column: The column.
        ways: Split and fidelity of each column with the same `where` and `how`.
    """
    splits, fidelities = map(set, zip(*ways, strict=True))
    split = f"split {column.split}" if len(splits) > 1 else ""
    return ", ".join(filter(None, [split, f"fidelity {column.fidelity}" if len(fidelities) > 1 else ""]))


def _words(change: str) -> str:
    return PARTS[change] + (f" over {CHANGES[change]}" if change in CHANGES else "")


def parts_in_words(found: Sequence[MethodPart]) -> tuple[str, ...]:
    """Returns what each part adds in the first column with differences: a line for each, for the report's headline.

    Args:
        found: What `parts` returns, or some of it.
    """
    found = [part for part in found if part.comparison.n]
    of_first = [part for part in found if part.column == found[0].column]
    words = []
    for name in dict.fromkeys(part.part for part in of_first):
        rows = [_in_words(part) for part in of_first if part.part == name]
        words.append(f"{name}: {', '.join(rows)}")
    return tuple(words)


def _in_words(part: MethodPart) -> str:
    interval = part.comparison.interval()
    spread = f" ({interval_text(interval)})" if interval else ""
    too = f", where {part.remark}" if part.remark else ""
    return f"{label(part.method)} {difference_text(part.comparison.mean)}{spread}{too}"


def parts_as_frame(found: Sequence[MethodPart]) -> pd.DataFrame:
    """Returns the parts as data, one line each."""
    return pd.DataFrame(
        {
            "method": part.method,
            "without": part.without,
            "part": part.part,
            "where": part.where,
            "split": part.column.split,
            "protocol": part.column.protocol,
            "fidelity": part.column.fidelity,
            "scale": part.column.scale,
            "n": part.comparison.n,
            "difference": part.comparison.mean,
            "low": (part.comparison.interval() or (None, None))[0],
            "high": (part.comparison.interval() or (None, None))[1],
            "p": part.comparison.p,
            "unlike": ", ".join(part.unlike),
        }
        for part in found
    )
