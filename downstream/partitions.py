"""Which images are fitted on and which are scored, for each data set and protocol."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from downstream.measurement import Target
from repro.data import caltech, flowers
from repro.data.catalogue import required_root
from repro.data.splits import Images
from repro.data.subsets import Subset, divide, join, sizes
from repro.settings.protocols import DRAWN_SPLITS
from repro.settings.run import Run

HELD_OUT_SHARE = 0.1
"""Share of the training images on which settings are chosen, if a data set has no part of its own for that."""


@dataclass(frozen=True)
class Partition:
    """A data set divided among the steps of an evaluation; nothing in `scored` is in any other part.

    Attributes:
        train: Images of the final fit: `fit` and `held_out` together.
        fit: Images to fit on while settings are chosen.
        held_out: Images to choose settings on.
        scored: Images that accuracies are measured on.
        split: Name of the scored part, for `Result.split`.
    """

    train: Images
    fit: Images
    held_out: Images
    scored: Images
    split: str


def split_seeds(dataset: str, splits: int) -> range:
    """Returns the seeds of the drawn splits over which a number is averaged.

    Args:
        dataset: Name of the data set.
        splits: How many are drawn; a data set with a split of its own always gets one seed.
    """
    return range(splits if dataset in DRAWN_SPLITS else 1)


def scored_images(run: Run, task: str, target: Target) -> Iterator[Images]:
    """Opens the images that a task is scored on, and yields one part for each drawn split.

    Args:
        run: With the settings of the evaluation.
        task: Any but detection's, whose images have boxes.
        target: The data set.

    Raises:
        UserError: The data set is missing or broken.
    """
    if task == "linear":
        return (paper_like(target, seed)[1] for seed in split_seeds(target.dataset, run.probe.splits))
    splits = run.logistic.splits if task == "logistic" else 1
    return (standard(target, seed).scored for seed in split_seeds(target.dataset, splits))


def paper_like(target: Target, seed: int) -> tuple[Images, Images, str]:
    """Opens the split that the paper's numbers look measured on.

    Caltech-101: 30 images a class drawn from a seed, scored on the rest. Flowers-102: 6,552 images drawn class by class
    from a seed, scored on 818 (the paper's accuracies are multiples of 1/818). Others: train, scored on val.

    Args:
        target: The data set.
        seed: Of the split, if one is drawn.

    Returns:
        The images to fit on, the images to score, and the name of the scored part.

    Raises:
        UserError: The data set is missing or broken.
    """
    if target.dataset == "caltech101":
        # A probe chooses no setting on held-out images, so it is trained on them as well.
        partition = standard(target, seed)
        return partition.train, partition.scored, partition.split
    if target.dataset == "flowers102":
        train, val, _ = flowers.eighty_ten_ten(flowers.open_pool(required_root(target.root)), seed)
        return train, val, "val"
    return *target.open_both(), "val"


def standard(target: Target, seed: int) -> Partition:
    """Opens a data set divided as the transfer literature does.

    Caltech-101: 30 images a class drawn from a seed, 5 of them held out, scored on the rest. Flowers-102: the official
    train (fit), val (held out) and test. Others: train, a tenth of each class held out, scored on val.

    Args:
        target: The data set.
        seed: Of the split, if one is drawn.

    Raises:
        UserError: The data set is missing or broken.
    """
    if target.dataset == "caltech101":
        fit, held_out, test = caltech.split(caltech.open_pool(required_root(target.root)), seed)
        return Partition(join(fit, held_out), fit, held_out, test, "test")
    if target.dataset == "flowers102":
        fit, held_out, test = flowers.official(required_root(target.root))
        return Partition(join(fit, held_out), fit, held_out, test, "test")
    train, val = target.open_both()
    # Of each class at least one image is held out and one is left to fit on; a single image is left to fit on.
    counts = [min(max(1, round(HELD_OUT_SHARE * size)), max(size - 1, 0)) for size in sizes(train)]
    held_out, fit = divide(train, [counts], seed)
    return Partition(Subset(train, np.arange(len(train))), fit, held_out, val, "val")
