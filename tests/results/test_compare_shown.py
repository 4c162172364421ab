"""What `salmask compare` prints of its comparisons."""

from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, browser
from prediction_samples import evaluated, predictions
from training_samples import salmask

OURS = "mocov2+ours-hp"


def test_classes_without_a_difference_are_not_among_those_with_the_largest(tmp_path: Path) -> None:
    """The table was filled up with rows of +0.0."""
    for method, chances in {OURS: [1, 1, 0, 1], "mocov2": [0, 1, 0, 1], "simclr": [0, 1, 0, 1]}.items():
        evaluated(tmp_path, method, 0, predictions(np.array(chances, float), 0))
    told = salmask("compare", OURS, "mocov2", "--runs", str(tmp_path)).out
    table = told.partition("Classes with the largest differences:\n\n")[2].partition("\n\n")[0]
    assert [line.split("|")[-2].strip() for line in table.splitlines()[2:]] == ["+100.0"]
    alike = salmask("compare", "mocov2", "simclr", "--runs", str(tmp_path)).out
    assert "\n\nNo class differs by 0.05 points or more.\n\n" in alike


def test_of_one_run_each_no_seeds_are_told(tmp_path: Path) -> None:
    """It used to say "(by most seeds)" of two runs."""
    for method, chances in {OURS: [1, 1, 0], "mocov2": [0, 1, 0]}.items():
        evaluated(tmp_path, method, 0, predictions(np.array(chances, float), 0))
    told = salmask("compare", OURS, "mocov2", "--runs", str(tmp_path)).out
    # A and B, as the command names them, head the columns of classes and say who is right in McNemar's test.
    assert f"| A: {OURS} " in told
    assert "; only A right: 1, only B: 0 " in told
    assert f"\n- 1 image only {OURS} gets right; 0 images only mocov2 gets right (of these two runs).\n- " in told
    assert "most" not in told


def test_a_page_of_tiny_runs_is_watermarked_and_names_each_evaluation(tmp_path: Path) -> None:
    """The scale was one of several plain sentences, and two evaluations had the same heading."""
    for method, chances in {OURS: [1, 1, 0], "mocov2": [0, 1, 0]}.items():
        for dataset in ("imagenet100", "flowers102"):
            of_run = predictions(np.array(chances, float), 0)
            evaluated(tmp_path / dataset, method, 0, of_run, dataset=dataset, optimization__epochs=6)
    runs = [word for dataset in ("imagenet100", "flowers102") for word in ("--runs", str(tmp_path / dataset / "full"))]
    page = tmp_path / "page.html"
    assert salmask("compare", OURS, "mocov2", *runs, "--out", str(page)).code == 0
    text = page.read_text()
    assert text.count('<p class="watermark">TINY MODE – 6 epochs: not comparable with the published numbers.</p>') == 2
    assert text.count("TINY MODE") == 2
    for dataset in ("imagenet100", "flowers102"):
        assert f"<h2>top1 by linear, {dataset}, " in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
def test_a_page_fits_a_phone(tmp_path: Path) -> None:
    for method, chances in {OURS: [1, 1, 0], "mocov2": [0, 1, 0]}.items():
        for seed in range(8):  # whose values make a long line
            evaluated(tmp_path / "runs", method, seed, predictions(np.array(chances, float), seed))
    page = tmp_path / "page.html"
    assert salmask("compare", OURS, "mocov2", "--runs", str(tmp_path / "runs"), "--out", str(page)).code == 0
    with browser(tmp_path / "profile") as tab:
        tab.open(page, width=390, height=844)
        assert tab.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [390, 390]
        assert tab.problems == []
