"""How backbones are evaluated: every task with its protocols, and what the name of an evaluation means. No torch.

An evaluation is a task on a data set, written `TASK` (on the data of the pretraining) or `TASK@DATASET`, for example
`linear@caltech101`. A protocol has a name and a version, and every departure from it is part of the name:
`linear-moco-v1[epochs=20]`. The settings of the protocols are in `repro.settings.protocols` and
`repro.settings.detection`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from repro.errors import UserError, nearest
from repro.quantities import number_text
from repro.runs.records import Result, latest
from repro.settings.detection import COCO, COSTS, DETECTION_TASKS, VOC
from repro.settings.protocols import EvaluationProtocol
from repro.settings.run import Run

PROTOCOLS: Mapping[str, Callable[[Run, str], tuple[EvaluationProtocol, ...]]] = {
    "linear": lambda run, dataset: (run.probe.protocol(dataset),),
    "logistic": lambda run, dataset: (run.logistic.protocol(dataset),),
    "knn": lambda run, _: tuple(run.knn.protocol(k) for k in run.knn.neighbours),
    "finetune": lambda run, _: (run.finetune.protocol("finetune"),),
    "semi-1": lambda run, _: (run.finetune.protocol("semi-1"),),
    "semi-10": lambda run, _: (run.finetune.protocol("semi-10"),),
    VOC: lambda run, _: (run.detection.protocol(VOC),),
    COCO: lambda run, _: (run.detection.protocol(COCO),),
}
"""Every task, with the protocols that its rows carry for a run and a data set."""
HEADLINES = ("top1", "bbox_AP")
"""The main metric of classifiers and of detectors."""
NEXT_BEST = ("logistic", "knn")
"""Evaluations that stand in for the paper's linear probe, best first; logistic regression is a linear classifier."""
NO_ACCURACIES = ("lr", "l2", "unconverged", *COSTS)
"""Metrics of what was chosen or spent: they are not in percent, and a larger value is not better."""


def is_accuracy(metric: str) -> bool:
    """Returns whether a metric is in percent; one of a single split or trial, `l2@split=0`, is judged as its mean."""
    return metric.partition("@")[0] not in NO_ACCURACIES


def measured_text(metric: str, value: float) -> str:
    """Returns a measured value for people: an accuracy with two decimals, any other with three digits, `0.00012`."""
    return number_text(value) if is_accuracy(metric) else f"{value:.3g}"


def refuse_no_accuracy(metric: str) -> None:
    """Refuses a metric that is not an accuracy: of two penalties, for example, neither is the better one.

    Args:
        metric: What was asked for; empty where nothing was.

    Raises:
        UserError: The metric is one of `NO_ACCURACIES`.
    """
    if not is_accuracy(metric):
        raise UserError(
            f"'{metric}' is not an accuracy: it says what an evaluation chose or took",
            mend="name an accuracy, such as top1; salmask collect --out FILE lists the rest",
        )


def _usual_dataset(task: str, run: Run) -> str:
    """Returns the data set of a task that names none.

    It is the data set of the pretraining. Detection has a data set of its own, unless the run was pretrained on scenes,
    which have boxes.
    """
    return task if task in DETECTION_TASKS and not run.data.drawn else run.data.dataset


def task_and_dataset(name: str) -> tuple[str, str]:
    """Splits the name of an evaluation into its task and its data set, which is empty where none is named."""
    task, _, dataset = name.partition("@")
    return task, dataset


@dataclass(frozen=True)
class Evaluation:
    """A task on a data set."""

    task: str
    """A key of `PROTOCOLS`."""
    dataset: str

    @classmethod
    def parse(cls, name: str, run: Run) -> "Evaluation":
        """Reads `TASK` or `TASK@DATASET`.

        Args:
            name: The text to read.
            run: The run that is evaluated; it decides the data set where `name` names none.

        Raises:
            UserError: There is no such task, or no data set is named after an @.
        """
        task, dataset = task_and_dataset(name)
        if task not in PROTOCOLS:
            raise UserError(f"unknown task '{task}'", mend=nearest(task, PROTOCOLS))
        if "@" in name and not dataset:  # `linear@` was meant to name a data set, so the run's own must not be used
            raise UserError(f"'{name}' names no data set", mend=f"{task}, or {task}@DATASET")
        return cls(task, dataset or _usual_dataset(task, run))

    def name(self, run: Run) -> str:
        """Returns the shortest name that `parse` reads back for this run: `linear` on the data of the pretraining."""
        return self.task if self.dataset == _usual_dataset(self.task, run) else f"{self.task}@{self.dataset}"

    def protocols(self, run: Run) -> tuple[str, ...]:
        """Returns the names of the protocols that its rows carry, as far as the run's settings tell.

        If detection's batch is left open, only the rows tell it; `possible_protocols` covers such rows.
        """
        return tuple(protocol.name for protocol in PROTOCOLS[self.task](run, self.dataset))

    def possible_protocols(self, run: Run) -> tuple[EvaluationProtocol, ...]:
        """Returns every protocol that one of its rows may have been measured by, in the order of the settings."""
        if self.task in DETECTION_TASKS:
            # Settings that leave the batch open have results from two GPUs as well as from eight.
            return run.detection.possible_protocols(self.task)
        return PROTOCOLS[self.task](run, self.dataset)

    def recorded(self, run: Run, rows: Iterable[Result]) -> list[Result]:
        """Returns the rows of this evaluation among those of a run's folder, in their order.

        Args:
            run: The run, with the settings of the evaluation that is asked for.
            rows: Results of any task and protocol.

        Returns:
            The rows; of results that were measured again, only the later ones. Empty unless every protocol has rows, so
            that an evaluation counts as done or not at all.
        """
        rows = [row for row in rows if (row.run_id, row.task, row.dataset) == (run.id, self.task, self.dataset)]
        # Protocols are compared by their full names, which are never parsed.
        possible = {protocol.name for protocol in self.possible_protocols(run)}
        rows = [row for row in rows if row.protocol in possible]
        return latest(rows) if is_complete(self.task, rows, possible) else []


def is_complete(task: str, rows: Collection[Result], protocols: Iterable[str]) -> bool:
    """Returns whether an evaluation is complete: whether every protocol has rows.

    Args:
        task: The task, without a data set.
        rows: The evaluation's rows, all of them of these protocols.
        protocols: Names of the protocols that were asked for.
    """
    # For detection one row is enough: its possible protocols differ only in the number of devices.
    return bool(rows) if task in DETECTION_TASKS else {row.protocol for row in rows}.issuperset(protocols)
