"""Tables on a terminal of 80 columns and in a pipe: no line is too wide, no cell is broken, and nothing is lost."""

import dataclasses
import fcntl
import os
import pty
import re
import shutil
import struct
import termios
from collections.abc import Sequence
from io import StringIO
from threading import Thread
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import EXAMPLES
from rich.console import Console
from training_samples import salmask

from repro.command_line.text_tables import TextTable, markdown_table, print_table
from results.formats.layout import Cell, ColumnGroup, Line
from results.formats.layout import Table as Layout
from results.formats.on_terminal import print_on_terminal

COLUMNS = 80


def on_terminal(commands: list[list[str]]) -> list[str]:
    """The output of commands on a pseudo-terminal of 80 columns, without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    printed = bytearray()

    def read() -> None:
        # Not until the other end is closed: a process that a command leaves behind may hold it.
        while not printed.endswith(b"=====end\r\n"):
            printed.extend(os.read(ours, 65536))

    # In this process, as starting Python takes longer than all commands; they ask descriptor 1 for the terminal's size.
    reader, was = Thread(target=read), os.dup(1)
    reader.start()
    os.dup2(theirs, 1)
    os.close(theirs)
    try:
        with pytest.MonkeyPatch.context() as patch, open(1, "w", closefd=False) as terminal:
            for name in ("COLUMNS", "LINES", "NO_COLOR"):
                patch.delenv(name, raising=False)
            patch.setenv("TERM", "xterm")
            for command in commands:
                print("=====", file=terminal, flush=True)
                salmask(*command, stdout=terminal)
    finally:
        os.write(1, b"=====end\n")
        reader.join()
        os.dup2(was, 1)
        os.close(was)
        os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed.decode()).replace("\r", "")
    return text.removesuffix("=====end\n").split("=====\n")[1:]


def in_pipe(commands: list[list[str]]) -> list[str]:
    """The output of the same commands without a terminal."""
    return [salmask(*command).out for command in commands]


def cells_of(markdown: str) -> list[str]:
    """The cells of Markdown's tables, without emphasis."""
    lines = [line for line in markdown.splitlines() if line.startswith("|") and "---" not in line]
    return [re.sub(r"\\(.)|[*]", r"\1", cell).strip() for line in lines for cell in line.strip("|").split(" | ")]


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """Commands that print tables; status reads a copy of recorded runs, as it may write."""
    sweep = tmp_path_factory.mktemp("sweeps") / "cpu-112px"
    for method in ("mocov2", "mocov2+ours-hp", "simclr+ours-hp"):
        shutil.copytree(EXAMPLES / "reproduced" / "cpu-112px" / method, sweep / method)
    runs = ["--runs", str(sweep)]
    return [
        ["methods", "diff", "mocov2", "simclr+ours-hp"],
        ["doctor"],
        ["data", "list"],
        ["status", str(sweep)],
        ["sweep", "demo", "--local", "--plan"],
        ["table", "table1", *runs],
        ["table", "table1", "--all", *runs],
        ["table", "table2", "--only", "paper"],
        ["table", "table3", "--only", "paper"],
    ]


def test_at_80_columns_no_line_is_wider_and_no_word_is_broken(commands: list[list[str]]) -> None:
    shown, piped = on_terminal(commands), in_pipe(commands)
    assert len(shown) == len(piped) == len(commands)
    for command, text, markdown in zip(commands, shown, piped, strict=True):
        tables = [
            line
            for line in text.splitlines()
            if not line.startswith(("note:", "To set", "  ", "to do:", "moco.queue", "data "))
        ]
        assert max(map(len, tables), default=0) <= COLUMNS, command
        cells = cells_of(markdown)
        assert len(cells) > 8, (command, text)
        words = set(text.replace("\n", " ").split())
        words |= {word.rstrip(",") for word in words}  # what a block of rows shares is printed once above them
        # A terminal prints a group's name above its columns, and a heading's marks in a line of their own.
        expected = {word for cell in cells for word in re.sub(r" \[\d+(, \d+)*\](?=:|$)", "", cell).split()}
        missing = {word for word in expected - words if word.rstrip(",:") not in words and len(word) < COLUMNS - 10}
        missing = {word for word in missing if not word.isdigit()}  # the free space of a disk changes
        assert not missing, (command, missing)


