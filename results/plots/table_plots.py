"""The plots of the paper's tables: published against measured, Table 1 as bars, Table 3 by branch, and by compute."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repro.quantities import number_text
from repro.settings.labels import label
from results.collection.collect import KEYS
from results.paper.published import NO_HARD_NEGATIVE, WITH_HARD_NEGATIVE, published
from results.plots.material import Material, NothingToDrawError, percent
from results.plots.style import Theme, folded, ink, legend, letters_above, limits, look, panels, stacked, surface

BRANCHES = ("key", "both", "query")
"""The masked branches from left to right; in the paper's Table 3 accuracy rises in this order."""
PALE = 0.45
"""Opacity of a point that is shown for orientation only."""
MOST_SECONDS_IN_MINUTES = 2 * 3600
"""If the longest pretraining took longer, the axis of `compute` is in hours, otherwise in minutes."""


def scatter(material: Material) -> Figure:
    """Draws published against measured, a point for each cell of tables 1 and 2; on the line they agree."""
    tables = [material.table(name) for name in ("table1", "table2") if material.has(name)]
    if not tables:
        raise NothingToDrawError("no result belongs in a table of the paper", mend="evaluate a run first")
    records = pd.concat(tables).dropna(subset=["published"])
    if records.empty:
        raise NothingToDrawError("no measured number has a published number beside it")
    figure = Figure(figsize=(7.0, 5.4), layout="constrained")
    axes = figure.subplots()
    for line in records.to_dict("records"):
        style = look(line["row"])
        axes.errorbar(
            line["published"],
            line["mean"],
            yerr=None if pd.isna(line["std"]) else line["std"],
            fmt=style.marker,
            color=style.colour,
            fillstyle=style.fill,
            markerfacecoloralt=surface(material.theme),  # so that no whisker shows through the empty half
            markersize=8,
            alpha=1.0 if pd.notna(line["difference"]) else PALE,
            label=label(line["row"]),
        )
    low, high = limits([*records["published"], *records["mean"]])
    axes.plot([low, high], [low, high], color=ink(material.theme), linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set(xlim=(low, high), ylim=(low, high), xlabel="published, %", ylabel="measured, % (mean ± std over seeds)")
    axes.set(title="published against measured", aspect="equal")
    notes = ["half filled: SimCLR"] if any(look(row).fill == "left" for row in records["row"]) else []
    if records["difference"].isna().any():
        scale = "scale (TINY)" if material.tiny else "scale"
        notes.append(f"pale: other data, {scale}, settings or protocol than the paper's, for orientation only")
    legend(figure, "; ".join(notes))
    return figure


def bars(material: Material) -> Figure:
    """Draws Table 1 as bars: the mean with its standard deviation, the published number as a line across the bar."""
    records = material.table("table1")
    titles = list(dict.fromkeys(records["panel"]))
    figure, grid = stacked([int((records["panel"] == title).sum()) for title in titles], 0.3, room=0.3)
    letters = letters_above(f"{_starred(line)} ({line['n']})" for line in records.to_dict("records"))
    for axes, title in zip(grid, titles, strict=True):
        lines = records[records["panel"] == title].to_dict("records")
        for position, line in enumerate(lines):
            _bar(axes, position, line, material.theme)
        labels = [f"{_starred(line)} ({line['n']})" for line in lines]
        axes.set_yticks(range(len(lines)), labels)
        # Upside down, so that the first row is at the top.
        axes.set(title=folded(title, letters), xlabel=percent(lines[0]["metric"]), ylim=(len(lines) - 0.4, -0.6))
        axes.margins(x=0.07)  # room for the numbers behind the bars
        axes.grid(axis="y", visible=False)
    # Only signs that are drawn are explained.
    notes = {
        "bar: mean over seeds (their number)": True,
        "whisker: standard deviation": (records["std"].fillna(0.0) > 0).any(),
        "thick line: published": records["difference"].notna().any(),
        "*: not with the paper's settings": records["departures"].map(bool).any(),
    }
    figure.supxlabel("; ".join(note for note, is_drawn in notes.items() if is_drawn), fontsize=8.5)
    return figure


def _starred(line: Mapping[Any, Any]) -> str:
    """Returns a row's label, with a star if its runs are not known to be the paper's."""
    return label(line["row"]) + ("*" if line["departures"] else "")


def _bar(axes: Axes, position: int, line: Mapping[Any, Any], theme: Theme) -> None:
    """Draws the bar of a line: mean, whisker, the published number across it, and the mean as text to its right."""
    style, dark = look(line["row"]), ink(theme)
    error = 0.0 if pd.isna(line["std"]) else line["std"]
    axes.barh(
        position, line["mean"], 0.62, color=style.colour, hatch=style.hatch, edgecolor=dark, linewidth=0.6, ecolor=dark
    )
    if error:
        axes.errorbar(line["mean"], position, xerr=error, color=dark, linewidth=1.2)
    end = line["mean"] + error
    # Only if a difference is taken: beside another data set's bar the published number would look like a target.
    if pd.notna(line["difference"]):
        axes.vlines(line["published"], position - 0.42, position + 0.42, color=dark, linewidth=2.2)
        end = max(end, line["published"])
    mean = number_text(line["mean"], 1)
    axes.annotate(mean, (end, position), (5, 0), textcoords="offset points", va="center", fontsize=8.5)


def branches(material: Material) -> Figure:
    """Draws Table 3: accuracy by masked branch, measured beside the paper's."""
    records = material.table("table3")
    paper = published("table3")
    masked_methods = [row.method for row in paper.every_row.values() if row.branch in BRANCHES]
    masked = records[records["row"].isin(masked_methods)]
    if masked.empty:
        raise NothingToDrawError(
            "no result of a masked branch", mend="run mocov2+ours-hp, and with masking.branch=key or both"
        )
    titles = list(dict.fromkeys(masked["panel"]))  # a column of rows that mask none of the branches has no line to draw
    figure, grid = panels(1 + len(titles), 2.7)
    group = paper.groups[0].name
    values = {method: (paper.values[method, group, ""], 0.0) for method in paper.rows}
    _branch_panel(grid[0], values, "published, setting not stated", "top1", material.theme)
    for axes, title in zip(grid[1:], titles, strict=True):
        lines = records[records["panel"] == title]
        means = dict(zip(lines["row"], zip(lines["mean"], lines["std"].fillna(0.0), strict=True), strict=True))
        metric = str(lines["metric"].iloc[0])
        _branch_panel(axes, means, folded(f"measured, {title}"), metric, material.theme)
    notes, drawn = ["dashed: no masking"], set(records["row"])
    if any(row.method in drawn and row.block.endswith(WITH_HARD_NEGATIVE) for row in paper.every_row.values()):
        notes.append("dotted: with hard negative")
    legend(figure, "; ".join([*notes, "whisker: standard deviation over seeds"]))
    return figure


def _branch_panel(axes: Axes, values: Mapping[str, tuple[float, float]], title: str, metric: str, theme: Theme) -> None:
    """Draws a line through the branches of each block, which is a strategy in one reading of the paper's Table 3.

    Args:
        axes: Where to draw.
        values: (mean, standard deviation) by method.
        title: The panel's.
        metric: What the values are.
        theme: The page's.
    """
    paper = published("table3")
    for block in dict.fromkeys(row.block for row in paper.every_row.values() if row.branch in BRANCHES):
        methods = {row.branch: row.method for row in paper.every_row.values() if row.block == block}
        points = [
            (position, *values[methods[branch]])
            for position, branch in enumerate(BRANCHES)
            if methods[branch] in values
        ]
        if points:
            # The paper's own setting, the query masked, gives the line its name; its look is that of Table 1's row.
            style, name = look(methods["query"].removesuffix(NO_HARD_NEGATIVE)), label(methods["query"])
            line = ":" if block.endswith(WITH_HARD_NEGATIVE) else "-"
            positions, means, stds = zip(*points, strict=True)
            axes.errorbar(
                positions,
                means,
                yerr=stds if any(stds) else None,
                fmt=f"{line}{style.marker}",
                color=style.colour,
                markersize=8,
                label=name,
            )
    for row in paper.rows.values():
        if row.branch == "none" and row.method in values:
            axes.axhline(values[row.method][0], color=ink(theme), linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_xticks(range(len(BRANCHES)), [f"{branch} masked" for branch in BRANCHES])
    axes.set(title=title, xlim=(-0.4, 2.4), ylabel=percent(metric))


def compute(material: Material) -> Figure:
    """Draws accuracy against the time that pretraining took, a point for each run."""
    records = material.table("table1")
    # A run without a recorded time has no point.
    runs = {run.run.id: run for run in material.runs if run.run and run.training_seconds}
    longest = max((run.training_seconds or 0 for run in runs.values()), default=0)
    unit, seconds = ("hours", 3600) if longest > MOST_SECONDS_IN_MINUTES else ("minutes", 60)
    titles = list(dict.fromkeys(records["panel"]))
    figure, grid = panels(len(titles), 2.7)
    devices: set[str] = set()
    for axes, title in zip(grid, titles, strict=True):
        for line in records[records["panel"] == title].to_dict("records"):
            style = look(line["row"])
            for run_id, value in _values_by_run(material, line).items():
                if run_id in runs:
                    axes.plot(
                        (runs[run_id].training_seconds or 0) / seconds,
                        value,
                        style.marker,
                        color=style.colour,
                        fillstyle=style.fill,
                        markersize=8,
                        linestyle="none",
                        label=_starred(line),
                    )
                    devices |= {attempt.get("device", "?") for attempt in runs[run_id].attempts[-1:]}
        axes.set(title=folded(title), xlabel=f"pretraining, {unit}", ylabel=percent(records["metric"].iloc[0]))
        axes.margins(0.15)
    if not devices:
        raise NothingToDrawError("no evaluated run has recorded how long its pretraining took")
    legend(figure, f"a point is a run; *: not with the paper's settings; measured on {', '.join(sorted(devices))}")
    return figure


def _values_by_run(material: Material, line: Mapping[Any, Any]) -> dict[str, float]:
    """Returns the values behind a line of a table by run id."""
    assert material.frame is not None
    frame = material.frame
    behind = (frame["metric"] == line["metric"]) & frame["run_id"].astype(str).isin(line["runs"].split())
    for key in KEYS:
        behind &= frame[key] == line[key]
    return dict(zip(frame[behind]["run_id"].astype(str), frame[behind]["value"], strict=True))
