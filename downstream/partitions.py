"""Which images are fitted on and which are scored, for each data set and protocol."""

from dataclasses import dataclass

import numpy as np

from downstream.measurement import Target
from repro.data import caltech, flowers
from repro.data.catalogue import needed
from repro.data.splits import Images
from repro.data.subsets import Subset, divide, join, sizes
from repro.runs.protocols import DRAWN_SPLITS

HELD_OUT_SHARE = 0.1
"""Of the training images, where a data set has no validation part of its own to choose settings on."""


@dataclass(frozen=True)
class Partition:
    """Disjoint parts of a data set.

    Attributes:
        train: To fit on, `held_out` among them.
        fit: To fit on while settings are chosen.
        held_out: To choose settings on.
        scored: What accuracies are measured on.
        split: Name of the scored part, for `Result.split`.
    """

    train: Images
    fit: Images
    held_out: Images
    scored: Images
    split: str


def split_seeds(dataset: str, splits: int) -> range:
    """Seeds of the drawn splits that a number is the mean of; one where the data set has a split of its own."""
    return range(splits if dataset in DRAWN_SPLITS else 1)


def paper_like(target: Target, seed: int) -> tuple[Images, Images, str]:
    """What the paper's numbers look measured on: images to fit on, images to score, and the name of these.

    Caltech-101: 30 images a class drawn from a seed, scored on the rest. Flowers-102: 6,552 images drawn class by class
    from a seed, scored on 818 (the paper's accuracies are multiples of 1/818). Others: train, scored on val.

    Args:
        target: the data set.
        seed: of the split, where one is drawn.

    Raises:
        UserError: the data set is missing or broken.
    """
    if target.dataset == "caltech101":
        parts = standard(target, seed)
        return parts.train, parts.scored, parts.split
    if target.dataset == "flowers102":
        train, val, _ = flowers.eighty_ten_ten(flowers.open_pool(needed(target.root)), seed)
        return train, val, "val"
    return *target.open_both(), "val"


def standard(target: Target, seed: int) -> Partition:
    """What the literature measures on.

    Caltech-101: 30 images a class drawn from a seed, 5 of them held out, scored on the rest. Flowers-102: the official
    train (fit), val (held out) and test. Others: train, a tenth of each class held out, scored on val.

    Args:
        target: the data set.
        seed: of the split, where one is drawn.

    Raises:
        UserError: the data set is missing or broken.
    """
    if target.dataset == "caltech101":
        fit, held_out, scored = caltech.split(caltech.open_pool(needed(target.root)), seed)
        return Partition(join(fit, held_out), fit, held_out, scored, "test")
    if target.dataset == "flowers102":
        fit, held_out, scored = flowers.official(needed(target.root))
        return Partition(join(fit, held_out), fit, held_out, scored, "test")
    train, val = target.open_both()
    # At least one of a class is held out, and one is left to fit on.
    counts = [min(max(1, round(HELD_OUT_SHARE * size)), max(size - 1, 0)) for size in sizes(train)]
    held_out, fit = divide(train, [counts], seed)
    return Partition(Subset(train, np.arange(len(train))), fit, held_out, val, "val")
