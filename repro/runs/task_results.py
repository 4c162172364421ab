"""Whether a task on a run has its result: one answer for `salmask status` and for the report."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from repro.errors import UserError
from repro.filesystem.presence import exists, is_filled
from repro.runs.evaluation import Evaluation, task_and_dataset
from repro.runs.folder import RunFolder
from repro.runs.records import Result, read
from repro.runs.status import PRETRAIN, Status

ReadResults = Callable[[Path], Sequence[Result]]
"""Returns every row of a `results.jsonl`: `rows_of`, or a function that keeps what it read for the next call."""


def rows_of(path: Path) -> list[Result]:
    """Returns every row of a `results.jsonl`; none where there is no such file yet."""
    return read(path)[0] if exists(path) else []


def of_task(rows: Iterable[Result], task: str) -> list[Result]:
    """Returns the rows of a task.

    Args:
        rows: Rows of a run.
        task: A downstream task, `linear` or `linear@caltech101`.
    """
    name, dataset = task_and_dataset(task)
    return [row for row in rows if row.task == name and dataset in ("", row.dataset)]


def own_rows(folder: RunFolder, rows: Iterable[Result], task: str) -> list[Result]:
    """Returns the rows of a task on the data set that it means, whatever their protocol.

    A task that names no data set is on the run's own: what was measured on another one is not its result.

    Args:
        folder: The run's folder.
        rows: The run's rows.
        task: A downstream task.
    """
    matching = of_task(rows, task)
    if not matching or task_and_dataset(task)[1]:
        return matching
    if not any(each.startswith(f"{task}@") for each in folder.tasks_begun()):  # most runs; reading settings takes long
        return matching
    try:
        own = Evaluation.parse(task, folder.load()).dataset
    except UserError:  # the run's own data set cannot be determined
        return matching
    return [row for row in matching if row.dataset == own]


def has_result(folder: RunFolder, task: str, status: Status | None) -> bool:
    """Returns whether a task's result is there, however its attempts ended.

    A recorded run that has results, but is kept without its backbone, counts as pretrained.

    Args:
        folder: The run's folder.
        task: The pretraining or a downstream task.
        status: What its process wrote last; None if it wrote nothing.
    """
    if task == PRETRAIN:
        return folder.pretrained or (status is not None and status.state == "done" and is_filled(folder.results))
    return bool(own_rows(folder, rows_of(folder.results), task))
