"""How many images a data set has, as far as that is known without decoding any."""

import functools
from pathlib import Path

from repro.data import caltech, flowers
from repro.data.catalogue import DATASETS, open_images
from repro.data.roots import root_of
from repro.errors import UserError
from repro.settings.run import Run
from repro.settings.sections import ScenesSettings


def train_images(run: Run) -> int | None:
    """Returns the number of images of an epoch; None where that is not known."""
    if run.data.drawn:
        return run.data.scenes.train_count
    dataset = run.data.dataset
    if published := published_train_images(dataset):
        return published
    try:
        return _images_below(dataset, root_of(run, dataset))
    except UserError:  # no root, or one of another layout: training on it will say so
        return None


@functools.cache  # a plan asks for each job, and to list 10^5 files takes a moment
def _images_below(dataset: str, root: Path | None) -> int:
    return len(open_images(dataset, "train", root, ScenesSettings()))


def published_train_images(dataset: str) -> int | None:
    """Returns the published number of a data set's training images; None where there is none."""
    return DATASETS[dataset].expected.get("train") if dataset in DATASETS else None


def own_train_images(run: Run, dataset: str) -> int | None:
    """Returns the number of training images of a data set whose size depends on the run; None for any other.

    Args:
        run: Says how many scenes are drawn, and where a folder of images is.
        dataset: A data set that the run is trained on or measured on.
    """
    if dataset in DATASETS and DATASETS[dataset].generated:
        return run.data.scenes.train_count
    is_own = dataset == run.data.dataset and published_train_images(dataset) is None
    return train_images(run) if is_own else None


def dataset_size(run: Run, dataset: str) -> str:
    """Returns a text that tells apart data sets of one name by their sizes; empty if the size is published or unknown.

    Args:
        run: Says how many scenes are drawn, and where a folder of images is.
        dataset: A data set that the run is trained on or measured on.
    """
    if dataset in DATASETS and DATASETS[dataset].generated:
        return f"{run.data.scenes.train_count}+{run.data.scenes.val_count}"
    return str(own_train_images(run, dataset) or "")


_DRAWN_FOR_PROBES = {
    "caltech101": caltech.TRAIN_EACH * caltech.CLASSES,
    "flowers102": flowers.EXPECTED - flowers.VAL_SHARE - flowers.TEST_SHARE,
}
"""Images that a linear probe is fitted on, where it has a split of its own; see `downstream.partitions`."""


def probe_images(dataset: str) -> int | None:
    """Returns the number of images that a linear probe on a data set is fitted on, as far as that is known."""
    return _DRAWN_FOR_PROBES.get(dataset, published_train_images(dataset))
