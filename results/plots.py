"""The plots: curves, published beside ours, Table 1 as bars, Table 3 by branch, accuracy against compute, galleries."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from repro.errors import UserError, nearest
from repro.files import write_atomically
from results.material import Material, NothingToDrawError
from results.published import published
from results.runs import RunRecord
from results.style import WIDTH, Theme, folded, ink, legend, limits, look, panels, themed


def curves(material: Material) -> Figure:
    """Training curves: a line for the mean over seeds, a band from the lowest to the highest."""
    drawn = [
        ("pretraining loss", "step", _series(material.runs, "loss")),
        ("kNN accuracy while pretraining, %", "step", _series(material.runs, "knn")),
        ("linear probe, top-1 on the validation images, %", "step of the probe", _probe_series(material.runs)),
    ]
    drawn = [panel for panel in drawn if panel[2]]
    if not drawn:
        raise NothingToDrawError("no run has metrics yet; start one")
    names = len({name for _, _, series in drawn for name in series})
    figure, grid = panels(len(drawn), 3.0, room=0.5 + 0.09 * names)
    for axes, (title, label, series) in zip(grid, drawn, strict=True):
        for (name, method), runs in sorted(series.items()):
            steps, values = _aligned(runs)
            style = look(method)
            every = max(len(steps) // 8, 1)
            axes.plot(
                steps,
                values.mean(0),
                style.line,
                color=style.colour,
                marker=style.marker,
                fillstyle=style.fill,
                markevery=every,
                label=f"{name} ({len(runs)})",
            )
            if len(runs) > 1:
                axes.fill_between(steps, values.min(0), values.max(0), color=style.colour, alpha=0.22, linewidth=0)
        axes.set(title=title, xlabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    tiny = "; TINY MODE, not comparable with the paper" if any(_tiny(run) for run in material.runs) else ""
    legend(figure, f"method (number of seeds); the band reaches from the lowest seed to the highest{tiny}")
    return figure


def _tiny(run: RunRecord) -> bool:
    return run.run is not None and bool(run.run.departures)


def scatter(material: Material) -> Figure:
    """Published against ours, a point for each cell of tables 1 and 2 that has both; on the line they agree."""
    lines = [material.table(name) for name in ("table1", "table2") if material.has(name)]
    if not lines:
        raise NothingToDrawError("no result belongs into a table of the paper; evaluate a run first")
    records = pd.concat(lines).dropna(subset=["published"])
    if records.empty:
        raise NothingToDrawError("no result of ours has a published number beside it")
    figure = Figure(figsize=(7.0, 5.4 + 0.09 * records["row"].nunique()), layout="constrained")
    axes = figure.subplots()
    for line in records.to_dict("records"):
        style = look(line["row"])
        comparable = pd.notna(line["difference"]) and not line["scale"]
        axes.errorbar(
            line["published"],
            line["mean"],
            yerr=None if pd.isna(line["std"]) else line["std"],
            fmt=style.marker,
            color=style.colour,
            fillstyle=style.fill if comparable else "none",
            markersize=7,
            label=line["label"],
        )
    low, high = limits([*records["published"], *records["mean"]])
    axes.plot([low, high], [low, high], color=ink(material.theme), linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set(xlim=(low, high), ylim=(low, high), xlabel="published, %", ylabel="ours, % (mean ± std over seeds)")
    axes.set(title="published against ours", aspect="equal")
    legend(figure, "half filled: SimCLR; hollow: another data set or scale than the paper's, for orientation only")
    return figure


def bars(material: Material) -> Figure:
    """Table 1 as bars: ours with the standard deviation, the published number as a line across the bar."""
    records = material.table("table1")
    places = list(dict.fromkeys(records["place"]))
    most = records.groupby("place").size().max()
    figure, grid = panels(len(places), 0.9 + 0.3 * most, room=0.3)
    for axes, place in zip(grid, places, strict=True):
        part = records[records["place"] == place].to_dict("records")
        for position, line in enumerate(part):
            _bar(axes, position, line, material.theme)
        labels = [f"{line['label']} ({line['n']})" for line in part]
        axes.set_yticks(range(len(part)), labels)
        axes.set(title=folded(place, 30), xlabel="top-1, %", ylim=(most - 0.4, -0.6))
        axes.margins(x=0.14)
        axes.grid(axis="y", visible=False)
    figure.supxlabel("bar: mean over (seeds); whisker: standard deviation; thick line: published", fontsize=8.5)
    return figure


def _bar(axes: Axes, position: int, line: Mapping[Any, Any], theme: Theme) -> None:
    style, dark = look(line["row"]), ink(theme)
    error = 0.0 if pd.isna(line["std"]) else line["std"]
    axes.barh(
        position, line["mean"], 0.62, color=style.colour, hatch=style.hatch, edgecolor=dark, linewidth=0.6, ecolor=dark
    )
    if error:
        axes.errorbar(line["mean"], position, xerr=error, color=dark, linewidth=1.2)
    end = line["mean"] + error
    if pd.notna(line["difference"]):
        axes.vlines(line["published"], position - 0.42, position + 0.42, color=dark, linewidth=2.2)
        end = max(end, line["published"])
    axes.annotate(f"{line['mean']:.1f}", (end, position), (5, 0), textcoords="offset points", va="center", fontsize=8.5)


def branches(material: Material) -> Figure:
    """Table 3: accuracy by masked branch, ours beside the paper's."""
    records = material.table("table3")
    if not records["row"].str.contains("+ours", regex=False).any():
        raise NothingToDrawError(
            "no result of a masked branch; run mocov2+ours-hp, and with masking.branch=key or both"
        )
    paper = published("table3")
    places = list(dict.fromkeys(records["place"]))
    figure, grid = panels(1 + len(places), 2.7, room=0.4)
    group = paper.groups[0].name
    values = {method: (paper.values[method, group, ""], 0.0) for method in paper.rows}
    _branch_panel(grid[0], values, "published, setting not stated", material.theme)
    for axes, place in zip(grid[1:], places, strict=True):
        part = records[records["place"] == place]
        ours = dict(zip(part["row"], zip(part["mean"], part["std"].fillna(0.0), strict=True), strict=True))
        _branch_panel(axes, ours, folded(f"ours, {place}"), material.theme)
    legend(figure, "dashed: no masking; whisker: standard deviation over seeds")
    return figure


