"""Claims are judged by hand-checkable statistics; one pair of runs never decides, and the data are the paper's."""

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from table_samples import frame_of, rows_of

from results.claims import CONTRADICTED, SUPPORTED, TIE, TOO_FEW, as_frame, claims, count, judge, margin, method_note
from results.paired import Comparison, holm, paired, seeds_needed
from results.published import TABLES, published


def seeds_of(values: dict[str, list[float]], **changes: str) -> pd.DataFrame:
    """One run per method and value, with seeds from 0."""
    return frame_of(*(row for method, column in values.items() for row in rows_of(method, column, **changes)))


def verdict(frame: pd.DataFrame, better: str = "mocov2+ours-hp", worse: str = "mocov2") -> pd.Series:
    """The line of `as_frame` on the statement about two rows of Table 1."""
    lines = as_frame(judge(frame)).query("better == @better and worse == @worse and claim == 'ours-beats-baseline'")
    return lines[lines["table"] == "table1"].iloc[0]


# --- the data


def test_the_rankings_are_the_best_and_second_best_of_the_published_tables() -> None:
    rankings = [claim for claim in claims() if claim.id == "ranking"]
    assert all(claim.published > 0 for claim in rankings)
    claimed = {(claim.table, claim.better, claim.group, claim.metric) for claim in rankings}
    expected = set()
    for table in TABLES:
        paper = published(table)
        metrics = {(group.name, printed): ours for group in paper.groups for ours, printed in group.metrics.items()}
        for (method, group, printed), rank in paper.ranks().items():
            assert rank in (1, 2)
            expected.add((table, method, group, metrics[group, printed]))
    assert claimed == expected


def test_every_text_claim_is_in_the_data_for_each_column() -> None:
    statements = [claim for claim in claims() if claim.id == "ours-beats-baseline"]
    assert len(statements) == 2 * 3 * (3 + 9)  # frameworks, strategies, columns of tables 1 and 2
    assert len([claim for claim in claims() if claim.id == "high-pass-is-best"]) == 2 * 2 * (3 + 9)
    branches = [claim for claim in claims() if claim.id == "query-then-both-then-key"]
    assert {(claim.better, claim.worse) for claim in branches} == {
        pair
        for strategy in ("hp", "blur", "mean")
        for pair in pairwise(f"mocov2+ours-{strategy}{branch}" for branch in ("", "@both", "@key"))
    }


def test_the_statements_that_the_papers_own_numbers_do_not_bear_out_are_known() -> None:
    against = {
        (claim.group, claim.metric, claim.better, claim.worse)
        for claim in claims()
        if claim.published <= 0 and claim.id in ("ours-beats-baseline", "high-pass-is-best")
    }
    assert against == {
        ("VOC07+12_detection", "bbox_AP75", "mocov2+ours-blur", "mocov2"),
        ("Flowers-102", "top1", "simclr+ours-hp", "simclr+ours-blur"),
        ("Flowers-102", "top1", "simclr+ours-hp", "simclr+ours-mean"),
        ("COCO_instance_segmentation", "mask_AP75", "mocov2+ours-hp", "mocov2+ours-blur"),
    }


# --- the statistics


def test_the_interval_is_students_by_hand() -> None:
    comparison = paired({0: 70.0, 1: 72.0, 2: 71.0, 7: 9.0}, {0: 68.0, 1: 69.0, 2: 70.0, 8: 9.0})
    assert comparison.differences == (2.0, 3.0, 1.0)
    assert comparison.unpaired == 2
    assert comparison.mean == 2.0
    half = 4.302653 * 1.0 / math.sqrt(3)  # t(0.975, 2) × sample std of (2, 3, 1) / √n
    interval = comparison.interval()
    assert interval == pytest.approx((2 - half, 2 + half), abs=1e-5)
    assert comparison.p == pytest.approx(stats.ttest_rel([70.0, 72.0, 71.0], [68.0, 69.0, 70.0]).pvalue)


def test_holm_is_the_published_example() -> None:
    # Holm 1979: 4 × 0.005, then at least as much as before × the number left
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_holm_keeps_the_chance_of_any_false_alarm_below_the_level() -> None:
    draws = np.random.default_rng(0).uniform(size=(4000, 20))
    alarms = sum(min(holm(list(row))) < 0.05 for row in draws) / len(draws)
    assert alarms == pytest.approx(0.05, abs=0.012)


