"""How many images a data set has, as far as that is known without reading any."""

from repro.data.catalogue import DATASETS, open_images
from repro.data.roots import root_of
from repro.errors import UserError
from repro.runs.run import Run


def train_images(run: Run) -> int | None:
    """Returns the images of an epoch; None where that is not known."""
    if run.data.drawn:
        return run.data.scenes.train_count
    if run.data.dataset == "folder":
        try:
            return len(open_images("folder", "train", root_of(run, "folder"), run.data.scenes))
        except UserError:  # no root, or none of that layout: whoever trains on it is told
            return None
    return published_train_images(run.data.dataset)


def published_train_images(dataset: str) -> int | None:
    """Returns the number of training images that a data set has by its publishers' word."""
    return DATASETS[dataset].expected.get("train") if dataset in DATASETS else None
