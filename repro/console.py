"""How commands print, for people or as JSON, and the options and completions that several of them share."""

import json
import logging
import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.table import Table

from repro.errors import visible

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Complete = Callable[[str], list[str]]
"""What a shell may put in the place of the beginning of a word."""
UNBOUNDED_WIDTH = 400
"""Columns of a pipe or a file, which has no width to fold at."""


def report(as_json: bool, content: Any) -> None:
    """Prints rows as a table, a mapping as lines, or either as JSON.

    Args:
        as_json: Whether to print JSON.
        content: A mapping, or rows: mappings with the same keys, which are the columns.
    """
    if as_json:
        typer.echo(json.dumps(content, indent=1))
    elif isinstance(content, dict):
        for key, value in content.items():
            typer.echo(visible(f"{key}: {value}"))
    else:
        _print_rows(content)


def completion(names: Callable[[], Iterable[str]], *, several: bool = False) -> Complete:
    """Returns a completion from a list of names.

    Args:
        names: The list; asked for only when a shell asks, so that nothing is imported for it before.
        several: Whether the word is a list with commas between, of which the last name is completed.
    """

    def complete(incomplete: str) -> list[str]:
        earlier, comma, last = incomplete.rpartition(",") if several else ("", "", incomplete)
        return [f"{earlier}{comma}{name}" for name in names() if name.startswith(last)]

    return complete


def names_and_settings(words: Iterable[str] | None) -> tuple[list[str], list[str]]:
    """Returns the words of a command line that name things, and those that are settings, which have an equals sign.

    Args:
        words: As a person entered them; None: none.
    """
    names: list[str] = []
    settings: list[str] = []
    for word in words or ():
        (settings if "=" in word else names).append(word)
    return names, settings


def _print_rows(rows: Iterable[dict[str, Any]]) -> None:
    """Prints a table whose columns are the keys of the first row."""
    table = Table(box=None, pad_edge=False)
    for index, row in enumerate(rows):
        if not index:
            for key in row:
                table.add_column(key, overflow="fold")
        table.add_row(*("–" if value is None else visible(str(value)) for value in row.values()))
    console = Console()
    if not console.is_terminal:  # rich would fold at 80 columns, and break the lines that `grep` and `cut` read
        console.width = UNBOUNDED_WIDTH
    console.print(table, markup=False)


class _Log(logging.StreamHandler[TextIO]):
    """Shows the log's own lines; a name in them may hold what a terminal obeys."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line to what standard error is now: while bars are drawn (`repro.progress`), above them."""
        self.stream = sys.stderr
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """Returns a record's message, with all of it visible."""
        return visible(super().format(record))


def show_log() -> None:
    """Shows what our own log says, a line each; of libraries' logs warnings alone.

    At its first start on a machine matplotlib, which mmengine imports, tells of its fonts.
    """
    logging.basicConfig(format="%(message)s", handlers=[_Log()])
    logging.getLogger("salmask").setLevel(logging.INFO)
