"""Claims are judged by images if predictions are at hand, and the row says so."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from prediction_samples import evaluated, predictions, rewritten, two_methods
from run_samples import finished
from training_samples import salmask

from baselines import resolve
from results.claims.predictions import ColumnPredictions
from results.claims.spreads import SpreadOf
from results.claims.verdict_frame import as_frame
from results.claims.verdicts import SUPPORTED, Verdict, judge, method_notes
from results.collection.collect import collect_runs
from results.collection.runs import find_runs
from results.comparison.compare import compare
from results.paper.published import published
from results.statistics.imagewise import Difference
from results.tables.selection import measured_columns

OURS = "mocov2+ours-hp"
SIDES = ((OURS, "mocov2"), ("mocov2", OURS))
SAYS_SO = "a bootstrap over seeds and images"


def collected(root: Path) -> pd.DataFrame:
    return collect_runs(find_runs([root], resolve))


def verdicts_on(root: Path, better: str = OURS, worse: str = "mocov2", **options: SpreadOf) -> list[Verdict]:
    verdicts = judge(collected(root), **options)
    return [v for v in verdicts if v.both_run and (v.claim.better, v.claim.worse) == (better, worse)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three seeds of each method, 800 images, true accuracies of 74 % and 70 %."""
    two_methods(tmp_path, {"mocov2": 0.70, OURS: 0.74})
    return tmp_path


def test_images_and_seeds_judge_what_compare_judges(root: Path) -> None:
    (verdict,) = verdicts_on(root)
    records = find_runs([root], resolve)
    (other,) = compare(collect_runs(records), records, OURS, "mocov2")
    comparison = verdict.comparison
    assert comparison.mean == pytest.approx(other.difference.mean)
    assert comparison.p == pytest.approx(other.difference.p, abs=0.004)  # both use draws of their own
    assert comparison.interval() == pytest.approx(other.difference.interval(), abs=0.1)
    assert comparison.basis == "3 seeds, 800 images"
    assert verdict.p == comparison.p  # the only comparison of its sentence here
    line = as_frame([verdict]).iloc[0]
    assert (line["by"], line["n"]) == ("3 seeds, 800 images", 3)
    assert (
        f"1 of 1 comparisons here have predictions of the same images from all of their runs: there {SAYS_SO}"
        in " ".join(method_notes([verdict]))
    )


def test_both_directions_of_a_claim_are_one_test(root: Path) -> None:
    (verdict,) = verdicts_on(root)
    difference = verdict.comparison.by_images
    assert isinstance(difference, Difference)
    back = difference.reversed()
    assert (back.mean, back.p) == (-difference.mean, difference.p)
    low, high = difference.interval() or (0, 0)
    assert back.interval() == pytest.approx((-high, -low))


def test_whichever_name_comes_first_in_the_alphabet_images_judge_better_minus_worse(root: Path) -> None:
    frame = collected(root)
    ((column, _),) = measured_columns(frame, published("table1"))
    judged = [ColumnPredictions(column, frame).judge(*pair, "top1", (0, 1, 2)) for pair in SIDES]
    there, back = (found for found in judged if found is not None)
    assert there.mean > 2 > -2 > back.mean == -there.mean
    assert there.p == back.p
    assert there.interval() == pytest.approx([-end for end in reversed(back.interval() or ())], abs=1e-9)
    # The best epoch's accuracy belongs to other predictions than the last one's, even if they are equal.
    best = frame[frame["metric"] == "top1"].assign(metric="top1_best")
    ((column, _),) = measured_columns(best, published("table1"), metric="top1_best")
    assert ColumnPredictions(column, best).judge(*SIDES[0], "top1_best", (0, 1, 2)) is None


def test_of_two_seeds_images_judge_as_well(tmp_path: Path) -> None:
    two_methods(tmp_path, {"mocov2": 0.6, OURS: 0.8}, seeds=(0, 1))
    (verdict,) = verdicts_on(tmp_path)
    assert (verdict.outcome, verdict.comparison.basis) == (SUPPORTED, "2 seeds, 800 images")


