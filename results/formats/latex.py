"""The LaTeX of a table, with booktabs' rules."""

import re
from collections.abc import Sequence

from results.formats.layout import Cell, ColumnGroup, Table, in_one_line

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
    "…": r"\ldots{}",
    "†": r"$^{\dagger}$",
    "‡": r"$^{\ddagger}$",
    "ρ": r"$\rho$",
}
"""Character that TeX reads as a command, or that its fonts lack -> its LaTeX."""
WIDEST = 12
"""The most columns, beside the method's, of one `tabular`; a wider table is set in parts, to be readable."""
_SPECIAL = re.compile("|".join(map(re.escape, _LATEX)))

# If booktabs is loaded, a document reads this file; else it is compiled by itself.
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


def latex(table: Table) -> str:
    """Returns a table as a `table` environment with booktabs' rules; the file also compiles by itself."""
    watermark = rf"{{\bfseries {_escaped(in_one_line(table.watermark))}\par}}\medskip" if table.watermark else ""
    notes = "\n".join(
        rf"\textsuperscript{{{number}}} {_escaped(in_one_line(note))}\par"
        for number, note in enumerate(table.notes, start=1)
    )
    lines = [
        r"\begin{table}[htbp]",
        r"\centering\small",
        rf"\caption{{{_escaped(table.title)}}}",
        watermark,
        "\n\\par\\medskip\n".join(_tabular(table, part) for part in _parts(table.groups)),
        r"\par\medskip",
        rf"{{\footnotesize {_escaped(table.legend)}\par}}\smallskip" if table.legend else "",
        r"\begin{minipage}{\linewidth}\footnotesize\raggedright",
        notes,
        r"\end{minipage}",
        r"\end{table}",
    ]
    return _LATEX_HEAD + "\n".join(line for line in lines if line) + "\n\\salmaskend\n"


def _parts(groups: Sequence[ColumnGroup]) -> list[range]:
    """Returns ranges of column groups that stand side by side, as many as have at most `WIDEST` columns together."""
    parts: list[range] = []
    for index, group in enumerate(groups):
        start = parts[-1].start if parts else 0
        if parts and sum(len(groups[number].columns) for number in range(start, index)) + len(group.columns) <= WIDEST:
            parts[-1] = range(start, index + 1)
        else:
            parts.append(range(index, index + 1))
    return parts


def _tabular(table: Table, part: range) -> str:
    """Returns some column groups of a table as a `tabular`, no wider than the line."""
    groups = [table.groups[number] for number in part]
    spans = [len(group.columns) for group in groups]
    starts = [2 + sum(spans[:index]) for index in range(len(spans))]  # LaTeX counts from 1, and column 1 is the method
    first = sum(len(group.columns) for group in table.groups[: part.start])
    tops = [
        rf"\multicolumn{{{span}}}{{c}}{{{_latex(group.heading)}}}" for group, span in zip(groups, spans, strict=True)
    ]
    rules = [rf"\cmidrule(lr){{{s}-{s + span - 1}}}" for s, span in zip(starts, spans, strict=True)]
    heads = [_latex(column) for group in groups for column in group.columns]
    blocks = [
        "\n".join(
            _latex_row([_escaped(line.label), *map(_latex, line.cells[first : first + sum(spans)])]) for line in block
        )
        for block in table.blocks
    ]
    # This `\resizebox` shrinks a table that is wider than the line, and leaves a narrower one as it is.
    lines = [
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
    ]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda match: _LATEX[match.group()], text)


def _latex(cell: Cell) -> str:
    text = _escaped(cell.text)
    if cell.signed:
        text = f"${text}$"  # outside of math mode, LaTeX prints a hyphen instead of a minus
    text = {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}"}.get(cell.rank, text)
    text += _escaped(cell.significance)
    return text + (rf"\textsuperscript{{{','.join(map(str, cell.marks))}}}" if cell.marks else "")


def _latex_row(cells: Sequence[str]) -> str:
    row = " & ".join(cells) + r" \\"
    # After `\\` or a rule, LaTeX would read such a beginning as an option.
    return f"{{}}{row}" if row.startswith(("[", "*")) else row
