"""Two methods, sweeps or single runs against each other, image by image where predictions are at hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from repro.errors import UserError, nearest
from repro.presence import is_folder
from repro.runs.comparison import at_work_in_first
from repro.runs.comparison import difference as settings_difference
from repro.runs.folder import RunFolder
from repro.runs.predictions import FileReference, Predictions, read
from repro.runs.run_name import RunName
from results.collect import refuse_mixed
from results.imagewise import Difference, McNemar, difference_of_images, difference_of_seeds, mcnemar
from results.paired import LEVEL
from results.paper_claims import margin
from results.published import published
from results.row_comparison import TINY
from results.runs import RunRecord

COLUMN = ["task", "dataset", "split", "protocol"]
"""What two runs must agree in to be compared; their sizes and recipes may differ, but not within one of the two."""
_ONE_SIDE = [*COLUMN, "metric", "method"]
"""What the runs of one of the two agree in."""
_NARROWER = "give SWEEP/METHOD for the runs of one sweep, a run's folder, or a narrower --runs"
IMAGEWISE = ("top1", "top5", "mean_per_class")
"""Measures that predictions give image by image."""
USUAL_TASK = "linear"


@dataclass(frozen=True)
class Side:
    """One of the two, in one column.

    Attributes:
        name: As a page prints it: the method's name, and the sweep's where both have the same method.
        method: Its method.
        values: Seed -> value.
        predictions: Seed -> predictions; empty unless every seed has its own, of the same images.
        runs: Their folders, by seed.
    """

    name: str
    method: str
    values: dict[int, float]
    predictions: dict[int, Predictions]
    runs: dict[int, RunRecord]

    def correct(self, metric: str) -> NDArray[np.bool_]:
        """Returns S×N, which scored images each run gets right, in the order of the seeds."""
        return np.stack([self.predictions[seed].correct(metric) for seed in self.values])

    def points(self, metric: str) -> NDArray[np.float64]:
        """Returns S×M, points that each distinct image adds to each run's accuracy, in the order of the seeds."""
        return np.stack([self.predictions[seed].points(metric) for seed in self.values])


@dataclass(frozen=True)
class HeadToHead:
    """Two methods in one column.

    Attributes:
        first: The one that is said to be better where the difference is positive.
        second: The other one.
        column: Task, data set, split and protocol.
        metric: What is compared.
        difference: How sure it is.
        mcnemar: Seed that both have -> the exact test of these two runs; empty without predictions, and where an image
            is scored in several drawn splits: the test holds for images of which each says something of its own.
        published: The paper's difference in points where data, settings and protocol are the paper's; else None.
        notes: What else a reader must know, whole sentences.
    """

    first: Side
    second: Side
    column: tuple[str, ...]
    metric: str
    difference: Difference
    mcnemar: dict[int, McNemar]
    published: float | None
    notes: tuple[str, ...]

    @property
    def imagewise(self) -> bool:
        """Whether both have predictions of the same images."""
        return bool(self.first.predictions)

    @property
    def better(self) -> Side | None:
        """The one that is shown to be better; None where neither is."""
        p = self.difference.p
        if p is None or p >= LEVEL:
            return None
        return self.first if self.difference.mean > 0 else self.second

    def verdict(self, spell: Callable[[Side], str] = lambda side: side.name) -> str:
        """Returns what came out, in a few words.

        Args:
            spell: How a page prints a side.
        """
        smallest = self.difference.smallest
        if smallest is None:
            return f"undecided: {self._why_undecided}, nothing tells the spread"
        of = "" if self.difference.of_seeds else ", of these two runs and not of the methods"
        if self.better is not None:
            return f"{spell(self.better)} is better{of}"
        return f"no difference found{of}; this data could show {smallest:.2f} points"

    def images_that_flip(self, side: Side) -> int:
        """Returns how many distinct images most runs of a side get right and most of the other side's wrong."""
        flips = self.flips
        return int(flips["image"][flips["right"] == side.name].nunique()) if len(flips) else 0

    @property
    def _why_undecided(self) -> str:
        """Why there is no spread to judge by."""
        if {run.path for run in self.first.runs.values()} == {run.path for run in self.second.runs.values()}:
            return "both are the same runs"
        if self.imagewise:
            return "both say the same of every image"
        return "the seeds of either are all alike" if self.difference.of_seeds else "one run each and no predictions"

    @property
    def p_of_equivalence(self) -> float | None:
        """The p value of the two one-sided tests against the published difference; None where there is none."""
        if self.published is None:
            return None
        return self.difference.p_of_equivalence(self.published, margin())

    @cached_property
    def classes(self) -> pd.DataFrame:
        """Of each class: distinct images, share right of both in percent, the difference, by the mean over seeds."""
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
        """The images that most runs of one get right and most of the other's wrong, the clearest first."""
        if not self.imagewise:
            return pd.DataFrame()
        some = next(iter(self.first.predictions.values()))
        first, second = (side.correct(self.metric).mean(axis=0) for side in (self.first, self.second))
        flipped = np.flatnonzero((first > 0.5) != (second > 0.5))
        order = flipped[np.argsort(-np.abs(first - second)[flipped], kind="stable")]
        names = np.array(some.classes, dtype=object)
        return pd.DataFrame(
            {
                "split": some.split[order],
                "image": some.image[order],
                "class": names[some.label[order]],
                "right": np.where(first[order] > 0.5, self.first.name, self.second.name),
                "first": [_said(self.first, index, names) for index in order],
                "second": [_said(self.second, index, names) for index in order],
            }
        )


