"""The plot of accuracy against how well foreground covers the true objects, of `salmask sweep saliency-dose`."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from repro.errors import UserError
from repro.runs.run import Run
from repro.runs.saliency_sources import SaliencySource, SourceKind
from repro.runs.schemas import Field, read_json
from results.material import Material, NothingToDrawError
from results.runs import RunRecord
from results.style import Theme, folded, ink, legend, panels

CONFIDENCE = 0.95
"""The share of the intervals that hold the true mean."""
QUERY, HARD, BOTH = "query masks alone", "hard negatives alone", "query masks and hard negatives"
"""What the foreground of a source decides where the other role's is the true mask."""
ROLES: Mapping[str, tuple[str, str, str]] = {
    BOTH: ("query", "o", "#d55e00"),
    QUERY: ("query", "^", "#0072b2"),
    HARD: ("hard negative", "s", "#009e73"),
}
"""By what is varied: whose IoU is on the axis, as `foregrounds.json` names it, marker and colour."""
_IOU = "mean IoU"
_SHARE = Field(float, low=0.0)
DASHES = ((0, (1, 2)), (0, (5, 2, 1, 2)), (0, (8, 3)))
"""The lines of methods that ask for no foreground."""
FEWEST_FOR_A_LINE = 4
"""Sources that it takes to draw a straight line through them, with an interval of its slope."""


@dataclass(frozen=True)
class Point:
    """The seeds of one recipe.

    Attributes:
        role: What its source decides, a name of `ROLES`.
        source: Which source it is.
        iou: Mean IoU of the foreground with the true object, one number a seed.
        values: Accuracy in percent, one number a seed.
    """

    role: str
    source: str
    iou: tuple[float, ...]
    values: tuple[float, ...]


def role_of(run: Run) -> tuple[str, str]:
    """Returns what is varied in a run, a name of `ROLES`, and the source that is.

    A run of two sources varies the one that is not the true mask.
    """
    source, hard = run.saliency_sources
    if source == hard:
        return BOTH, str(source)
    return (HARD, str(hard)) if source == SaliencySource(SourceKind.truth) else (QUERY, str(source))


def half_width(values: Sequence[float]) -> float:
    """Returns half of the width of Student's interval of a mean; NaN of fewer than two values."""
    if len(values) < 2:
        return float("nan")
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values))


def points_of(frame: pd.DataFrame, runs: Sequence[RunRecord], metric: str = "top1") -> dict[str, list[Point]]:
    """Gathers the runs that recorded how well their foregrounds cover the objects.

    Args:
        frame: Their results.
        runs: Their folders.
        metric: The measure of accuracy.

    Returns:
        By way of measuring, `DATASET, PROTOCOL`, a point for each recipe.
    """
    ious_of = {record.run.id: (record.run, ious) for record in runs if record.run and (ious := covered(record))}
    gathered: dict[str, dict[tuple[str, str, str], list[tuple[float, float]]]] = {}
    for line in _lines(frame, ious_of, metric):
        run, ious = ious_of[line["run_id"]]
        role, source = role_of(run)
        if ROLES[role][0] in ious:
            pair = (ious[ROLES[role][0]], line["value"])
            gathered.setdefault(_title(line), {}).setdefault((role, source, run.recipe), []).append(pair)
    return {
        title: [Point(role, source, *zip(*pairs, strict=True)) for (role, source, _), pairs in recipes.items()]
        for title, recipes in gathered.items()
    }


def references_of(frame: pd.DataFrame, runs: Sequence[RunRecord], metric: str = "top1") -> dict[str, dict[str, float]]:
    """Returns what methods reach that ask for no foreground: their mean accuracy, by way of measuring and name."""
    unguided = {record.run.id: record.method for record in runs if record.run and not record.run.guided}
    gathered: dict[str, dict[str, list[float]]] = {}
    for line in _lines(frame, unguided, metric):
        gathered.setdefault(_title(line), {}).setdefault(unguided[line["run_id"]], []).append(line["value"])
    return {
        title: {method: float(np.mean(values)) for method, values in of_panel.items()}
        for title, of_panel in gathered.items()
    }


def _lines(frame: pd.DataFrame, run_ids: Iterable[str], metric: str) -> list[dict[Hashable, Any]]:
    """Returns the results of some runs by one metric."""
    return frame[(frame["metric"] == metric) & frame["run_id"].astype(str).isin(list(run_ids))].to_dict("records")


def _title(line: Mapping[Hashable, Any]) -> str:
    return f"{line['dataset']}, {line['protocol']}"


