"""How many images a data set has, as far as that is known without opening it."""

from pathlib import Path

from repro.data.catalogue import DATASETS
from repro.runs.run import Run


def train_images(run: Run) -> int | None:
    """Returns the images of an epoch; None where that is not known."""
    if run.data.drawn:
        return run.data.scenes.train_count
    if run.data.dataset == "folder":
        train = Path(run.machine.data_root) / "train"
        return sum(1 for path in train.glob("*/*") if path.is_file()) or None if run.machine.data_root else None
    return published_train_images(run.data.dataset)


def published_train_images(dataset: str) -> int | None:
    """Returns the number of training images that a data set has by its publishers' word."""
    return DATASETS[dataset].expected.get("train") if dataset in DATASETS else None
