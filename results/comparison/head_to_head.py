"""The outcome of comparing two sides in one column: the difference, its certainty, classes, and images that flip."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from repro.quantities import number_text
from repro.runs.predictions import Predictions
from results.collection.runs import RunRecord
from results.paper.paper_claims import margin
from results.statistics.imagewise import Difference, McNemar
from results.statistics.paired import LEVEL, NO_NUMBERS

Position = Literal["first", "second"]
"""Identifies a side, as both may have the same name."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison, in one column.

    Attributes:
        method: Its method.
        values: Seed -> value in percent.
        predictions: Seed -> predictions; empty unless those of all seeds of both sides are of the same images.
        runs: Seed -> run folder.
        origin: Tells it apart if both sides have the same method, by its sweep for instance; else empty.
    """

    method: str
    values: dict[int, float]
    predictions: dict[int, Predictions]
    runs: dict[int, RunRecord]
    origin: str = ""

    @property
    def name(self) -> str:
        """The side as a terminal prints it: the method's name, and the origin if both sides have the same method."""
        return self.spelt(self.method)

    def spelt(self, method: str) -> str:
        """Returns the side by another spelling of its method, with the origin if there is one."""
        return f"{method} of {self.origin}" if self.origin else method

    def correct(self, metric: str) -> NDArray[np.bool_]:
        """Returns S×N: which of N scored images each of S runs gets right, in the order of `values`."""
        return np.stack([self.predictions[seed].correct(metric) for seed in self.values])

    def points(self, metric: str) -> NDArray[np.float64]:
        """Returns S×M: points that each of M distinct images adds to each run's accuracy, in the order of `values`."""
        return np.stack([self.predictions[seed].points(metric) for seed in self.values])


@dataclass(frozen=True)
class HeadToHead:
    """Two sides, compared in one column.

    Attributes:
        first: The side that is better if the difference is positive.
        second: The other side.
        column: Task, data set, split and protocol.
        metric: The metric that is compared.
        difference: First − second, and how sure it is.
        mcnemar: Seed that both sides have -> the exact test of these two runs. Empty without predictions, and if images
            are scored in several drawn splits, as the test needs independent images.
        published: The paper's difference in points, if data, settings and protocol are the paper's; else None.
        scales: Sentences that say which runs are not at the paper's scale.
        remarks: What else a reader must know, as whole sentences.
    """

    first: Side
    second: Side
    column: tuple[str, ...]
    metric: str
    difference: Difference
    mcnemar: dict[int, McNemar]
    published: float | None
    scales: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """All that is said of the comparison, scales first."""
        return (*self.scales, *self.remarks)

    @property
    def sides(self) -> dict[Position, Side]:
        """Both sides by their positions, as in `flips`."""
        return {"first": self.first, "second": self.second}

    @property
    def most_runs(self) -> int:
        """The number of runs of the side that has more of them."""
        return max(len(side.values) for side in self.sides.values())

    @property
    def imagewise(self) -> bool:
        """Whether both sides have predictions of the same images."""
        return bool(self.first.predictions)

    @property
    def better(self) -> Side | None:
        """The side that is shown to be better; None if neither is."""
        p = self.difference.p
        if p is None or p >= LEVEL:
            return None
        return self.first if self.difference.mean > 0 else self.second

    def verdict(self, spell: Callable[[Side], str] = lambda side: side.name) -> str:
        """Returns the outcome in a few words.

        Args:
            spell: Returns a side as the page prints it.
        """
        smallest = self.difference.smallest
        if smallest is None:
            return f"undecided, without a spread to judge by: {self._why_undecided}"
        of = "" if self.difference.of_seeds else " (these two runs, not the methods)"
        if self.better is not None:
            return f"{spell(self.better)} is better{of}"
        return f"no difference found{of}; this data could show {number_text(smallest)} points"

    def images_that_flip(self, position: Position) -> int:
        """Returns the number of distinct images that most runs of a side get right and most of the other side wrong."""
        flips = self.flips
        return int(flips["image"][flips["right"] == position].nunique()) if len(flips) else 0

    @property
    def _why_undecided(self) -> str:
        """Why there is no spread by which to judge."""
        if not self.difference.finite:
            return NO_NUMBERS
        if self.imagewise:
            return "the difference varies with neither seeds nor images"
        return "on either side, all seeds are alike" if self.difference.of_seeds else "one run each and no predictions"

    @property
    def p_of_equivalence(self) -> float | None:
        """The p value of equivalence to the published difference, by two one-sided tests; None if none is published."""
        if self.published is None:
            return None
        return self.difference.p_of_equivalence(self.published, margin())

    @cached_property
    def classes(self) -> pd.DataFrame:
        """For each class: distinct images, both sides' percent of correct predictions (mean over seeds), difference."""
        if not self.imagewise:
            return pd.DataFrame()
        some = next(iter(self.first.predictions.values()))
        first, second = (100 * side.correct(self.metric).mean(axis=0) for side in (self.first, self.second))
        lines = pd.DataFrame({"class": some.label, "images": some.image, "first": first, "second": second})
        by_class = lines.groupby("class").agg({"images": "nunique", "first": "mean", "second": "mean"})
        by_class["difference"] = by_class["first"] - by_class["second"]
        by_class.index = pd.Index([some.classes[label] for label in by_class.index], name="class")
        return by_class.reset_index().sort_values(["difference", "class"], ascending=[False, True], ignore_index=True)

    @cached_property
    def flips(self) -> pd.DataFrame:
        """The images that most runs of one side get right and most of the other side wrong, the clearest first.

        The column `right` holds the `Position` of the side that is right.
        """
        if not self.imagewise:
            return pd.DataFrame()
        some = next(iter(self.first.predictions.values()))
        first, second = (side.correct(self.metric).mean(axis=0) for side in (self.first, self.second))
        # Half of the runs are not most of them: an image that only half of a side gets right does not flip.
        flipped = np.flatnonzero(((first > 0.5) & (second < 0.5)) | ((first < 0.5) & (second > 0.5)))
        order = flipped[np.argsort(-np.abs(first - second)[flipped], kind="stable")]
        names = np.array(some.classes, dtype=object)
        return pd.DataFrame(
            {
                "split": some.split[order],
                "image": some.image[order],
                "class": names[some.label[order]],
                "right": np.where(first[order] > 0.5, "first", "second"),
                "first": [_said(self.first, index, names) for index in order],
                "second": [_said(self.second, index, names) for index in order],
            }
        )


def _said(side: Side, index: int, names: NDArray[Any]) -> str:
    """Returns what each run of a side predicts for an image, with its score: `cat 0.91, dog 0.45`."""
    words = [
        f"{names[of_run.prediction[index]]} {of_run.score[index]:.2f}"
        for of_run in (side.predictions[seed] for seed in side.values)
    ]
    return ", ".join(words)
