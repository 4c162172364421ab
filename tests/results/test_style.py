"""The look of plots: a legend has room, however many rows it names."""

import warnings

import pytest

from results.plots.style import WIDTH, legend, panels, themed


@pytest.mark.parametrize("names", [3, 40])
def test_a_legend_takes_its_room_from_no_panel(names: int) -> None:
    """The legend of the study's 38 rows used to cover the curves, whose panels had no room left."""
    with themed("light"), warnings.catch_warnings(action="error"):
        figure, grid = panels(2, 3.0)
        for number in range(names):
            grid[number % 2].plot([0, 1], label=f"MoCo v2 + ours (high-pass), hard negatives by truth-shifted-{number}")
        legend(figure, "measured on " + ", ".join(f"a machine of its own kind {number}" for number in range(9)))
        figure.draw_without_rendering()
        (below,) = figure.legends
        boxes = [axes.get_tightbbox() for axes in grid]
    assert all(axes.get_position().height * figure.get_figheight() > 2 for axes in grid)
    assert below.get_window_extent().y1 <= min(box.y0 for box in boxes if box is not None)
    assert 0 <= below.get_window_extent().x0 < below.get_window_extent().x1 <= WIDTH * figure.dpi