def _said(side: Side, index: int, names: NDArray[Any]) -> str:
    """Returns what the runs of a side say of an image, with their scores: `cat .91, dog .45`."""
    words = [
        f"{names[of_run.prediction[index]]} {of_run.score[index]:.2f}"
        for of_run in (side.predictions[seed] for seed in side.values)
    ]
    return ", ".join(words)


def compare(
    frame: pd.DataFrame, runs: Sequence[RunRecord], first: str, second: str, *, task: str = "", metric: str = ""
) -> list[HeadToHead]:
    """Compares two methods, sweeps or single runs in every column that both have.

    Args:
        frame: What `results.collect.collect_runs` returns.
        runs: The run folders at hand.
        first: A method, `SWEEP/METHOD`, a sweep, a run's folder, name or id.
        second: The same; of two sweeps each method is compared with itself.
        task: Which evaluation; by default linear where both have it, else all that both have.
        metric: Which measure; by default the task's first.

    Raises:
        UserError: Nothing goes by such a name, both have nothing in common, or runs exclude each other.
    """
    sides = [select(runs, word) for word in (first, second)]
    methods = [list(dict.fromkeys(run.method for run in side)) for side in sides]
    if len(methods[0]) == 1 and len(methods[1]) == 1:
        pairs = [(methods[0][0], methods[1][0])]
    else:
        pairs = [(method, method) for method in methods[0] if method in methods[1]]
    comparisons = [
        comparison
        for pair in pairs
        for comparison in _of_pair(frame, [_of_method(*each) for each in zip(sides, pair, strict=True)], task, metric)
    ]
    if not comparisons:
        measured = sorted(set(frame["task"].astype(str))) if task else sorted(set(frame["metric"].astype(str)))
        what = f" by {task}" if task else ""
        raise UserError(
            f"{first} and {second} have no measurement{what} in common",
            mend=f"evaluate both alike, or ask for another of {', '.join(measured)}",
        )
    return comparisons


def select(runs: Sequence[RunRecord], word: str) -> list[RunRecord]:
    """Returns the runs that a word names.

    Args:
        runs: The run folders at hand.
        word: A method, `SWEEP/METHOD`, a sweep, a run's folder, its name or the beginning of its id.

    Raises:
        UserError: There are none.
    """
    path = Path(word)
    below = [run for run in runs if is_folder(path) and run.path.resolve().is_relative_to(path.resolve())]
    named = [run for run in runs if _is_meant(run, word)]
    if not named and not below:
        known = list(dict.fromkeys(name for run in runs for name in (run.method, run.sweep)))
        raise UserError(f"no method, sweep or run '{word}'", mend=nearest(word, known))
    return named or below


