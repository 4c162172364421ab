"""A table of the paper as a terminal shows it: its column groups below one another."""

from collections.abc import Sequence
from itertools import takewhile

from rich.text import Text

from repro.command_line.terminal import Console
from repro.command_line.text_tables import TextTable, numbered, print_table
from results.formats.layout import Cell, ColumnGroup, Line, Table

STYLES = {1: "bold", 2: "italic"}
"""Rank of a cell -> how a terminal shows it."""


def print_on_terminal(table: Table, console: Console) -> None:
    """Prints a table on a terminal, with the notes below; cells are never wrapped, whatever the terminal's width."""
    if table.watermark:
        console.print(Text(table.watermark, style="bold"))
    console.print(Text(table.title))
    first = 0
    for group in table.groups:
        console.print()
        print_table(_group(table, group, first), console)
        first += len(group.columns)
    if table.legend or table.notes:
        console.print()
    if table.legend:
        console.print(Text(table.legend))
    if table.notes:
        console.print(numbered(table.notes))


def _group(table: Table, group: ColumnGroup, first: int) -> TextTable:
    """Returns a column group; its cells are those of each line from the index `first` on."""
    heads = ["Method", *(_head(cell) for cell in group.columns)]
    rows: list[list[str]] = []
    styles: dict[tuple[int, int], str] = {}
    for block in table.blocks:
        if rows:
            rows.append([""] * len(heads))
        title, labels = _labels(block)
        if title:
            rows.append([title, *([""] * len(group.columns))])
        for label, line in zip(labels, block, strict=True):
            cells = line.cells[first : first + len(group.columns)]
            styles |= {(len(rows), place): STYLES[cell.rank] for place, cell in enumerate(cells, 1) if cell.rank}
            rows.append([label, *map(_text, cells)])
    return TextTable(heads, rows, right=heads[1:], title=_text(group.heading), styles=styles)


def _labels(block: Sequence[Line]) -> tuple[str, list[str]]:
    """Returns the parts that all labels of a block share, as a title above them, and the rest of each label."""
    parts = [line.parts for line in block]
    shared = len(list(takewhile(lambda words: len(set(words)) == 1, zip(*parts, strict=False))))
    tails = [words[shared:] for words in parts]
    behind = len(list(takewhile(lambda words: len(set(words)) == 1, zip(*map(reversed, tails), strict=False))))
    own = [words[: len(words) - behind] for words in tails]
    if len(block) == 1 or not shared or not all(own):
        return "", [line.label for line in block]
    return ", ".join([*parts[0][:shared], *tails[0][len(own[0]) :]]), [f"  {', '.join(words)}" for words in own]


def _head(cell: Cell) -> str:
    """Returns a heading, broken into lines so that its column is hardly wider than the numbers; marks stand last."""
    marks = _marks(cell)
    return "\n".join(filter(None, [*cell.text.replace(", ", ",\n").split("\n"), marks]))


def _text(cell: Cell) -> str:
    return " ".join(filter(None, [cell.text, cell.significance, _marks(cell)]))


def _marks(cell: Cell) -> str:
    return f"[{', '.join(map(str, cell.marks))}]" if cell.marks else ""
