"""How a measure depends on how well the foreground covers the object: the plot, and the slope beside it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_samples import FOREGROUNDS, finished, with_foreground
from scipy import stats

from baselines import resolve
from repro.runs.records import append, read
from results.collection.collect import collect_runs
from results.collection.runs import find_runs
from results.plots.dose import BOTH, HARD, QUERY, Point, panels_of, slope
from results.plots.dose_plot import APART, half_width, saliency_dose, slope_text
from results.plots.material import Material


def test_a_dose_is_drawn_against_the_iou_of_the_role_that_is_varied_with_intervals(tmp_path: Path) -> None:
    for seed in range(3):
        for number, source in enumerate(FOREGROUNDS):
            with_foreground(tmp_path, source, seed, top1=40 + 5 * number + seed, iou=0.1 * number)
        with_foreground(tmp_path, "truth", seed, hard="random", top1=30 + seed, iou=0.6)
        with_foreground(tmp_path, "inverted", seed, hard="truth", top1=20 + seed, iou=0.3)
        finished(tmp_path, "mocov2", seed, {("scenes", "top1"): 33.0 + seed}, data__dataset="scenes")
    runs = find_runs([tmp_path], resolve)
    frame = collect_runs(runs)
    (panel,) = panels_of(frame, runs, "linear")
    drawn = {(point.role, point.source): (point.iou, point.values) for point in panel.points}
    assert drawn[BOTH, "truth-dilated-2"] == ((0.1, 0.1, 0.1), (45.0, 46.0, 47.0))
    assert drawn[HARD, "random"] == (pytest.approx((0.7, 0.7, 0.7)), (30.0, 31.0, 32.0))
    assert drawn[QUERY, "inverted"] == ((0.3, 0.3, 0.3), (20.0, 21.0, 22.0))
    assert len(drawn) == 6
    assert panel.references == {"mocov2": 34.0}
    # Student's t(.975, 2) = 4.303, times 1 / sqrt(3).
    assert half_width((45.0, 46.0, 47.0)) == pytest.approx(4.3027 / 3**0.5, abs=1e-3)
    figure = saliency_dose(Material(runs, frame))
    axes = figure.axes[0]
    rise = f"{BOTH}: +5.00 [+5.00, +5.00] points per .1 IoU"
    assert [text.get_text() for text in axes.texts] == [rise]
    (above,) = axes.child_axes
    assert {text.get_text() for text in above.get_xticklabels()} == {*FOREGROUNDS, "random", "inverted"}
    gaps = np.diff([text.get_position()[0] for text in above.get_xticklabels()])
    assert gaps.min() >= APART - 1e-9  # no label overlaps another
    assert figure.legends[0].get_title().get_text().endswith("; TINY MODE, not comparable with the paper")
    bars = [container for container in axes.containers if container.has_yerr]
    assert len(bars) == 3


def test_a_dose_is_of_runs_that_differ_in_their_source_alone(tmp_path: Path) -> None:
    """The study's folder also has rows with the frozen network's foreground that fill or mask otherwise."""
    for source, top1 in (("network", 50.0), ("truth", 60.0)):
        with_foreground(tmp_path, source, 0, top1=top1)
    with_foreground(tmp_path, "network", 0, top1=10.0, masking__strategy="mean_fill")
    finished(tmp_path, "simclr", 0, {("scenes", "top1"): 33.0}, data__dataset="scenes")
    finished(tmp_path, "mocov2", 0, {("scenes", "top1"): 5.0}, data__dataset="scenes", optimization__epochs=6)
    finished(
        tmp_path, "mocov2+adios", 0, {("scenes", "top1"): 34.0}, data__dataset="scenes", masking__strategy="learned"
    )
    runs = find_runs([tmp_path], resolve)
    (panel,) = panels_of(collect_runs(runs), runs, "linear")
    assert sorted((point.source, point.values) for point in panel.points) == [("network", (50.0,)), ("truth", (60.0,))]
    assert panel.references == {}


def test_a_dose_is_by_the_evaluation_that_is_asked_for(tmp_path: Path) -> None:
    """There used to be a panel for each evaluation, whatever --task said."""
    for number, source in enumerate(FOREGROUNDS):
        with_foreground(tmp_path, source, 0, top1=40 + 5 * number, iou=0.1 * number)
    for results in tmp_path.rglob("results.jsonl"):
        append(results, [replace(row, task="knn", protocol="knn-v1") for row in read(results)[0]])
    runs = find_runs([tmp_path], resolve)
    for task, protocol in (("", "linear-moco-v1"), ("knn", "knn-v1")):
        figure = saliency_dose(Material(runs, collect_runs(runs), task=task))
        assert [axes.get_title() for axes in figure.axes] == [f"scenes, {protocol}"]


def test_the_slope_of_a_dose_is_that_of_its_sources_means() -> None:
    values = [40.0, 46.0, 49.0, 55.0]
    points = [Point(BOTH, name, (0.1 * n,) * 2, (values[n] - 1, values[n] + 1)) for n, name in enumerate("abcd")]
    line = slope(points)
    assert line is not None
    expected = stats.linregress([0, 0.1, 0.2, 0.3], values)
    assert (line.rise, line.p, line.sources) == (pytest.approx(expected.slope), pytest.approx(expected.pvalue), 4)
    margin = 4.302653 * expected.stderr  # t(.975, 2)
    assert line.interval == pytest.approx((expected.slope - margin, expected.slope + margin))
    assert slope_text(line) == "+4.80 [+2.97, +6.63] points per .1 IoU"
    assert slope(points[:3]) is None
    assert slope([Point(BOTH, "a", (0.1,), (1.0,))] * 4) is None