def test_verdicts_fit_80_columns_and_break_no_method(commands: list[list[str]]) -> None:
    (shown,) = on_terminal([["claims", *commands[-3][3:]]])
    assert max(map(len, shown.splitlines())) <= COLUMNS
    assert re.search(r"^  MoCo v2 \+ ours \(high-pass\)  +(contradicted|undecided)  ", shown, re.MULTILINE)
    assert "linear-moco-v1[epochs=3,batch=64,lr_grid=30+10+1+0.1]; sweep cpu-112px" in shown


def test_methods_are_names_and_what_changes_them() -> None:
    (shown,), (piped,) = on_terminal([["methods"]]), in_pipe([["methods"]])
    assert max(map(len, shown.splitlines())) <= COLUMNS
    lines = {line.split()[0]: line.partition(" ")[2].strip() for line in shown.splitlines() if line.strip()}
    assert lines["mocov2+ours-hp"] == "MoCo v2 + ours (high-pass)"
    assert lines["mocov2+ours-hp@key-no-hard-negative"] == "…, key masked, no hard negative"
    assert "| MoCo v2 + ours (high-pass), query by inverted " in piped
    assert max(map(len, piped.splitlines())) <= 120


def printed(table: TextTable, width: int) -> list[str]:
    """The lines of a table on a terminal of some width."""
    console = Console(file=StringIO(), force_terminal=True, width=width, no_color=True)
    print_table(table, console)
    assert isinstance(console.file, StringIO)
    return re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue()).splitlines()


def test_long_texts_go_below_and_have_one_number_each() -> None:
    long, other = "a reason of many words, more than fit", "another reason, which is as long as that"
    table = TextTable(("run", "n", "why"), [("a", "1", long), ("b", "2", other), ("c", "3", long)], right=("n",))
    assert [line.rstrip() for line in printed(table, 30)] == [
        "run  n  why",
        "a    1  [1]",
        "b    2  [2]",
        "c    3  [1]",
        "[1] a reason of many words,",
        "    more than fit",
        "[2] another reason, which is",
        "    as long as that",
    ]


def test_what_is_short_and_what_is_one_word_stays_beside_what_goes_below() -> None:
    path = f"/runs/{'x' * 30}"
    rows = [("a", "short, and two words"), ("b", "a reason of many words, more than fit"), ("c", path)]
    lines = [line.rstrip() for line in printed(TextTable(("run", "why"), rows), 40)]
    assert lines[1:3] == ["a    short, and two words", "b    [1]"]
    assert "".join(lines[3:-2]).replace(" ", "") == f"c{path}"


def test_numbers_stay_and_a_wide_table_is_printed_in_parts() -> None:
    heads = ("row", *(f"column {n}" for n in range(4)))
    rows = [(name, *(f"12.34 ± 5.67 ({n})" for n in range(4))) for name in ("first", "second")]
    lines = [line.rstrip() for line in printed(TextTable(heads, rows, right=heads[1:]), 45)]
    assert [line.split()[0] for line in lines] == ["row", "first", "second"] * 2
    assert "12.34 ± 5.67 (1)" in lines[1]
    assert "12.34 ± 5.67 (2)" in lines[4]


