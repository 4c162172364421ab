"""The forest plot: by how much each masking is better than its framework alone, with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from repro.settings.labels import label
from results.collection.collect import KEYS
from results.paper.published import Published, published
from results.plots.material import Material, NothingToDrawError, key_of, panel_titles, printed
from results.plots.style import Theme, folded, ink, letters_above, limits, look, stacked, surface
from results.statistics.paired import Comparison, difference_text, paired
from results.tables.columns import Column
from results.tables.references import without_untrained
from results.tables.selection import ValuesByCell, asked_of, by_task, frameworks_of, measured_columns, measured_tasks

TABLES = ("table1", "table2")
"""The tables whose rows stand beside a framework without masking."""
_ROW_INCHES = 0.27
"""The height of a row."""
_FEW = 3
"""Fewest seeds whose interval counts for the axis' range: that of two seeds is 9 times as wide as their spread."""


@dataclass(frozen=True)
class Effect:
    """What a masking adds to its framework, in one of our columns.

    Attributes:
        method: The row's method.
        panel: The title of the panel that shows the column, and no other one.
        comparison: Row − framework without masking, seed by seed, in points.
        published: The paper's difference in points; None if it has none by this measure.
        compares: Whether data, settings and protocol are the paper's, so that the published difference is a target.
        unlike: What else the two methods' runs differ in (`Column.unlike`), which the difference includes.
    """

    method: str
    panel: str
    comparison: Comparison
    published: float | None
    compares: bool
    unlike: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The difference as the plot prints it, `+1.20 [+0.40, +2.00] (3)`, or why there is none."""
        interval = self.comparison.interval()
        spread = f" [{difference_text(interval[0])}, {difference_text(interval[1])}]" if interval else ""
        star = "*" if self.unlike else ""
        if not self.comparison.n:
            return f"no seed that both have{star}"
        return f"{difference_text(self.comparison.mean)}{spread} ({self.comparison.n}){star}"

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        interval = self.comparison.interval()
        return interval is not None and not interval[0] <= 0 <= interval[1]


def effects(frame: pd.DataFrame, *, task: str = "", metric: str = "") -> list[Effect]:
    """Returns what each masking adds to its framework, in the order of the tables, their columns and rows.

    Untrained networks are left out, as in the report's tables.

    Args:
        frame: What `results.collection.collect.collect` returns.
        task: Another evaluation than the paper's linear probe.
        metric: Another measure than the task's first.

    Raises:
        UserError: Runs that exclude each other.
    """
    frame = without_untrained(frame)
    gathered, frameworks = [], frameworks_of(frame)
    columns = [
        (column, cells, by_task(paper, asked_of(paper, task, metric)[0]))
        for paper in map(published, TABLES)
        for column, cells in measured_columns(frame, paper, task=task, metric=metric)
    ]
    lines = [_line(column) for column, _, _ in columns]
    sizes = {key_of(line): column.sizes for line, (column, _, _) in zip(lines, columns, strict=True)}
    titles = panel_titles(lines, sizes)
    for line, (column, cells, paper) in zip(lines, columns, strict=True):
        gathered += _of_column(column, cells, paper, frameworks, titles[key_of(line)])
    return gathered


def _line(column: Column) -> dict[str, str]:
    """Returns a column as a line of a table's data names it."""
    return {**dict(zip(KEYS, column.key, strict=True)), "mark": column.mark}


def _of_column(
    column: Column, cells: ValuesByCell, paper: Published, frameworks: Mapping[str, str], title: str
) -> list[Effect]:
    """Returns the effects in a column, by its first metric alone: AP50 and AP75 follow AP."""
    metric, in_the_paper = column.metrics[0]
    # For a data set with boxes and masks, the paper prints the AP of each, in a column group of its own.
    named = printed(metric) if in_the_paper or not paper.prints(metric) else ""
    panel = f"{title}, {named}" if named else title
    values = {method: by_seed for (method, its), by_seed in cells.items() if its == metric}
    order = {method: position for position, method in enumerate(paper.every_row)}
    gathered = []
    for method in sorted(values, key=lambda method: (frameworks[method], order.get(method, len(order)), method)):
        base = frameworks[method]  # a framework's row without masking has the framework's name
        if method == base or base not in values:
            continue
        of_paper = [
            paper.values.get((name, column.group.name, in_the_paper)) if paper.prints(metric) else None
            for name in (method, base)
        ]
        target = None if None in of_paper else round(of_paper[0] - of_paper[1], 2)  # type: ignore[operator]  # no None
        unlike = column.unlike(method, base)
        compares = column.compares(method) and column.compares(base)
        # If no seed is common to both, there is no difference, but a line says so: without it, none would seem run.
        gathered.append(Effect(method, panel, paired(values[method], values[base]), target, compares, unlike))
    return gathered


