"""The one place that writes to a terminal: what a name brings along is shown there, and never obeyed.

Names of folders, classes and methods, errors and lines of logs may hold what moves a cursor, clears a screen or types
into the shell. Whoever prints goes through here, which a test sees to.
"""

import io
import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import IO, Any, cast

import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment

from repro.errors import UNSEEN, visible


class _Telling:
    """A standard stream, whose errors say which it is; of standard error there are none, for no work depends on it.

    The terminal of standard error may be gone while a training goes on (`disown`), or the disk of its log be full: what
    cannot be written there is not told. A closed pipe ends the work nevertheless: whoever closed it, as `head` does,
    wants no more.
    """

    def __init__(self, stream: IO[str], *, is_needed: bool) -> None:
        self._stream, self._is_needed = stream, is_needed

    def write(self, text: str) -> int:
        """Writes a text, or does not; returns its length."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Has what was written shown, where it can be."""
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError as error:  # the text stays in the stream's buffer, and is tried again with what comes next
            if isinstance(error, BrokenPipeError):
                raise
            if self._is_needed:
                raise OSError(error.errno, error.strerror, "standard output") from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def drop(*streams: IO[str] | None) -> None:
    """Sends what is still to be written nowhere: else Python would complain as it ends that it cannot be.

    Args:
        streams: Of this process, such as `sys.__stdout__`; None: one that whoever called has closed.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        if stream is not None:
            os.dup2(nowhere, stream.fileno())


def settle_stderr() -> None:
    """Lets go of what could not be told on standard error, before the process ends.

    Python would try once more, and end with status 120 whatever the work came to.
    """
    if sys.stderr is None:  # closed by whoever called
        return
    try:
        sys.stderr.flush()
    except OSError:
        drop(sys.stderr)


class Console(rich.console.Console):
    """rich's console, which shows what a terminal would obey as its code; rich's own colours stay what they are.

    A `[` in a text is a bracket: paths and the names of classes have them, and rich would take `[/]` for markup, with a
    traceback. Nor are numbers and paths in a text coloured by what rich takes them for. What is to be coloured is a
    `rich.text.Text`.
    """

    def __init__(self, **options: Any) -> None:
        """Makes a console.

        Args:
            options: Of rich's.
        """
        super().__init__(**{"markup": False, "highlight": False, **options})

    @property
    def file(self) -> IO[str]:
        """Where it prints; standard error never fails, standard output by its name."""
        stream = super().file
        if not self.stderr and stream is not sys.stdout:
            return stream
        return cast("IO[str]", _Telling(stream, is_needed=not self.stderr))

    @file.setter
    def file(self, stream: IO[str]) -> None:
        self._file = stream

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yields the segments of something to be printed, each with all of its text visible."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def is_first_process() -> bool:
    """Returns whether this is the first of the processes that share a task, which alone prints, or the only one.

    It tells before they have found each other, and without torch.
    """
    # In a batch script, which is one process, Slurm has its number too.
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def open_closed_streams() -> None:
    """Opens in the place of standard input, output or error that whoever called has closed (`>&-`) what keeps nothing.

    Else the next file that is opened takes its number, and whatever a library prints there stands in that file; and
    libraries ask `sys.stdout` whether it is a terminal, which is None then.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, (name, mode) in enumerate({"stdin": "r", "stdout": "w", "stderr": "w"}.items()):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def substitute_letters() -> None:
    """Lets standard output and error show something else for what their encoding lacks, in place of an error.

    A terminal in Latin-1 has no dash and no arrow, and none has a name that is no UTF-8. Files are written as UTF-8 all
    the same.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def say(text: object = "", *, err: bool = False, end: str = "\n") -> None:
    """Prints a text as it stands, all of it visible.

    Args:
        text: Anything that is a text, or can be made one.
        err: Whether it goes to standard error.
        end: What follows it.
    """
    stream = sys.stderr if err else sys.stdout
    if stream is not None:  # closed by whoever called
        told = cast("IO[str]", _Telling(stream, is_needed=not err))
        print(visible(str(text)), end=end, file=told, flush=True)


def say_json(content: Any, indent: int | None = 1) -> None:
    """Prints JSON's own types as JSON, in which letters of all languages stand as they are.

    Args:
        content: What is to be printed.
        indent: Blanks before each level; None: all in one line, which is many times as fast.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    # Within JSON's texts a letter's code is `\u009b`; `\x9b` is none.
    told = cast("IO[str]", _Telling(sys.stdout, is_needed=True))
    print(UNSEEN.sub(lambda letter: f"\\u{ord(letter[0]):04x}", text), file=told, flush=True)
