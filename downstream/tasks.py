"""Every task, and how one is carried out: a finished run becomes rows of results.

`evaluate` carries out an evaluation by name (see `repro.runs.evaluation`): `linear`, `logistic@caltech101`, ...
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

import torch

from downstream.measurement import ACCURACIES, Measurement, Target, as_results
from downstream.partitions import scored_images
from repro.backbones.backbone import Backbone, load_backbone_of
from repro.command_line.progress import OPENING
from repro.data.roots import root_of
from repro.errors import UserError
from repro.filesystem.presence import exists
from repro.named_code import imported, require_callable
from repro.processes.distributed import decided_by_first
from repro.runs.evaluation import Evaluation
from repro.runs.folder import RunFolder
from repro.runs.predictions import FileReference, images_of_splits, is_whole
from repro.runs.predictions import read as read_predictions
from repro.runs.provenance import now
from repro.runs.records import Result, append, read
from repro.runs.resumption import require_pretrained
from repro.settings.detection import COCO, DETECTION_TASKS, VOC
from repro.settings.run import Run

log = logging.getLogger("salmask")
FULL = 100 + 1e-9
"""The largest possible accuracy in percent, with a tolerance for the rounding of a mean."""


class Task(Protocol):
    """What measures a backbone: a module with these functions, or an object with these methods."""

    def check(self, run: Run, target: Target, backbone: Backbone) -> None:
        """Raises a UserError, before anything is written, if `measure` is known to fail; called on every rank."""
        ...

    def measure(self, run: Run, folder: RunFolder, target: Target, device: torch.device) -> list[Measurement]:
        """Measures a finished run's backbone; called on every rank, though only rank 0's answer is recorded."""
        ...


TASKS: Mapping[str, str] = {
    "linear": "downstream.linear",
    "logistic": "downstream.logistic",
    "knn": "downstream.knn",
    "finetune": "downstream.finetune:FINETUNE",
    "semi-1": "downstream.finetune:SEMI_1",
    "semi-10": "downstream.finetune:SEMI_10",
    VOC: "downstream.detection.task:VOC_TASK",
    COCO: "downstream.detection.task:COCO_TASK",
}
"""Name of a task -> where its `Task` is. A test checks that `repro.runs.evaluation.PROTOCOLS` has the same names.