def forest(material: Material) -> Figure:
    """Draws each masking's difference to its framework without masking, paired by seed, with its 95 % interval."""
    drawn = [] if material.frame is None else effects(material.frame, task=material.task, metric=material.metric)
    if not any(effect.comparison.n for effect in drawn):
        others = _tasks_that_both_have(material)
        raise NothingToDrawError(
            "no masking has a seed in common with its framework without masking",
            mend=f"--task {' or '.join(others)}, by which both have one" if others else "evaluate both, with one seed",
        )
    panels = {effect.panel: [other for other in drawn if other.panel == effect.panel] for effect in drawn}
    figure, grid = stacked([len(of_panel) for of_panel in panels.values()], _ROW_INCHES, room=0.75)
    letters = letters_above(label(effect.method) for effect in drawn)  # of all: the panels' axes are aligned
    beyond = False
    for axes, (title, of_panel) in zip(grid, panels.items(), strict=True):
        beyond |= _draw_panel(axes, of_panel, material.theme)
        axes.set_title(folded(title, letters))
    grid[-1].set_xlabel("difference to the framework without masking, in points")
    _legend(figure, drawn, material.theme, beyond=beyond)
    return figure


def _tasks_that_both_have(material: Material) -> list[str]:
    """Returns the evaluations by which there is something to draw."""
    frame, metric = material.frame, material.metric
    if frame is None:
        return []
    tasks = filter(None, measured_tasks(frame, "table1", metric))
    return [task for task in tasks if any(effect.comparison.n for effect in effects(frame, task=task, metric=metric))]


def _draw_panel(axes: Axes, effects_of_panel: Sequence[Effect], theme: Theme) -> bool:
    """Draws a line for each effect, the first one at the top, with its numbers to the right.

    Returns:
        Whether an interval goes on beyond the axis.
    """
    low, high = _range(effects_of_panel)
    goes_on = False
    for position, effect in enumerate(effects_of_panel):
        style = look(effect.method)
        fill = style.colour if effect.clear else surface(theme)
        if interval := effect.comparison.interval():
            ends = [max(interval[0], low), min(interval[1], high)]
            axes.plot(ends, [position] * 2, color=style.colour, linewidth=1.4)
            goes_on |= interval[0] < low or interval[1] > high
            for end, beyond, sign in zip(ends, (interval[0] < low, interval[1] > high), "<>", strict=True):
                # An arrow where the interval goes on beyond the axis, else its end.
                axes.plot(end, position, sign if beyond else "|", color=style.colour, markersize=6)
        if (mean := effect.comparison.mean) is not None:
            axes.plot(mean, position, style.marker, color=style.colour, markerfacecolor=fill, markersize=7)
        if effect.published is not None:
            axes.vlines(effect.published, position - 0.36, position + 0.36, **_tick(theme, compares=effect.compares))
        place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 8}
        axes.annotate(effect.text, (1.01, position), **place)
    axes.axvline(0, color=ink(theme), linewidth=0.9, linestyle=(0, (4, 3)), zorder=0.9)
    axes.set_yticks(range(len(effects_of_panel)), [label(effect.method) for effect in effects_of_panel])
    axes.set(xlim=(low, high), ylim=(len(effects_of_panel) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    return goes_on


def _range(effects_of_panel: Sequence[Effect]) -> tuple[float, float]:
    """Returns the range of a panel's axis: zero, all means and published differences, and intervals of enough seeds."""
    values = [0.0]
    for effect in effects_of_panel:
        known = (effect.comparison.mean, effect.published)
        values += [value for value in known if value is not None]
        values += (effect.comparison.interval() or ()) if effect.comparison.n >= _FEW else ()
    return limits(values)


def _tick(theme: Theme, *, compares: bool) -> dict[str, Any]:
    """Returns the look of a published difference: a target if the settings are the paper's, else paler."""
    return {"color": ink(theme), "linewidth": 2.4, "alpha": 1.0 if compares else 0.45}


def _legend(figure: Figure, drawn: Sequence[Effect], theme: Theme, *, beyond: bool) -> None:
    """Explains the signs that are drawn."""
    signs: dict[str, dict[str, Any]] = {}
    if any(effect.clear for effect in drawn):
        signs["the interval excludes zero"] = {"marker": "o"}
    if not all(effect.clear or not effect.comparison.n for effect in drawn):
        signs["it includes zero, or there is none (one seed)"] = {"marker": "o", "markerfacecolor": surface(theme)}
    if beyond:
        signs["it goes on beyond the axis"] = {"marker": ">"}
    for compares, words in ((True, "published"), (False, "published, for orientation: not the paper's setting")):
        if any(effect.published is not None and effect.compares is compares for effect in drawn):
            tick = _tick(theme, compares=compares)
            signs[words] = {"marker": "|", "markeredgewidth": tick["linewidth"], "alpha": tick["alpha"]}
    handles = [
        Line2D([], [], color=ink(theme), linestyle="none", markersize=7, label=words, **sign)
        for words, sign in signs.items()
    ]
    star = (
        "; *: their runs differ in other settings or scored images too"
        if any(effect.unlike for effect in drawn)
        else ""
    )
    note = f"mean difference over seeds, paired, with its 95 % interval (number of seeds){star}"
    figure.legend(handles=handles, loc="outside lower center", ncols=2, title=note, title_fontsize=8.5)
