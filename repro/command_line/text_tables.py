"""Tables on standard output: laid out on a terminal, as Markdown in a pipe or a file."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from repro.errors import visible

GAP = 2
"""Columns between two columns of a table."""
PROSE = 16
"""Cells longer than this may become notes below a table that is wider than its terminal."""


@dataclass(frozen=True)
class TextTable:
    """A table that rich prints: laid out on a terminal, as Markdown elsewhere (then with `soft_wrap=True`).

    On a terminal no cell is broken. If a table is too wide, long texts of its last columns become numbered notes below
    it. If it is still too wide, it is printed in parts, each with the first column. Only a text that is wider than the
    terminal by itself is wrapped.

    Attributes:
        heads: The headings of the columns.
        rows: The texts of the cells.
        right: Headings of the columns that are set flush right, as numbers are; their cells never become notes.
        title: Printed above the table.
        notes: Printed below it; a cell refers to the first one by `[1]`.
        styles: Styles that rich gives to cells, by row and column, from 0.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Collection[str] = ()
    title: str = ""
    notes: Sequence[str] = ()
    styles: Mapping[tuple[int, int], str] = field(default_factory=dict)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yields what rich prints on a console."""
        if not console.is_terminal:
            table = markdown_table(self.heads, self.rows, self.right)
            yield Text("\n\n".join(filter(None, [self.title, table, markdown_notes(self.notes)])))
            return
        if self.title:
            yield Text(self.title)
        cells, notes = self._with_notes(options.max_width)
        for part in _parts(self.heads, cells, options.max_width):
            yield self._laid_out(cells, part)
        if notes:
            yield numbered(notes)

    def _with_notes(self, width: int) -> tuple[list[list[str]], list[str]]:
        """Moves long texts into notes, column by column from the last one, until the table fits a width."""
        cells, notes = [list(row) for row in self.rows], list(self.notes)
        moved: set[tuple[int, int]] = set()
        for column in range(len(self.heads) - 1, 0, -1):
            widths = _widths(self.heads, cells)
            if _total(widths) <= width:
                break
            room = max(width - _total(widths) + widths[column], PROSE)
            for number, row in enumerate(cells if self.heads[column] not in self.right else ()):
                if cell_len(row[column]) > room and " " in row[column]:
                    moved.add((number, column))
                    row[column] = "[00]"  # as wide as its mark will be
        # In reading order, so that the numbers rise; a text that stands in several cells has one number.
        for number, column in sorted(moved):
            text = self.rows[number][column]
            if text not in notes:
                notes.append(text)
            cells[number][column] = f"[{notes.index(text) + 1}]"
        return cells, notes

    def _laid_out(self, cells: Sequence[Sequence[str]], part: Sequence[int]) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
        for column in part:
            head = self.heads[column]
            table.add_column(Text(head), overflow="fold", justify="right" if head in self.right else "left")
        for number, row in enumerate(cells):
            # As Text, so that brackets in it are not taken for markup.
            table.add_row(*(Text(row[column], style=self.styles.get((number, column), "")) for column in part))
        return table


def print_table(table: TextTable, console: Console | None = None) -> None:
    """Prints a table on a console, by default on the standard output."""
    console = console or Console()
    console.print(table, soft_wrap=not console.is_terminal)


def numbered(notes: Sequence[str]) -> Table:
    """Returns notes with their numbers, from 1, for rich to print: the lines of a note are aligned."""
    grid = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for number, note in enumerate(notes, start=1):
        grid.add_row(Text(f"[{number}]"), Text(note))
    return grid


def markdown_notes(notes: Sequence[str]) -> str:
    """Returns notes as a list in Markdown; further lines of a note are a list below its first."""
    items = ("\n  - ".join(map(escaped, note.splitlines())) for note in notes)
    return "\n".join(f"- [{number}] {item}" for number, item in enumerate(items, start=1))


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> str:
    """Returns a table in GitHub's Markdown, of plain texts."""
    lines = [[escaped(cell) for cell in row] for row in (heads, *rows)]
    return aligned(lines[0], lines[1:], [head in right for head in heads])


def aligned(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """Returns the lines of a table in Markdown, with columns aligned so that it is readable as plain text, too.

    Args:
        heads: The headings, as Markdown.
        rows: The other lines, as Markdown.
        right: For each column whether it is set flush right.
    """
    # At least three: a rule of a single colon would make no table.
    widths = [max(3, *map(cell_len, column)) for column in zip(heads, *rows, strict=True)]
    rule = ["-" * (width - 1) + (":" if flush else "-") for width, flush in zip(widths, right, strict=True)]
    return "\n".join(
        "| " + " | ".join(_padded(*cell) for cell in zip(row, widths, right, strict=True)) + " |"
        for row in (heads, rule, *rows)
    )


def escaped(text: str) -> str:
    """Returns a text as Markdown in one line; what would break a cell or start emphasis, a tag or a link is escaped."""
    return re.sub(r"([|*\\<]|(?<=])\()", r"\\\1", visible(text).replace("\n", " "))


def as_code(text: str) -> str:
    """Returns a text that can stand between two backticks of Markdown."""
    return visible(text).replace("\n", " ").replace("`", "'")


def _padded(text: str, width: int, flush_right: bool) -> str:
    space = " " * (width - cell_len(text))
    return space + text if flush_right else text + space


def _widths(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [
        max(cell_len(line) for text in column for line in text.split("\n")) for column in zip(heads, *rows, strict=True)
    ]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _parts(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """Returns the columns of each part of a table that is printed in parts; the first column is in all."""
    widths = _widths(heads, rows)
    if _total(widths) <= width or len(heads) < 3:
        return [list(range(len(heads)))]
    starts = [1]
    for column in range(2, len(heads)):
        if _total([widths[0], *widths[starts[-1] : column + 1]]) > width:
            starts.append(column)
    return [[0, *range(start, end)] for start, end in pairwise([*starts, len(heads)])]
