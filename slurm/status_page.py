"""What `salmask status` shows to people: a page, or with `--watch` in a pipe the lines of what has changed."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slurm.queue import QueueSnapshot
from slurm.states import State, duration
from slurm.status import JobRow, counts
from slurm.targets import SweepTarget

COLOURS = {
    State.done: "green",
    State.running: "cyan",
    State.starting: "cyan",
    State.preempted: "yellow",
    State.interrupted: "yellow",
    State.cancelled: "yellow",
    State.unknown: "yellow",
    State.silent: "red",
    State.failed: "red",
    State.died: "red",
}
WIDTH_OF_FILES = 200
"""Characters of a line where it goes to a file or a pager."""
NOTE_WIDTH = 28
"""Characters that the notes keep in a narrow terminal, where they are folded."""


def page(targets: Sequence[SweepTarget], tables: Sequence[Sequence[JobRow]], queue: QueueSnapshot) -> RenderableType:
    """Returns everything that `salmask status` shows to people.

    Args:
        targets: the sweeps, or runs of them.
        tables: the rows of each.
        queue: that they were judged by.
    """
    blocks: list[RenderableType] = []
    for target, table in zip(targets, tables, strict=True):
        blocks += [Text(_summary(target, table), style="bold"), _table(table)]
    if queue.trouble:
        blocks.append(Text(f"Slurm does not answer: {queue.trouble}", style="red"))
    return Group(*blocks)


class Changes:
    """The lines of `salmask status --watch` where they go to a pipe: each job as it is, and then what changes."""

    def __init__(self) -> None:
        """Begins with nothing told."""
        self._told: dict[tuple[Path, str, str], tuple[str, str]] = {}
        self._summaries: dict[Path, str] = {}

    def lines(
        self, targets: Sequence[SweepTarget], tables: Sequence[Sequence[JobRow]], queue: QueueSnapshot
    ) -> list[str]:
        """Returns what has changed since the last call, each line with the time; arguments as of `page`."""
        lines = []
        for target, table in zip(targets, tables, strict=True):
            for row in table:
                key, word = (target.sweep, row.folder, row.task), (row.state.value, _tenths(row))
                if self._told.get(key) != word:
                    self._told[key] = word
                    parts = [row.state.value, row.job, _progress(row), _note(row)]
                    lines.append(f"{row.task} {row.run}: {', '.join(part for part in parts if part)}")
            summary = _summary(target, table)
            if self._summaries.get(target.sweep) != summary:
                self._summaries[target.sweep] = summary
                lines.append(summary)
        if queue.trouble:
            lines.append(f"Slurm does not answer: {queue.trouble}")
        clock = time.strftime("%H:%M:%S")
        return [f"{clock} {line}" for line in lines]


def _tenths(row: JobRow) -> str:
    """Returns how far a job is, in tenths: a line for each step would tell nothing more."""
    return str(10 * row.step // row.steps) if row.steps else ""


def _summary(target: SweepTarget, table: Sequence[JobRow]) -> str:
    numbers = ", ".join(f"{number} {state}" for state, number in counts(table).items()) or "nothing yet"
    return f"{target.sweep}: {numbers}"


def _table(table: Sequence[JobRow]) -> Table:
    """Returns the rows of a sweep as a table, without the columns that are empty."""
    lines = [
        {
            "run": row.run,
            "task": row.task,
            "job": row.job,
            "state": row.state.value,
            "progress": _progress(row),
            "left": "" if row.eta_s is None else duration(row.eta_s),
            "images/s": f"{row.images_per_second:.0f}" if row.images_per_second else "",
            "": _note(row),
        }
        for row in table
    ]
    headings = [heading for heading in (lines[0] if lines else {}) if any(line[heading] for line in lines)]
    console_table = Table(box=None, pad_edge=False)
    for heading in headings:
        number = heading in ("progress", "left", "images/s")
        console_table.add_column(
            heading,
            justify="right" if number else "left",
            min_width=0 if heading else NOTE_WIDTH,
            no_wrap=number,
            # A name that is cut names nothing: what is too long for a narrow terminal goes on in the next line.
            overflow="fold",
        )
    for row, line in zip(table, lines, strict=True):
        styles = {"state": COLOURS.get(row.state, "")}
        # As Text, since notes hold what jobs printed: rich would take brackets in it for markup.
        console_table.add_row(*(Text(line[heading], style=styles.get(heading, "")) for heading in headings))
    return console_table


def _progress(row: JobRow) -> str:
    if row.state is State.done or not row.steps:
        return ""
    return f"{100 * row.step / row.steps:.0f} % ({row.step}/{row.steps})"


def _note(row: JobRow) -> str:
    number = f"{row.metric} {row.value:.2f}" if row.value is not None else ""
    attempt = f"attempt {row.attempt}" if row.attempt > 1 and row.state is not State.done else ""
    return ", ".join(part for part in (number, attempt, row.note) if part)
