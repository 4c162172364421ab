"""Predictions behind the comparisons of claims: with them, seeds and images judge a difference, else seeds alone."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.runs.predictions import FileReference, Predictions, read
from results.collection.runs import RunRecord
from results.comparison.compare import IMAGEWISE, ROUNDING, same_images
from results.statistics.imagewise import Difference, difference_of_images
from results.tables.columns import Column

KEPT = 256
"""Files of predictions kept in memory, as several claims use the same runs; of 5,000 images one takes 100 kB."""


class ColumnPredictions:
    """The predictions that the results of one of our columns name."""

    def __init__(self, column: Column, results: pd.DataFrame) -> None:
        """Remembers the files of the predictions; each is read when a comparison needs it.

        Args:
            column: The column.
            results: Results, those of the column among them.
        """
        self._where = "|".join(column.key)
        named = column.rows_of(results[results["predictions"] != ""])
        cells = named[["method", "metric", "seed", "path", "predictions", "predictions_sha256", "value"]]
        self._named = {
            (str(method), str(metric), int(seed)): (Path(path).parent, FileReference(name, checksum), float(value))
            for method, metric, seed, path, name, checksum, value in cells.itertuples(index=False, name=None)
        }

    def judge(self, better: str, worse: str, metric: str, seeds: Sequence[int]) -> Difference | None:
        """Judges the difference of two methods by the images of the runs with these seeds.

        Args:
            better: A method.
            worse: Another one.
            metric: The metric by which they are compared.
            seeds: Two or more seeds that both have.

        Returns:
            The difference better − worse. None if a run has no predictions for this metric that can be read, or if the
            runs were scored on different images; then the seeds decide.
        """
        if metric not in IMAGEWISE:
            return None
        sides: list[dict[int, Predictions]] = []
        for method in (better, worse):
            of_seeds = {seed: self._read(method, metric, seed) for seed in seeds}
            sides.append({seed: said for seed, said in of_seeds.items() if said is not None})
        first, second = sides
        if len(first) + len(second) < 2 * len(seeds) or not same_images([*first.values(), *second.values()]):
            return None
        # Sorted by name: a claim and its opposite are one test, and must use the same draws.
        low, high = (first, second) if better < worse else (second, first)
        points = [np.stack([side[seed].points(metric) for seed in seeds]) for side in (low, high)]
        names = map(ord, "|".join((*sorted((better, worse)), self._where, metric)))
        difference = difference_of_images(points[0], points[1], *names)
        return difference if low is first else difference.reversed()

    def unusable(self, methods: Sequence[str], metric: str, seeds: Sequence[int]) -> tuple[str, ...]:
        """Returns the runs whose results name predictions that are missing, were changed, or give another value."""
        return tuple(
            RunRecord(self._named[method, metric, seed][0]).name
            for method in methods
            for seed in seeds
            if metric in IMAGEWISE and (method, metric, seed) in self._named and not self._read(method, metric, seed)
        )

    def _read(self, method: str, metric: str, seed: int) -> Predictions | None:
        """Returns the predictions of a run; None if there are none, or if they do not give the recorded value."""
        named = self._named.get((method, metric, seed))
        if named is None:
            return None
        folder, reference, value = named
        said = _read(folder, reference)
        return said if said is not None and abs(said.accuracy(metric) - value) <= ROUNDING else None


@lru_cache(maxsize=KEPT)
def _read(folder: Path, reference: FileReference) -> Predictions | None:
    """Reads a file and verifies its checksum; returns None if it is missing, altered or unreadable."""
    try:
        return read(RunFolder(folder), reference)
    except UserError:
        return None
