"""How far long work is, the one place that shows it: bars on a terminal, plain lines at intervals everywhere else.

All of it goes to standard error, as standard output is for results. No thread draws the bars: they move when the work
tells how far it is, at most every `REDRAW_SECONDS`, so that nothing runs beside a training's steps, and no lock of a
drawing thread is taken along into the processes of a loader.
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

from repro.errors import visible
from repro.terminal import Console, say

REDRAW_SECONDS = 0.5
"""Least time between two drawings of a bar."""
FIRST_LINE_SECONDS = 10.0
"""How long work is silent in a pipe: what is done by then leaves no line."""
LINE_SECONDS = 60.0
"""Most time between two lines in a pipe, as long as the work tells how far it is."""
GROWTH = 0.5
"""A line comes when the work has taken longer by this share than at the line before."""
WATCH_SECONDS = 1.0
"""How often it is looked whether what is being done takes long."""
BYTES = "bytes"
"""The unit of counts that are shown in kB, MB and GB."""
T = TypeVar("T")


def on_terminal(console: Console | None = None) -> bool:
    """Returns whether a person looks at a console, on which lines can be drawn over; None: standard error."""
    console = console or Console(stderr=True)
    return console.is_terminal and not console.is_dumb_terminal


class ProgressBars(Progress):
    """rich's bars with count, rate, time left and whatever is told of the work; in a pipe, lines of the same."""

    def __init__(
        self,
        *,
        shown: bool = True,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Makes bars that are gone when their block ends.

        Args:
            shown: Whether anything is; of several processes one shows.
            console: Where; None: standard error.
            clock: Seconds.
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
            redirect_stdout=sys.stdout.isatty(),  # the output of a command that goes elsewhere is left alone
            get_time=clock,
            disable=not (shown and self._draws),
            expand=True,
        )

    def start(self) -> None:
        """Shows the bars, in the place of what was said of the beginning."""
        if self._shown:
            OPENING.end()
        super().start()

    def add_task(self, description: str, *args: Any, **fields: Any) -> TaskID:
        """Adds a bar.

        Args:
            description: What is done.
            args: As rich has them.
            fields: `total`, `completed` and others as rich has them; `unit` says what is counted (`images`, or
                `BYTES`), `note` what is told besides, and with `summary=True` the end leaves a line, however soon.
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
        """Draws the bars anew, or prints a line, where it is time for that."""
        if not self._shown:
            return
        if task.finished:
            # `pop`: a task that is told of once more has ended but once.
            was_told = self._next_line.pop(task.id, None) is not None
            has_summary = task.fields.pop("summary", False)
            if (was_told and not self._draws) or has_summary:
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
        """Prints how far a task is as a line, above the bars where there are some."""
        told = (_counted(task, share=True), _rate(task), _left(task), _note(task))
        words = ", ".join(word for word in told if word) or f"under way for {clock_time(task.elapsed or 0)}"
        line = f"{task.description}: {words}"
        self.console.print(line, soft_wrap=True)


class _Words(ProgressColumn):
    """A column of what a function says of a task."""

    def __init__(self, words: Callable[[Task], str]) -> None:
        super().__init__()
        self._words = words

    def render(self, task: Task) -> Text:
        return Text(self._words(task), no_wrap=True)


def _counted(task: Task, *, share: bool = False) -> str:
    """Returns how much of how much is done, in the task's unit."""
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
    """Returns how much is done in a second, or how long one takes; empty where nobody knows yet."""
    speed = task.finished_speed or task.speed
    if not speed:
        return ""
    if task.fields.get("unit") == BYTES:
        return f"{decimal(int(speed))}/s"
    return f"{speed:,.0f}/s" if speed >= 100 else f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"


def _left(task: Task) -> str:
    """Returns how long a task will take yet, or how long a finished one took."""
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
    """Yields items, and shows how many are done with."""
    with ProgressBars(shown=shown) as bars:
        task = bars.add_task(description, total=total, unit=unit)
        for item in items:
            yield item
            bars.advance(task)


class Opening:
    """What is being done before anything can be counted: importing, loading weights, the first step.

    On a terminal a line that the next one replaces. In a pipe a line only where that takes long: a command that is
    refused has one line, which tells why. There a thread watches, as nothing else runs during an import; it sleeps but
    for the moments in which it prints, and ends with the opening.
    """

    def __init__(self) -> None:
        self._began: float | None = None
        self._what = ""
        self._live: Live | None = None
        self._ended = threading.Event()

    @contextmanager
    def shown(self, *, shown: bool = True) -> Iterator[None]:
        """Lets `say` show something within the block; of several processes one does, and of nested blocks the outer."""
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
        """Says what is being done now, until something else is said or shown; nothing outside of `shown`."""
        if self._began is None:
            return
        is_first, self._what = not self._what, visible(what)
        if is_first:
            self._begin(self._began)
        if self._live is not None:
            self._live.update(Text(f"{self._what} …"), refresh=True)

    def end(self) -> None:
        """Takes what was said away: something else is shown now."""
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
        """Prints what is being done, at once where it changes and else at intervals, from `FIRST_LINE_SECONDS` on."""
        told, due = "", FIRST_LINE_SECONDS
        while not ended.wait(WATCH_SECONDS):
            elapsed, what = time.monotonic() - began, self._what
            if what and elapsed >= FIRST_LINE_SECONDS and (what != told or elapsed >= due):
                told, due = what, elapsed + LINE_SECONDS / 2
                console.print(f"{what} … ({elapsed:.0f} s)", soft_wrap=True)


OPENING = Opening()
"""That of this process."""


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Says what is being done within the block, where it cannot be counted."""
    with OPENING.shown():
        OPENING.say(what)
        yield


def suggest(command: str) -> None:
    """Names the next command to a person at a terminal; in a pipe nobody would call it."""
    if on_terminal():
        say(f"next: {visible(command)}", err=True)
