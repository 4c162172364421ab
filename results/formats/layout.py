"""The parts of a table, whatever it is printed as."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd


@dataclass(frozen=True)
class Cell:
    """One printed cell.

    Attributes:
        text: Plain text, without markup.
        rank: 1 where it is the best of its block, printed bold; 2 where it is the second best, marked more lightly; a
            measured number only as far as `results.statistics.ranking.clear_ranks` goes.
        marks: Numbers of the notes that it refers to, from 1.
        significance: The mark of a measured number that differs from its framework's without masking; empty for none.
        signed: Whether the text is a number with a sign, which LaTeX sets as mathematics.
        behind: The measurements that it is the mean of, which a page with the runs on it can open.
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
        title: One sentence that says what the numbers are.
        watermark: Printed above the table in bold; empty where every run of ours was made at the paper's scale.
        groups: The columns.
        blocks: The rows; a rule stands between two blocks where the format has one.
        legend: One line below the table that says what bold and the marks of significance mean.
        notes: Texts of the notes; cells refer to them by position, from 1.
        records: The same cells as data, one line per row, column group and metric, for CSV and plots.
        sizes: The parts of each column's scale, for titles that name some of them; by the column's values of
            `results.collection.collect.KEYS` and its mark.
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
