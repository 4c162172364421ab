"""What `salmask status` shows to people: a page, or with `--watch` in a pipe the lines of what has changed."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from repro.command_line.text_tables import TextTable
from repro.errors import visible
from repro.quantities import duration_text, number_text
from slurm.monitoring.queue import QueueSnapshot
from slurm.monitoring.states import State
from slurm.monitoring.status import JobRow, counts, warning_lines
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


def page(targets: Sequence[SweepTarget], tables: Sequence[Sequence[JobRow]], queue: QueueSnapshot) -> RenderableType:
    """Returns everything that `salmask status` shows to people.

    Args:
        targets: The sweeps, or runs of them.
        tables: The rows of each.
        queue: The queue that they were judged by.
    """
    blocks: list[RenderableType] = []
    for target, table in zip(targets, tables, strict=True):
        blocks += [Text(_summary(target, table), style="bold"), _table(table)]
        blocks += [Text(line, style="yellow") for line in warning_lines(table).values()]
    if queue.trouble:
        blocks.append(Text(f"Slurm does not answer: {queue.trouble}", style="red"))
    return Group(*blocks)


class Changes:
    """The lines of `salmask status --watch` where they go to a pipe: each job as it is, and then what changes."""

    def __init__(self) -> None:
        """Begins with nothing told."""
        self._told: dict[tuple[Path, str, str], tuple[str, str]] = {}
        self._summaries: dict[Path, str] = {}
        self._warned: dict[Path, set[str]] = {}
        self._trouble = ""

    def lines(
        self, targets: Sequence[SweepTarget], tables: Sequence[Sequence[JobRow]], queue: QueueSnapshot
    ) -> list[str]:
        """Returns what has changed since the last call, each line with the time; arguments as of `page`.

        While Slurm does not answer, a job of which only Slurm could tell does not count as changed.
        """
        lines = []
        for target, table in zip(targets, tables, strict=True):
            for row in table:
                key, word = (target.sweep, row.folder, row.task), (row.state.value, _tenths(row))
                is_unsaid = queue.trouble and row.state is State.unknown and key in self._told
                if self._told.get(key) != word and not is_unsaid:
                    self._told[key] = word
                    parts = [row.state.value, row.job, _progress(row), _result(row), _note(row)]
                    lines.append(f"{row.task} {row.run}: {', '.join(part for part in parts if part)}")
            warned = self._warned.setdefault(target.sweep, set())
            for texts, line in warning_lines(table).items():
                lines += [line] if texts - warned else []
                warned |= texts
            summary = _summary(target, table)
            if self._summaries.get(target.sweep) != summary and not (queue.trouble and target.sweep in self._summaries):
                self._summaries[target.sweep] = summary
                lines.append(summary)
        if queue.trouble and queue.trouble != self._trouble:
            lines.append(f"Slurm does not answer: {queue.trouble}")
        self._trouble = queue.trouble
        clock = time.strftime("%H:%M:%S")
        return [f"{clock} {line}" for line in lines]


def _tenths(row: JobRow) -> str:
    """Returns how far a job is, in tenths: a line for each step would tell nothing more."""
    return str(10 * row.step // row.steps) if row.steps else ""


def _summary(target: SweepTarget, table: Sequence[JobRow]) -> str:
    numbers = ", ".join(f"{number} {state}" for state, number in counts(table).items()) or "nothing yet"
    return f"{target.sweep}: {numbers}"


def _table(table: Sequence[JobRow]) -> TextTable:
    """Returns the rows of a sweep as a table, without the columns that are empty."""
    lines = [
        {
            "run": row.run,
            "task": row.task,
            "job": row.job,
            "state": row.state.value,
            "progress": _progress(row),
            "left": "" if row.eta_s is None else duration_text(row.eta_s),
            "images/s": f"{row.images_per_second:.0f}" if row.images_per_second else "",
            "result": _result(row),
            "note": _note(row),
        }
        for row in table
    ]
    heads = [head for head in (lines[0] if lines else {}) if any(line[head] for line in lines)]
    # Notes hold what jobs printed.
    cells = [[visible(line[head]) for head in heads] for line in lines]
    styles = {(number, heads.index("state")): COLOURS.get(row.state, "") for number, row in enumerate(table)}
    return TextTable(heads, cells, right=("progress", "left", "images/s"), styles=styles)


def _progress(row: JobRow) -> str:
    if row.state is State.done or not row.steps:
        return ""
    return f"{100 * row.step / row.steps:.0f} % ({row.step}/{row.steps})"


def _result(row: JobRow) -> str:
    return "" if row.value is None else f"{row.metric} {number_text(row.value)}"


def _note(row: JobRow) -> str:
    attempt = f"attempt {row.attempt}" if row.attempt > 1 and row.state is not State.done else ""
    return ", ".join(part for part in (attempt, row.note) if part)
