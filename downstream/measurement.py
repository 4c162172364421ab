"""What a task measures, and on what: the types that all tasks share, and the accuracies of classifiers."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repro.data.catalogue import open_images
from repro.data.splits import Images, Split
from repro.data.subsets import Subset
from repro.errors import UserError
from repro.processes.distributed import decided_by_first, device_name
from repro.runs.evaluation import Evaluation
from repro.runs.folder import TASK_FOLDERS, RunFolder
from repro.runs.predictions import BEST, FileReference, Predictions, path_of_predictions, write
from repro.runs.provenance import source
from repro.runs.records import Result
from repro.settings.comparison import sizes_below_recipe
from repro.settings.departures import Departure, scale_of, scale_of_both
from repro.settings.run import Run
from repro.settings.sections import Framework, ScenesSettings

log = logging.getLogger("salmask")
TOLERANCE = 1e-6
"""Points by which the accuracy of kept predictions may differ from the recorded one: rounding, less than an image."""
POINTS_OF_DEVICES, IMAGES_OF_DEVICES = 0.5, 2
"""How far the same weights may score apart on two devices: so many points, or so many images if that is more.

Rounding changes the predictions only of images whose two likeliest classes are nearly equal.
"""


@dataclass(frozen=True)
class Target:
    """The data set that a backbone is evaluated on.

    Attributes:
        dataset: Name of the data set.
        root: Folder of the data set; None if its images are drawn.
        scenes: Settings of drawn images, which only the data set `scenes` has.
    """

    dataset: str
    root: Path | None
    scenes: ScenesSettings

    def open(self, split: Split) -> Images:
        """Opens one split's images.

        Raises:
            UserError: The root is missing or broken.
        """
        return open_images(self.dataset, split, self.root, self.scenes)

    def open_both(self) -> tuple[Images, Images]:
        """Returns the training and validation images, opened once; both have the same classes in the same order.

        Raises:
            UserError: As in `open`, or the classes differ.
        """
        return self._both

    @cached_property
    def _both(self) -> tuple[Images, Images]:
        # Kept, because both `check` and `measure` need them, and to list a large data set on a shared file system takes
        # long.
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
        departures: How the evaluation itself, not the pretraining, is smaller than the paper's; any makes it *tiny*.
        predictions: The file that the number can be computed from again; None if none is kept.
    """

    protocol: str
    split: str
    metric: str
    value: float
    departures: tuple[Departure, ...] = ()
    predictions: FileReference | None = None


SCORES = ("top1", "top5", "mean_per_class")
"""The accuracies that `scores` computes."""


def measurements(
    protocol: str, split: str, values: Mapping[str, float], predictions: FileReference | None = None
) -> list[Measurement]:
    """Makes the measurements of one protocol and split.

    Args:
        protocol: Its name.
        split: What was scored.
        values: Numbers by metric.
        predictions: The file that `SCORES` can be computed from; other numbers, of other epochs, rates or splits,
            cannot, and do not name it.
    """
    return [
        Measurement(protocol, split, metric, value, predictions=predictions if metric in SCORES else None)
        for metric, value in values.items()
    ]


ACCURACIES = (*SCORES, "top1_best")
"""The metrics that are averaged over splits; a mean of learning rates or regularisation weights would mean nothing."""


