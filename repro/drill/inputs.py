"""Bad inputs by the hundred: each must be read, or refused in one line, without a traceback or hang, writing nothing.

All inputs follow from a seed. Odd texts, such as users, editors and disks leave, take the place of settings and of
whole files; and intact files are changed by bytes and by lines.
"""

import os
import random
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

from repro.drill.faults import Row
from repro.drill.own_files import own_files
from repro.errors import UserError, one_line
from repro.settings.identity import keys
from repro.settings.reading import build, parse_overrides
from repro.settings.run import Run

SECONDS = 10
"""Seconds after which an input counts as a hang."""
ODD_VALUES = (
    *("", " ", "null", "nan", ".inf", "-.inf", "-1", "0", "1e999", "9" * 30, "9" * 6000, "1.5", "１２", "0x", "1:30"),
    *("true", "[", "]", "[1,[2]]", "{a: b}", "{", "a: b: c", "- -", "???", "${seed}", "${oc.env:HOME}"),
    *("!!python/object:os", "&a [*a]", "*a", "../../x", "/", "=1+1", "\x1b[2J", "\u202e", "'", '"', "`id`", "$(id)"),
    *("a\nb", "#", "%", "é", "猫"),
)
"""Odd texts that take the place of a setting's value."""


class HangError(BaseException):  # not an Exception: readers that treat any exception as a torn file must not catch it
    """An input took longer than `SECONDS`."""


@contextmanager
def in_time() -> Iterator[None]:
    """Ends the block if it takes longer than `SECONDS`.

    Raises:
        HangError: It did.
    """

    def end(_: int, __: FrameType | None) -> None:
        raise HangError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def try_input(read: Callable[[], object], place: Path) -> str:
    """Returns what went wrong with an input; empty if it was read or refused in one line, and nothing was written.

    Args:
        read: Reads it.
        place: A folder in which nothing may be written.
    """
    before = sorted(place.rglob("*"))
    try:
        with in_time():
            read()
    except UserError as error:
        if "\n" in one_line(error) or not error.what:
            return f"a refusal of several lines, or of none: {error!r}"
    except HangError as error:
        return f"a hang: {error}"
    except Exception as error:
        return f"a traceback: {type(error).__name__}: {str(error)[:120]}"
    return "" if sorted(place.rglob("*")) == before else "it wrote something"


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Returns a file's content, changed in one of the ways in which disks, editors and people change files."""
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: b"",
        lambda: content[: draw.randrange(len(content))],
        lambda: _replaced(content, draw, bytes([draw.randrange(256)])),
        lambda: _replaced(content, draw, b""),
        lambda: _replaced(content, draw, draw.choice(ODD_VALUES).encode()),
        lambda: content + content,
        lambda: content[::-1],
        lambda: b"\xff\xfe" + content,
        lambda: b"\0" * len(content),
        lambda: _with_value(content, draw),
        lambda: _without_line(content, draw),
        lambda: draw.choice((b"[]", b"{}", b"null", b"3", b'"x"', b"[" * 100_000, b"{" * 3000, b"[[]]", b"[null]")),
    )
    return draw.choice(ways)()


def _replaced(content: bytes, draw: random.Random, by: bytes) -> bytes:
    start = draw.randrange(len(content))
    return content[:start] + by + content[start + draw.randrange(1, 9) :]


def _with_value(content: bytes, draw: random.Random) -> bytes:
    """Replaces a value that follows a colon by an odd one."""
    places = [index for index, letter in enumerate(content) if letter == ord(":")]
    if not places:
        return content[1:]
    start = draw.choice(places) + 1
    ends = [index for index in range(start, len(content)) if content[index] in b",\n}]"]
    values = (*ODD_VALUES, "[]", "{}", '"x"', "1e400", "NaN", "-1", "true", "null", "1" * 30)
    return content[:start] + b" " + draw.choice(values).encode() + content[(ends or [len(content)])[0] :]


def _without_line(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    del lines[draw.randrange(len(lines))]
    return b"".join(lines)


def _build(word: str) -> Run:
    return build([parse_overrides([word])])


def settings(place: Path, draw: random.Random, count: int) -> Row:
    """Gives settings on the command line odd values, and sometimes odd keys."""
    row = Row("settings", "KEY=VALUE with odd keys and values")
    names = list(keys(Run))
    for _ in range(count):
        key = draw.choice(names) if draw.random() < 0.9 else draw.choice(ODD_VALUES) or "nothing"
        word = f"{key}={draw.choice(ODD_VALUES)}"
        row.note(try_input(partial(_build, word), place), repr(word[:80]))
    return row


def files(place: Path, draw: random.Random, count: int) -> Iterator[Row]:
    """Reads changed files of each kind that salmask writes and reads back; yields a row for each kind.

    Args:
        place: An empty folder to work in.
        draw: Source of the random changes.
        count: Approximate number of changes to all kinds together.
    """
    with tempfile.TemporaryDirectory() as spare:
        kinds = own_files(Path(spare))
    for name, kind in kinds.items():
        content, read = kind.content, kind.read
        row = Row(name, "changed by bytes, lines and values")
        path = place / name
        path.write_bytes(content)
        if fault := try_input(partial(read, path), place):
            row.note(fault, "as it was written")
        for number in range(max(count // len(kinds), 1)):
            path.write_bytes(mutated(content, draw))
            row.note(try_input(partial(read, path), place), f"change {number}")
        path.unlink()
        os.mkfifo(path)
        row.note(try_input(partial(read, path), place), "as a pipe")
        path.unlink()
        yield row


def inputs(place: Path, count: int, seed: int) -> Iterator[Row]:
    """Yields a row for each kind of bad input, once all inputs of that kind are tried.

    Args:
        place: An empty folder to work in.
        count: Approximate number of all inputs.
        seed: Random seed of the inputs.
    """
    draw = random.Random(seed)
    yield settings(place, draw, count // 3)
    yield from files(place, draw, 2 * count // 3)
