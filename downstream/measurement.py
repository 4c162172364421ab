"""What a task measures, and on what: the terms that all tasks share, and the accuracies of classifiers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from repro.data.catalogue import open_images
from repro.data.splits import Images, Split
from repro.distributed import device_name
from repro.errors import UserError
from repro.runs.comparison import sizes_below_recipe
from repro.runs.departures import Departure, scale_of
from repro.runs.evaluation import Evaluation
from repro.runs.folder import RunFolder
from repro.runs.provenance import source
from repro.runs.records import Result
from repro.runs.run import Run
from repro.runs.sections import Framework, ScenesSettings


@dataclass(frozen=True)
class Target:
    """The data set that a backbone is evaluated on.

    Attributes:
        dataset: Name of the data set.
        root: Folder of the data set; None where its images are drawn.
        scenes: Settings of drawn images; only the data set `scenes` has such.
    """

    dataset: str
    root: Path | None
    scenes: ScenesSettings

    def open(self, split: Split) -> Images:
        """Opens one split's images.

        Raises:
            UserError: the root is missing or broken.
        """
        return open_images(self.dataset, split, self.root, self.scenes)

    def open_both(self) -> tuple[Images, Images]:
        """Opens the training and validation images, which have the same classes in the same order.

        Raises:
            UserError: as `open`, or the classes differ.
        """
        train, val = self.open("train"), self.open("val")
        # Labels are indices into the classes: with other classes one label would mean two things.
        if list(train.classes) != list(val.classes):
            raise UserError(f"{self.dataset}: train and val have different classes", mend="salmask data verify")
        return train, val


@dataclass(frozen=True)
class Measurement:
    """One number that a task measured.

    Attributes:
        protocol: Name and version of the evaluation, with its departures.
        split: What was scored, e.g. `val`.
        metric: What was measured, e.g. `top1`.
        value: The number; accuracies and AP are in percent.
        departures: In what the evaluation is smaller than the paper's, beside the pretraining; any makes it *tiny*.
    """

    protocol: str
    split: str
    metric: str
    value: float
    departures: tuple[Departure, ...] = ()


def measurements(protocol: str, split: str, values: Mapping[str, float]) -> list[Measurement]:
    """Makes the measurements of one protocol and split from numbers by metric."""
    return [Measurement(protocol, split, metric, value) for metric, value in values.items()]


SCORES = ("top1", "top5", "mean_per_class")
"""The accuracies that `scores` computes."""
ACCURACIES = (*SCORES, "top1_best")
"""What is averaged over splits; the mean of learning rates or of weights of a regularisation would mean nothing."""


def averaged(splits: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Averages the accuracies of drawn splits.

    Args:
        splits: numbers by metric, in the order of the splits' seeds.

    Returns:
        The mean accuracies, then every number of each split under a name of its own, `top1@split=0`. The numbers of a
        single split are returned as they are.
    """
    if len(splits) == 1:
        return dict(splits[0])
    means = {name: sum(split[name] for split in splits) / len(splits) for name in ACCURACIES if name in splits[0]}
    return means | {f"{name}@split={seed}": value for seed, split in enumerate(splits) for name, value in split.items()}


def as_results(
    measurements: Sequence[Measurement],
    run: Run,
    folder: RunFolder,
    evaluation: Evaluation,
    *,
    device: torch.device,
    started: str,
    duration_s: float,
) -> list[Result]:
    """Makes the rows of a run's `results.jsonl`.

    Args:
        measurements: what a task measured.
        run: whose backbone was evaluated.
        folder: of the run.
        evaluation: the task and its data set.
        device: what it was measured on.
        started: time in ISO 8601.
        duration_s: seconds that all the measurements took together.
    """
    return [
        Result(
            run_id=run.id,
            recipe=run.recipe,
            sweep=folder.sweep,
            method=run.method,
            framework=run.framework.name,
            strategy=run.masking.strategy.name,
            # Nobody knows by which code imported weights were trained.
            fidelity="imported weights" if run.framework is Framework.external else str(run.fidelity),
            seed=run.seed,
            task=evaluation.task,
            dataset=evaluation.dataset,
            split=measurement.split,
            protocol=measurement.protocol,
            metric=measurement.metric,
            value=measurement.value,
            scale=scale_of((*sizes_below_recipe(run), *measurement.departures)),
            **asdict(source()),
            device=device_name(device),
            started=started,
            duration_s=round(duration_s, 1),
        )
        for measurement in measurements
    ]


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Computes the accuracies of a classifier.

    Args:
        logits: N×classes, the larger the likelier.
        labels: N, below the number of classes.

    Returns:
        `SCORES` in percent. `top5` is top-all where there are fewer than five classes; `mean_per_class` is the mean of
        the share of hits over the classes that occur among the labels.
    """
    guesses = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = guesses == labels.unsqueeze(1)
    first_hits = hits[:, 0].double()
    class_sizes = torch.bincount(labels, minlength=logits.shape[1])
    class_hits = torch.zeros(logits.shape[1], dtype=first_hits.dtype, device=first_hits.device)
    class_hits.index_add_(0, labels, first_hits)
    occurring = class_sizes > 0  # else 0 / 0 for a class without a scored image
    return {
        "top1": 100 * first_hits.mean().item(),
        "top5": 100 * hits.any(1).double().mean().item(),
        "mean_per_class": 100 * (class_hits[occurring] / class_sizes[occurring]).mean().item(),
    }
