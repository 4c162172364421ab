"""What each part of the paper's method adds: a row beside itself without the part.

The paper's sentences are about whole methods. A row that leads its framework may owe that to any of its parts, to the
high-pass filter as well as to what is masked, and its tables make no comparison that tells.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import pandas as pd

from repro.runs.labels import CHANGES, label
from repro.runs.method_name import MethodName
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
"""What a row lacks whose name ends so -> the part."""
PARTS_NOTE = (
    "What each part adds: the row with it minus the row without, in points, by the seeds that both have; 95 % "
    "intervals and p of paired t-tests, not corrected for their number. The paper compares no such rows."
)
"""What stands above or below the parts, wherever they are shown."""
_TABLES = ("table1", "table2")


@dataclass(frozen=True)
class MethodPart:
    """What a part of a method adds, in one of our columns.

    Attributes:
        method: The row with the part.
        without: The row without it.
        part: Its words, and what stands in its place: `saliency over patches at random`.
        column: Our column that both were measured in.
        metric: The metric's printed name; empty where the table leaves it open.
        comparison: With − without, seed by seed, in points; of no seed where none is common to both.
        unlike: In what the two rows' runs differ besides (`Column.unlike`); the difference is theirs too.
        apart: Split, fidelity or both of the column, where others that read the same were measured by other ones.
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
        """How both were measured: protocol, what tells the column from others, and scale."""
        return ", ".join(filter(None, [self.column.protocol, self.apart, self.column.scale]))

    @property
    def remark(self) -> str:
        """Why there is no difference, or what else it may be of; empty where it is the part's."""
        if not self.comparison.n:
            return "no seed that both have"
        return f"runs differ in {', '.join(self.unlike)} too" if self.unlike else ""


def parts(frame: pd.DataFrame | None, *, task: str = "", metric: str = "") -> list[MethodPart]:
    """Returns what each part adds, in the order of the tables, their columns, the rows' names and `PARTS`.

    Args:
        frame: What `results.collection.collect.collect` returns; None where nothing was run.
        task: Another evaluation than the paper's linear probe.
        metric: Another measure than the task's first.

    Raises:
        UserError: Runs that exclude each other.
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
    """Returns the parts in a column, by its first metric alone: AP50 and AP75 follow AP."""
    metric, printed_name = column.metrics[0]
    values = {method: by_seed for (method, its), by_seed in cells.items() if its == metric}
    pairs = [
        (method, without, change)
        for without in values
        if (change := MethodName.parse(without).change) in PARTS
        # Somebody's own row may be called `mocov2+random`, which lacks nothing.
        if (method := without.replace(f"-{change}", "", 1)) in values and method != without
    ]
    order = list(PARTS)
    found = []
    for method, without, change in sorted(pairs, key=lambda pair: (pair[0], order.index(pair[2]))):
        # Without a seed that both have there is no difference, and a line that says so: nothing would pass for not run.
        comparison, unlike = paired(values[method], values[without]), column.unlike(method, without)
        found.append(MethodPart(method, without, _words(change), column, printed_name, comparison, unlike))
    return found


def _apart(column: Column, ways: Set[tuple[str, str]]) -> str:
    """Returns what tells a column from those of these other splits and fidelities that read the same."""
    splits, fidelities = map(set, zip(*ways, strict=True))
    split = f"split {column.split}" if len(splits) > 1 else ""
    return ", ".join(filter(None, [split, f"fidelity {column.fidelity}" if len(fidelities) > 1 else ""]))


def _words(change: str) -> str:
    return PARTS[change] + (f" over {CHANGES[change]}" if change in CHANGES else "")


def parts_in_words(found: Sequence[MethodPart]) -> tuple[str, ...]:
    """Returns what each part adds in the first column that tells, a line each, as the report's headline has it.

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