def _is_meant(run: RunRecord, word: str) -> bool:
    name = RunName(run.sweep, run.method, run.path.name)
    return word in (run.method, run.sweep, f"{run.sweep}/{run.method}", run.name) or name.is_meant_by(word)


def _of_method(runs: Sequence[RunRecord], method: str) -> list[RunRecord]:
    return [run for run in runs if run.method == method]


def _of_pair(frame: pd.DataFrame, sides: list[list[RunRecord]], task: str, metric: str) -> list[HeadToHead]:
    """Compares two methods' runs in every column that both have."""
    paths = [{str(run.folder.results): run for run in side} for side in sides]
    rows = [frame[frame["path"].isin(list(of_side))] for of_side in paths]
    tasks = [set(of_side["task"].astype(str)) for of_side in rows]
    shared = tasks[0] & tasks[1]
    wanted = {task} if task else ({USUAL_TASK} if USUAL_TASK in shared else shared)
    rows = [of_side[of_side["task"].isin(list(wanted))] for of_side in rows]
    columns = [dict.fromkeys(of_side[COLUMN].astype(str).itertuples(index=False, name=None)) for of_side in rows]
    comparisons = []
    for column in (column for column in columns[0] if column in columns[1]):
        here = [of_side[(of_side[COLUMN].astype(str) == column).all(axis=1)] for of_side in rows]
        measured = [list(dict.fromkeys(of_side["metric"].astype(str))) for of_side in here]
        chosen = metric or next((name for name in measured[0] if name in measured[1]), "")
        here = [of_side[of_side["metric"] == chosen] for of_side in here]
        if all(len(of_side) for of_side in here):
            for of_side in here:
                refuse_mixed(of_side, _ONE_SIDE, mend=_NARROWER)
            comparisons.append(_compare(here, paths, column, chosen))
    return comparisons


def _compare(
    rows: list[pd.DataFrame], runs: list[dict[str, RunRecord]], column: tuple[str, ...], metric: str
) -> HeadToHead:
    """Compares two methods in one column."""
    notes: list[str] = []
    sides = [_side(of_side, of_runs, metric, notes) for of_side, of_runs in zip(rows, runs, strict=True)]
    if sides[0].method == sides[1].method:
        sides = [
            Side(f"{side.method} of {_origin(side)}", side.method, side.values, side.predictions, side.runs)
            for side in sides
        ]
    first, second = _of_the_same_images(sides[0], sides[1], notes)
    names = [*map(ord, f"{first.name}|{second.name}|{'|'.join(column)}|{metric}")]
    exact: dict[int, McNemar] = {}
    if first.predictions:
        difference = difference_of_images(first.points(metric), second.points(metric), *names)
        exact = _exact_tests(first, second, metric, notes)
    else:
        difference = difference_of_seeds(list(first.values.values()), list(second.values.values()), *names)
    notes += _differing_settings(first, second)
    notes = [*_sizes(rows, (first, second)), *notes]
    return HeadToHead(first, second, column, metric, difference, exact, _published(rows, column, metric), tuple(notes))


def _exact_tests(first: Side, second: Side, metric: str, notes: list[str]) -> dict[int, McNemar]:
    """Returns McNemar's test of each seed that both have; why there is none is added to the notes."""
    splits = next(iter(first.predictions.values())).drawn_splits
    if splits > 1:
        notes.append(f"No McNemar's test: it would count an image of {splits} drawn splits as several.")
        return {}
    return {
        seed: mcnemar(first.predictions[seed].correct(metric), second.predictions[seed].correct(metric))
        for seed in first.values
        if seed in second.values
    }


def _sizes(rows: list[pd.DataFrame], sides: Sequence[Side]) -> list[str]:
    """Returns a sentence for each size of runs that is not the paper's, with whose it is where only one has it."""
    scales = [str(of_side["scale"].iloc[0]) for of_side in rows]
    whose = ["" if scales[0] == scales[1] else f"{side.name}: " for side in sides]
    tiny = [
        f"{of}{TINY} MODE – {scale}: not comparable with the published numbers."
        for of, scale in zip(whose, scales, strict=True)
        if scale
    ]
    return list(dict.fromkeys(tiny))


