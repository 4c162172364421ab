"""The published numbers are as they were read, and tables can be made of the paper alone."""

import hashlib

import pytest

from results.paper.published import PAPER, published, ranks
from results.tables.rendering import render

BLOCKS = ("high_pass", "strong_blur", "mean_fill")
"""The blocks of Table 3 after the row without masking, in their order."""


@pytest.mark.parametrize(
    ("name", "count", "total", "digest"),
    [
        ("table1", 39, 3069.57, "4cab90594d2923bcac62803271b9ae4f5005a14e79ae830e28aca405c099d84a"),
        ("table2", 117, 5587.23, "e9766081eed61771b8a2400ab2cf32e1298fbc440ab74189a88353b3e7ed0eb0"),
        ("table3", 10, 551.63, "e07eaf94bb09de7d3cb83f1be1f1cbe767dbff099563598f331233e1608ed3ae"),
    ],
)
def test_the_published_values_are_as_read(name: str, count: int, total: float, digest: str) -> None:
    text = (PAPER / f"{name}.csv").read_text(encoding="utf-8")
    as_read = "".join(line.split(",", 1)[1] for line in text.splitlines(keepends=True))
    assert hashlib.sha256(as_read.encode()).hexdigest() == digest
    values = list(published(name).values.values())
    assert len(values) == count
    assert sum(values) == pytest.approx(total, abs=1e-6)


def test_table_1_is_published_in_the_papers_order_with_its_best_cells() -> None:
    paper = published("table1")
    assert [row.label for row in paper.rows.values()] == [
        "Supervised",
        "MoCo v2",
        "MoCo v2 + MSCN",
        "MoCo v2 + ADIOS",
        "MoCo v2 + ours (high-pass)",
        "MoCo v2 + ours (strong blur)",
        "MoCo v2 + ours (mean fill)",
        "SimCLR",
        "SimCLR + MSCN",
        "SimCLR + ADIOS",
        "SimCLR + ours (high-pass)",
        "SimCLR + ours (strong blur)",
        "SimCLR + ours (mean fill)",
    ]
    assert paper.values["mocov2+ours-hp", "ImageNet-100", ""] == 73.80
    assert paper.values["simclr+adios", "Caltech-101", ""] == 81.96
    cells = {1: set(), 2: set()}
    for (method, group, _), rank in paper.ranks().items():
        cells[rank].add((method, group))
    assert cells[1] == {
        ("mocov2+ours-hp", "ImageNet-100"),
        ("mocov2+ours-hp", "Caltech-101"),
        ("mocov2+ours-hp", "Flowers-102"),
        ("simclr+ours-hp", "ImageNet-100"),
        ("simclr+ours-hp", "Caltech-101"),
        ("simclr+ours-blur", "Flowers-102"),
    }
    assert cells[2] == {
        ("mocov2+ours-blur", "ImageNet-100"),
        ("mocov2+mscn", "Caltech-101"),
        ("mocov2+ours-mean", "Flowers-102"),
        ("simclr+ours-blur", "ImageNet-100"),
        ("simclr+mscn", "Caltech-101"),
        ("simclr+mscn", "Flowers-102"),
    }


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3.0], {}), ([3.0, 2.0], {3.0: 1}), ([3.0, 2.0, 1.0], {3.0: 1, 2.0: 2}), ([3.0, 3.0, 1.0], {3.0: 1, 1.0: 2})],
)
def test_a_pair_has_a_best_and_one_alone_has_none(values: list[float], expected: dict[float, int]) -> None:
    assert ranks(values) == expected


def test_table_3_names_the_masked_branch() -> None:
    rows = published("table3").rows
    assert (
        rows["mocov2+ours-mean-no-hard-negative"].label == "MoCo v2 + ours (mean fill), query masked, no hard negative"
    )
    assert (
        rows["mocov2+ours-hp@both-no-hard-negative"].label
        == "MoCo v2 + ours (high-pass), both masked, no hard negative"
    )
    assert [row.block for row in rows.values()] == ["none", *(name for name in BLOCKS for _ in range(3))]


def test_table_3_has_a_second_reading_without_published_numbers() -> None:
    paper = published("table3")
    others = paper.unpublished_rows
    assert others["mocov2+ours-mean"].label == "MoCo v2 + ours (mean fill), query masked"
    assert [row.block for row in others.values()] == [f"{s}, with hard negative" for s in BLOCKS for _ in range(3)]
    assert not {method for method, _, _ in paper.values} & others.keys()
    assert list(paper.every_row) == [*paper.rows, *others]
    assert not published("table1").unpublished_rows


@pytest.mark.parametrize(("name", "rows", "columns"), [("table1", 13, 3), ("table2", 13, 9), ("table3", 10, 1)])
def test_the_paper_alone_needs_no_run_and_shows_every_value(name: str, rows: int, columns: int) -> None:
    table = render(name, only="paper")
    assert sum(len(block) for block in table.blocks) == rows
    assert sum(len(group.columns) for group in table.groups) == columns
    values = [float(cell.text) for block in table.blocks for line in block for cell in line.cells]
    assert values == list(published(name).values.values())