def test_a_table_is_printed_in_parts_only_where_it_does_not_fit() -> None:
    table = TextTable(("a", "bb", "ccc", "dddd"), [("55555", "22", "333", "4444")])
    assert [line.split()[0] for line in printed(table, 20)] == ["a", "55555"]
    assert [line.split()[0] for line in printed(table, 19)] == ["a", "55555"] * 2
    assert [line.split() for line in printed(TextTable(table.heads[:3], [table.rows[0][:3]]), 12)] == [
        ["a", "bb"],
        ["55555", "22"],
        ["a", "ccc"],
        ["55555", "333"],
    ]


def test_a_path_in_a_note_that_is_wider_than_the_terminal_goes_on_in_the_next_line() -> None:
    path = f"/runs/{'x' * 40}/results.jsonl"
    lines = printed(TextTable(("run",), [("s0 [1]",)], notes=(path,)), 30)[2:]
    assert "".join(lines).replace(" ", "") == f"[1]{path}"
    assert all(line.startswith(" " * 4) for line in lines[1:])


def test_markdown_has_a_rule_below_narrow_columns_too() -> None:
    table = markdown_table(("n", "a|b"), [("1", "x*y\nz")], right=("n",))
    assert table.splitlines() == ["|   n | a\\|b   |", "| --: | ------ |", "|   1 | x\\*y z |"]


WORD = st.text("abcdefghij,.[]|*", min_size=1, max_size=9)
CELL = st.lists(WORD, max_size=5).map(" ".join)


@given(st.lists(st.tuples(WORD, CELL, CELL, CELL), min_size=1, max_size=4), st.integers(24, 100))
def test_no_word_is_lost_or_broken_at_any_width(rows: list[tuple[str, ...]], width: int) -> None:
    lines = printed(TextTable(("a", "b", "c", "d"), rows, right=("d",)), width)
    words = {word for line in lines for word in line.split()}
    assert {word for row in rows for cell in row[:3] for word in cell.split()} <= words
    assert all(len(line) <= width for line in lines)


def table_on_terminal(*blocks: Sequence[tuple[str, ...]], **said: Any) -> list[str]:
    """The lines of a table of the paper, whose cells are all 1.00, as a terminal shows them."""
    lines = tuple(tuple(Line(parts, (Cell("1.00"),)) for parts in block) for block in blocks)
    groups = (ColumnGroup(Cell("group"), (Cell("measured"),)),)
    console = Console(file=StringIO(), force_terminal=True, width=COLUMNS, no_color=True)
    table = Layout("table1", "A table.", "", groups, lines, "", (), pd.DataFrame())
    print_on_terminal(dataclasses.replace(table, **said), console)
    assert isinstance(console.file, StringIO)
    text = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())
    return [line.rstrip() for line in text.splitlines()]


def test_on_a_terminal_the_watermark_comes_first_and_the_notes_last() -> None:
    said = {"watermark": "TINY MODE", "legend": "n: seeds.", "notes": ("of one seed", "adopted")}
    lines = table_on_terminal([("MoCo v2",)], [("SimCLR",)], **said)
    assert lines[:2] == ["TINY MODE", "A table."]
    assert [" ".join(line.split()) for line in lines[2:]] == [
        *("", "group", "Method measured", "MoCo v2 1.00", "", "SimCLR 1.00"),
        *("", "n: seeds.", "[1] of one seed", "[2] adopted"),
    ]


def test_on_a_terminal_a_part_of_a_label_stays_whole() -> None:
    def shown(*labels: tuple[str, ...]) -> list[str]:
        return table_on_terminal(labels)[4:]

    hard = "hard negative, without gradient"
    assert shown(("MoCo v2", "key masked", hard), ("MoCo v2", "both masked", hard)) == [
        f"MoCo v2, {hard}",
        "  key masked" + " " * (len(hard) + 3) + "1.00",
        "  both masked" + " " * (len(hard) + 2) + "1.00",
    ]
    # They begin alike, but share no part.
    names = "untrained network (MoCo v2, key masked)", "untrained network (MoCo v2, both masked)"
    assert [line.split("  ")[0] for line in shown((names[0],), (names[1],))] == list(names)