def covered(record: RunRecord) -> dict[str, float]:
    """Returns the mean IoU of each role that a run's `foregrounds.json` tells of; empty where it is broken, or none."""
    try:
        content = read_json(record.folder.foregrounds, "remove it")
    except UserError:
        return {}
    roles = content.items() if isinstance(content, dict) else ()
    ious = {role: numbers.get(_IOU) for role, numbers in roles if isinstance(numbers, dict)}
    return {role: iou for role, iou in ious.items() if iou is not None and not _SHARE.fault(iou)}


def saliency_dose(material: Material) -> Figure:
    """Draw accuracy against the IoU of the foreground with the true object, a point for each source."""
    points = {} if material.frame is None else points_of(material.frame, material.runs)
    if not points:
        raise NothingToDrawError(
            "no evaluated run recorded how well its foreground covers the objects", mend="salmask sweep saliency-dose"
        )
    assert material.frame is not None
    references = references_of(material.frame, material.runs)
    figure, grid = panels(len(points), 3.4, room=0.8)
    for axes, (title, of_panel) in zip(grid, points.items(), strict=True):
        for role, (_, marker, colour) in ROLES.items():
            of_role = [point for point in of_panel if point.role == role]
            if of_role:
                # Of the runs that vary one role alone, the true mask for both is the end without error.
                true = [] if role == BOTH else [p for p in of_panel if p.role == BOTH and p.source == SourceKind.truth]
                slope = _draw_line(axes, colour, [*of_role, *true])
                _draw_points(axes, f"{role}{slope}", marker, colour, of_role, material.theme)
        for number, (method, value) in enumerate(references.get(title, {}).items()):
            axes.axhline(value, color=ink(material.theme), linewidth=0.9, linestyle=DASHES[number % 3], label=method)
        axes.set(title=folded(title), xlabel="mean IoU of the foreground with the true object", ylabel="top-1, %")
        axes.margins(0.1)
    counts = sorted({len(point.values) for of_panel in points.values() for point in of_panel})
    seeds = "–".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    legend(figure, f"mean of {seeds} seeds; bars: 95 % intervals; slopes: of the line through the sources, 95 %")
    return figure


def _draw_line(axes: Axes, colour: str, points: Sequence[Point]) -> str:
    """Draw the straight line through the sources' means, where there are enough, and return its slope as text."""
    x, y = (np.array([np.mean(values) for values in column]) for column in _columns(points))
    text = slope_text(x, y)
    if text:
        line, ends = stats.linregress(x, y), np.array([x.min(), x.max()])
        axes.plot(ends, line.intercept + line.slope * ends, color=colour, linewidth=0.9, linestyle=(0, (4, 3)))
    return text


def _draw_points(axes: Axes, label: str, marker: str, colour: str, points: Sequence[Point], theme: Theme) -> None:
    """Draw the points of one role with their intervals, each with its source's name."""
    x, y = (np.array([np.mean(values) for values in column]) for column in _columns(points))
    across, along = ([half_width(values) for values in column] for column in _columns(points))
    axes.errorbar(
        x,
        y,
        xerr=None if np.isnan(across).all() else across,
        yerr=None if np.isnan(along).all() else along,
        fmt=marker,
        color=colour,
        linewidth=1,
        label=label,
    )
    for point, place in zip(points, zip(x, y, strict=True), strict=True):
        axes.annotate(
            point.source,
            place,
            (4, 4),
            textcoords="offset points",
            fontsize=6.5,
            color=ink(theme),
            annotation_clip=True,
        )


def _columns(points: Sequence[Point]) -> tuple[list[tuple[float, ...]], list[tuple[float, ...]]]:
    """Returns the IoU of all points, and their accuracies, each a number a seed."""
    return [point.iou for point in points], [point.values for point in points]


def slope_text(x: np.ndarray, y: np.ndarray) -> str:
    """Returns by how many points accuracy rises for .1 of IoU, with its interval, as a legend has it.

    Sources are the units: their means over seeds count once each, however many seeds there are. Empty where there are
    too few, or all have one IoU.
    """
    if len(x) < FEWEST_FOR_A_LINE or np.ptp(x) == 0:
        return ""
    line = stats.linregress(x, y)
    margin = stats.t.ppf((1 + CONFIDENCE) / 2, len(x) - 2) * line.stderr
    low, middle, high = (0.1 * value for value in (line.slope - margin, line.slope, line.slope + margin))
    return f": {middle:+.2f} [{low:+.2f}, {high:+.2f}] points per .1 IoU"