def compute(material: Material) -> Figure:
    """Accuracy against the time that pretraining took, a point for each run."""
    records = material.table("table1")
    runs = {run.run.id: run for run in material.runs if run.run and run.training_seconds}
    longest = max((run.training_seconds or 0 for run in runs.values()), default=0)
    unit, seconds = ("hours", 3600) if longest > 2 * 3600 else ("minutes", 60)
    places = list(dict.fromkeys(records["place"]))
    figure, grid = panels(len(places), 2.7, room=0.5 + 0.09 * records["row"].nunique())
    drawn: set[str] = set()
    for axes, place in zip(grid, places, strict=True):
        for line in records[records["place"] == place].to_dict("records"):
            style = look(line["row"])
            for identity, value in _values(material, line).items():
                if identity in runs:
                    took = (runs[identity].training_seconds or 0) / seconds
                    axes.plot(
                        took,
                        value,
                        style.marker,
                        color=style.colour,
                        fillstyle=style.fill,
                        markersize=8,
                        linestyle="none",
                        label=line["label"],
                    )
                    drawn |= {attempt.get("device", "?") for attempt in runs[identity].attempts[-1:]}
        axes.set(title=folded(place), xlabel=f"pretraining, {unit}", ylabel="top-1, %")
        axes.margins(0.15)
    if not drawn:
        raise NothingToDrawError("no evaluated run has recorded how long its pretraining took")
    legend(figure, f"a point is a run; measured on {', '.join(sorted(drawn))}")
    return figure


def gallery(material: Material) -> Figure:
    """What the networks see: the first gallery of each method that has one."""
    first: dict[str, Path] = {}
    for run in material.runs:
        for path in run.galleries:
            first.setdefault(run.method, path)
    if not first:
        raise NothingToDrawError("no run has a gallery yet; start one")
    pictures = {method: _small(path) for method, path in first.items()}
    names = list(pictures)
    rows = [names[start : start + 3] for start in range(0, len(names), 3)]
    ratios = [[pictures[name].width / pictures[name].height for name in row] for row in rows]
    heights = [WIDTH / max(sum(row), 1.2) + 0.3 for row in ratios]  # pictures of a row are equally high
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    strips = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for strip, row, widths in zip(strips, rows, ratios, strict=True):
        for axes, name in zip(strip.subplots(1, len(row), squeeze=False, width_ratios=widths)[0], row, strict=True):
            axes.imshow(np.asarray(pictures[name]), interpolation="antialiased")
            axes.set_title(name)
            axes.axis("off")
    return figure


def _small(path: Path) -> Image.Image:
    """A gallery as large as a page can show it."""
    with Image.open(path) as picture:
        shown = picture.convert("RGB")
    shown.thumbnail((760, 1000))
    return shown


Plot = Callable[[Material], Figure]
PLOTS: Mapping[str, Plot] = {
    "curves": curves,
    "scatter": scatter,
    "bars": bars,
    "branches": branches,
    "compute": compute,
    "gallery": gallery,
}


