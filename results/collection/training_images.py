"""Tells from run folders whether runs were trained on the same images, without which they are not comparable."""

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from repro.settings.run import Run
from repro.settings.sections import ScenesSettings
from results.collection.runs import RunRecord
from results.collection.scored_images import others_than_most, sets_by_key

TRAINING_IMAGES = "the training images"
"""Names, in a list of settings, the difference of two runs that were trained on different images."""

_Settings = tuple[str, int, ScenesSettings | None]
"""What a run's settings say of its training images: data set, side, and for scenes how they are drawn."""
TrainingImages = tuple[_Settings, str]
"""What the settings say of a run's training images, and the fingerprint of the images that it saw."""


def training_images(rows: pd.DataFrame) -> frozenset[TrainingImages]:
    """Returns the images on which some runs were trained, as far as their folders tell.

    Args:
        rows: Rows of what `results.collection.collect.collect` returns.
    """
    return training_images_by(rows, ()).get((), frozenset())


def training_images_by(rows: pd.DataFrame, keys: Sequence[str]) -> dict[tuple[str, ...], frozenset[TrainingImages]]:
    """Returns what `training_images` does, for each combination of values of some columns; all of them in one pass.

    Args:
        rows: Rows of what `results.collection.collect.collect` returns.
        keys: Names of columns.

    Returns:
        The columns' values -> images; combinations of which nothing is known are left out.
    """
    return sets_by_key((key, images) for key, images, _ in _images_of_runs(rows, keys))


def are_unlike(images: Iterable[TrainingImages]) -> bool:
    """Returns whether trainings saw different images although their settings name the same.

    Args:
        images: What `training_images` returns, of one method or of several.
    """
    different = set(images)
    return len({settings for settings, _ in different}) < len(different)


def unlike_training_images(rows: pd.DataFrame) -> list[str]:
    """Returns a sentence for each data set of which some runs were trained on other images than most.

    A folder of images may have grown between two trainings, or be another one of the same name. Images that differ by
    the runs' settings are meant to differ. Runs of unknown images or settings are left out.

    Args:
        rows: Rows of what `results.collection.collect.collect` returns.
    """
    return _sentences((images, name) for _, images, name in _images_of_runs(rows))


def unlike_trainings(runs: Iterable[RunRecord]) -> list[str]:
    """Returns the sentences of `unlike_training_images` for run folders, whether or not they have results."""
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
        f"{dataset}: {others}; their numbers are not comparable"
        for (dataset, *_), by_fingerprint in by_settings.items()
        if (others := others_than_most(by_fingerprint, "trained on other images"))
    ]


def _images_of_runs(
    rows: pd.DataFrame, keys: Sequence[str] = ()
) -> Iterator[tuple[tuple[str, ...], TrainingImages, str]]:
    """Yields, for each run whose training images are known, values of some columns, these images and its name."""
    names = [*keys, "trained_on", "departures", "sweep", "method", "seed"]
    told = rows.loc[rows["trained_on"] != "", list(dict.fromkeys(["path", *names]))].drop_duplicates([*keys, "path"])
    for *key, fingerprint, comparison, sweep, method, seed in told[names].itertuples(index=False, name=None):
        if comparison.run is not None:
            images = _settings(comparison.run), str(fingerprint)
            yield tuple(map(str, key)), images, _name(sweep, method, seed)


def _settings(run: Run) -> _Settings:
    data = run.data
    return data.dataset, data.cached_side, data.scenes if data.drawn else None


def _name(sweep: str, method: str, seed: int) -> str:
    # With the sweep: the same method and seed may be in two sweeps, trained on different folders.
    return f"{sweep}/{method} s{seed}"
