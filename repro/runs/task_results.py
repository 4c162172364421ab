"""Whether a task on a run has its result: one answer for `salmask status` and for the report."""

from collections.abc import Iterable
from pathlib import Path

from repro.presence import exists
from repro.runs.evaluation import task_and_dataset
from repro.runs.folder import RunFolder
from repro.runs.records import Result, read
from repro.runs.status import PRETRAIN, Status


def rows_of(path: Path) -> list[Result]:
    """Returns every row of a `results.jsonl`; none where there is no such file yet."""
    return read(path)[0] if exists(path) else []


def of_task(rows: Iterable[Result], task: str) -> list[Result]:
    """Returns the rows of a task.

    Args:
        rows: Of a run.
        task: A downstream task, `linear` or `linear@caltech101`.
    """
    name, dataset = task_and_dataset(task)
    return [row for row in rows if row.task == name and dataset in ("", row.dataset)]


def has_result(folder: RunFolder, task: str, status: Status | None) -> bool:
    """Returns whether a task's result is there, however the attempt that made it, or a later one, ended.

    A recorded run that was measured and is kept without its backbone was pretrained all the same.

    Args:
        folder: The run's folder.
        task: The pretraining or a downstream task.
        status: What its process wrote last; None: nothing.
    """
    if task == PRETRAIN:
        return folder.pretrained or (status is not None and status.state == "done" and exists(folder.results))
    return bool(of_task(rows_of(folder.results), task))
