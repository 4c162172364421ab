"""What a number can be compared with: chance, and the network before its training."""

from collections.abc import Sequence

import pandas as pd

from repro.data import caltech
from repro.data.catalogue import DATASETS
from repro.settings.labels import label
from repro.settings.run import Run
from results.formats.layout import Cell, Line
from results.tables.cells import measured, summary
from results.tables.columns import Column

NEGLIGIBLE_RATE = 1e-6
"""A run at a lower learning rate counts as untrained, as its weights do not change enough to change a result."""
RANDOM_WEIGHTS = "random"
"""`imported.origin` of weights that never saw an image."""
FLOWERS = 102
"""Number of classes of Flowers-102, whose names the catalogue does not list."""
BY_CHANCE = {"top1": 1, "top1_best": 1, "top5": 5, "mean_per_class": 1}
"""Metric -> how many guesses it allows: of C classes a guess hits the right one in 1 / C of the images."""


def is_untrained(run: Run | None) -> bool:
    """Returns whether a run's network is as it was drawn: imported so, or "trained" at a negligible rate."""
    if run is None:
        return False
    return run.optimization.lr < NEGLIGIBLE_RATE or run.imported.origin == RANDOM_WEIGHTS


def without_untrained(results: pd.DataFrame) -> pd.DataFrame:
    """Returns the results of trained networks; all of them where there are no others.

    Args:
        results: With `departures`, as `results.collection.collect.collect` returns them.
    """
    trained = ~_untrained(results)
    return results[trained] if trained.any() else results


def has_untrained_among_trained(results: pd.DataFrame) -> bool:
    """Returns whether there are results of trained and of untrained networks, so that these must be shown apart.

    Args:
        results: As for `without_untrained`.
    """
    return len(without_untrained(results)) < len(results)


def reference_lines(columns: Sequence[Column], results: pd.DataFrame, kinds: Sequence[str]) -> tuple[Line, ...]:
    """Makes a table's last rows: chance, and each untrained network that was measured as a column's runs were.

    Args:
        columns: The table's column groups.
        results: What the table is made of, with the results of untrained networks.
        kinds: The kinds of columns in each group, in order.

    Returns:
        The rows that have a number: none if no number of classes is known and no such network was measured.
    """
    untrained = results[_untrained(results)]
    methods = list(dict.fromkeys(untrained["method"].astype(str)))
    rows = {"chance": [_chance(column, metric) for column in columns for metric, _ in column.metrics]}
    for method in methods:
        of_method = untrained[untrained["method"] == method]
        cells = [_before_training(column, metric, of_method) for column in columns for metric, _ in column.metrics]
        rows[f"untrained network ({label(method)})"] = cells
    return tuple(
        Line((name,), tuple(cell if kind == "measured" else Cell("–") for cell in cells for kind in kinds))
        for name, cells in rows.items()
        if any(cell.text != "–" for cell in cells)
    )


def classes_of(dataset: str, run: Run | None) -> int | None:
    """Returns how many classes a data set has; None if that is not known without reading it.

    Args:
        dataset: The data set's name.
        run: A run that was evaluated on it; its settings tell how many classes drawn scenes have.
    """
    entry = DATASETS.get(dataset)
    if entry is not None and entry.generated:
        return run.data.scenes.classes if run is not None and run.data.dataset == dataset else None
    if entry is not None and entry.classes is not None:
        return len(entry.classes)
    return {"caltech101": caltech.CLASSES, "flowers102": FLOWERS}.get(dataset)


def _untrained(results: pd.DataFrame) -> "pd.Series[bool]":
    return results["departures"].map(lambda comparison: is_untrained(comparison.run)).astype(bool)


def _runs(column: Column) -> list[Run]:
    return [comparison.run for comparison in column.comparisons.values() if comparison.run is not None]


def _chance(column: Column, metric: str) -> Cell:
    counts = {classes_of(column.dataset, run) for run in _runs(column)} or {classes_of(column.dataset, None)}
    if column.planned or metric not in BY_CHANCE or len(counts) != 1 or None in counts:
        return Cell("–")
    (classes,) = counts
    assert classes is not None
    return Cell(f"{100 * min(BY_CHANCE[metric] / classes, 1):.2f}")


def _before_training(column: Column, metric: str, untrained: pd.DataFrame) -> Cell:
    """Returns the cell of an untrained network, if that was measured on the same images in the same way."""
    same = (untrained["metric"] == metric) & (untrained["dataset"] == column.dataset)
    same &= untrained["protocol"] == column.protocol
    same &= untrained["split"] == column.split
    runs = _runs(column)
    rows = untrained[same]
    comparable = rows["departures"].map(lambda comparison: any(_alike(comparison.run, run) for run in runs))
    rows = rows[comparable.astype(bool)]
    # With two runs of one seed it is unknown which is meant; runs of two recipes are no seeds of one network.
    if rows.empty or rows["seed"].duplicated().any() or rows["recipe"].nunique() > 1:
        return Cell("–")
    return Cell(summary(rows["value"]), behind=measured(rows))


def _alike(untrained: Run, trained: Run) -> bool:
    """Returns whether two runs' networks are of one shape and see images of one kind and size."""
    shapes = {(run.encoder.arch, run.encoder.width, run.data.crop) for run in (untrained, trained)}
    # Imported weights do not name their training images.
    same_images = untrained.imported.weights != "" or untrained.data.scenes == trained.data.scenes
    return len(shapes) == 1 and same_images