Tasks are imported only when needed: the imports of one (scikit-learn, detectron2's configurations) take seconds, which
the others need not wait for.
"""


def evaluate(
    run: Run, folder: RunFolder, name: str, device: torch.device, root: Path | None = None, *, again: bool = False
) -> list[Result]:
    """Evaluates a finished run and appends the rows to its `results.jsonl`, unless they are recorded there already.

    With `detection.evaluate_only`, detectors are always scored again and their new rows appended.

    Args:
        run: With the settings of the evaluation.
        folder: Of the run, with its `backbone.pth`.
        name: `TASK` or `TASK@DATASET`.
        device: From `repro.processes.distributed.initialise`.
        root: Of the data set; None: as `repro.data.roots.root_of` finds it.
        again: Whether to measure again if the recorded rows lack their file of predictions, as rows of older versions
            do; the new rows are appended, and count from then on.

    Returns:
        The rows, whether they were measured now or earlier.

    Raises:
        UserError: Unknown names, the run is not finished, the data or the backbone do not fit, or the recorded rows are
            of other images than those below `root`.
    """
    work = prepare_evaluation(run, folder, name, device, root, again=again)
    if work is not None:
        return work()
    evaluation = Evaluation.parse(name, run)
    return decided_by_first(lambda: recorded(run, folder, evaluation, root, again=again))


def prepare_evaluation(
    run: Run, folder: RunFolder, name: str, device: torch.device, root: Path | None = None, *, again: bool = False
) -> Callable[[], list[Result]] | None:
    """Checks that an evaluation can begin, and returns it as a function; None if its rows are recorded already.

    Args:
        run: With the settings of the evaluation.
        folder: Of the run.
        name: `TASK` or `TASK@DATASET`.
        device: From `repro.processes.distributed.initialise`.
        root: Of the data set; None: as `repro.data.roots.root_of` finds it.
        again: As in `evaluate`.

    Raises:
        UserError: Unknown names, the run is not finished, its backbone is damaged or another run's, the data set is not
            there, the recorded rows are of other images than those below `root`, or the task's `check` refuses
            settings, data or backbone; nothing is written.
    """
    evaluation = Evaluation.parse(name, run)
    if decided_by_first(lambda: recorded(run, folder, evaluation, root, again=again)):
        return None
    require_pretrained(folder)
    task, target = _checked(run, evaluation, root, load_backbone_of(run, folder))

    def work() -> list[Result]:
        # Another process may have held the folder until now and measured the same.
        earlier_rows = decided_by_first(lambda: recorded(run, folder, evaluation, root, again=again))
        return earlier_rows or _measure(task, run, folder, evaluation, target, device)

    return work


def check_evaluations(
    run: Run, folder: RunFolder, roots: Mapping[Evaluation, Path | None], *, again: bool = False
) -> None:
    """Checks that each of several evaluations can begin; called on every rank.

    Args:
        run: With the settings of the evaluations.
        folder: Of the run.
        roots: Root of each evaluation's data set; None: as `repro.data.roots.root_of` finds it.
        again: As in `evaluate`.

    Raises:
        UserError: As in `prepare_evaluation`; nothing is written.
    """
    pending = [
        evaluation
        for evaluation, root in roots.items()
        if not decided_by_first(lambda: recorded(run, folder, evaluation, root, again=again))  # noqa: B023  # called at once
    ]
    if not pending:
        return
    require_pretrained(folder)
    check_tasks(run, load_backbone_of(run, folder), {evaluation: roots[evaluation] for evaluation in pending})


def check_tasks(run: Run, backbone: Backbone, roots: Mapping[Evaluation, Path | None]) -> None:
    """Checks that each evaluation of a backbone can begin, even if its rows are recorded already.

    Args:
        run: With the settings of the evaluations.
        backbone: The run's.
        roots: As in `check_evaluations`.

    Raises:
        UserError: The data set of one is not there, or its task's `check` refuses settings, data or backbone.
    """
    for evaluation, root in roots.items():
        _checked(run, evaluation, root, backbone)


def _checked(run: Run, evaluation: Evaluation, root: Path | None, backbone: Backbone) -> tuple[Task, Target]:
    """Returns an evaluation's task and target, or raises the UserError with which the task's `check` refuses them."""
    target = Target(evaluation.dataset, root_of(run, evaluation.dataset, root), run.data.scenes)
    OPENING.say(f"{evaluation.name(run)}: importing what it needs, and opening {evaluation.dataset}")
    task = _imported(evaluation.task)
    task.check(run, target, backbone)
    return task, target


def _imported(name: str) -> Task:
    """Imports a task; raises a UserError if a task's functions are missing. Errors within the module pass unchanged."""
    if name not in TASKS:
        what = f"PROTOCOLS (repro/runs/evaluation.py) has the task {name}, and TASKS (downstream/tasks.py) has not"
        raise UserError(what, mend="add it there")
    told = f"TASKS (downstream/tasks.py) has the task {name} at {TASKS[name]}"
    task = imported(TASKS[name], told)
    if isinstance(task, type):
        raise UserError(f"{told}, which is a class", mend="name an object of it")
    require_callable(getattr(task, "check", None), "check", ("run", "target", "backbone"), told)
    require_callable(getattr(task, "measure", None), "measure", ("run", "folder", "target", "device"), told)
    checked: Task = task
    return checked


def _measure(
    task: Task, run: Run, folder: RunFolder, evaluation: Evaluation, target: Target, device: torch.device
) -> list[Result]:
    """Measures on every rank, because ranks share trainings and features; the rows of rank 0 are appended."""
    started, clock = now(), time.monotonic()
    measurements = task.measure(run, folder, target, device)

    def record() -> list[Result]:
        _require_sound(f"{TASKS[evaluation.task]}: measure", measurements)
        seconds = time.monotonic() - clock
        rows = as_results(measurements, run, folder, evaluation, device=device, started=started, duration_s=seconds)
        _require_found_again(run, evaluation, rows)
        append(folder.results, rows)
        return rows

    # All ranks return rank 0's rows, and none ends before they are written.
    return decided_by_first(record)


def _require_sound(who: str, answer: object) -> None:
    """Raises a UserError unless a task returned measurements, each with a name of its own and a possible value.

    Args:
        who: The function that returned them, for the message.
        answer: What was returned.
    """
    mend = "a list of Measurement, as `measurements` (downstream/measurement.py) makes it"
    if not isinstance(answer, list | tuple):
        raise UserError(f"{who} returned {type(answer).__name__}", mend=mend)
    if other := next((row for row in answer if not isinstance(row, Measurement)), None):
        raise UserError(f"{who} returned {type(answer).__name__} of {type(other).__name__}", mend=mend)
    if not answer:
        raise UserError(f"{who} returned no measurement, and nothing was recorded", mend="one for each number")
    names = [(row.protocol, row.split, row.metric) for row in answer]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{who} returned two numbers for {', '.join(map(str, twice))}", mend="one number, or two names")
    for row in answer:
        if not isinstance(row.value, int | float):  # but a tensor, say, or nothing
            what = f"{who} returned {row.metric} = {row.value!r}, which is no Python number"
            raise UserError(what, mend="float(...) of it")
        if str(row.metric).partition("@")[0] in ACCURACIES and not 0 <= row.value <= FULL:
            what = f"{who} returned {row.metric} = {row.value}, which is not an accuracy"
            raise UserError(what, mend="a number in percent")


def _require_found_again(run: Run, evaluation: Evaluation, rows: Collection[Result]) -> None:
    """Raises a UserError if a task's rows name other protocols than `PROTOCOLS` does.

    Such rows would never be found in the file, and each call would measure and append them once more.
    """
    if rows and not evaluation.recorded(run, rows):
        measured = ", ".join(dict.fromkeys(row.protocol for row in rows))
        raise UserError(
            f"{TASKS[evaluation.task]} measured by {measured}, and PROTOCOLS (repro/runs/evaluation.py) says "
            f"it is by {', '.join(evaluation.protocols(run))}",
            mend="the same names in both",
        )


def recorded(
    run: Run, folder: RunFolder, evaluation: Evaluation, root: Path | None = None, *, again: bool = False
) -> list[Result]:
    """Returns the recorded rows of an evaluation; an empty list unless all of them are there.

    With `detection.evaluate_only` no row of a detection task counts, because its detectors are to be scored again.

    Args:
        run: With the settings of the evaluation.
        folder: Of the run.
        evaluation: The task and its data set.
        root: Of the data set if a person named it; the rows must then be of the images there.
        again: Whether rows count only if their files of predictions or detections are whole.

    Raises:
        UserError: The rows are of other images than those below `root`, or `results.jsonl` cannot be read.
    """
    if evaluation.task in DETECTION_TASKS and run.detection.evaluate_only:
        return []
    rows, warnings = read(folder.results) if exists(folder.results) else ([], [])
    for warning in warnings:
        log.warning(warning)
    rows = evaluation.recorded(run, rows)
    named = {FileReference(row.predictions, row.predictions_sha256) for row in rows if row.predictions}
    if again and not (named and all(is_whole(folder, each) for each in named)):
        return []
    if root is not None:
        _require_same_images(run, folder, evaluation, root, named)
    return rows


def _require_same_images(
    run: Run, folder: RunFolder, evaluation: Evaluation, root: Path, named: Collection[FileReference]
) -> None:
    """Raises a UserError if the predictions of rows name other images than those below a root.

    Rows whose predictions were not kept, or are lost, are not checked, nor are detections, which do not name their
    images.
    """
    whole = [each for each in named if is_whole(folder, each)]
    if evaluation.task in DETECTION_TASKS or not whole:
        return
    place = root_of(run, evaluation.dataset, root)
    if place is None:  # the data set is drawn, whatever root is named
        return
    target = Target(evaluation.dataset, place, run.data.scenes)
    images = images_of_splits([part.fingerprint() for part in scored_images(run, evaluation.task, target)])
    if any(read_predictions(folder, each).images != images for each in whole):
        raise UserError(
            f"{folder.path} holds {evaluation.task} on {evaluation.dataset} measured on other images than those in "
            f"{root}",
            mend="leave --root out to read the recorded rows, or evaluate a copy of the folder that has only run.yaml "
            "and backbone.pth",
        )
