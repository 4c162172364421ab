"""A table as it is printed: the same cells as Markdown, as LaTeX and as CSV."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from repro.errors import UserError

_LATEX = {
    "\\": r"\textbackslash{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "Δ": r"$\Delta$",
    "–": "--",
}
_SPECIAL = re.compile("|".join(map(re.escape, _LATEX)))

# Loaded or not, booktabs tells whether this file is read by a document or compiled alone.
_LATEX_HEAD = r"""% \usepackage{booktabs,graphicx}, then \input this file; or compile it by itself.
\ifcsname ver@booktabs.sty\endcsname
  \def\salmaskend{}
\else
  \documentclass{article}
  \usepackage{booktabs,graphicx}
  \begin{document}
  \def\salmaskend{\end{document}}
\fi
"""


@dataclass(frozen=True)
class Cell:
    """One printed cell.

    Attributes:
        text: Plain text, without markup.
        bold: Whether it is set in bold.
        marks: Numbers of the notes that it refers to, from 1.
    """

    text: str
    bold: bool = False
    marks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Group:
    """Columns under one heading."""

    heading: Cell
    columns: tuple[Cell, ...]


@dataclass(frozen=True)
class Line:
    """A row: its label and one cell per column."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A finished table.

    Attributes:
        name: File name without suffix, e.g. `table1`.
        title: One sentence that says what the numbers are.
        watermark: Printed above the table in bold, empty where every number was run at the paper's scale.
        groups: The columns.
        blocks: The rows; a rule stands between two blocks where the format has one.
        notes: Texts of the notes; cells refer to them by position, from 1.
        records: The same cells as data, one line per row and group, for CSV.
    """

    name: str
    title: str
    watermark: str
    groups: tuple[Group, ...]
    blocks: tuple[tuple[Line, ...], ...]
    notes: tuple[str, ...]
    records: pd.DataFrame

    def markdown(self) -> str:
        """Give the table in GitHub's Markdown, its columns aligned so that a terminal shows it well too."""
        heads = [
            _markdown(Cell(f"{group.heading.text}{_marks(group.heading)}: {column.text}", marks=column.marks))
            for group in self.groups
            for column in group.columns
        ]
        body = [[_markdown(Cell(line.label)), *map(_markdown, line.cells)] for block in self.blocks for line in block]
        parts = [f"**{_markdown(Cell(self.watermark))}**"] if self.watermark else []
        parts += [self.title, _aligned(["Method", *heads], body)]
        parts += ["\n".join(f"- [{number}] {note}" for number, note in enumerate(self.notes, start=1))]
        return "\n\n".join(parts) + "\n"

    def latex(self) -> str:
        """Give the table as a `table` environment with booktabs' rules; the file also compiles by itself."""
        spans = [len(group.columns) for group in self.groups]
        starts = [2 + sum(spans[:index]) for index in range(len(spans))]
        tops = [
            rf"\multicolumn{{{span}}}{{c}}{{{_latex(group.heading)}}}"
            for group, span in zip(self.groups, spans, strict=True)
        ]
        rules = [rf"\cmidrule(lr){{{s}-{s + span - 1}}}" for s, span in zip(starts, spans, strict=True)]
        heads = [_latex(column) for group in self.groups for column in group.columns]
        blocks = [
            "\n".join(_latex_row([_escaped(line.label), *map(_latex, line.cells)]) for line in block)
            for block in self.blocks
        ]
        watermark = rf"{{\bfseries {_escaped(self.watermark)}\par}}\medskip" if self.watermark else ""
        notes = "\n".join(
            rf"\textsuperscript{{{number}}} {_escaped(note)}\par" for number, note in enumerate(self.notes, start=1)
        )
        lines = [
            r"\begin{table}[htbp]",
            r"\centering\small",
            rf"\caption{{{_escaped(self.title)}}}",
            watermark,
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * sum(spans)}}}",
            r"\toprule",
            _latex_row(["", *tops]),
            " ".join(rules),
            _latex_row(["Method", *heads]),
            r"\midrule",
            "\n\\midrule\n".join(blocks),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\par\medskip",
            r"\begin{minipage}{\linewidth}\footnotesize\raggedright",
            notes,
            r"\end{minipage}",
            r"\end{table}",
        ]
        return _LATEX_HEAD + "\n".join(line for line in lines if line) + "\n\\salmaskend\n"

    def csv(self) -> str:
        """Give the table as data: one line per row and column group, numbers with at most four decimals."""
        return self.records.round(4).to_csv(index=False, lineterminator="\n")


def write(table: Table, folder: Path) -> list[Path]:
    """Write a table as Markdown, LaTeX and CSV; each file is replaced as a whole or left as it was.

    Args:
        table: What to write.
        folder: Where to; made if it is not there.

    Returns:
        The files: `<name>.md`, `<name>.tex`, `<name>.csv`.

    Raises:
        UserError: The folder cannot be made or written to.
    """
    texts = {".md": table.markdown(), ".tex": table.latex(), ".csv": table.csv()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_replace(folder / (table.name + suffix), text) for suffix, text in texts.items()]
    except OSError as error:
        raise UserError(
            f"cannot write {table.name} to {folder}: {error.strerror}; give a folder to write to"
        ) from error


def _replace(path: Path, text: str) -> Path:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return path


def _marks(cell: Cell) -> str:
    return f" [{', '.join(map(str, cell.marks))}]" if cell.marks else ""


def _markdown(cell: Cell) -> str:
    text = re.sub(r"([|*\\])", r"\\\1", cell.text)
    return (f"**{text}**" if cell.bold else text) + _marks(cell)


def _aligned(head: list[str], body: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(
        "| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |"
        for row in (head, rule, *body)
    )


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda match: _LATEX[match.group()], text)


def _latex(cell: Cell) -> str:
    text = _escaped(cell.text)
    if re.fullmatch(r"[+-]\d+\.\d+", text):
        text = f"${text}$"  # a hyphen is no minus
    text = rf"\textbf{{{text}}}" if cell.bold else text
    return text + (rf"\textsuperscript{{{','.join(map(str, cell.marks))}}}" if cell.marks else "")


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
