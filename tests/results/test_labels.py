"""A method has one spelling in tables, claims, plots, pages and documents."""

import re
from pathlib import Path

import pytest
from places import ROOT

from baselines import METHODS
from repro.settings.labels import CHANGES, change_label, label, label_parts
from repro.settings.method_name import MASKINGS
from results.formats.table_files import FORMATS
from results.paper.paper_claims import claims
from results.paper.published import TABLES, published
from results.tables.rendering import render

OTHER_SPELLINGS = re.compile(
    r"MoCov2|MoCo-v2|MoCoV2|\bOURS\b|ours,? (high-pass|strong blur|mean fill)|our numbers? beside|\| ours\b"
)
"""Spellings of a method other than `label`'s, and "ours" for a measurement."""
DOCUMENTS = [
    path
    for pattern in ("*.md", "docs/*.md", "examples/**/*.md", "examples/**/*.csv", "results/templates/*")
    for path in ROOT.glob(pattern)
    if "/runs/" not in str(path)
]


def test_names_become_words() -> None:
    assert {name: label(name) for name in ("mocov2", "simclr+mscn", "mocov2+ours-hp", "supervised")} == {
        "mocov2": "MoCo v2",
        "simclr+mscn": "SimCLR + MSCN",
        "mocov2+ours-hp": "MoCo v2 + ours (high-pass)",
        "supervised": "Supervised",
    }
    assert label("mocov2+ours-hp@key-no-hard-negative") == "MoCo v2 + ours (high-pass), key masked, no hard negative"
    assert label_parts("mocov2+ours-blur", branch="query") == ("MoCo v2 + ours (strong blur)", "query masked")
    assert label_parts("mocov2+ours-hp@both", branch="query") == ("MoCo v2 + ours (high-pass)", "both masked")
    assert label("mocov2+ours-hp-ratio0.25-0.45") == "MoCo v2 + ours (high-pass), 25 to 45 % masked"
    assert label("mocov2+ours-hp-released-saliency-map") == "MoCo v2 + ours (high-pass), released saliency map"
    assert label("mocov2+ours-hp-hard-by-truth-shifted-2").endswith("hard negatives by truth-shifted-2")
    assert label("mocov2+ours-hp-by-network-shuffled").endswith(", foreground by network-shuffled")
    assert label("mocov2+queue16k") == "MoCo v2, queue of 16,384 keys"


def test_a_label_is_made_of_its_parts() -> None:
    name = "mocov2+ours-hp@key-no-hard-negative"
    assert label_parts(name) == ("MoCo v2 + ours (high-pass)", "key masked", "no hard negative")
    assert label_parts("mocov2+ours-hp-no-focal") == ("MoCo v2 + ours (high-pass)", "no focal masks")
    assert label_parts("mocov2", branch="query") == ("MoCo v2",)
    assert label_parts("mine, and theirs") == ("mine, and theirs",)
    assert change_label(name) == "key masked, no hard negative"


def test_a_strangers_name_stands_as_it_is() -> None:
    for name in ("mine", "mine+ours-hp", "mocov2 (imported)"):
        assert label(name) == name
    assert label("mocov2+mine-hp") == "MoCo v2 + mine-hp"


def test_no_two_rows_are_spelt_alike_and_no_words_are_left_over() -> None:
    assert len({label(name) for name in METHODS}) == len(METHODS)
    for end in (*CHANGES, *MASKINGS):
        assert any(name.endswith(end) for name in METHODS), end


@pytest.mark.parametrize("name", TABLES)
def test_tables_spell_a_row_so_in_every_format(name: str) -> None:
    rows = published(name).every_row
    assert {method: row.label.replace(", query masked", "") for method, row in rows.items()} == {
        method: label(method) for method in rows
    }
    table = render(name, only="paper")
    for make in FORMATS.values():
        text = make(table)
        assert "MoCo v2 + ours (high-pass)" in text
        assert not OTHER_SPELLINGS.search(text)


def test_claims_spell_a_row_so() -> None:
    for claim in claims():
        spelt = f"{label(claim.better)} > {label(claim.worse)}"
        assert claim.label.replace(", query masked", "") == spelt


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_spell_a_row_so(path: Path) -> None:
    found = OTHER_SPELLINGS.search(path.read_text(encoding="utf-8"))
    assert found is None, found.group()
