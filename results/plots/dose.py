"""Accuracy against how well foreground covers the true objects, and its slope: the runs of `saliency-dose`."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from repro.errors import UserError
from repro.runs.schemas import Field, read_json
from repro.settings.choices import Strategy
from repro.settings.comparison import difference, plays_a_part
from repro.settings.run import Run
from repro.settings.saliency_sources import SaliencySource, SourceKind
from results.collection.runs import RunRecord
from results.statistics.distributions import t_quantile

CONFIDENCE = 0.95
"""The share of the intervals that hold the true mean."""
QUERY, HARD, BOTH = "query masks alone", "hard negatives alone", "query masks and hard negatives"
"""What the foreground of a source decides; if it decides one role only, the other one's is the true mask."""
ROLES: Mapping[str, str] = {BOTH: "query", QUERY: "query", HARD: "hard negative"}
"""What is varied -> the role in `foregrounds.json` whose IoU counts."""
_IOU = "mean IoU"
_SHARE = Field(float, low=0.0)
FEWEST_FOR_A_LINE = 4
"""Sources that it takes to draw a straight line through them, with an interval of its slope."""


@dataclass(frozen=True)
class Point:
    """One source of foreground in one role, with a number for each seed.

    Attributes:
        role: What its source decides, a key of `ROLES`.
        source: Which source it is.
        iou: Mean IoU of the foreground with the true object, one number a seed.
        values: Accuracy in percent, one number a seed.
    """

    role: str
    source: str
    iou: tuple[float, ...]
    values: tuple[float, ...]

    @property
    def means(self) -> tuple[float, float]:
        """The mean IoU and the mean accuracy over seeds."""
        return float(np.mean(self.iou)), float(np.mean(self.values))


@dataclass(frozen=True)
class Slope:
    """The straight line through the sources of a role, each of them one point, however many seeds it has.

    Attributes:
        sources: Number of points.
        rise: Points of accuracy for an IoU of 1.
        error: Its standard error, of `sources` - 2 degrees of freedom.
        intercept: Accuracy in percent at an IoU of 0.
        p: The two-sided p value of no rise.
    """

    sources: int
    rise: float
    error: float
    intercept: float
    p: float

    @property
    def interval(self) -> tuple[float, float]:
        """Student's interval of `rise`."""
        margin = t_quantile((1 + CONFIDENCE) / 2, self.sources - 2) * self.error
        return float(self.rise - margin), float(self.rise + margin)


@dataclass(frozen=True)
class Panel:
    """Runs that differ in nothing but their source of foreground, measured in one way.

    Attributes:
        title: Data set and protocol, `DATASET, PROTOCOL`.
        points: A point for each source.
        references: Rows of the same framework that need no foreground: method -> mean accuracy.
    """

    title: str
    points: tuple[Point, ...]
    references: Mapping[str, float]

    def of_role(self, role: str) -> list[Point]:
        """Returns the points through which the line of a role goes.

        For a role that is varied alone, the true mask for both is included, as the end without error.
        """
        own = [point for point in self.points if point.role == role]
        true = [point for point in self.points if point.role == BOTH and point.source == SourceKind.truth]
        return own if role == BOTH or not own else [*own, *true]


def role_of(run: Run) -> tuple[str, str]:
    """Returns what is varied in a run, a key of `ROLES`, and its source of foreground.

    A run of two sources varies the one that is not the true mask.
    """
    source, hard = run.saliency_sources
    if source == hard:
        return BOTH, str(source)
    return (HARD, str(hard)) if source == SaliencySource(SourceKind.truth) else (QUERY, str(source))


def family_of(run: Run) -> str:
    """Returns a recipe that is the same for runs that differ only in their seeds and sources of foreground."""
    by_network = run.localizer.by(str(SourceKind.network))
    return replace(run, localizer=by_network, data=replace(run.data, masks_sha256="")).recipe


