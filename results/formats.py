"""The formats of a table, and the files that hold it: Markdown and CSV are made here, LaTeX and HTML beside."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from repro.files import write_text
from results.html import table_page
from results.latex import latex
from results.layout import Cell, Table
from results.spreadsheet import harmless


def markdown(table: Table) -> str:
    """Returns a table in GitHub's Markdown, its columns aligned so that a terminal shows it well too."""
    # Markdown has no cells that span columns: each heading names its group.
    heads = [
        _markdown(Cell(f"{group.heading.text}{_marks(group.heading)}: {column.text}", marks=column.marks))
        for group in table.groups
        for column in group.columns
    ]
    body = [[_markdown(Cell(line.label)), *map(_markdown, line.cells)] for block in table.blocks for line in block]
    paragraphs = [f"**{_escaped(table.watermark)}**"] if table.watermark else []
    paragraphs += [table.title, _aligned(["Method", *heads], body)]
    paragraphs += ["\n".join(f"- [{number}] {_escaped(note)}" for number, note in enumerate(table.notes, start=1))]
    return "\n\n".join(filter(None, paragraphs)) + "\n"


def csv(table: Table) -> str:
    """Returns a table as data: one line per row, column group and metric, numbers with at most four decimals."""
    return harmless(table.records.round(4)).to_csv(index=False, lineterminator="\n")


FORMATS: Mapping[str, Callable[[Table], str]] = {".md": markdown, ".tex": latex, ".csv": csv, ".html": table_page}
"""Suffix of a file -> what makes its text."""


def write(table: Table, folder: Path) -> list[Path]:
    """Write a table in every format; each file is replaced as a whole or left as it was.

    Args:
        table: What to write.
        folder: The folder of the files, made if it is not there.

    Returns:
        The files: `<name>.md`, `<name>.tex`, `<name>.csv`, `<name>.html`.

    Raises:
        UserError: The folder cannot be made or written to.
    """
    # All texts before the first file: a format that fails leaves the old pages, which agree with one another.
    texts = {folder / (table.name + suffix): make(table) for suffix, make in FORMATS.items()}
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def _marks(cell: Cell) -> str:
    return f" [{', '.join(map(str, cell.marks))}]" if cell.marks else ""


def _markdown(cell: Cell) -> str:
    stars = "*" * {1: 2, 2: 1}.get(cell.rank, 0)
    return f"{stars}{_escaped(cell.text)}{stars}{_marks(cell)}"


def _escaped(text: str) -> str:
    # Only what would break a cell, start emphasis or a tag: a terminal shows this text too.
    return re.sub(r"([|*\\<])", r"\\\1", text)


def _aligned(head: list[str], body: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(
        "| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |"
        for row in (head, rule, *body)
    )