def draw(name: str, material: Material, suffix: str) -> bytes:
    """Draw a plot as the content of a file.

    Args:
        name: One of `PLOTS`.
        material: What it is made of.
        suffix: `.svg` or `.png`.

    Raises:
        UserError: Unknown plot.
        NothingToDrawError: The runs at hand hold nothing that it shows.
    """
    if name not in PLOTS:
        raise UserError(f"unknown plot '{name}'", mend=nearest(name, PLOTS))
    buffer = io.BytesIO()
    with themed(material.theme):
        # A fixed date: the same runs, the same bytes.
        metadata = {"Date": None, "Creator": "salmask"} if suffix == ".svg" else {"Software": "salmask"}
        background = "none" if suffix == ".svg" else "white"
        PLOTS[name](material).savefig(buffer, format=suffix[1:], dpi=160, metadata=metadata, facecolor=background)
    return buffer.getvalue()


def save(name: str, material: Material, folder: Path) -> list[Path]:
    """Write a plot as SVG and PNG; see `draw`."""
    contents = {folder / f"{name}{suffix}": draw(name, material, suffix) for suffix in (".svg", ".png")}
    for path, content in contents.items():
        write_atomically(path, lambda file, content=content: file.write(content))  # type: ignore[misc]
    return list(contents)


def _values(material: Material, line: Mapping[Any, Any]) -> dict[str, float]:
    """Run id -> value of the runs behind a line of a table."""
    assert material.frame is not None
    frame = material.frame
    mine = frame["run_id"].isin(str(line["runs"]).split()) & (frame["metric"] == line["metric"])
    for key in ("dataset", "split", "protocol"):
        mine &= frame[key] == line[key]
    return dict(zip(frame[mine]["run_id"].astype(str), frame[mine]["value"], strict=True))


Series = dict[tuple[str, str], list[dict[float, float]]]
"""(Label, method) -> for each seed its value by step."""


def _series(runs: Sequence[RunRecord], key: str) -> Series:
    found: Series = {}
    for run in runs:
        points = {row["step"]: value for row in run.metrics for name, value in row.items() if name.startswith(key)}
        if points:
            found.setdefault((_label(run, runs), run.method), []).append(points)
    return found


def _probe_series(runs: Sequence[RunRecord]) -> Series:
    found: Series = {}
    for run in runs:
        for name, rows in run.probes.items():
            # Of the data that it was pretrained on: transfer data have courses of their own, which are no more seeds.
            own = run.run is None or name.startswith(f"{run.run.data.dataset}-linear")
            points = _top1_course(rows)
            if points and own:
                found.setdefault((_label(run, runs), run.method), []).append(points)
    return found


def _top1_course(rows: Sequence[Mapping[str, Any]]) -> dict[float, float]:
    """Top-1 by step; of a grid of rates that of the classifier which is best in the end, as the result is."""
    courses: dict[str, dict[float, float]] = {}
    for row in rows:
        for name in row:
            if name.partition("@")[0] == "top1":
                courses.setdefault(name, {})[row["step"]] = row[name]
    return max(courses.values(), key=lambda course: course[max(course)], default={})


def _label(run: RunRecord, runs: Sequence[RunRecord]) -> str:
    """The method's name; with its recipe where several are at hand."""
    recipes = {other.run.recipe for other in runs if other.method == run.method and other.run}
    return f"{run.method} {run.run.recipe[:6]}" if run.run and len(recipes) > 1 else run.method


def _aligned(runs: Sequence[dict[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """The steps that all seeds have, and seeds × steps of values."""
    steps = sorted(set.intersection(*(set(points) for points in runs)))
    return np.array(steps), np.array([[points[step] for step in steps] for points in runs])


def _branch_panel(axes: Axes, values: Mapping[str, tuple[float, float]], title: str, theme: Theme) -> None:
    branches = ("key", "both", "query")
    for strategy in ("hp", "blur", "mean"):
        base = f"mocov2+ours-{strategy}"
        style = look(base)
        names = [base if branch == "query" else f"{base}@{branch}" for branch in branches]
        points = [(place, *values[name]) for place, name in enumerate(names) if name in values]
        if points:
            place, mean, std = zip(*points, strict=True)
            label = published("table1").rows[base].label
            axes.errorbar(place, mean, yerr=std, fmt=f"-{style.marker}", color=style.colour, markersize=8, label=label)
    if "mocov2" in values:
        axes.axhline(values["mocov2"][0], color=ink(theme), linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_xticks(range(len(branches)), [f"{branch} masked" for branch in branches])
    axes.set(title=title, xlim=(-0.4, 2.4), ylabel="top-1, %")
