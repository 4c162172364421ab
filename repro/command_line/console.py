"""How commands print, for people or as JSON, and the options and completions that several of them share."""

import logging
import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TextIO

import typer

from repro.command_line.terminal import say, say_json
from repro.command_line.text_tables import TextTable, print_table
from repro.errors import UserError, visible, visible_in_line

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Complete = Callable[[str], list[str]]
"""Returns the words to which a shell may complete the beginning of a word."""


def report(as_json: bool, content: Any) -> None:
    """Prints rows as a table (`repro.command_line.text_tables`), a mapping as lines, or either as JSON.

    Args:
        as_json: Whether to print JSON.
        content: A mapping, or rows: mappings with the same keys, which are the columns.
    """
    if as_json:
        say_json(content)
    elif isinstance(content, dict):
        for key, value in content.items():
            say(visible_in_line(f"{key}: {value}"))
    else:
        _print_rows(content)


def completion(names: Callable[[], Iterable[str]], *, several: bool = False) -> Complete:
    """Returns a completion from a list of names.

    Args:
        names: Returns the list. Called only when a shell completes a word, so that nothing is imported for it earlier.
        several: Whether the word is a comma-separated list, of which the last name is completed.
    """

    def complete(incomplete: str) -> list[str]:
        earlier, comma, last = incomplete.rpartition(",") if several else ("", "", incomplete)
        return [f"{earlier}{comma}{name}" for name in names() if name.startswith(last)]

    return complete


def names_and_settings(words: Iterable[str] | None) -> tuple[list[str], list[str]]:
    """Splits the words of a command line into names and settings, which are the words with an equals sign.

    Args:
        words: As a person entered them; None: none.
    """
    names: list[str] = []
    settings: list[str] = []
    for word in words or ():
        (settings if "=" in word else names).append(word)
    return names, settings


def comma_list(option: str, text: str) -> list[str]:
    """Returns the words of an option's comma-separated list; an empty list if the option was not given.

    Args:
        option: Its name, such as `--seeds`.
        text: As a person entered it; empty: not given.

    Raises:
        UserError: A word of the list is empty, so that it is unclear what was meant.
    """
    words = [word.strip() for word in text.split(",")] if text else []
    if "" in words:
        what = f"{option} {text}: a word of the list is empty"
        raise UserError(what, mend="one comma between two words, and none before or after them")
    return words


def _print_rows(rows: Iterable[dict[str, Any]]) -> None:
    """Prints a table whose columns are the keys of the first row."""
    rows = list(rows)
    if not rows:
        return
    heads = list(rows[0])
    numbers = [head for head in heads if all(isinstance(row[head], int | float | None) for row in rows)]
    cells = [["–" if value is None else visible_in_line(str(value)) for value in row.values()] for row in rows]
    print_table(TextTable(heads, cells, right=numbers))


class _Log(logging.StreamHandler[TextIO]):
    """Prints log records on standard error, with control characters in them made visible: names may hold some."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record to the present `sys.stderr`: while bars are drawn (`progress`), that is above them."""
        self.stream = sys.stderr
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """Returns a record's message, with control characters made visible."""
        return visible(super().format(record))


def show_log() -> None:
    """Shows salmask's own log from INFO on, a line each; of libraries' logs only warnings.

    At its first start on a machine, matplotlib (which mmengine imports) would log about its fonts.
    """
    logging.basicConfig(format="%(message)s", handlers=[_Log()])
    logging.getLogger("salmask").setLevel(logging.INFO)
