"""Control sequences in names are shown, not obeyed, wherever something is printed."""

import ast
import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from rich.table import Table

from repro.command_line.terminal import Console, say, say_json

ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b31m\u202egpj"
SHOWN = "\\x1b]0;title\\x07\\x1b[2J\\x9b31m\\u202egpj"
PRINTERS = {"echo", "secho", "print", "print_json", "get_console"}
APART = {"repro/command_line/terminal.py", "repro/drill/processes.py"}
"""The one place that prints, and a process that becomes a command, which prints the traceback of any failure in it."""


def printing(path: Path) -> list[str]:
    """Lines that print past `repro.command_line.terminal`, or make a console of rich's own."""
    past = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rich"):
            if {alias.name for alias in node.names} & {"Console", "print", "get_console"}:
                past.append(f"{path}:{node.lineno} imports a console")
        elif isinstance(node, ast.Call):
            owner, _, name = ast.unparse(node.func).rpartition(".")
            streams = owner in ("sys.stdout", "sys.stderr") and name == "write"
            if streams or (owner in ("", "typer", "click", "rich") and name in PRINTERS):
                past.append(f"{path}:{node.lineno} prints")
    return past


def test_all_that_is_printed_goes_through_one_place() -> None:
    rooms = ("repro", "baselines", "downstream", "results", "slurm")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    assert len(files) > 200
    past = [line for path in files if str(path.relative_to(ROOT)) not in APART for line in printing(path)]
    # rich hands its console to objects that draw themselves, and `text_tables` only names its type.
    assert [line for line in past if "repro/command_line/text_tables.py" not in line] == []


@pytest.mark.parametrize(
    "line", ["print('x')", "typer.echo(x)", "from rich.console import Console", "import sys\nsys.stderr.write(x)"]
)
def test_what_prints_past_it_is_seen(tmp_path: Path, line: str) -> None:
    (tmp_path / "x.py").write_text(line)
    assert len(printing(tmp_path / "x.py")) == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_shows_what_a_terminal_would_obey(terminal: bool) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120)
    table = Table(title=ESCAPES)
    table.add_column(ESCAPES)
    table.add_row(ESCAPES)
    console.print(ESCAPES, markup=False)
    console.print(f"[red]{ESCAPES}[/red]", style="bold")
    console.print(table)
    text = stream.getvalue()
    assert "\x1b]0" not in text
    assert "\x1b[2J" not in text
    assert not {"\x07", "\x9b", "\u202e"} & set(text)
    assert text.count("\\x1b") >= 5
    assert ("\x1b[" in text) is terminal  # its own colours


def test_text_and_json_are_visible_and_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"a {ESCAPES}\tand é\n", end="")
    say(ESCAPES, err=True)
    out, err = capsys.readouterr()
    assert (out, err) == (f"a {SHOWN}\tand é\n", f"{SHOWN}\n")
    content = {"name": ESCAPES, "猫": [1, "é"]}
    say_json(content)
    out = capsys.readouterr().out
    assert json.loads(out) == content
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(out)
    assert "猫" in out


def test_brackets_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep in a folder `[/x]` ended every launch in rich's traceback, and names in `[red]` were lost."""
    Console().print("started /runs/[/x]/[red]a", soft_wrap=True)
    assert capsys.readouterr().out == "started /runs/[/x]/[red]a\n"


class Lost(io.StringIO):
    """A stream whose terminal is gone, disk is full, or reader has closed it, depending on the error number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_what_cannot_be_told_fails_no_work(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training used to fail with its terminal, or with the disk of its log, when its bar moved."""
    monkeypatch.setattr("sys.stderr", Lost(number))
    Console(stderr=True).print("epoch 1")
    say("epoch 2", err=True)
    monkeypatch.setattr("sys.stdout", Lost(number))
    for tell in (Console().print, say, say_json):  # results must not get lost silently
        with pytest.raises(OSError, match=f"{os.strerror(number)}: 'standard output'"):
            tell("42.0")


def test_a_closed_pipe_ends_work_and_a_closed_stream_is_told_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr", Lost(errno.EPIPE))
    with pytest.raises(BrokenPipeError):
        say("epoch 3", err=True)
    monkeypatch.setattr("sys.stderr", None)  # as with `2>&-`
    say("epoch 4", err=True)
    assert capsys.readouterr().out == ""


def test_what_was_not_told_leaves_the_status_as_it_is() -> None:
    words = "from repro.command_line.terminal import say, settle_stderr; say('x', err=True); settle_stderr()"
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123  # as above
        done = subprocess.run([sys.executable, "-c", words], stderr=full, cwd=ROOT, check=False)
    assert done.returncode == 0
