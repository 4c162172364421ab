"""The one module that writes to a terminal: control characters in names are shown there, and never obeyed.

Names of folders, classes and methods, errors and lines of logs may hold control characters that move the cursor, clear
the screen or type into the shell. All code that prints goes through here, which a test checks.
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
    """A standard stream whose errors name it; standard error raises none, because no work depends on it.

    The terminal of standard error may be gone while a training goes on (`disown`), or the disk of its log may be full.
    A closed pipe ends the work nevertheless: whoever closed it, as `head` does, wants no more.
    """

    def __init__(self, stream: IO[str], *, is_needed: bool) -> None:
        self._stream, self._is_needed = stream, is_needed

    def write(self, text: str) -> int:
        """Writes a text; returns its length."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flushes what was written."""
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
    """Redirects streams to /dev/null, so that Python does not complain as it ends that it cannot flush them.

    Args:
        streams: Of this process, such as `sys.__stdout__`; None: one that was closed before the process began.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        if stream is not None:
            os.dup2(nowhere, stream.fileno())


def settle_stderr() -> None:
    """Drops what could not be written to standard error, before the process ends.

    Python would try once more, and end with status 120 however the work ended.
    """
    if sys.stderr is None:  # closed before the process began
        return
    try:
        sys.stderr.flush()
    except OSError:
        drop(sys.stderr)


class Console(rich.console.Console):
    """rich's console, which shows control characters in texts as their codes; rich's own colours stay.

    Markup is off: paths and names of classes may hold brackets, and rich would raise an error at `[/]`. Highlighting is
    off, too, by which rich colours what looks like a number or a path. To colour a text, print a `rich.text.Text`.
    """

    def __init__(self, **options: Any) -> None:
        """Makes a console.

        Args:
            options: Options of rich's console.
        """
        super().__init__(**{"markup": False, "highlight": False, **options})

    @property
    def file(self) -> IO[str]:
        """The stream to print to; errors of standard output name it, and standard error raises none."""
        stream = super().file
        if not self.stderr and stream is not sys.stdout:
            return stream
        return cast("IO[str]", _Telling(stream, is_needed=not self.stderr))

    @file.setter
    def file(self, stream: IO[str]) -> None:
        self._file = stream

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yields the segments to be printed, with control characters in their texts made visible."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def is_first_process() -> bool:
    """Returns whether this is rank 0 of the processes that share a task, which alone prints, or the only process.

    It needs neither the process group nor torch.
    """
    # Slurm sets SLURM_PROCID in a batch script, too, which is a single process.
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def open_closed_streams() -> None:
    """Opens /dev/null in place of each standard stream that was closed before the process began (`>&-`).

    Otherwise the next file that is opened would get the stream's number, and what a library prints would end up in that
    file. And libraries ask `sys.stdout` whether it is a terminal, although it is None then.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, (name, mode) in enumerate({"stdin": "r", "stdout": "w", "stderr": "w"}.items()):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def substitute_letters() -> None:
    """Lets standard output and error replace characters that their encoding lacks, instead of raising an error.

    A terminal in Latin-1 has no dash and no arrow, and no encoding has the bytes of a name that is not UTF-8. Files are
    always written as UTF-8.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def say(text: object = "", *, err: bool = False, end: str = "\n") -> None:
    """Prints a text, with control characters made visible.

    Args:
        text: A text, or anything that `str` makes one of.
        err: Whether it goes to standard error.
        end: What follows it.
    """
    stream = sys.stderr if err else sys.stdout
    if stream is not None:  # it may have been closed before the process began
        told = cast("IO[str]", _Telling(stream, is_needed=not err))
        print(visible(str(text)), end=end, file=told, flush=True)


def say_json(content: Any, indent: int | None = 1) -> None:
    """Prints a value of JSON's types as JSON; letters of all languages stand as they are.

    Args:
        content: The value.
        indent: Blanks before each level; None: all in one line, which is many times as fast.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    # JSON writes the code of a letter as `\u009b`; `\x9b` would not be valid.
    told = cast("IO[str]", _Telling(sys.stdout, is_needed=True))
    print(UNSEEN.sub(lambda letter: f"\\u{ord(letter[0]):04x}", text), file=told, flush=True)
