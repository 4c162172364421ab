"""A number of ours is bold where its lead is more than an accident of the seeds."""

import numpy as np
import pytest
from table_samples import frame_of, markdown_rows, rows_of

from results.ranking import clear_ranks
from results.tables import render


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([by_seed(80.0), by_seed(60.0)], [0, 0]),  # one seed has no spread, however far it is ahead
        ([by_seed(60.0, 61.0, 62.0)], [0]),  # beats nobody
        ([by_seed(60.0, 61.0, 62.1), by_seed(70.0, 71.2, 72.0)], [0, 1]),
        # The pairs differ by 10, 10.2, 9.9; the spread of the seeds themselves, far larger, is the same in both.
        ([by_seed(50.0, 60.2, 69.9), by_seed(40.0, 50.0, 60.0)], [1, 0]),
        # Second best is a rank only below a clear first, and above a third that it leads clearly.
        ([by_seed(60.0, 61.0, 62.1), by_seed(70.0, 71.2, 72.0), by_seed(40.0, 41.1, 42.0)], [2, 1, 0]),
        ([by_seed(60.0, 61.0, 62.1), by_seed(70.0, 71.2, 72.0), by_seed(60.1, 60.8, 62.0)], [0, 1, 0]),
        ([by_seed(70.1, 71.0, 72.1), by_seed(70.0, 71.2, 72.0), by_seed(40.0, 41.1, 42.0)], [0, 0, 0]),
        ([by_seed(70.0, 71.2), {5: 60.0, 6: 60.3}], [0, 0]),  # no seed in common
        ([], []),
    ],
)
def test_a_rank_takes_a_clear_lead(rows: list[dict[int, float]], expected: list[int]) -> None:
    assert clear_ranks(rows) == expected


def test_rows_alike_are_seldom_told_apart() -> None:
    """Of two equal rows either leads clearly in one draw of forty: 5 % for both, up to chance over 2,000 draws."""
    rng = np.random.default_rng(0)
    draws = rng.normal(70, 1, (2000, 2, 3))
    false_alarms = np.mean([any(clear_ranks([by_seed(*row) for row in pair])) for pair in draws])
    assert false_alarms == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 2000))


def test_bold_in_a_table_follows() -> None:
    clear = frame_of(*rows_of(values=(68.0, 69.0, 70.1)), *rows_of("mocov2+ours-hp", (73.0, 74.2, 75.0)))
    assert markdown_rows(render("table1", clear, only="measured"))["MoCo v2 + ours (high-pass)"] == [
        "**74.07 ± 1.01 (3)**"
    ]
    single = frame_of(*rows_of(values=(68.0,)), *rows_of("mocov2+ours-hp", (75.0,)))
    assert markdown_rows(render("table1", single, only="measured"))["MoCo v2 + ours (high-pass)"] == ["75.00 (1)"]
    # The published numbers have no seeds: their marks are the paper's own, and stay.
    assert markdown_rows(render("table1", single))["MoCo v2 + ours (high-pass)"][0] == "**73.80**"
