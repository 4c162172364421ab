"""`salmask compare`: by images if predictions are at hand, else by seeds; missing predictions are told."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prediction_samples import CLASSES, OURS, compared, evaluated, predictions, rewritten, two_methods
from run_samples import finished
from training_samples import salmask

from baselines import resolve
from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.runs.health import Symptom, tell_symptoms
from repro.runs.predictions import joined
from repro.runs.records import append, read
from repro.settings.detection import VOC
from results.collection.collect import collect_runs
from results.collection.runs import find_runs
from results.comparison.commands import as_data
from results.comparison.compare import compare
from results.paper.published import published
from results.statistics.paired import NO_NUMBERS, interval_text, p_text


@pytest.fixture
def root(tmp_path: Path) -> Path:
    two_methods(tmp_path, {"mocov2": 0.68, OURS: 0.74})
    return tmp_path


def test_methods_are_compared_by_seeds_and_images(root: Path) -> None:
    (comparison,) = compared(root)
    first, second = comparison.first, comparison.second
    assert comparison.difference.mean == pytest.approx(
        np.mean(list(first.values.values())) - np.mean(list(second.values.values()))
    )
    assert (comparison.difference.of_seeds, comparison.difference.of_images) == (True, True)
    assert comparison.verdict() == f"{OURS} is better"
    assert set(comparison.mcnemar) == {0, 1, 2}
    for seed, test in comparison.mcnemar.items():
        gap = (test.first_only - test.second_only) / 800
        assert 100 * gap == pytest.approx(first.values[seed] - second.values[seed])
    (back,) = compared(root, "mocov2", OURS)
    assert back.difference.mean == pytest.approx(-comparison.difference.mean)
    assert back.difference.p == comparison.difference.p
    assert back.verdict() == comparison.verdict()
    assert list(first.values) == [0, 1, 2]
    (at_work,) = [note for note in back.notes if note.startswith("Has an effect in ")]
    assert at_work.startswith(f"Has an effect in {OURS} only: localizer (")


def test_classes_and_flips_are_counted_by_hand(root: Path) -> None:
    (comparison,) = compared(root)
    classes = comparison.classes.set_index("class")
    assert set(classes.index) == set(CLASSES)
    assert classes["images"].tolist() == [200] * 4
    assert classes["difference"].mean() == pytest.approx(comparison.difference.mean)
    order = [(-difference, name) for name, difference in classes["difference"].items()]
    assert order == sorted(order)  # the terminal shows both ends
    first, second = (side.correct("top1").sum(axis=0) >= 2 for side in (comparison.first, comparison.second))
    flips = comparison.flips
    counts = len(flips), (flips["right"] == "first").sum()
    assert counts == ((first != second).sum(), (first & ~second).sum())
    shares = [side.correct("top1").mean(axis=0)[flips["image"]] for side in (comparison.first, comparison.second)]
    gaps = [*np.abs(shares[0] - shares[1]).round(6)]
    assert gaps == sorted(gaps, reverse=True) != gaps[::-1]
    clearest = flips.iloc[0]
    assert clearest["class"] == CLASSES[clearest["image"] % 4]
    assert clearest["first"].count("0.75") == 3


def test_half_of_the_runs_are_not_most_of_them(tmp_path: Path) -> None:
    right = {OURS: ([1, 1, 1, 0, 1, 1], [1, 1, 0, 0, 0, 0]), "mocov2": ([0, 1, 0, 1, 1, 0], [0, 0, 1, 0, 1, 0])}
    for method, of_seeds in right.items():
        for seed, chances in enumerate(of_seeds):
            evaluated(tmp_path, method, seed, predictions(np.array(chances, float), 0))
    (comparison,) = compared(tmp_path)
    # Both runs of each are right 2 : 0, 2 : 1, 1 : 1, 0 : 1, 1 : 2 and 1 : 0 times: only on the first is no side split.
    assert comparison.flips[["image", "right"]].to_numpy().tolist() == [[0, "first"]]
    told = salmask("compare", OURS, "mocov2", "--runs", str(tmp_path)).out
    assert f"1 image only {OURS} gets right; 0 images only mocov2 gets right (in most seeds)." in told


def test_sides_of_unlike_numbers_of_runs_say_what_is_assumed(tmp_path: Path) -> None:
    two_methods(tmp_path, {"mocov2": 0.7}, count=100, seeds=(0, 1, 2))
    two_methods(tmp_path, {"simclr": 0.8}, count=100, seeds=(0, 1))
    (note,) = (note for note in compared(tmp_path, "mocov2", "simclr")[0].notes if "runs" in note)
    assert note.startswith("3 and 2 runs: the interval assumes that both sides spread alike from seed to seed.")


def test_values_too_large_to_compute_with_decide_nothing(tmp_path: Path) -> None:
    """One method used to be better with p = 0.0001; smaller values ended in an error that was told as a bug."""
    for seed, value in enumerate((1e308, -1e308, 1e160)):
        finished(tmp_path, OURS, seed, {("imagenet100", "top1"): value})
        finished(tmp_path, "mocov2", seed, {("imagenet100", "top1"): 60.0 + seed})
    for first in (OURS, "full/" + OURS):
        (comparison,) = compared(tmp_path, first)
        assert comparison.verdict() == f"undecided, without a spread to judge by: {NO_NUMBERS}"
        data = as_data(comparison)
        assert (data["p"], data["low"], data["smallest"]) == (None, None, None)


def test_the_published_difference_is_tested_where_all_is_the_papers(root: Path) -> None:
    (comparison,) = compared(root)
    assert comparison.published == 5.58
    assert comparison.p_of_equivalence is not None
    (other,) = compared(root, metric="mean_per_class")
    assert other.published is None
    assert other.p_of_equivalence is None


@pytest.mark.parametrize(
    "changes",
    [
        {"optimization__epochs": 100},  # a smaller scale
        {"masking__ratio_max": 0.5},  # not the row's settings
        {"protocol": "linear-moco-v1[epochs=9]"},
        {"task": "knn", "protocol": "knn-v1[k=20]"},
    ],
)
def test_no_difference_is_published_of_other_runs_or_evaluations(tmp_path: Path, changes: dict[str, Any]) -> None:
    settings = {key: value for key, value in changes.items() if "__" in key}
    for method in (OURS, "mocov2"):
        of_method = settings if method == OURS or "masking__ratio_max" not in settings else {}
        folder = finished(tmp_path, method, 0, {("imagenet100", "top1"): 70.0}, **of_method)
        rewritten(folder.results, **{key: value for key, value in changes.items() if "__" not in key})
    assert compared(tmp_path)[0].published is None


def test_the_published_difference_of_detectors_is_table_2s(tmp_path: Path) -> None:
    for method in (OURS, "mocov2"):
        folder = finished(tmp_path, method, 0, {(VOC, "bbox_AP"): 50.0})
        rewritten(folder.results, task=VOC, split="test", protocol="voc-frcnn-c4-24k-v1")
    paper = {row: published("table2").values[row, "VOC07+12_detection", "AP"] for row in (OURS, "mocov2")}
    (comparison,) = compared(tmp_path)
    assert comparison.published == pytest.approx(paper[OURS] - paper["mocov2"], abs=1e-9)
    assert comparison.published not in (None, 0.0)


def test_a_file_that_is_altered_or_missing_is_said_and_the_seeds_decide(root: Path) -> None:
    file = next((root / "full" / "mocov2").glob("s0-*/predictions/*.parquet"))
    file.write_bytes(file.read_bytes() + b"x")
    (comparison,) = compared(root)
    assert any("was changed since it was written" in note for note in comparison.notes)
    assert (comparison.difference.of_seeds, comparison.difference.of_images) == (True, False)
    assert comparison.classes.empty
    assert comparison.flips.empty
    assert comparison.mcnemar == {}
    file.unlink()
    assert any("cannot be read" in note for note in compared(root)[0].notes)


@pytest.mark.parametrize(("value", "shown"), [(60.0, r"60\.000"), (68.002, r"68\.002"), (1e300, r"1e\+300")])
def test_predictions_that_do_not_give_the_number_of_their_row_are_not_used(
    root: Path, value: float, shown: str
) -> None:
    rewritten(next((root / "full" / "mocov2").glob("s2-*/results.jsonl")), value=value)
    (comparison,) = compared(root)
    assert any(
        re.fullmatch(rf"mocov2, seed 2: its predictions give \d+\.\d+, the row {shown}\.", note)
        for note in comparison.notes
    )
    assert (comparison.difference.of_seeds, comparison.difference.of_images) == (True, False)


def test_rows_of_older_versions_are_compared_by_seeds(tmp_path: Path) -> None:
    for method, base in (("mocov2", 68.0), (OURS, 74.0)):
        for seed in range(3):
            finished(tmp_path, method, seed, {("imagenet100", "top1"): base + seed / 5})
    (comparison,) = compared(tmp_path)
    assert comparison.verdict() == f"{OURS} is better"
    why = "without predictions: the task keeps none, or an older version measured it."
    assert [note for note in comparison.notes if "predictions" in note] == [
        f"{method}, seeds 0, 1, 2, {why}" for method in (OURS, "mocov2")
    ]
    for method, value in (("simclr", 50.0), ("simclr+ours-hp", 55.0)):
        for seed in range(2):
            finished(tmp_path, method, seed, {("imagenet100", "top1"): value})
    (still,) = compared(tmp_path, "simclr+ours-hp", "simclr")
    assert still.verdict() == "undecided, without a spread to judge by: on either side, all seeds are alike"


def test_a_single_run_without_predictions_and_trainings_that_warned_are_named(root: Path) -> None:
    rewritten(next((root / "full" / OURS).glob("s1-*/results.jsonl")), predictions="", predictions_sha256="")
    for seed, step in ((0, 70), (2, 40)):
        (run,) = (root / "full" / "mocov2").glob(f"s{seed}-*")
        tell_symptoms(RunFolder(run).health, [Symptom("collapsed embeddings", step, "rank 1.1", "a lower lr")])
    (comparison,) = compared(root)
    why = "without predictions: the task keeps none, or an older version measured it."
    assert f"{OURS}, seed 1, {why}" in comparison.notes
    assert (comparison.difference.of_images, comparison.mcnemar) == (False, {})
    warned = "Warnings in training of mocov2: collapsed embeddings in 2 of 3 runs (first at step 40)."
    assert [note for note in comparison.notes if note.startswith("Warnings")] == [warned]


def test_a_measure_that_is_none_of_images_is_said_once(tmp_path: Path) -> None:
    for method in ("mocov2", OURS):
        finished(tmp_path, method, 0, {("imagenet100", "top1_best"): 70.0})
    (comparison,) = compared(tmp_path, metric="top1_best")
    note = "top1_best is not a measure of single images: the seeds alone are compared."
    assert comparison.notes.count(note) == 1


@pytest.mark.parametrize("other", ["images", "classes", "labels"])
def test_predictions_of_other_images_are_not_paired(tmp_path: Path, other: str) -> None:
    evaluated(tmp_path, "mocov2", 0, predictions(np.full(100, 0.7), 0))
    of_other = predictions(np.full(100, 0.9), 1, images="other" if other == "images" else "val")
    if other == "classes":
        of_other = replace(of_other, classes=CLASSES[::-1])
    elif other == "labels":
        of_other = replace(of_other, label=(3 - of_other.label).astype(np.int32))
    evaluated(tmp_path, OURS, 0, of_other)
    (comparison,) = compared(tmp_path)
    assert "Their predictions are of different images: the seeds alone are compared." in comparison.notes
    assert comparison.verdict().startswith("undecided, without a spread to judge by: one run each")


def test_a_measure_is_compared_by_an_evaluation_that_gives_it(tmp_path: Path) -> None:
    """Both have linear probes, which do not give the measure; it used to be told as nothing that both have."""
    for method in (OURS, "mocov2"):
        results = finished(tmp_path, method, 0, {("imagenet100", "top1"): 60.0}).results
        append(results, [replace(row, task="knn", protocol="knn-v1", metric="top5") for row in read(results)[0]])
    assert [comparison.column[0] for comparison in compared(tmp_path, metric="top5")] == ["knn"]
    assert [comparison.column[0] for comparison in compared(tmp_path)] == ["linear"]


def test_what_both_have_is_compared_beside_probes_of_two_data_sets(tmp_path: Path) -> None:
    """Both have linear probes on different data sets: the message used to say that they have nothing in common."""
    for method, dataset in ((OURS, "caltech101"), ("mocov2", "flowers102")):
        results = finished(tmp_path, method, 0, {(dataset, "top1"): 60.0}).results
        append(results, [replace(row, task="knn", dataset="imagenet100") for row in read(results)[0]])
    assert [comparison.column[:2] for comparison in compared(tmp_path)] == [("knn", "imagenet100")]


def test_the_evaluation_that_tables_would_show_comes_first(tmp_path: Path) -> None:
    for method in (OURS, "mocov2"):
        results = finished(tmp_path, method, 0, {("imagenet100", "top1"): 60.0}).results
        (row,) = read(results)[0]
        results.unlink()
        append(results, [replace(row, task=task) for task in ("knn", "logistic")])
    assert [comparison.column[0] for comparison in compared(tmp_path)] == ["logistic", "knn"]
    among = "One of {} comparisons: its p is not corrected for their number."
    assert {comparison.notes[-1] for comparison in compared(tmp_path)} == {among.format(len(compared(tmp_path)))}


def test_runs_of_one_side_are_of_one_size_and_of_two_sides_of_any(tmp_path: Path) -> None:
    for seed in range(3):
        finished(tmp_path, "mocov2", seed, {("imagenet100", "top1"): 60.0 + seed})
        finished(tmp_path, OURS, seed, {("imagenet100", "top1"): 65.0 + seed})
        finished(tmp_path, "mocov2", seed, {("imagenet100", "top1"): 40.0 + seed}, sweep="demo", optimization__epochs=6)
    refused = (
        r"mocov2 on imagenet100 has runs of different recipes .* which differ in optimization.epochs \((6|200) and "
        r".*mend: give SWEEP/METHOD for the runs of one sweep, a run's folder, or a narrower --runs$"
    )
    with pytest.raises(UserError, match=refused):
        compared(tmp_path)
    (comparison,) = compared(tmp_path, OURS, "demo/mocov2")
    assert (len(comparison.first.values), len(comparison.second.values)) == (3, 3)
    assert comparison.notes[0] == "mocov2: TINY MODE – 6 epochs: not comparable with the published numbers."
    (both,) = compared(tmp_path, "demo/mocov2/s0", "demo/mocov2/s1")
    assert both.notes[0] == "TINY MODE – 6 epochs: not comparable with the published numbers."
    finished(tmp_path, "simclr", 0, {("imagenet100", "top1"): 50.0}, optimization__epochs=7)
    (unlike,) = compared(tmp_path, "demo/mocov2", "simclr")
    assert unlike.scales == (
        "mocov2: TINY MODE – 6 epochs: not comparable with the published numbers.",
        "simclr: TINY MODE – 7 epochs: not comparable with the published numbers.",
    )


def test_detectors_of_two_sizes_are_not_one_side(tmp_path: Path) -> None:
    for method, seed, own in ((OURS, 0, ""), ("mocov2", 0, ""), ("mocov2", 1, "detection of 9 iterations")):
        results = finished(tmp_path, method, seed, {("coco", "bbox_AP"): 30.0}).results
        (row,) = read(results)[0]
        results.unlink()
        append(results, [replace(row, task="coco", scale=own, evaluation_scale=own)])
    with pytest.raises(UserError, match=r"which differ in scale \(the paper's and detection of 9 iterations\); mend"):
        compared(tmp_path)


def test_the_code_that_measured_is_told_where_it_is_not_one(root: Path) -> None:
    code = "Not measured by a single clean commit: "
    assert not [note for note in compared(root)[0].notes if note.startswith(code)]
    rewritten(next((root / "full" / "mocov2").glob("s2-*/results.jsonl")), commit="fedcba9876", dirty=True)
    told = f"{code}{OURS} at 0123456; mocov2 at 0123456, fedcba9 (dirty)."
    assert told in compared(root)[0].notes


def test_of_two_runs_of_one_seed_neither_is_dropped(tmp_path: Path) -> None:
    finished(tmp_path, OURS, 0, {("imagenet100", "top1"): 65.0})
    for sweep, value in (("full", 60.0), ("again", 61.0)):
        # One recipe under two ids, by a setting that is no part of the recipe.
        folder = finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): value}, sweep=sweep)
        text = folder.results.read_text()
        folder.results.write_text(text.replace('"run_id": "', f'"run_id": "{sweep}'))
    with pytest.raises(UserError, match="mocov2 with seed 0 on imagenet100 has several runs under one name"):
        compared(tmp_path)


def test_a_run_that_was_trained_again_is_compared_with_its_first_training(tmp_path: Path) -> None:
    for sweep, value in (("first", 60.0), ("again", 61.5)):
        finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): value}, sweep=sweep)
    records = find_runs([tmp_path], resolve)
    (comparison,) = compare(collect_runs(records, every_folder=True), records, "again", "first")
    assert comparison.difference.mean == pytest.approx(1.5)
    assert comparison.published is None  # "published +0.00" used to be printed
    command = salmask("compare", "again", "first", "--runs", str(tmp_path))
    assert command.code == 0, command.err
    assert "| difference " in command.out
    assert "+1.50 points" in command.out


def test_an_image_of_several_drawn_splits_is_one_image(tmp_path: Path) -> None:
    for place, (method, chance) in enumerate({"mocov2": 0.6, OURS: 0.75}.items()):
        for seed in range(3):
            halves = [predictions(np.full(400, chance), 1000 * place + 10 * seed + split) for split in range(2)]
            evaluated(tmp_path, method, seed, joined(halves))
    (comparison,) = compared(tmp_path)
    assert comparison.difference.of_images
    assert comparison.mcnemar == {}
    assert "No McNemar's test: it would count an image of 2 drawn splits as several." in comparison.notes
    assert comparison.classes["images"].tolist() == [100] * 4
    flips = comparison.flips
    assert comparison.images_that_flip("first") == len(set(flips["image"][flips["right"] == "first"]))
    assert comparison.images_that_flip("first") < int((flips["right"] == "first").sum())  # some in both splits
    place = 400 * flips["split"] + flips["image"]
    for side in ("first", "second"):
        right = comparison.sides[side].correct("top1").mean(axis=0)[place]
        assert ((right > 0.5) == (flips["right"] == side)).all()
    assert "3 seeds each, 400 images" in salmask("compare", OURS, "mocov2", "--runs", str(tmp_path)).out


def test_a_page_cannot_be_a_folder_and_nothing_is_drawn_for_it(root: Path) -> None:
    command = salmask("compare", OURS, "mocov2", "--runs", str(root), "--out", str(root))
    assert command.code == 2
    assert "is a directory" in command.err


def test_what_tells_no_spread_is_named(root: Path) -> None:
    """One run is right everywhere and one is wrong everywhere: the note used to say that they agree."""
    for seed, chance in {5: 1.0, 6: 1.0, 7: 0.0}.items():
        evaluated(root, "mocov2", seed, predictions(np.full(800, chance), seed))
    for other in ("mocov2/s6", "mocov2/s7"):
        (alike,) = compared(root, "mocov2/s5", other)
        assert alike.verdict() == (
            "undecided, without a spread to judge by: the difference varies with neither seeds nor images"
        )


def test_the_command_prints_markdown_data_and_a_page(root: Path, tmp_path: Path) -> None:
    command = salmask("compare", OURS, "mocov2", "--runs", str(root))
    assert command.code == 0, command.err
    assert f"{OURS} against mocov2: {OURS} is better\n" in command.out
    assert "| McNemar, seed 0 " in command.out
    data = json.loads(salmask("compare", OURS, "mocov2", "--runs", str(root), "--json").out)
    assert data[0]["p"] < 0.05
    assert len(data[0]["flips"]) > 100
    page = tmp_path / "flips.html"
    command = salmask("compare", OURS, "mocov2", "--runs", str(root), "--out", str(page))
    assert command.code == 0, command.err
    text = page.read_text()
    assert "<h3>Only MoCo v2 + ours (high-pass) is right: " in text
    assert "<h3>Only MoCo v2 is right: " in text
    assert text.count("<figure") == 48
    assert "<strong>MoCo v2 + ours (high-pass) is better</strong>" in text
    assert "The images are not shown" in text  # ImageNet's images are not here
    assert "https://" not in text
    assert salmask("compare", OURS, "mocov3", "--runs", str(root)).code == 2


@pytest.mark.parametrize(
    ("p", "text"), [(0.0, "< 0.001"), (0.00049, "< 0.001"), (0.0005, "0.001"), (0.0126, "0.013"), (1.0, "1.000")]
)
def test_a_p_value_is_never_rounded_to_nothing(p: float, text: str) -> None:
    assert p_text(p) == text
    assert p_text(0.00004, 4) == "< 0.0001"


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0494, "0.049"), (0.0499, "0.0499"), (0.05002, "0.05002"), (0.05, "0.050"), (0.05 + 1e-9, "0.050000")],
)
def test_a_p_value_is_not_rounded_to_the_level_that_it_missed(p: float, text: str) -> None:
    assert p_text(p) == text


def test_an_interval_is_told_with_signs_and_none_as_a_dash() -> None:
    assert (interval_text((-0.4, 2.0)), interval_text(None)) == ("-0.40 … +2.00", "–")