def test_the_number_of_seeds_needed_has_the_power_it_promises() -> None:
    seeds = seeds_needed(Comparison((0.0, 2.0, 1.0)), 1.0)  # spread 1, effect 1
    assert seeds == 10
    draws = np.random.default_rng(0).normal(1.0, 1.0, size=(2000, seeds))
    assert np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.04)
    assert seeds_needed(Comparison((0.0,)), 1.0) is None


# --- the verdicts


def test_one_run_each_supports_nothing_however_large_the_difference() -> None:
    verdicts = judge(seeds_of({"mocov2": [10.0], "mocov2+ours-hp": [90.0]}))
    assert count(verdicts) == {SUPPORTED: 0, TIE: 0, CONTRADICTED: 0, TOO_FEW: len(verdicts)}
    assert verdict(seeds_of({"mocov2": [10.0], "mocov2+ours-hp": [90.0]}))["n"] == 1


def test_a_clear_difference_is_supported_and_its_reverse_contradicted() -> None:
    low, high = [68.1, 68.4, 67.9], [73.5, 74.0, 73.2]
    line = verdict(seeds_of({"mocov2": low, "mocov2+ours-hp": high}))
    assert line["verdict"] == SUPPORTED
    assert line["n"] == 3
    assert line["difference"] == pytest.approx(5.4333, abs=1e-3)
    assert 0 < line["low"] < line["difference"] < line["high"]
    assert line["published"] == 5.58
    assert verdict(seeds_of({"mocov2": high, "mocov2+ours-hp": low}))["verdict"] == CONTRADICTED


def test_close_runs_are_a_tie_and_scattered_ones_too_few() -> None:
    close = seeds_of({"mocov2": [70.0, 70.2, 70.1], "mocov2+ours-hp": [70.1, 70.2, 70.05]})
    assert verdict(close)["verdict"] == TIE
    scattered = seeds_of({"mocov2": [70.0, 70.2, 70.1], "mocov2+ours-hp": [65.0, 75.0, 71.0]})
    assert verdict(scattered)["verdict"] == TOO_FEW
    assert "seeds would show" in verdict(seeds_of({"mocov2": [60.0, 61.0], "mocov2+ours-hp": [64.0, 66.0]}))["why"]


def test_pairs_without_a_spread_decide_nothing() -> None:
    line = verdict(seeds_of({"mocov2": [60.0, 61.0], "mocov2+ours-hp": [65.0, 66.0]}))
    assert line["verdict"] == TOO_FEW
    assert line["why"] == "all pairs differ by the same amount: no spread to judge by"


def test_a_borderline_difference_is_no_longer_supported_among_many_comparisons() -> None:
    pair = {"mocov2": [70.0, 70.0, 70.0], "mocov2+ours-hp": [72.0, 72.5, 73.3]}
    alone = verdict(seeds_of(pair))
    assert alone["verdict"] == SUPPORTED
    more = {name: [70.0, 71.5, 70.4 + number] for number, name in enumerate(("mocov2+mscn", "mocov2+adios"))}
    more |= {"mocov2+ours-blur": [69.0, 71.0, 70.5], "mocov2+ours-mean": [70.9, 69.0, 71.5]}
    among = verdict(seeds_of(pair | more))
    assert among["difference"] == alone["difference"]
    assert among["p_corrected"] > alone["p_corrected"]
    assert among["verdict"] == TOO_FEW
    assert among["why"].startswith("alone it would count (p = 0.021), among 8 ")
    assert among["low_corrected"] < 0 < among["low"] < among["high"] < among["high_corrected"]


def test_the_same_comparison_in_two_claims_counts_once() -> None:
    verdicts = judge(seeds_of({"mocov2+ours-hp": [60.0, 61.0, 62.5], "mocov2+ours-hp@both": [50.0, 52.0, 51.0]}))
    tested = [item for item in verdicts if item.p is not None]
    assert {item.claim.id for item in tested} == {"query-then-both-then-key", "ranking"}
    assert "over the 1 comparison(s)" in method_note(verdicts)
    assert tested[0].p == tested[0].comparison.p


def test_tiny_runs_are_judged_but_named() -> None:
    frame = seeds_of({"mocov2": [10.0, 11.0], "mocov2+ours-hp": [20.0, 22.0]}, dataset="scenes", scale="resnet18")
    line = verdict(frame)
    assert line["where"] == "scenes (TINY)"
    assert line["scale"] == "resnet18"


def test_without_any_run_every_claim_is_listed() -> None:
    verdicts = judge(None)
    assert len(verdicts) == len(claims())
    assert {item.outcome for item in verdicts} == {TOO_FEW}
    assert margin() == 1.0
