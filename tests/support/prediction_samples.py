"""Evaluated runs with randomly drawn predictions, for tests of `salmask compare`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from run_samples import finished

from baselines import resolve
from repro.runs.folder import RunFolder
from repro.runs.predictions import Predictions, path_of_predictions, write
from repro.runs.records import append, read
from results.collection.collect import collect_runs
from results.collection.runs import find_runs
from results.comparison.compare import compare
from results.comparison.head_to_head import HeadToHead

CLASSES = ("ant", "bee", "cat", "dog")
OURS = "mocov2+ours-hp"


def predictions(chances: np.ndarray, seed: int, images: str = "val") -> Predictions:
    """Predictions of a run for N images; a wrong prediction is the next class.

    Args:
        chances: N probabilities that an image is predicted right.
        seed: Of the draw.
        images: Fingerprint of the images.
    """
    count = len(chances)
    label = np.arange(count, dtype=np.int32) % len(CLASSES)
    right = np.random.default_rng(seed).random(count) < chances
    return Predictions(
        split=np.zeros(count, np.int32),
        image=np.arange(count, dtype=np.int32),
        label=label,
        prediction=np.where(right, label, (label + 1) % len(CLASSES)).astype(np.int32),
        score=np.full(count, 0.75, np.float32),
        place=np.where(right, 1, 2).astype(np.uint8),
        classes=CLASSES,
        images=images,
    )


def evaluated(
    root: Path,
    method: str,
    seed: int,
    of_run: Predictions,
    *,
    sweep: str = "full",
    dataset: str = "imagenet100",
    **settings: Any,
) -> RunFolder:
    """The folder of a run with top-1, mean per-class accuracy, and the predictions that they are made of."""
    values = {(dataset, metric): of_run.accuracy(metric) for metric in ("top1", "mean_per_class")}
    folder = finished(root, method, seed, values, sweep=sweep, **settings)
    row = read(folder.results)[0][0]
    named = write(path_of_predictions(folder, row.task, dataset, row.protocol), folder, of_run)
    rewritten(folder.results, predictions=named.name, predictions_sha256=named.sha256)
    return folder


def rewritten(results: Path, **changes: Any) -> None:
    """Gives all rows of a run's results other values of some fields."""
    rows = read(results)[0]
    results.unlink()
    append(results, [replace(row, **changes) for row in rows])


def two_methods(
    root: Path, chances: Mapping[str, float], *, count: int = 800, seeds: Sequence[int] = (0, 1, 2)
) -> dict[tuple[str, int], RunFolder]:
    """Runs of several methods; each image is predicted right with its method's probability."""
    return {
        (method, seed): evaluated(root, method, seed, predictions(np.full(count, chance), 100 * place + seed))
        for place, (method, chance) in enumerate(chances.items())
        for seed in seeds
    }


def compared(root: Path, first: str = OURS, second: str = "mocov2", **options: str) -> list[HeadToHead]:
    records = find_runs([root], resolve)
    return compare(collect_runs(records), records, first, second, **options)