def averaged(splits: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Averages the accuracies of drawn splits.

    Args:
        splits: Numbers by metric, in the order of the splits' seeds.

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
        measurements: What a task measured.
        run: Whose backbone was evaluated.
        folder: Of the run.
        evaluation: The task and its data set.
        device: What it was measured on.
        started: Time in ISO 8601.
        duration_s: Seconds that all the measurements took together.
    """
    pretraining, code = scale_of(sizes_below_recipe(run)), asdict(source())
    return [
        Result(
            run_id=run.id,
            recipe=run.recipe,
            sweep=folder.sweep,
            method=run.method,
            framework=run.framework.name,
            strategy=run.masking.strategy.name,
            # It is unknown which code trained imported weights.
            fidelity="imported weights" if run.framework is Framework.external else str(run.fidelity),
            seed=run.seed,
            task=evaluation.task,
            dataset=evaluation.dataset,
            split=measurement.split,
            protocol=measurement.protocol,
            metric=measurement.metric,
            value=measurement.value,
            scale=scale_of_both(pretraining, scale_of(measurement.departures)),
            evaluation_scale=scale_of(measurement.departures),
            **code,
            device=device_name(device),
            started=started,
            duration_s=round(duration_s, 1),
            predictions=measurement.predictions.name if measurement.predictions else "",
            predictions_sha256=measurement.predictions.sha256 if measurement.predictions else "",
        )
        for measurement in measurements
    ]


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Computes the accuracies of a classifier.

    Args:
        logits: N×classes, the larger the likelier.
        labels: N, below the number of classes.

    Returns:
        `SCORES` in percent. `top5` is top-all if there are fewer than five classes; `mean_per_class` is the mean of
        the share of hits over the classes that occur among the labels.

    Raises:
        UserError: Logits are NaN, which would count as the likeliest, so that the accuracy would mean nothing.
    """
    if undecided := int(logits.isnan().any(1).sum()):
        raise UserError(
            f"the scores of {undecided} of {len(logits)} images are NaN, which has no accuracy",
            mend="look for NaN in the classifier's features and weights, and for a class without images",
        )
    guesses = likeliest(logits)
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


def likeliest(logits: Tensor) -> Tensor:
    """Returns N×`BEST` (or as many as there are classes) indices of the likeliest classes, the likeliest first."""
    return logits.topk(min(BEST, logits.shape[1]), dim=1).indices


def predictions_of(logits: Tensor, images: Images, probabilities: Tensor | None = None) -> Predictions:
    """Returns what a classifier predicts for each image.

    Args:
        logits: N×classes, the larger the likelier, of which `scores` makes its accuracies.
        images: The N scored images.
        probabilities: N×classes; None: the softmax of the logits.
    """
    guesses = likeliest(logits)
    labels = torch.tensor(images.targets, device=logits.device)
    hits = guesses == labels.unsqueeze(1)
    # The place of the true class among the guesses, from 1; 0 if it is not among them.
    places = (hits * torch.arange(1, hits.shape[1] + 1, device=hits.device)).sum(1)
    probabilities = logits.softmax(1) if probabilities is None else probabilities
    return Predictions(
        split=np.zeros(len(images), dtype=np.int32),
        image=(images.indices if isinstance(images, Subset) else np.arange(len(images))).astype(np.int32),
        label=labels.cpu().numpy().astype(np.int32),
        prediction=guesses[:, 0].cpu().numpy().astype(np.int32),
        score=probabilities.gather(1, guesses[:, :1]).squeeze(1).float().cpu().numpy(),
        place=places.cpu().numpy().astype(np.uint8),
        classes=tuple(images.classes),
        images=images.fingerprint(),
    )


def keep_predictions(
    folder: RunFolder, evaluation: Evaluation, protocol: str, predictions: Predictions, values: Mapping[str, float]
) -> FileReference | None:
    """Writes an evaluation's predictions below a run's folder, before any row names them; called on every rank.

    Args:
        folder: Of the run.
        evaluation: The task and its data set.
        protocol: With its departures.
        predictions: Of the classifier that was scored.
        values: The numbers that its rows will hold.

    Returns:
        The file that the rows are to name; None if the accuracy of the predictions differs a little from the rows', as
        after a training that was scored on one device, interrupted, and resumed on another.

    Raises:
        UserError: The accuracy of the predictions differs by more than that, or they cannot be written.
    """
    return decided_by_first(lambda: _kept(folder, evaluation, protocol, predictions, values))


def _kept(
    folder: RunFolder, evaluation: Evaluation, protocol: str, predictions: Predictions, values: Mapping[str, float]
) -> FileReference | None:
    """Does the work of `keep_predictions`, on rank 0."""
    top1 = predictions.accuracy("top1")
    gap = abs(top1 - values["top1"])
    if gap > max(POINTS_OF_DEVICES, 100 * IMAGES_OF_DEVICES / len(predictions)) + TOLERANCE:
        place = folder.path / TASK_FOLDERS.get(evaluation.task, "")
        raise UserError(
            f"{evaluation.task} on {evaluation.dataset}: the trained classifier gives {top1:.2f} %, not the "
            f"{values['top1']:.2f} % of its training's last epoch",
            mend=f"remove what {place} holds of {evaluation.dataset}, and evaluate again",
        )
    if gap > TOLERANCE:
        log.warning(
            "%s: the predictions give %.3f %%, not the %.3f %% of the training's last epoch, and are not kept",
            evaluation.task,
            top1,
            values["top1"],
        )
        return None
    path = path_of_predictions(folder, evaluation.task, evaluation.dataset, protocol)
    return write(path, folder, predictions)
