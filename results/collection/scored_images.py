"""Tells from predictions whether results were scored on the same images, without which they are not comparable."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import pandas as pd

from repro.errors import first_few
from repro.runs.predictions import read_images

_Value = TypeVar("_Value")
SCORED_IMAGES = "the scored images"
"""Names, in a list of settings, the difference of two runs that were scored on different images."""


def images_of(rows: pd.DataFrame) -> frozenset[str]:
    """Returns the fingerprints of the images on which some runs were scored, as far as their predictions tell.

    Args:
        rows: Results of one data set, split and protocol.
    """
    return images_by(rows, ()).get((), frozenset())


def images_by(rows: pd.DataFrame, keys: Sequence[str]) -> dict[tuple[str, ...], frozenset[str]]:
    """Returns what `images_of` does, for each combination of values of some columns; all of them in one pass.

    Args:
        rows: Results.
        keys: Names of columns.

    Returns:
        The columns' values -> fingerprints; combinations of which nothing is known are left out.
    """
    return sets_by_key((key, images) for key, images, *_ in _images_of_runs(rows, keys))


def sets_by_key(pairs: Iterable[tuple[tuple[str, ...], _Value]]) -> dict[tuple[str, ...], frozenset[_Value]]:
    """Returns the distinct values that stand beside each key."""
    sets: dict[tuple[str, ...], set[_Value]] = {}
    for key, value in pairs:
        sets.setdefault(key, set()).add(value)
    return {key: frozenset(values) for key, values in sets.items()}


def other_images(rows: pd.DataFrame) -> str:
    """Says which runs were scored on other images than most; empty if none were.

    A folder of images may have grown between two evaluations, or be another one of the same name. Rows without
    readable predictions are left out.

    Args:
        rows: Results of one data set, split and protocol.
    """
    runs_by_images: dict[str, list[str]] = {}
    for _, images, method, seed in _images_of_runs(rows):
        runs_by_images.setdefault(images, []).append(f"{method} s{seed}")
    return others_than_most(runs_by_images, "scored on other images")


def others_than_most(runs_by_images: Mapping[str, Sequence[str]], what: str) -> str:
    """Says which runs had other images than most; empty if none had.

    Args:
        runs_by_images: Fingerprint of the images -> names of runs.
        what: What the text says of the other runs, `scored on other images`.
    """
    most, *others = sorted(runs_by_images.values(), key=len, reverse=True) or [[]]
    names = sorted(run for runs in others for run in runs)
    return f"{first_few(names)} {what} than {most[0]}" if names else ""


def unlike_images(frame: pd.DataFrame, keys: Sequence[str]) -> Iterator[str]:
    """Yields a sentence for each data set and task of which some runs were scored on other images than most.

    Args:
        frame: Results, as `results.collection.collect.collect` returns them.
        keys: Columns in which rows of a task agree that stand side by side, the data set first. Scenes of another size
            have another scale and are meant to be other images.
    """
    with_predictions = frame[frame["predictions"] != ""]  # of a million rows there may be none
    for (task, dataset, *_), rows in with_predictions.groupby(["task", *keys], observed=True):
        if others := other_images(rows):
            yield f"{dataset} by {task}: {others}; their numbers are not comparable"


def _images_of_runs(rows: pd.DataFrame, keys: Sequence[str] = ()) -> Iterator[tuple[tuple[str, ...], str, str, int]]:
    """Yields, for each run that has predictions, values of some columns, the images, the method and the seed."""
    names = [*keys, *_OF_A_RUN]
    # Once for each file, not for each of the metrics computed from it; of these columns alone, of three dozen.
    named = rows.loc[rows["predictions"] != "", list(dict.fromkeys(names))].drop_duplicates(
        [*keys, "path", "predictions"]
    )
    for *key, path, name, checksum, method, seed in named[names].itertuples(index=False, name=None):
        if images := _images(Path(path).parent / str(name), str(checksum)):
            yield tuple(map(str, key)), images, str(method), int(seed)


_OF_A_RUN = ("path", "predictions", "predictions_sha256", "method", "seed")


@lru_cache(maxsize=65536)
def _images(path: Path, checksum: str) -> str:
    """Returns the fingerprint of the images of a file of predictions; empty if unknown."""
    del checksum  # a part of the cache's key: a file that has changed is read again
    return read_images(path)
