"""The plot of accuracy against how well foreground covers the true objects, of `salmask sweep saliency-dose`."""

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repro.quantities import counted
from repro.settings.labels import label
from results.paper.published import table1
from results.plots.dose import BOTH, CONFIDENCE, HARD, QUERY, Point, Slope, panels_of, slope
from results.plots.material import Material, NothingToDrawError, percent
from results.plots.style import Theme, folded, ink, legend, panels
from results.statistics.distributions import t_quantile
from results.statistics.paired import difference_text

LOOKS: Mapping[str, tuple[str, str]] = {BOTH: ("o", "#d55e00"), QUERY: ("^", "#0072b2"), HARD: ("s", "#009e73")}
"""What is varied -> marker and colour."""
DASHES = ((0, (1, 2)), (0, (5, 2, 1, 2)), (0, (8, 3)), (0, (3, 2, 1, 2, 1, 2)))
"""Line styles of methods that need no foreground."""
APART = 0.035
"""Least distance between the names of sources on the axis of IoU, so that they do not overlap."""


def saliency_dose(material: Material) -> Figure:
    """Draws accuracy against the IoU of the foreground with the true object, a point for each source."""
    task, metric = material.task or table1().task, material.metric or table1().metrics[0]
    drawn = [] if material.frame is None else panels_of(material.frame, material.runs, task, metric)
    if not drawn:
        raise NothingToDrawError(
            "no two evaluated runs that differ in their source of foreground alone recorded how well it covers the "
            "objects",
            mend="salmask sweep saliency-dose",
        )
    figure, grid = panels(len(drawn), 3.4)
    for axes, panel in zip(grid, drawn, strict=True):
        slopes = []
        for role, (marker, colour) in LOOKS.items():
            own = [point for point in panel.points if point.role == role]
            if own:
                through = panel.of_role(role)
                line = slope(through)
                if line:
                    _draw_line(axes, colour, line, through)
                    slopes.append(f"{role}: {slope_text(line)}")
                _draw_points(axes, role, marker, colour, own)
        _name_sources(axes, panel.points, material.theme)
        for number, (method, value) in enumerate(panel.references.items()):
            dashes = DASHES[number % len(DASHES)]
            axes.axhline(value, color=ink(material.theme), linewidth=0.9, linestyle=dashes, label=label(method))
        axes.set(title=folded(panel.title), xlabel="mean IoU of the foreground with the true object")
        axes.set(ylabel=percent(metric))
        axes.margins(0.1)
        # A panel's slopes are printed in it, below all points, since the legend is shared by all panels.
        low, high = axes.get_ylim()
        axes.set_ylim(low - 0.14 * (high - low), high)
        axes.text(0.02, 0.02, "\n".join(slopes), transform=axes.transAxes, fontsize=6.5, color=ink(material.theme))
    counts = sorted({len(point.values) for panel in drawn for point in panel.points})
    seeds = counted(counts[0], "seed") if len(counts) == 1 else f"{counts[0]}–{counts[-1]} seeds"
    note = f"mean of {seeds}; bars: 95 % intervals; slopes: of the line through the sources, 95 %"
    legend(figure, note + material.warning)
    return figure


def _draw_line(axes: Axes, colour: str, line: Slope, points: Sequence[Point]) -> None:
    """Draws the straight line from the least to the greatest IoU."""
    ious = [point.means[0] for point in points]
    ends = np.array([min(ious), max(ious)])
    axes.plot(ends, line.intercept + line.rise * ends, color=colour, linewidth=0.9, linestyle=(0, (4, 3)))


def _name_sources(axes: Axes, points: Sequence[Point], theme: Theme) -> None:
    """Writes the sources' names above the panel, each once, with a line to the points of all roles that have it."""
    ious: dict[str, list[float]] = {}
    for point in points:
        ious.setdefault(point.source, []).append(point.means[0])
    places: list[float] = []
    names = sorted(ious, key=lambda name: fmean(ious[name]))
    for name in names:
        iou = fmean(ious[name])
        places.append(max(iou, places[-1] + APART) if places else iou)
        axes.plot([iou, places[-1]], [0.95, 1.0], color=ink(theme), linewidth=0.5, transform=axes.get_xaxis_transform())
    above = axes.secondary_xaxis("top")
    above.set_xticks(places, names)
    above.tick_params(labelsize=6.5, labelrotation=45, length=0, pad=1)
    for text in above.get_xticklabels():
        text.set(ha="left", rotation_mode="anchor")


def _draw_points(axes: Axes, role: str, marker: str, colour: str, points: Sequence[Point]) -> None:
    """Draws the points of one role with their intervals."""
    x, y = zip(*(point.means for point in points), strict=True)
    across = [half_width(point.iou) for point in points]
    along = [half_width(point.values) for point in points]
    axes.errorbar(
        x,
        y,
        xerr=None if np.isnan(across).all() else across,
        yerr=None if np.isnan(along).all() else along,
        fmt=marker,
        color=colour,
        linewidth=1,
        label=role,
    )


def slope_text(line: Slope) -> str:
    """Returns by how many points accuracy rises for .1 of IoU, with its interval, as a legend has it."""
    low, middle, high = (0.1 * value for value in (line.interval[0], line.rise, line.interval[1]))
    return f"{difference_text(middle)} [{difference_text(low)}, {difference_text(high)}] points per .1 IoU"


def half_width(values: Sequence[float]) -> float:
    """Returns half the width of Student's interval of a mean; NaN for fewer than two values."""
    if len(values) < 2:
        return float("nan")
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return float(t_quantile((1 + CONFIDENCE) / 2, len(values) - 1) * error)
