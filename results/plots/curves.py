"""The plot of training curves: pretraining loss, and the accuracy of linear probes, by step."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from repro.settings.labels import label
from repro.settings.method_name import MethodName
from repro.settings.protocols import metric_without_rate
from results.collection.runs import RunRecord
from results.plots.material import Material, NothingToDrawError
from results.plots.style import legend, look, panels

Series = dict[tuple[str, str], dict[str, dict[float, float]]]
"""(Label, method) -> run -> its value by step; a run that is in two sweeps counts once."""


def curves(material: Material) -> Figure:
    """Draws training curves: a line for the mean over seeds, a band from the lowest to the highest."""
    courses = [
        # A panel for each framework: the scale of its loss depends on the number of negatives or classes.
        *((f"pretraining loss, {name}", "step", series) for name, series in _loss_series(material.runs).items()),
        ("linear probe, top-1 on the validation images, %", "step of the probe", _probe_series(material.runs)),
    ]
    courses = [course for course in courses if course[2]]  # no empty panel before the first probe
    if not courses:
        raise NothingToDrawError("no run has metrics yet", mend="start a run")
    figure, grid = panels(len(courses), 3.0)
    for axes, (title, steps_of, series) in zip(grid, courses, strict=True):
        for (name, method), runs in sorted(series.items()):
            steps, values = _aligned(list(runs.values()))
            style = look(method)
            every = max(len(steps) // 8, 1)  # about eight markers a line, enough to tell lines apart without colour
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
        axes.set(title=title, xlabel=steps_of)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    legend(figure, f"method (number of seeds); the band reaches from the lowest seed to the highest{material.warning}")
    return figure


def _loss_series(runs: Sequence[RunRecord]) -> dict[str, Series]:
    """Returns the pretraining loss of each run, by its framework's printed name."""
    by_framework: dict[str, Series] = {}
    for run in runs:
        if points := {row["step"]: row["loss"] for row in run.metrics if "loss" in row}:
            of_framework = by_framework.setdefault(label(MethodName.parse(run.method).framework), {})
            _add(of_framework, (_label(run, runs), run.method), run, points)
    return by_framework


def _probe_series(runs: Sequence[RunRecord]) -> Series:
    """Returns the validation accuracy of each linear probe on the data of the pretraining; protocols are told apart."""
    courses = [
        (run, _protocol(run, name), _top1_course(rows))
        for run in runs
        for name, rows in run.probes.items()
        # Only on the data of the pretraining: a probe on transfer data would be drawn like one more seed.
        if run.run is None or name.startswith(f"{run.run.data.dataset}-linear")
    ]
    several = len({protocol for _, protocol, points in courses if points}) > 1
    series: Series = {}
    for run, protocol, points in courses:
        name = f"{_label(run, runs)}, {protocol}" if several else _label(run, runs)
        _add(series, (name, run.method), run, points)
    return series


def _protocol(run: RunRecord, probe: str) -> str:
    """Returns the protocol of a linear probe on a run's own data, from the name of its folder."""
    return probe if run.run is None else probe.removeprefix(f"{run.run.data.dataset}-")


def _add(series: Series, key: tuple[str, str], run: RunRecord, points: dict[float, float]) -> None:
    """Adds a run's course unless it is empty; of two records of one run the longer one is kept."""
    name = run.run.id if run.run else str(run.path)
    if len(points) > len(series.get(key, {}).get(name, {})):
        series.setdefault(key, {})[name] = points


def _top1_course(rows: Sequence[Mapping[str, Any]]) -> dict[float, float]:
    """Returns top-1 by step; with a grid of rates, that of the classifier which ends best, as the result is its."""
    courses: dict[str, dict[float, float]] = {}
    for row in rows:
        for name in row:
            if metric_without_rate(name) == "top1":
                courses.setdefault(name, {})[row["step"]] = row[name]
    return max(courses.values(), key=lambda course: course[max(course)], default={})  # by the value at the last step


def _label(run: RunRecord, runs: Sequence[RunRecord]) -> str:
    """Returns the method's name, with the run's recipe if several are at hand, which are never averaged."""
    recipes = {record.run.recipe for record in runs if record.method == run.method and record.run}
    return f"{label(run.method)} {run.run.recipe[:6]}" if run.run and len(recipes) > 1 else label(run.method)


def _aligned(runs: Sequence[dict[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the steps that all seeds have, and their values, seeds × steps."""
    # Some seeds may still be running: at a step that only the others have reached, the mean would jump.
    steps = sorted(set.intersection(*(set(points) for points in runs)))
    return np.array(steps), np.array([[points[step] for step in steps] for points in runs])
