"""The pages of a table in Markdown, LaTeX, CSV and HTML.

The expected pages are `tests/golden/table*`. After an intended change, write them anew and read the difference:

    SALMASK_UPDATE_GOLDENS=1 python -m pytest tests/results/test_formats.py -k golden && git diff tests/golden
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from places import GOLDEN, ROOT
from table_samples import TINY, frame_of, rows_of

from repro.errors import UserError
from results.formats.html import table_page
from results.formats.layout import Cell, ColumnGroup, Line, Table
from results.formats.table_files import latex, markdown, write
from results.tables.rendering import render


def golden_table() -> Table:
    return render(
        "table1",
        frame_of(
            *rows_of("supervised", (81.9,), framework="none"),
            *rows_of("mocov2", (68.1, 68.9, 70.3)),
            *rows_of("mocov2+ours-hp", (73.0, 74.2), commit="fedcba9876"),
            *rows_of("simclr", (70.0,), dirty=True),
            *rows_of("mocov2", (86.0, 87.0), dataset="flowers102", protocol="linear-flowers-80-10-10-v1"),
            *rows_of("mocov2", (40.25, 41.75), dataset="scenes", scale=TINY, protocol="linear-moco-v1[epochs=10]"),
            *rows_of("mocov2+ours-hp", (45.5,), dataset="scenes", scale=TINY, protocol="linear-moco-v1[epochs=10]"),
        ),
        every=True,
    )


@pytest.mark.parametrize("suffix", [".md", ".tex", ".csv", ".html"])
@pytest.mark.parametrize("name", ["table1", "table2", "table3"])
def test_the_pages_match_the_golden_ones(tmp_path: Path, name: str, suffix: str) -> None:
    table = golden_table() if name == "table1" else render(name, only="paper")
    paths = {path.suffix: path for path in write(table, tmp_path)}
    text = paths[suffix].read_text(encoding="utf-8")
    if suffix == ".html":  # without the style and the script that all pages share
        text = text[text.index("<main>") : text.index("</main>")]
    expected = GOLDEN / f"{name}{suffix}"
    if os.environ.get("SALMASK_UPDATE_GOLDENS"):
        expected.write_text(text, encoding="utf-8")
    assert text == expected.read_text(encoding="utf-8")


def test_the_order_of_the_rows_does_not_change_the_page() -> None:
    frame = frame_of(*rows_of(values=(60.0, 61.0)), *rows_of("simclr", (70.0,)), *rows_of(dataset="scenes"))
    assert markdown(render("table1", frame.iloc[::-1])) == markdown(render("table1", frame))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX here (pdflatex)")
@pytest.mark.parametrize("name", ["table1", "table2", "table3"])
def test_the_latex_compiles_alone_and_in_a_document(tmp_path: Path, name: str) -> None:
    table = golden_table() if name == "table1" else render(name, only="paper")
    write(table, tmp_path)
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"
        f"\\input{{{name}}}\n\\end{{document}}\n"
    )
    for source in (name, "paper"):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", source]
        compilation = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert compilation.returncode == 0, compilation.stdout[-2000:]
        assert (tmp_path / f"{source}.pdf").stat().st_size > 10_000


def test_html_shows_names_as_text_and_marks_the_best() -> None:
    name = "<img src=x onerror=alert(1)>"
    page = table_page(render("table1", frame_of(*rows_of(), *rows_of("mocov2+x", (70.0,), dataset=name))))
    assert "<img" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 2
    assert "<b>70.00 (1)</b>" not in page  # it is alone in its block and column
    assert "<b>73.80</b>" in table_page(render("table1", only="paper"))
    assert "<u>72.50</u>" in table_page(render("table1", only="paper"))


def test_latex_escapes_what_tex_would_read_as_a_command() -> None:
    table = render("table1", frame_of(*rows_of(dataset=r"my_set 50% & #1 {a} ~b^c \d $e <f>", values=(1.0, 2.0))))
    text = latex(table)
    assert r"my\_set 50\% \& \#1 \{a\} \textasciitilde{}b\textasciicircum{}c \textbackslash{}d \$e" in text
    assert r"\textless{}f\textgreater{}" in text
    assert r"1.50 $\pm$ 0.71 (2)" in text
    assert text.isascii()


def test_markdown_keeps_its_columns_when_a_name_holds_a_bar() -> None:
    table = render("table1", frame_of(*rows_of(dataset="a|b")))
    assert r"a\|b [1]: measured" in markdown(table)


def test_write_replaces_the_files_and_leaves_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "table1.md").write_text("old")
    paths = write(render("table1", frame_of(*rows_of())), tmp_path / "pages")
    assert [path.name for path in paths] == ["table1.md", "table1.tex", "table1.csv", "table1.html"]
    assert sorted(path.name for path in (tmp_path / "pages").iterdir()) == sorted(path.name for path in paths)
    assert "68.00 (1)" in paths[0].read_text()


def test_a_write_that_fails_keeps_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "table1.md").write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("repro.filesystem.files.os.fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*table1\.md: the disk of .* is full"):
        write(render("table1", frame_of(*rows_of())), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["table1.md"]
    assert (tmp_path / "table1.md").read_text() == "old"


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pages").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*pages"):
        write(render("table1", frame_of(*rows_of())), tmp_path / "pages")


def test_tables_are_made_without_torch() -> None:
    code = "import results.tables.rendering, results.collection.collect, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_table_of_many_columns_is_set_in_parts_that_can_be_read() -> None:
    groups = tuple(
        ColumnGroup(Cell(f"group {n}"), (Cell("published"), Cell("measured"), Cell("Δ")) * 3) for n in range(3)
    )
    blocks = ((Line(("MoCo v2",), tuple(Cell(str(n)) for n in range(27))),),)
    text = latex(Table("table2", "A wide table.", "", groups, blocks, "", (), pd.DataFrame()))
    assert [len(columns) for columns in re.findall(r"begin{tabular}{l(r+)}", text)] == [9, 9, 9]
    assert text.count(r"\begin{table}") == 1
    rows = [line for line in text.splitlines() if line.startswith("MoCo v2")]
    assert rows == [" & ".join(["MoCo v2", *map(str, range(n, n + 9))]) + r" \\" for n in (0, 9, 18)]
    assert [text.count(f"group {n}") for n in range(3)] == [1, 1, 1]


def test_latex_reads_no_method_as_an_option_of_what_stands_before_it() -> None:
    """After `\\\\` and `\\midrule`, LaTeX reads `[ours]` as a length."""
    group = ColumnGroup(Cell("group"), (Cell("measured"),))
    block = tuple(Line((label,), (Cell("1.00"),)) for label in ("[ours]", "*", "MoCo v2 [ours]"))
    text = latex(Table("table1", "A table.", "", (group,), (block,), "", (), pd.DataFrame()))
    rows = [line for line in text.splitlines() if line.endswith(r"1.00 \\")]
    assert rows == [r"{}[ours] & 1.00 \\", r"{}* & 1.00 \\", r"MoCo v2 [ours] & 1.00 \\"]
