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
from repro.data.roots import root_of
from repro.distributed import decided_by_first
from repro.errors import UserError
from repro.named_code import imported, require_callable
from repro.presence import exists
from repro.progress import OPENING
from repro.runs.detection import COCO, DETECTION_TASKS, VOC
from repro.runs.evaluation import Evaluation
from repro.runs.folder import RunFolder
from repro.runs.predictions import FileReference, images_of_splits, is_whole
from repro.runs.predictions import read as read_predictions
from repro.runs.provenance import now
from repro.runs.records import Result, append, read
from repro.runs.resumption import require_pretrained
from repro.runs.run import Run

log = logging.getLogger("salmask")
FULL = 100 + 1e-9
"""The most that an accuracy can be, in percent, with what rounding adds to a mean."""


class Task(Protocol):
    """Whoever measures: a module with these functions, or an object with these methods."""

    def check(self, run: Run, target: Target, backbone: Backbone) -> None:
        """Refuses, with a UserError, what can be known to fail before anything is written; called on every rank."""
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
"""Where each task is, a `Task`, by its name. A test holds that `repro.runs.evaluation.PROTOCOLS` has the same names.

Their names and not they themselves: what one task imports (scikit-learn, detectron2's configurations) takes seconds,
which the others need not wait for.
"""


def evaluate(
    run: Run, folder: RunFolder, name: str, device: torch.device, root: Path | None = None, *, again: bool = False
) -> list[Result]:
    """Evaluates a finished run and appends the rows to its `results.jsonl`; rows that stand there are not made again.

    But for those of detectors that are only to be evaluated (`detection.evaluate_only`): the new ones are appended.

    Args:
        run: With the settings of the evaluation.
        folder: Of the run, with its `backbone.pth`.
        name: `TASK` or `TASK@DATASET`.
        device: From `repro.distributed.initialise`.
        root: Of the data set; None: as `repro.data.roots.root_of` finds it.
        again: Whether rows without the predictions that they are made of, as older versions left them, are measured
            once more; the new rows are appended, and count from then on.

    Returns:
        The rows, whether they were measured now or earlier.

    Raises:
        UserError: Unknown names, the run is not finished, the data or the backbone do not fit, or the rows that stand
            there are of other images than those below `root`.
    """
    work = prepare_evaluation(run, folder, name, device, root, again=again)
    if work is not None:
        return work()
    evaluation = Evaluation.parse(name, run)
    return decided_by_first(lambda: recorded(run, folder, evaluation, root, again=again))


def prepare_evaluation(
    run: Run, folder: RunFolder, name: str, device: torch.device, root: Path | None = None, *, again: bool = False
) -> Callable[[], list[Result]] | None:
    """Returns an evaluation that can begin, as a function; None where its rows stand in the run's folder already.

    Args:
        run: With the settings of the evaluation.
        folder: Of the run.
        name: `TASK` or `TASK@DATASET`.
        device: From `repro.distributed.initialise`.
        root: Of the data set; None: as `repro.data.roots.root_of` finds it.
        again: As of `evaluate`.

    Raises:
        UserError: Unknown names, the run is not finished, its backbone is damaged or another run's, the data set is not
            there, the rows that stand there are of other images than those below `root`, or the task's `check` refuses
            settings, data or backbone; nothing is written.
    """
    evaluation = Evaluation.parse(name, run)
    if decided_by_first(lambda: recorded(run, folder, evaluation, root, again=again)):
        return None
    require_pretrained(folder)
    task, target = _checked(run, evaluation, root, load_backbone_of(run, folder))

    def work() -> list[Result]:
        # Whoever held the folder until now may have measured the same.
        earlier_rows = decided_by_first(lambda: recorded(run, folder, evaluation, root, again=again))
        return earlier_rows or _measure(task, run, folder, evaluation, target, device)

    return work


