"""`salmask compare`: by images where predictions are at hand, else by seeds, and what was lost is said."""

import json
from pathlib import Path

import numpy as np
import pytest
from prediction_samples import CLASSES, evaluated, predictions, two_methods
from run_samples import finished
from training_samples import salmask

from baselines import resolve
from repro.errors import UserError
from results.collect import collect_runs
from results.compare import HeadToHead, compare, select
from results.paired import p_text
from results.runs import find_runs

OURS = "mocov2+ours-hp"


def compared(root: Path, first: str = OURS, second: str = "mocov2", **options: str) -> list[HeadToHead]:
    records = find_runs([root], resolve)
    return compare(collect_runs(records), records, first, second, **options)


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
    assert comparison.verdict == f"{OURS} is better"
    assert set(comparison.mcnemar) == {0, 1, 2}
    for seed, test in comparison.mcnemar.items():
        gap = (test.first_only - test.second_only) / 800
        assert 100 * gap == pytest.approx(first.values[seed] - second.values[seed])
    (back,) = compared(root, "mocov2", OURS)
    assert back.difference.mean == pytest.approx(-comparison.difference.mean)


def test_classes_and_flips_are_counted_by_hand(root: Path) -> None:
    (comparison,) = compared(root)
    classes = comparison.classes.set_index("class")
    assert set(classes.index) == set(CLASSES)
    assert classes["images"].tolist() == [200] * 4
    assert classes["difference"].mean() == pytest.approx(comparison.difference.mean)
    first, second = (side.correct("top1").sum(axis=0) >= 2 for side in (comparison.first, comparison.second))
    flips = comparison.flips
    assert len(flips) == int((first != second).sum())
    assert int((flips["right"] == OURS).sum()) == int((first & ~second).sum())
    clearest = flips.iloc[0]
    assert clearest["class"] == CLASSES[clearest["image"] % 4]
    assert clearest["first"].count("0.75") == 3


def test_the_published_difference_is_tested_where_all_is_the_papers(root: Path) -> None:
    (comparison,) = compared(root)
    assert comparison.published == 5.58
    assert comparison.p_of_equivalence is not None
    (other,) = compared(root, metric="mean_per_class")
    assert other.published is None
    assert other.p_of_equivalence is None


def test_a_file_that_is_altered_or_missing_is_said_and_the_seeds_decide(root: Path) -> None:
    file = next((root / "full" / "mocov2").glob("s0-*/predictions/*.parquet"))
    file.write_bytes(file.read_bytes() + b"x")
    (comparison,) = compared(root)
    assert any("is not as it was written" in note for note in comparison.notes)
    assert (comparison.difference.of_seeds, comparison.difference.of_images) == (True, False)
    assert comparison.classes.empty
    assert comparison.flips.empty
    assert comparison.mcnemar == {}
    file.unlink()
    assert any("cannot be read" in note for note in compared(root)[0].notes)


def test_rows_of_older_versions_are_compared_by_seeds(tmp_path: Path) -> None:
    for method, base in (("mocov2", 68.0), (OURS, 74.0)):
        for seed in range(3):
            finished(tmp_path, method, seed, {("imagenet100", "top1"): base + seed / 5})
    (comparison,) = compared(tmp_path)
    assert comparison.verdict == f"{OURS} is better"
    assert any("has no predictions" in note for note in comparison.notes)


def test_predictions_of_other_images_are_not_paired(tmp_path: Path) -> None:
    evaluated(tmp_path, "mocov2", 0, predictions(np.full(100, 0.7), 0))
    evaluated(tmp_path, OURS, 0, predictions(np.full(100, 0.9), 1, images="other"))
    (comparison,) = compared(tmp_path)
    assert "Their predictions are of different images: the seeds alone are compared." in comparison.notes
    assert comparison.verdict.startswith("undecided: one run each")


def test_single_runs_and_sweeps_go_by_their_names(root: Path) -> None:
    evaluated(root, "mocov2", 0, predictions(np.full(800, 0.4), 5), sweep="other", moco__queue=32768)
    records = find_runs([root], resolve)
    run = next(record for record in records if record.method == OURS)
    for word in (run.name, run.path.name.partition("-")[2], str(run.path)):
        assert select(records, word) == [run]
    assert {record.sweep for record in select(records, "other")} == {"other"}
    assert len(select(records, "full/mocov2")) == 3
    (sweeps,) = compared(root, "full", "other")
    assert sweeps.first.name == "mocov2 of full"
    assert sweeps.verdict.startswith("mocov2 of full is better")
    assert "They differ in moco.queue (65536 and 32768)." in sweeps.notes
    (single,) = compared(root, f"full/{OURS}/s0", "full/mocov2/s0")
    assert single.verdict == f"{OURS} is better, of these two runs and not of the methods"
    with pytest.raises(UserError, match=r"no method, sweep or run 'mocov3'; mend: did you mean 'mocov2'"):
        select(records, "mocov3")
    with pytest.raises(UserError, match=r"no measurement by knn in common"):
        compared(root, task="knn")


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
    assert "The images are not shown" in text  # ImageNet is not here
    assert "https://" not in text
    assert salmask("compare", OURS, "mocov3", "--runs", str(root)).code == 2


@pytest.mark.parametrize(
    ("p", "text"), [(0.0, "< 0.001"), (0.00049, "< 0.001"), (0.0005, "0.001"), (0.0126, "0.013"), (1.0, "1.000")]
)
def test_a_p_value_is_never_rounded_to_nothing(p: float, text: str) -> None:
    assert p_text(p) == text
    assert p_text(0.00004, 4) == "< 0.0001"
