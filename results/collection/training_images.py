"""Whether runs were trained on the same images, as their folders tell: numbers of others do not compare."""

from collections.abc import Iterable, Iterator

import pandas as pd

from repro.runs.run import Run
from repro.runs.sections import ScenesSettings
from results.collection.runs import RunRecord
from results.collection.scored_images import others_than_most

TRAINING_IMAGES = "the training images"
"""What two runs differ in that were trained on different ones, in a list of settings."""

_Settings = tuple[str, int, ScenesSettings | None]
"""What the settings of a run say of the images that it is trained on: data set, side, and of scenes how they are."""
TrainingImages = tuple[_Settings, str]
"""The settings of the images of a training, and the fingerprint of those that it saw."""


def training_images(rows: pd.DataFrame) -> frozenset[TrainingImages]:
    """Returns the images that some runs were trained on, as far as their folders tell.

    Args:
        rows: Of `results.collection.collect.collect`.
    """
    return frozenset(images for images, _ in _images_of_runs(rows))


def are_unlike(images: Iterable[TrainingImages]) -> bool:
    """Returns whether trainings saw different images where their settings say that they saw the same.

    Args:
        images: What `training_images` returns, of one method or of several.
    """
    different = set(images)
    return len({settings for settings, _ in different}) < len(different)


def unlike_training_images(rows: pd.DataFrame) -> list[str]:
    """Returns a sentence for each data set of which some runs were trained on other images than most.

    A folder of images may have grown between two trainings, or be another one of the same name. Images that differ by
    the runs' settings are meant to differ, and of runs that do not tell their images or settings nothing is said.

    Args:
        rows: Of `results.collection.collect.collect`.
    """
    return _sentences(_images_of_runs(rows))


def unlike_trainings(runs: Iterable[RunRecord]) -> list[str]:
    """Returns the same of run folders, whether or not anything was measured of them."""
    return _sentences(
        ((_settings(record.run), record.trained_on), _name(record.sweep, record.method, record.run.seed))
        for record in runs
        if record.trained_on and record.run is not None
    )


def _sentences(images_of_runs: Iterable[tuple[TrainingImages, str]]) -> list[str]:
    by_settings: dict[_Settings, dict[str, list[str]]] = {}
    for (settings, fingerprint), name in images_of_runs:
        by_settings.setdefault(settings, {}).setdefault(fingerprint, []).append(name)
    return [
        f"{dataset}: {others}; their numbers do not compare"
        for (dataset, *_), by_fingerprint in by_settings.items()
        if (others := others_than_most(by_fingerprint, "trained on other images"))
    ]


def _images_of_runs(rows: pd.DataFrame) -> Iterator[tuple[TrainingImages, str]]:
    """Yields the images of the training of each run that tells them, and what the run is called."""
    told = rows[rows["trained_on"] != ""].drop_duplicates("path")
    columns = told[["trained_on", "departures", "sweep", "method", "seed"]]
    for fingerprint, comparison, sweep, method, seed in columns.itertuples(index=False, name=None):
        if comparison.run is not None:
            yield (_settings(comparison.run), str(fingerprint)), _name(sweep, method, seed)


def _settings(run: Run) -> _Settings:
    data = run.data
    return data.dataset, data.cached_side, data.scenes if data.drawn else None


def _name(sweep: str, method: str, seed: int) -> str:
    # With the sweep: two of them may have seeds of one method, each trained on a folder of its own.
    return f"{sweep}/{method} s{seed}"
