"""Huge numbers of a damaged file, and hashes, take no more room than others, wherever results are shown."""

import re
import warnings
from pathlib import Path

import pytest
from run_samples import finished
from training_samples import salmask

from baselines import resolve
from results.collection.collect import collect_runs
from results.collection.runs import find_runs
from results.plots.forest import effects

LONG = re.compile(r"(?<![A-Za-z0-9+/=])\d{20,}")
SCORE = ("imagenet100", "top1")


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    for seed, (base, ours) in enumerate(((68.0, 1e300), (1e300, 70.0), (67.0, 71.0))):
        finished(tmp_path, "mocov2", seed, {SCORE: base})
        finished(tmp_path, "mocov2+ours-hp", seed, {SCORE: ours})
    return tmp_path


def test_what_an_evaluation_chose_is_not_rounded_as_an_accuracy_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight of .00012 used to read 0.00."""
    monkeypatch.setattr("results.report.page.PLOTS", {})
    finished(tmp_path, "mocov2", 0, {SCORE: 60.0, ("imagenet100", "l2"): 1.2e-4})
    out = str(tmp_path / "report.html")
    assert salmask("report", "--out", out, "--runs", str(tmp_path)).code == 0
    page = Path(out).read_text()
    assert "<td>l2</td><td>0.00012</td>" in page
    assert "<td>top1</td><td>60.00</td>" in page


def test_a_huge_value_is_told_in_powers_of_ten_by_every_command(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("results.report.page.PLOTS", {})  # plots take most of the time, and are pictures
    out = str(damaged / "report.html")
    texts = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for command in (
            ("table", "table1"),
            ("claims",),
            ("explain", "table1:mocov2:imagenet100"),
            ("compare", "mocov2+ours-hp", "mocov2"),
            ("report", "--out", out),
        ):
            texts[command[0]] = salmask(*command, "--runs", str(damaged)).out
    texts["page"] = Path(out).read_text()
    assert {name for name, text in texts.items() if LONG.search(text)} == set()
    for name in ("table", "explain", "page"):
        assert "3.3e+299 ± inf (3)" in texts[name], name
    assert "| A: mocov2+ours-hp | 1e+300 70.00 71.00 " in texts["compare"]
    assert "seed 0: 1e+300, seed 1: 70.00" in texts["page"]


def test_the_forest_plot_tells_a_huge_difference_in_few_letters(damaged: Path) -> None:
    (effect,) = effects(collect_runs(find_runs([damaged], resolve)))
    assert len(effect.text) < 20


def test_hashes_are_shown_by_their_beginning(tmp_path: Path) -> None:
    """Two hashes of 64 digits each used to hide the settings in which the runs differ."""
    own = {"localizer__source": "maps", "localizer__files": "/home/ann/maps"}
    for sweep, digit in (("one", "1"), ("two", "2")):
        finished(tmp_path, "mocov2+ours-hp", 0, {SCORE: 60.0}, sweep=sweep, localizer__files_sha256=digit * 64, **own)
    one, both = str(tmp_path / "one"), str(tmp_path)
    shown = {
        "table": salmask("table", "--runs", one).out,
        "explain": salmask("explain", "table1:mocov2+ours-hp:imagenet100", "--runs", one).out,
        "compare": salmask("compare", "one", "two", "--runs", both).out,
    }
    for name, text in shown.items():
        assert "1" * 12 in text, name
        assert "1" * 13 not in text, name
    assert f"localizer.files_sha256 ({'1' * 12} and {'2' * 12})" in shown["compare"]