def slope(points: Sequence[Point]) -> Slope | None:
    """Returns the line through the means of points; None if there are too few, or if all have the same IoU."""
    from scipy import stats  # takes a second, and few reports have such runs

    x, y = np.array([point.means for point in points]).reshape(-1, 2).T
    if len(x) < FEWEST_FOR_A_LINE or np.ptp(x) == 0:
        return None
    line = stats.linregress(x, y)
    return Slope(len(x), float(line.slope), float(line.stderr), float(line.intercept), float(line.pvalue))


def panels_of(frame: pd.DataFrame, runs: Sequence[RunRecord], task: str, metric: str = "top1") -> list[Panel]:
    """Gathers the runs that recorded how well their foregrounds cover the objects.

    Args:
        frame: Their results.
        runs: Their folders.
        task: The evaluation.
        metric: The measure of accuracy.

    Returns:
        A panel for each way of measuring and each group of runs that differ in their sources alone and have several.
    """
    frame = frame[frame["task"] == task]
    ious_of = {record.run.id: (record.run, ious) for record in runs if record.run and (ious := covered(record))}
    families: dict[tuple[str, str], Run] = {}
    gathered: dict[tuple[str, str], dict[tuple[str, str], list[tuple[float, float]]]] = {}
    for line in _lines(frame, ious_of, metric):
        run, ious = ious_of[line["run_id"]]
        role, source = role_of(run)
        if ROLES[role] in ious:
            panel = (_title(line), family_of(run))
            families[panel] = run
            pair = (ious[ROLES[role]], line["value"])
            gathered.setdefault(panel, {}).setdefault((role, source), []).append(pair)
    unguided = [record.run for record in runs if record.run and not record.run.guided]
    return [
        Panel(
            panel[0],
            tuple(Point(role, source, *zip(*pairs, strict=True)) for (role, source), pairs in sources.items()),
            _references(frame, [run for run in unguided if _beside(run, families[panel])], panel[0], metric),
        )
        for panel, sources in gathered.items()
        if len(sources) > 1
    ]


def _beside(run: Run, family: Run) -> bool:
    """Returns whether a run without foreground differs from guided ones in its masking alone.

    Such a run has the same framework, size, length and data, and masks in the same way or not at all.
    """
    if run.framework != family.framework or run.masking.strategy not in (Strategy.none, family.masking.strategy):
        return False
    shared = (name for name in difference(run, family) if plays_a_part(name, run) and plays_a_part(name, family))
    return all(name.startswith("masking.") for name in shared)


def _references(frame: pd.DataFrame, runs: Sequence[Run], title: str, metric: str) -> dict[str, float]:
    """Returns the mean of each method, measured in one way."""
    methods = {run.id: run.method for run in runs}
    gathered: dict[str, list[float]] = {}
    for line in _lines(frame, methods, metric):
        if _title(line) == title:
            gathered.setdefault(methods[line["run_id"]], []).append(line["value"])
    return {method: float(np.mean(values)) for method, values in gathered.items()}


def _lines(frame: pd.DataFrame, run_ids: Iterable[str], metric: str) -> list[dict[Hashable, Any]]:
    """Returns the results of some runs by one metric."""
    return frame[(frame["metric"] == metric) & frame["run_id"].astype(str).isin(list(run_ids))].to_dict("records")


def _title(line: Mapping[Hashable, Any]) -> str:
    return f"{line['dataset']}, {line['protocol']}"


def covered(record: RunRecord) -> dict[str, float]:
    """Returns the mean IoU of each role in a run's `foregrounds.json`; empty if the file is missing or broken."""
    try:
        content = read_json(record.folder.foregrounds, "remove it")
    except UserError:
        return {}
    roles = content.items() if isinstance(content, dict) else ()
    ious = {role: numbers.get(_IOU) for role, numbers in roles if isinstance(numbers, dict)}
    return {role: iou for role, iou in ious.items() if iou is not None and not _SHARE.fault(iou)}
