"""What `salmask compare` prints of its comparisons."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, browser
from prediction_samples import compared, evaluated, predictions, two_methods
from training_samples import salmask
from typer.testing import CliRunner

from baselines import resolve
from results.comparison.commands import build, summary_lines
from results.comparison.head_to_head import HeadToHead, Side
from results.statistics.imagewise import Difference

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
    assert f"<title>{OURS} against mocov2</title>" in text
    for comparison in json.loads(salmask("compare", OURS, "mocov2", *runs, "--json").out):
        assert comparison["notes"][0] == "TINY MODE – 6 epochs: not comparable with the published numbers."
    for dataset in ("imagenet100", "flowers102"):
        assert f"<h2>top1 by linear, {dataset}, " in text


def test_the_numbers_that_are_printed_are_the_comparisons(tmp_path: Path) -> None:
    two_methods(tmp_path, {"mocov2": 0.68, OURS: 0.74})
    (comparison,) = compared(tmp_path)
    difference, p = comparison.difference, comparison.p_of_equivalence
    low, high = difference.interval() or (0.0, 0.0)
    assert low < difference.mean < high
    assert None not in (difference.p, difference.smallest, p)
    (data,) = json.loads(salmask("compare", OURS, "mocov2", "--runs", str(tmp_path), "--json").out)
    expected: dict[str, Any] = {"difference": difference.mean, "low": low, "high": high, "p": difference.p}
    expected |= {"smallest": difference.smallest, "published": 5.58, "p_of_equivalence": p}
    assert {name: data[name] for name in expected} == expected
    where = {"task": "linear", "dataset": "imagenet100", "split": "val", "protocol": "linear-moco-v1", "metric": "top1"}
    assert {name: data[name] for name in where} == where
    for name, side in (("first", comparison.first), ("second", comparison.second)):
        values = {str(seed): value for seed, value in side.values.items()}
        assert data[name] == {"name": side.method, "method": side.method, "values": values}
    assert data["mcnemar"] == {str(seed): vars(test) for seed, test in comparison.mcnemar.items()}
    assert (data["by"], data["verdict"]) == ("3 seeds each, 800 images", f"{OURS} is better")
    assert data["classes"] == comparison.classes.to_dict("records")
    assert data["notes"] == list(comparison.notes)
    told = salmask("compare", OURS, "mocov2", "--runs", str(tmp_path)).out
    cells = (line.strip("| ").split(" | ") for line in told.splitlines() if line.startswith("| "))
    shown = {line[0].strip(): line[1].strip() for line in cells if len(line) == 2}
    assert shown["95 % interval"] == f"{low:+.2f} … {high:+.2f}"
    assert shown["smallest detectable"] == f"{difference.smallest:.2f} points (80 % power)"
    assert shown["judged by"] == "3 seeds each, 800 images"
    assert shown[f"A: {OURS}"] == " ".join(f"{value:.2f}" for value in comparison.first.values.values())
    # So few images leave it open whether the difference is as in the paper.
    assert shown["published"] == f"+5.58; ±1: not shown to be equivalent, TOST p {p:.4f}"


def of_draws(draws: np.ndarray, published: float | None = None) -> HeadToHead:
    """A comparison of seeds whose difference might have been any of some draws."""
    difference = Difference(float(draws.mean()), draws, 1.0, 4, of_seeds=True)
    first, second = (Side(method, {0: 70.0, 1: 71.0, 2: 72.0}, {}, {}) for method in (OURS, "mocov2"))
    column = ("linear", "imagenet100", "val", "linear-moco-v1")
    return HeadToHead(first, second, column, "top1", difference, {}, published, (), ())


def test_a_side_is_better_below_the_level_and_equivalent_within_the_margin() -> None:
    """Of 999 draws, n beyond a bound are a one-sided p of (n + 1) / 1000."""
    for beyond, verdict in ((23, f"{OURS} is better"), (24, "no difference found; this data could show 3.76 points")):
        draws = np.repeat([-1.0, 1.0], [beyond, 999 - beyond])
        assert of_draws(draws).verdict() == verdict
        assert of_draws(-draws).verdict() == verdict.replace(OURS, "mocov2")
    for beyond, outcome in ((48, "equivalent, TOST p 0.0490"), (49, "not shown to be equivalent, TOST p 0.0500")):
        for off in (-1.5, 1.5):
            draws = 5.58 + np.repeat([off, -0.9 * np.sign(off)], [beyond, 999 - beyond])
            lines = dict(summary_lines(of_draws(draws, published=5.58)))
            assert lines["published"] == f"+5.58; ±1: {outcome}"
    assert "published" not in dict(summary_lines(of_draws(draws)))


def test_sides_of_several_runs_and_of_one_are_told_apart(tmp_path: Path) -> None:
    two_methods(tmp_path, {"mocov2": 0.7}, count=100)
    evaluated(tmp_path, OURS, 0, predictions(np.full(100, 0.5), 77))
    for words in (("mocov2", OURS), (OURS, "mocov2")):
        told = salmask("compare", *words, "--runs", str(tmp_path)).out
        assert " gets right (in most seeds)." in told
    assert "| 1 and 3 seeds, 100 images " in told


def test_of_many_classes_the_five_of_either_end_are_printed(tmp_path: Path) -> None:
    names = tuple(f"class {number:02}" for number in range(13))
    for method, right in ((OURS, lambda label, image: image < label), ("mocov2", lambda label, image: image < 6)):
        label, image = np.repeat(np.arange(13, dtype=np.int32), 12), np.tile(np.arange(12), 13)
        hits = np.where(right(label, image), 1.0, 0.0)
        of_run = replace(predictions(hits, 0), label=label, prediction=label, classes=names)
        places = np.where(hits == 1, 1, 2).astype(np.uint8)
        wrong = (label + 1) % 13
        evaluated(tmp_path, method, 0, replace(of_run, prediction=np.where(hits == 1, label, wrong), place=places))
    told = salmask("compare", OURS, "mocov2", "--runs", str(tmp_path)).out
    table = told.partition("Classes with the largest differences:\n\n")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == [f"class {number:02}" for number in (12, 11, 10, 9, 8, 4, 3, 2, 1, 0)]
    assert (rows[0], rows[-1]) == (
        ["class 12", "12", "100.0", "50.0", "+50.0"],
        ["class 00", "12", "0.0", "50.0", "-50.0"],
    )


@pytest.mark.parametrize("known", [True, False])
def test_pictures_are_of_the_clearest_flips_of_both_sides_drawn_by_the_run_that_masks(
    tmp_path: Path, *, known: bool
) -> None:
    """Of 48 pictures, a side with fewer flips leaves its room to the other."""
    chances = {"mocov2": [0] * 60 + [1] * 10 + [1] * 30, OURS: [1] * 60 + [0] * 10 + [1] * 30}
    folders = {
        method: evaluated(tmp_path, method, 0, predictions(np.array(right, float), 0))
        for method, right in chances.items()
    }
    run = folders[OURS].load()
    for folder in () if known else folders.values():
        folder.run_yaml.unlink()
    asked: list[tuple[Any, ...]] = []

    def draw(*arguments: Any) -> list[bytes]:
        asked.append(arguments)
        return [b"a picture"] * len(arguments[3])

    page, words = tmp_path / "page.html", ["mocov2", OURS, "--runs", str(tmp_path)]
    outcome = CliRunner().invoke(build(resolve, lambda: draw), [*words, "--out", str(page)])
    assert outcome.exit_code == 0, outcome.exception
    text = page.read_text()
    places = [(0, image) for image in (*range(60, 70), *range(38))]
    assert text.count("<figure") == len(places) == 48
    assert text.count('<img src="data:image/jpeg;base64,') == (48 if known else 0)
    assert asked == ([(run, "linear", "imagenet100", places)] if known else [])
    missing = "The images are not shown: no run.yaml says which data set it is; mend: copy it with the run"
    assert (missing in text) != known
    assert ("Settings are not compared: a run.yaml is missing or of another version." in text) != known
    assert text.count('<span class="yes">ant 0.75</span>') == text.count('<span class="no">bee 0.75</span>') == 13
    assert "Of these two runs; 38 of them shown. Pictures: " in text


def test_where_no_image_flips_nothing_is_said_of_pictures(tmp_path: Path) -> None:
    for method in (OURS, "mocov2"):
        evaluated(tmp_path, method, 0, predictions(np.array([0.0, 1.0, 0.0]), 0)).run_yaml.unlink()
    page = tmp_path / "page.html"
    told = salmask("compare", OURS, "mocov2", "--runs", str(tmp_path), "--out", str(page)).out
    assert "- Settings are not compared: a run.yaml is missing or of another version.\n" in told
    text = page.read_text()
    assert "data:image/jpeg" not in text
    assert "The images are not shown" not in text


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
