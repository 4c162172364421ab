"""What a task measures, and on what: the terms that the tasks of this room share."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from repro.data.catalogue import open_images
from repro.data.splits import Images, Split
from repro.distributed import device_name
from repro.errors import UserError
from repro.runs.choices import Framework
from repro.runs.departures import Departure, scale_of
from repro.runs.evaluation import Evaluation
from repro.runs.folder import RunFolder
from repro.runs.provenance import source
from repro.runs.records import Result
from repro.runs.run import Run
from repro.runs.sections import ScenesSettings


@dataclass(frozen=True)
class Target:
    """The data set that a backbone is evaluated on.

    Attributes:
        dataset: Its name.
        root: Its folder; None where images are drawn.
        scenes: Settings of drawn images.
    """

    dataset: str
    root: Path | None
    scenes: ScenesSettings

    def open(self, split: Split) -> Images:
        """Its images.

        Raises:
            UserError: the root is missing or broken.
        """
        return open_images(self.dataset, split, self.root, self.scenes)

    def open_both(self) -> tuple[Images, Images]:
        """Its training and validation images, of the same classes.

        Raises:
            UserError: as `open`, or the classes differ.
        """
        train, val = self.open("train"), self.open("val")
        if list(train.classes) != list(val.classes):
            raise UserError(f"{self.dataset}: train and val have different classes", mend="salmask data verify")
        return train, val


@dataclass(frozen=True)
class Measurement:
    """One number.

    Attributes:
        protocol: Name and version of the evaluation, with its departures.
        split: What was scored, e.g. `val`.
        metric: What was measured, e.g. `top1`.
        value: Percent for accuracies.
        departures: In what the evaluation is smaller than the paper's, beside the pretraining; any makes it *tiny*.
    """

    protocol: str
    split: str
    metric: str
    value: float
    departures: tuple[Departure, ...] = ()


def measurements(protocol: str, split: str, values: Mapping[str, float]) -> list[Measurement]:
    """Several numbers of one protocol and split."""
    return [Measurement(protocol, split, metric, value) for metric, value in values.items()]


ACCURACIES = ("top1", "top5", "mean_per_class", "top1_best")


def averaged(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean accuracies of several drawn splits, then each split's own values, `top1@split=0`.

    A single part is passed on as it is.
    """
    if len(parts) == 1:
        return dict(parts[0])
    means = {name: sum(part[name] for part in parts) / len(parts) for name in ACCURACIES if name in parts[0]}
    return means | {f"{name}@split={seed}": value for seed, part in enumerate(parts) for name, value in part.items()}


def as_results(
    measured: Sequence[Measurement],
    run: Run,
    folder: RunFolder,
    evaluation: Evaluation,
    *,
    device: torch.device,
    started: str,
    duration_s: float,
) -> list[Result]:
    """Rows for a run's `results.jsonl`."""
    return [
        Result(
            run_id=run.id,
            recipe=run.recipe,
            sweep=folder.sweep,
            method=run.method,
            framework=run.framework.name,
            strategy=run.masking.strategy.name,
            fidelity="imported weights" if run.framework is Framework.external else str(run.fidelity),
            seed=run.seed,
            task=evaluation.task,
            dataset=evaluation.dataset,
            split=one.split,
            protocol=one.protocol,
            metric=one.metric,
            value=one.value,
            scale=scale_of((*run.departures, *one.departures)),
            **asdict(source()),
            device=device_name(device),
            started=started,
            duration_s=round(duration_s, 1),
        )
        for one in measured
    ]


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """`top1`, `top5` (of fewer classes: top-all) and `mean_per_class` in percent.

    Args:
        logits: N×classes, the larger the likelier.
        labels: N.

    Returns:
        `mean_per_class` is the mean over the classes that occur among the labels of the share of hits.
    """
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hit = best == labels.unsqueeze(1)
    first = hit[:, 0].double()
    counts = torch.bincount(labels, minlength=logits.shape[1])
    hits = torch.zeros(logits.shape[1], dtype=first.dtype, device=first.device).index_add_(0, labels, first)
    occurring = counts > 0
    return {
        "top1": 100 * first.mean().item(),
        "top5": 100 * hit.any(1).double().mean().item(),
        "mean_per_class": 100 * (hits[occurring] / counts[occurring]).mean().item(),
    }
