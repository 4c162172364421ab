"""A number of ours is bold if its lead is more than an accident of the seeds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_samples import finished
from table_samples import frame_of, markdown_rows, rows_of

from baselines import resolve
from repro.runs.records import Result
from results.collection.collect import collect_runs
from results.collection.runs import find_runs
from results.formats.table_files import FORMATS, csv
from results.statistics.ranking import clear_ranks, significance
from results.tables.rendering import render


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([by_seed(80.0), by_seed(60.0)], [0, 0]),  # one seed has no spread, however large its lead
        ([by_seed(60.0, 61.0, 62.0)], [0]),  # leads nobody
        ([by_seed(60.0, 61.0, 62.1), by_seed(70.0, 71.2, 72.0)], [0, 1]),
        # Pairs differ by 10, 10.2 and 9.9; the far larger spread of the seeds is common to both rows.
        ([by_seed(50.0, 60.2, 69.9), by_seed(40.0, 50.0, 60.0)], [1, 0]),
        # Second best is a rank only below a clear first, and above a third over which its lead is clear.
        ([by_seed(60.0, 61.0, 62.1), by_seed(70.0, 71.2, 72.0), by_seed(40.0, 41.1, 42.0)], [2, 1, 0]),
        ([by_seed(60.0, 61.0, 62.1), by_seed(70.0, 71.2, 72.0), by_seed(60.1, 60.8, 62.0)], [0, 1, 0]),
        ([by_seed(70.1, 71.0, 72.1), by_seed(70.0, 71.2, 72.0), by_seed(40.0, 41.1, 42.0)], [0, 0, 0]),
        # A third row has no rank, however large its lead over a fourth.
        ([by_seed(40.0, 40.1), by_seed(60.0, 60.3), by_seed(50.0, 50.2), by_seed(30.0, 30.0)], [0, 1, 2, 0]),
        ([by_seed(60.0, 61.0, 62.1), by_seed(59.0, 60.1, 61.0)], [1, 0]),  # 0.75 … 1.25 points: small, but clear
        ([by_seed(70.0, 71.2), {5: 60.0, 6: 60.3}], [0, 0]),  # no seed in common
        ([], []),
    ],
)
def test_a_rank_takes_a_clear_lead(rows: list[dict[int, float]], expected: list[int]) -> None:
    assert clear_ranks(rows) == expected


def test_what_differs_in_more_than_its_method_leads_nobody() -> None:
    """Such a cell had no dagger, but was bold."""
    rows = [by_seed(60.0, 61.0, 62.1), by_seed(70.0, 71.2, 72.0), by_seed(40.0, 41.1, 42.0)]
    assert clear_ranks(rows, lambda ahead, _: ahead != 1) == [0, 0, 0]
    assert clear_ranks(rows, lambda ahead, behind: (ahead, behind) != (0, 2)) == [0, 1, 0]


def test_a_row_has_the_same_mark_in_every_table() -> None:
    """Table 3 has no row for SimCLR; its legend used to say of rows without a mark that seeds do not tell."""
    base, without = rows_of("simclr", (50.0, 51.2, 52.0)), rows_of("simclr+ours-hp-no-masks", (60.0, 61.0, 62.1))

    def shown(name: str, *rows: Result) -> str:
        table = render(name, frame_of(*rows, *without), only="measured")
        return markdown_rows(table)["SimCLR + ours (high-pass), filter alone"][0]

    assert shown("table1", *base) == "**61.03 ± 1.05 (3)** †"
    assert shown("table3", *base) == "61.03 ± 1.05 (3) †"  # not bold: in this table it leads nobody
    # Rows that the table does not show are never refused: with several recipes or measurements no mark is given.
    other_recipe = [replace(row, recipe="bbbbbbbbbb") if row.seed else row for row in base]
    other_protocol = [replace(row, protocol="linear-moco-v1[epochs=10]") for row in base]
    for rows in (other_recipe, other_protocol, [*base, replace(base[0], run_id="again")]):
        assert shown("table3", *rows) == "61.03 ± 1.05 (3)"


@pytest.mark.parametrize(("rate", "cell"), [(0.03, "**74.00 ± 1.00 (3)** †"), (0.5, "74.00 ± 1.00 (3) [3]")])
def test_bold_heeds_what_the_dagger_heeds(rate: float, cell: str, tmp_path: Path) -> None:
    for seed in range(3):
        finished(tmp_path, "mocov2", seed, {("imagenet100", "top1"): 60.0 + seed}, optimization__lr=0.03)
        better = {("imagenet100", "top1"): 73.0 + seed + 0.01 * (seed == 1)}
        finished(tmp_path, "mocov2+ours-hp", seed, better, optimization__lr=rate)
    runs = find_runs([tmp_path], resolve)
    table = render("table1", collect_runs(runs), runs=runs, only="measured")
    assert markdown_rows(table)["MoCo v2 + ours (high-pass)"][0] == cell


def test_rows_alike_are_seldom_told_apart() -> None:
    """Of two equal rows one leads clearly in 5 % of draws: 2.5 % for each, up to chance over 2,000 draws."""
    rng = np.random.default_rng(0)
    draws = rng.normal(70, 1, (2000, 2, 3))
    false_alarms = np.mean([any(clear_ranks([by_seed(*row) for row in pair])) for pair in draws])
    assert false_alarms == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 2000))


def test_bold_in_a_table_follows() -> None:
    clear = frame_of(*rows_of(values=(68.0, 69.0, 70.1)), *rows_of("mocov2+ours-hp", (73.0, 74.2, 75.0)))
    assert markdown_rows(render("table1", clear, only="measured"))["MoCo v2 + ours (high-pass)"] == [
        "**74.07 ± 1.01 (3)** †"
    ]
    single = frame_of(*rows_of(values=(68.0,)), *rows_of("mocov2+ours-hp", (75.0,)))
    assert markdown_rows(render("table1", single, only="measured"))["MoCo v2 + ours (high-pass)"] == ["75.00 (1)"]
    # The published numbers have no seeds; their marks are the paper's own, and stay.
    assert markdown_rows(render("table1", single))["MoCo v2 + ours (high-pass)"][0] == "**73.80**"


def test_significance_is_that_of_the_gap_to_the_framework_without_masking() -> None:
    base = by_seed(60.0, 61.0, 62.1)
    assert significance(by_seed(70.0, 71.2, 72.0), base) == "better"
    assert significance(by_seed(61.0, 62.1, 63.0), base) == "better"  # by 0.75 … 1.25 points
    assert significance(by_seed(60.3, 61.35, 62.4), base) == "better"  # by 0.24 … 0.39
    assert significance(by_seed(50.0, 51.2, 52.0), base) == "worse"
    assert significance(by_seed(70.0, 61.2, 58.0), base) == ""  # its interval includes zero
    assert significance(by_seed(90.0), by_seed(60.0)) == ""  # one seed
    assert significance(by_seed(65.0, 66.0, 67.1), base) == ""  # all pairs differ alike: no spread


def test_a_mark_stands_in_every_format_and_its_meaning_in_one_line_below() -> None:
    frame = frame_of(
        *rows_of(values=(68.0, 69.0, 70.1)),
        *rows_of("mocov2+ours-hp", (73.0, 74.2, 75.0)),
        *rows_of("mocov2+mscn", (60.0, 61.2, 62.0)),
        *rows_of("mocov2+adios", (66.0, 70.2, 71.0)),
        *rows_of("simclr", (70.0,)),
        *rows_of("simclr+ours-hp", (90.0,)),
    )
    table = render("table1", frame)
    cells = {line.label: line.cells[1] for block in table.blocks for line in block}
    assert {label: cell.significance for label, cell in cells.items()} == {
        "MoCo v2": "",
        "MoCo v2 + MSCN": "‡",
        "MoCo v2 + ADIOS": "",
        "MoCo v2 + ours (high-pass)": "†",
        "SimCLR": "",
        "SimCLR + ours (high-pass)": "",
    }
    assert "† better, ‡ worse than the framework without masking" in table.legend
    texts = {suffix: make(table) for suffix, make in FORMATS.items()}
    assert "74.07 ± 1.01 (3)** †" in texts[".md"]
    assert r"$^{\dagger}$" in texts[".tex"]
    assert "</b><sup>†</sup>" in texts[".html"]
    assert all(text.count("excludes zero") >= 1 for suffix, text in texts.items() if suffix != ".csv")
    rows = {line.split(",")[2]: line for line in csv(table).splitlines()[1:]}
    assert ",better" in rows["mocov2+ours-hp"]
    assert ",worse" in rows["mocov2+mscn"]
    assert ",better" not in rows["simclr+ours-hp"]