def check_evaluations(
    run: Run, folder: RunFolder, roots: Mapping[Evaluation, Path | None], *, again: bool = False
) -> None:
    """Refuses evaluations that are to follow each other, if one of them cannot begin; called on every rank.

    Args:
        run: With the settings of the evaluations.
        folder: Of the run.
        roots: Of each evaluation's data set; None: as `repro.data.roots.root_of` finds it.
        again: As of `evaluate`.

    Raises:
        UserError: As of `prepare_evaluation`; nothing is written.
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
    """Refuses a backbone with evaluations one of which cannot begin, whatever is recorded of them.

    Args:
        run: With the settings of the evaluations.
        backbone: The run's.
        roots: As of `check_evaluations`.

    Raises:
        UserError: The data set of one is not there, or its task's `check` refuses settings, data or backbone.
    """
    for evaluation, root in roots.items():
        _checked(run, evaluation, root, backbone)


def _checked(run: Run, evaluation: Evaluation, root: Path | None, backbone: Backbone) -> tuple[Task, Target]:
    """Returns an evaluation's task, and what it measures on, or raises a UserError where it refuses them."""
    target = Target(evaluation.dataset, root_of(run, evaluation.dataset, root), run.data.scenes)
    OPENING.say(f"{evaluation.name(run)}: importing what it needs, and opening {evaluation.dataset}")
    task = _imported(evaluation.task)
    task.check(run, target, backbone)
    return task, target


def _imported(name: str) -> Task:
    """Imports a task, and refuses with a UserError what lacks a task's functions; its own errors come as they are."""
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
    """Measures on every rank, as trainings and features are shared by all; the rows of rank 0 are appended."""
    started, clock = now(), time.monotonic()
    measurements = task.measure(run, folder, target, device)

    def record() -> list[Result]:
        _require_sound(f"{TASKS[evaluation.task]}: measure", measurements)
        seconds = time.monotonic() - clock
        rows = as_results(measurements, run, folder, evaluation, device=device, started=started, duration_s=seconds)
        _require_found_again(run, evaluation, rows)
        append(folder.results, rows)
        return rows

    # Whatever the others' answers are, and no rank ends before the rows are there.
    return decided_by_first(record)


def _require_sound(who: str, answer: object) -> None:
    """Raises a UserError where what a task returns is no list of measurements, or of none, or of odd ones.

    Args:
        who: Who returned it, for the message.
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
        raise UserError(f"{who} returned two numbers for {', '.join(map(str, twice))}", mend="one, or two names")
    for row in answer:
        if str(row.metric).partition("@")[0] in ACCURACIES and not 0 <= row.value <= FULL:
            what = f"{who} returned {row.metric} = {row.value}, which is no accuracy"
            raise UserError(what, mend="a number in percent")


def _require_found_again(run: Run, evaluation: Evaluation, rows: Collection[Result]) -> None:
    """Raises a UserError where a task's rows carry other protocols than are looked for.

    They would stand in the file and count nowhere, and each call would measure and append them once more.
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
    """Returns the rows of an evaluation that the run's folder holds already; none unless all of them are there.

    With `detection.evaluate_only` no row of a detection task counts: its detectors are to be scored again.

    Args:
        run: With the settings of the evaluation.
        folder: Of the run.
        evaluation: The task and its data set.
        root: Of the data set, where a person named it: the rows must then be of the images there.
        again: Whether rows count only with the file of predictions or detections that they are made of.

    Raises:
        UserError: The rows are of other images than those below `root`, or there are none that can be read.
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
    if rows and root is not None:
        _require_same_images(run, folder, evaluation, root, named)
    return rows


def _require_same_images(
    run: Run, folder: RunFolder, evaluation: Evaluation, root: Path, named: Collection[FileReference]
) -> None:
    """Raises a UserError where rows were measured on other images than those below a root, as their predictions tell.

    Rows whose predictions were not kept, or are lost, cannot be compared, nor can detections, which do not name their
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
            mend="leave --root out to read it, or evaluate a copy of the folder that has run.yaml and backbone.pth "
            "alone",
        )