def test_images_find_what_three_seeds_cannot(tmp_path: Path) -> None:
    """Pairs of seeds scatter by chance, and their t-test has two degrees of freedom; thousands of images find more."""
    with_images, without = tmp_path / "images", tmp_path / "seeds"
    rng = np.random.default_rng(3)
    hard = rng.beta(0.7, 0.3, 4000)
    outcomes = {}
    for place, (method, gain) in enumerate({"mocov2": 0.0, OURS: 0.025}.items()):
        for seed in range(3):
            luck = (-0.009, 0.006, 0.003)[seed] * (1 - 2 * place)
            said = predictions(np.clip(hard + gain + luck, 0, 1), 10 * place + seed)
            evaluated(with_images, method, seed, said)
            finished(without, method, seed, {("imagenet100", "top1"): said.accuracy("top1")})
    for name, folder in (("images", with_images), ("seeds", without)):
        (outcomes[name],) = verdicts_on(folder)
    assert outcomes["images"].comparison.mean == pytest.approx(outcomes["seeds"].comparison.mean)
    assert (outcomes["images"].outcome, outcomes["seeds"].outcome) == ("supported", "undecided")
    assert outcomes["seeds"].comparison.basis == "3 seeds"


def test_the_seeds_decide_where_predictions_do_not_give_the_number_of_their_row(root: Path) -> None:
    rewritten(next((root / "full" / OURS).glob("s1-*/results.jsonl")), value=60.0)
    assert [verdict.comparison.basis for verdict in verdicts_on(root)] == ["3 seeds"]
    assert "judge: full/mocov2+ours-hp/s1-" in salmask("claims", "--runs", str(root)).out  # it used to tell nobody


def test_the_seeds_decide_where_a_file_is_gone_altered_or_of_other_images(root: Path) -> None:
    file = next((root / "full" / OURS).glob("s1-*/predictions/*.parquet"))
    content = file.read_bytes()
    for damage in (lambda: file.write_bytes(content + b"x"), file.unlink):
        damage()
        (verdict,) = verdicts_on(root)
        assert verdict.comparison.basis == "3 seeds"
        assert verdict.why.endswith("; predictions cannot be used, so that seeds alone judge")
        assert SAYS_SO not in " ".join(method_notes([verdict]))
    other = root / "other"
    evaluated(other, "mocov2", 0, predictions(np.full(100, 0.7), 0))
    evaluated(other, "mocov2", 1, predictions(np.full(100, 0.7), 1))
    for seed in (0, 1):
        evaluated(other, OURS, seed, predictions(np.full(100, 0.9), 2 + seed, images="other"))
    (verdict,) = verdicts_on(other)
    assert verdict.comparison.basis == "2 seeds"


def test_one_pair_decides_nothing_by_its_images_either(tmp_path: Path) -> None:
    two_methods(tmp_path, {"mocov2": 0.5, OURS: 0.9}, seeds=(0,))
    (verdict,) = verdicts_on(tmp_path)
    assert (verdict.outcome, verdict.comparison.basis) == ("undecided", "1 seed")


def test_a_pooled_spread_that_is_asked_for_judges_alone(root: Path) -> None:
    (verdict,) = verdicts_on(root, spread=SpreadOf.framework)
    assert verdict.comparison.by_images is None


def test_the_correction_stays_and_the_row_says_by_what(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    two_methods(root, {"mocov2+ours-blur": 0.705, "mocov2+random": 0.70, "mocov2+adios": 0.70})
    verdicts = [verdict for verdict in judge(collected(root)) if verdict.both_run]
    corrected = [v for v in verdicts if v.tested > 1]
    assert corrected
    for verdict in corrected:
        assert verdict.p is not None
        assert verdict.comparison.p is not None
        assert verdict.comparison.p <= verdict.p <= min(1.0, verdict.tested * verdict.comparison.p) + 1e-12
    ended = salmask("claims", "--runs", str(root))
    assert ended.code == 0, ended.err
    assert "| 3 seeds, 800 images |" in ended.out
    data = json.loads(salmask("claims", "--runs", str(root), "--json").out)
    assert {line["by"] for line in data["comparisons"]} == {"3 seeds, 800 images"}
