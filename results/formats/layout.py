"""The parts of a table, for all formats."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd


@dataclass(frozen=True)
class Cell:
    """One printed cell.

    Attributes:
        text: Plain text, without markup.
        rank: 1 for the best of its block, printed bold; 2 for the second best, marked more lightly; else 0. Measured
            numbers have a rank only by `results.statistics.ranking.clear_ranks`.
        marks: Numbers of the notes to which it refers, from 1.
        significance: Mark of a measured number that differs from that of its framework without masking; else empty.
        signed: Whether the text is a number with a sign, which LaTeX sets in math mode.
        behind: The measurements of which it is the mean; the report can open them.
    """

    text: str
    rank: int = 0
    marks: tuple[int, ...] = ()
    significance: str = ""
    signed: bool = False
    behind: tuple["Measured", ...] = ()


@dataclass(frozen=True)
class Measured:
    """One number behind a cell."""

    seed: int
    value: float
    """Percent."""
    path: str
    """The run's `results.jsonl`, as the results name it."""


@dataclass(frozen=True)
class ColumnGroup:
    """Columns under one heading."""

    heading: Cell
    columns: tuple[Cell, ...]


@dataclass(frozen=True)
class Line:
    """A row: the parts of its label, and one cell per column."""

    parts: tuple[str, ...]
    cells: tuple[Cell, ...]

    @property
    def label(self) -> str:
        """The label as one text."""
        return ", ".join(self.parts)


@dataclass(frozen=True)
class Table:
    """A finished table.

    Attributes:
        name: File name without suffix, e.g. `table1`.
        title: Says what the numbers are.
        watermark: Printed above the table in bold, if runs are TINY or ALTERED; else empty. This, the legend and notes
            may have several lines.
        groups: The columns.
        blocks: The rows; formats separate blocks by a rule or an empty line.
        legend: Says below the table what bold and the marks of significance mean.
        notes: Texts of the notes; cells refer to them by position, from 1.
        records: The same cells as data, one line per row, column group and metric, for CSV and plots.
        sizes: A column's values of `results.collection.collect.KEYS` and its mark -> the parts of its scale, for titles
            that name only some of them.
    """

    name: str
    title: str
    watermark: str
    groups: tuple[ColumnGroup, ...]
    blocks: tuple[tuple[Line, ...], ...]
    legend: str
    notes: tuple[str, ...]
    records: pd.DataFrame
    sizes: Mapping[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)


def in_one_line(text: str) -> str:
    """Returns a watermark or a note without line breaks."""
    return "; ".join(text.splitlines())
