"""Shows how far long work is, and is alone in that: bars on a terminal, plain lines at intervals everywhere else.

All of it goes to standard error, as standard output is for results. No thread draws the bars: they are redrawn when the
work reports how far it is, at most every `REDRAW_SECONDS`. So nothing runs beside a training's steps, and no loader's
process is forked while a drawing thread holds a lock.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.filesize import decimal
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.text import Text

from repro.command_line.terminal import Console, say
from repro.errors import visible

REDRAW_SECONDS = 0.5
"""Least time between two drawings of a bar."""
FIRST_LINE_SECONDS = 10.0
"""How long work is silent in a pipe; work that is done by then prints no line."""
LINE_SECONDS = 60.0
"""Most time between two lines in a pipe, as long as the work reports how far it is."""
GROWTH = 0.5
"""Time between two lines in a pipe, as a share of the time that the work has taken."""
WATCH_SECONDS = 1.0
"""How often `Opening` checks in a pipe whether to print a line."""
BYTES = "bytes"
"""The unit of counts that are shown in kB, MB and GB."""
T = TypeVar("T")


def on_terminal(console: Console | None = None) -> bool:
    """Returns whether a console is a terminal on which lines can be drawn over; None: standard error."""
    console = console or Console(stderr=True)
    return console.is_terminal and not console.is_dumb_terminal


class ProgressBars(Progress):
    """rich's bars with count, rate, time left and a note; in a pipe, lines of the same."""

    def __init__(
        self,
        *,
        shown: bool = True,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Makes bars that disappear when their block ends.

        Args:
            shown: Whether anything is shown; of several processes only one shows.
            console: Where; None: standard error.
            clock: Returns the time in seconds.
        """
        console = console or Console(stderr=True)
        self._shown, self._draws = shown, on_terminal(console)
        self._drawn_at = -REDRAW_SECONDS
        self._next_line: dict[TaskID, float] = {}
        super().__init__(
            _Words(lambda task: task.description),
            BarColumn(bar_width=None),
            *map(_Words, (_counted, _rate, _left, _note)),
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # output that goes to a pipe or a file is left alone
            get_time=clock,
            disable=not (shown and self._draws),
            expand=True,
        )

    def start(self) -> None:
        """Shows the bars in place of the line of `OPENING`."""
        if self._shown:
            OPENING.end()
        super().start()

    def add_task(self, description: str, *args: Any, **fields: Any) -> TaskID:
        """Adds a bar.

        Args:
            description: What is done.
            args: As rich has them.
            fields: `total`, `completed` and others as rich has them; `unit` says what is counted (`images`, or
                `BYTES`), `note` is shown last, and with `summary=True` a finished task leaves a line, however soon.
        """
        return super().add_task(visible(description), *args, **{"unit": "", "note": "", "summary": False, **fields})

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Counts some more of a task."""
        super().advance(task_id, advance)
        self._tell(self._tasks[task_id])

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Changes how far a task is, or its description, `unit` or `note`."""
        super().update(task_id, **changes)
        self._tell(self._tasks[task_id])

    def _tell(self, task: Task) -> None:
        """Redraws the bars or prints a line, if it is time for that."""
        if not self._shown:
            return
        if task.finished:
            # `pop`: a finished task may be updated again, and prints its last line only once.
            was_told = self._next_line.pop(task.id, None) is not None
            has_summary = task.fields.pop("summary", False)
            if was_told or has_summary:
                self._print(task)
        if self._draws:
            now = self.get_time()
            if task.finished or now - self._drawn_at >= REDRAW_SECONDS:
                self._drawn_at = now
                self.refresh()
        elif not task.finished and (elapsed := task.elapsed or 0.0) >= self._next_line.get(task.id, FIRST_LINE_SECONDS):
            self._next_line[task.id] = elapsed + min(max(FIRST_LINE_SECONDS, elapsed * GROWTH), LINE_SECONDS)
            self._print(task)

    def _print(self, task: Task) -> None:
        """Prints how far a task is as a line, on a terminal above the bars."""
        told = (_counted(task, share=True), _rate(task), _left(task), _note(task))
        words = ", ".join(word for word in told if word) or f"under way for {clock_time(task.elapsed or 0)}"
        line = f"{task.description}: {words}"
        self.console.print(line, soft_wrap=True)


class _Words(ProgressColumn):
    """A column with the words that a function returns of a task."""

    def __init__(self, words: Callable[[Task], str]) -> None:
        super().__init__()
        self._words = words

    def render(self, task: Task) -> Text:
        return Text(self._words(task), no_wrap=True)


def _counted(task: Task, *, share: bool = False) -> str:
    """Returns how much is done, and of how much, in the task's unit."""
    unit = task.fields.get("unit", "")
    words = _amount(task.completed, unit) if task.completed or task.total is not None else ""
    if task.total is not None and not (share and task.finished):
        words += f" of {_amount(task.total, unit)}"
    if words and unit and unit != BYTES:
        words += f" {unit}"
    return f"{words} ({task.percentage:.0f} %)" if share and task.total and not task.finished else words


def _amount(number: float, unit: str) -> str:
    return decimal(int(number)) if unit == BYTES else f"{number:,.0f}"


def _rate(task: Task) -> str:
    """Returns how much is done per second, or the seconds that each takes; empty if unknown yet."""
    speed = task.finished_speed or task.speed
    if not speed:
        return ""
    if task.fields.get("unit") == BYTES:
        return f"{decimal(int(speed))}/s"
    return f"{speed:,.0f}/s" if speed >= 100 else f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"


def _left(task: Task) -> str:
    """Returns how long a task will still take, or how long a finished one took."""
    if task.finished:
        return f"took {clock_time(task.elapsed or 0)}"
    return f"{clock_time(task.time_remaining)} left" if task.time_remaining is not None else ""


def _note(task: Task) -> str:
    return str(task.fields.get("note", ""))


def clock_time(seconds: float) -> str:
    """Returns seconds as `1:02:03`, or `02:03` within the hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def tracked(items: Iterable[T], description: str, total: int, *, unit: str = "", shown: bool = True) -> Iterator[T]:
    """Yields items, and shows how many of them are done."""
    with ProgressBars(shown=shown) as bars:
        task = bars.add_task(description, total=total, unit=unit)
        for item in items:
            yield item
            bars.advance(task)


class Opening:
    """What is being done before anything can be counted: importing, loading weights, the first step.

    On a terminal it is a line that the next one replaces. In a pipe, lines come only if it takes long: a command that
    is refused is to print one line, the reason. There a thread prints them, as nothing else runs during an import. It
    sleeps except when it prints, and ends with the opening.
    """

    def __init__(self) -> None:
        self._began: float | None = None
        self._what = ""
        self._live: Live | None = None
        self._ended = threading.Event()

    @contextmanager
    def shown(self, *, shown: bool = True) -> Iterator[None]:
        """Lets `say` show something within the block; of several processes one shows, of nested blocks the outer."""
        if not shown or self._began is not None:
            yield
            return
        self._began = time.monotonic()
        try:
            yield
        finally:
            self.end()
            self._began = None

    def say(self, what: str) -> None:
        """Shows what is being done now, until something else is shown; does nothing outside of `shown`."""
        if self._began is None:
            return
        is_first, self._what = not self._what, visible(what)
        if is_first:
            self._begin(self._began)
        if self._live is not None:
            self._live.update(Text(f"{self._what} …"), refresh=True)

    def end(self) -> None:
        """Removes the line, because something else is shown now."""
        self._what = ""
        self._ended.set()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _begin(self, began: float) -> None:
        console = Console(stderr=True)
        if on_terminal(console):
            to_terminal = sys.stdout.isatty()
            self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=to_terminal)
            self._live.start()
            return
        self._ended = threading.Event()
        arguments = (began, self._ended, console)
        threading.Thread(target=self._watch, args=arguments, daemon=True, name="opening").start()

    def _watch(self, began: float, ended: threading.Event, console: Console) -> None:
        """Prints from `FIRST_LINE_SECONDS` on what is being done: at once when it changes, otherwise at intervals."""
        told, due = "", FIRST_LINE_SECONDS
        while not ended.wait(WATCH_SECONDS):
            elapsed, what = time.monotonic() - began, self._what
            if what and elapsed >= FIRST_LINE_SECONDS and (what != told or elapsed >= due):
                told, due = what, elapsed + LINE_SECONDS / 2
                console.print(f"{what} … ({elapsed:.0f} s)", soft_wrap=True)


OPENING = Opening()
"""The opening of this process."""


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Shows what is being done within the block, for work that cannot be counted."""
    with OPENING.shown():
        OPENING.say(what)
        yield


def suggest(command: str) -> None:
    """Names the next command to a person at a terminal; prints nothing in a pipe."""
    if on_terminal():
        say(f"next: {visible(command)}", err=True)
