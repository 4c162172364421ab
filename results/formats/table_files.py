"""The file formats of a table: Markdown and CSV are made here, LaTeX and HTML in `latex.py` and `html.py`."""

from collections.abc import Callable, Mapping
from pathlib import Path

from repro.command_line.text_tables import aligned, escaped, markdown_notes
from repro.filesystem.files import write_text
from results.formats.html import table_page
from results.formats.latex import latex
from results.formats.layout import Cell, Table
from results.formats.spreadsheet import harmless


def markdown(table: Table) -> str:
    """Returns a table in GitHub's Markdown, its columns aligned so that a terminal shows it well too."""
    # Markdown has no cells that span columns, so each heading names its group.
    heads = [
        _markdown(Cell(f"{group.heading.text}{_marks(group.heading)}: {column.text}", marks=column.marks))
        for group in table.groups
        for column in group.columns
    ]
    body = [[_markdown(Cell(line.label)), *map(_markdown, line.cells)] for block in table.blocks for line in block]
    paragraphs = [f"**{escaped(line)}**" for line in table.watermark.splitlines()]
    paragraphs += [table.title, aligned(["Method", *heads], body, [False, *(True for _ in heads)])]
    paragraphs += [*table.legend.splitlines(), markdown_notes(table.notes)]
    return "\n\n".join(filter(None, paragraphs)) + "\n"


def csv(table: Table) -> str:
    """Returns a table as data: one line per row, column group and metric, numbers with at most four decimals."""
    return harmless(table.records.round(4)).to_csv(index=False, lineterminator="\n")


FORMATS: Mapping[str, Callable[[Table], str]] = {".md": markdown, ".tex": latex, ".csv": csv, ".html": table_page}
"""Suffix of a file -> the function that makes its text."""


def write(table: Table, folder: Path) -> list[Path]:
    """Writes a table in every format; each file is replaced as a whole or left as it was.

    Args:
        table: The table.
        folder: The folder of the files, made if it does not exist.

    Returns:
        The files: `<name>.md`, `<name>.tex`, `<name>.csv`, `<name>.html`.

    Raises:
        UserError: The folder cannot be made or written to.
    """
    # All texts are made before the first file is written: if a format fails, the old files still agree.
    texts = {folder / (table.name + suffix): make(table) for suffix, make in FORMATS.items()}
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def _marks(cell: Cell) -> str:
    return f" [{', '.join(map(str, cell.marks))}]" if cell.marks else ""


def _markdown(cell: Cell) -> str:
    stars = "*" * {1: 2, 2: 1}.get(cell.rank, 0)
    significance = f" {cell.significance}" if cell.significance else ""
    return f"{stars}{escaped(cell.text)}{stars}{significance}{_marks(cell)}"