def _origin(side: Side) -> str:
    """Returns what tells two sides of one method apart: the sweep, or the run of a single one."""
    runs = list(side.runs.values())
    return runs[0].name if len(runs) == 1 else runs[0].sweep


def _side(rows: pd.DataFrame, runs: dict[str, RunRecord], metric: str, notes: list[str]) -> Side:
    """Returns one side; what keeps its predictions from being used is added to the notes."""
    rows = rows.sort_values("seed")
    of_seed = {row["seed"]: row for row in rows.to_dict("records")}
    method = str(rows["method"].iloc[0])
    predictions: dict[int, Predictions] = {}
    if metric in IMAGEWISE:
        for seed, row in of_seed.items():
            if not row["predictions"]:
                notes.append(f"{method}, seed {seed}, has no predictions: it was measured by an older version.")
                continue
            named = FileReference(str(row["predictions"]), str(row["predictions_sha256"]))
            try:
                predictions[seed] = read(RunFolder(Path(row["path"]).parent), named)
            except UserError as trouble:
                notes.append(f"{trouble}.")
                continue
            given = predictions[seed].accuracy(metric)
            if abs(given - row["value"]) > 1e-3:
                notes.append(f"{method}, seed {seed}: its predictions give {given:.3f}, the row {row['value']:.3f}.")
                del predictions[seed]
    else:
        notes.append(f"{metric} is no measure of single images: the seeds alone are compared.")
    whole = predictions if len(predictions) == len(of_seed) else {}
    values = {seed: float(row["value"]) for seed, row in of_seed.items()}
    return Side(method, method, values, whole, {seed: runs[row["path"]] for seed, row in of_seed.items()})


def same_images(predictions: Sequence[Predictions]) -> bool:
    """Returns whether runs were scored on the same images of the same classes, so that they can be paired."""
    return len({(of_run.images, of_run.classes, of_run.label.tobytes()) for of_run in predictions}) == 1


def _of_the_same_images(first: Side, second: Side, notes: list[str]) -> tuple[Side, Side]:
    """Returns both sides, without predictions unless both have them, of the same images and classes."""
    every = [*first.predictions.values(), *second.predictions.values()]
    usable = bool(first.predictions) and bool(second.predictions)
    if usable and not same_images(every):
        notes.append("Their predictions are of different images: the seeds alone are compared.")
        usable = False
    if usable:
        return first, second
    return (
        Side(first.name, first.method, first.values, {}, first.runs),
        Side(second.name, second.method, second.values, {}, second.runs),
    )


def _differing_settings(first: Side, second: Side) -> list[str]:
    """Returns sentences on the settings in which the runs differ, and on those at work in one side alone."""
    one, other = (next(iter(side.runs.values())).run for side in (first, second))
    if one is None or other is None:
        return ["Settings are not compared: a run.yaml is missing or of another version."]
    different = settings_difference(one, other)
    listed = [f"{name} ({value} and {its})" for name, (value, its) in different.items()]
    notes = [f"They differ in {', '.join(listed)}."] if listed else []
    for side, sections in ((first, at_work_in_first(one, other)), (second, at_work_in_first(other, one))):
        if sections:
            told = ", ".join(f"{section} ({text})" for section, text in sections.items())
            notes.append(f"At work in {side.name} alone: {told}.")
    return notes


def _published(rows: list[pd.DataFrame], column: tuple[str, ...], metric: str) -> float | None:
    """Returns the paper's difference where both sides are as the paper has them; else None."""
    task, dataset, _, protocol = column
    firsts = [of_side.iloc[0] for of_side in rows]
    for row in firsts:
        comparison = row["departures"]
        if row["scale"] or not comparison.is_the_row or not comparison.measured_by_protocol(task, dataset, protocol):
            return None
    for name in ("table1", "table2"):
        paper = published(name)
        for group in paper.groups:
            if group.dataset != dataset or metric not in group.metrics or (paper.task or group.dataset) != task:
                continue
            values = [paper.values.get((str(row["method"]), group.name, group.metrics[metric])) for row in firsts]
            if values[0] is not None and values[1] is not None:
                return round(values[0] - values[1], 2)
    return None
