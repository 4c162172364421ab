"""Differences judged by the spread of all rows of a framework: the equation, false alarms, power, and the command."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from places import ROOT
from scipy import stats
from table_samples import frame_of, rows_of

from results.claims import spreads as claim_spreads
from results.claims.power import claim_power
from results.claims.spreads import SpreadOf
from results.claims.verdict_frame import as_frame
from results.claims.verdicts import NOT_RUN, SUPPORTED, count, judge, method_notes
from results.collection.collect import collect
from results.paper.published import published
from results.statistics.paired import LEVEL, Spread, paired, pooled_spread, spreading_alike

TRIALS = 2000


def blocks(rng: np.random.Generator, means: list[float], noise: float) -> list[dict[int, float]]:
    """Values of three seeds for each row: the row's mean, the seed's effect on all rows (2 points), and noise."""
    seeds = rng.normal(0, 2, 3)
    return [{seed: float(mean + seeds[seed] + rng.normal(0, noise)) for seed in range(3)} for mean in means]


def test_of_two_rows_it_is_the_paired_t_test() -> None:
    first, second = {1: 20.0, 2: 23.0, 3: 21.5}, {1: 18.0, 2: 20.5, 3: 21.0}
    own, pooled = paired(first, second), paired(first, second, pooled_spread([first, second]))
    expected = stats.ttest_rel([20.0, 23.0, 21.5], [18.0, 20.5, 21.0])
    assert own.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert pooled.p == pytest.approx(own.p, rel=1e-9)
    assert pooled.interval() == pytest.approx(own.interval(), rel=1e-9)
    low, high = expected.confidence_interval(0.95)
    assert own.interval() == pytest.approx((low, high), rel=1e-9)


def test_a_spread_of_other_rows_does_not_judge_a_single_pair() -> None:
    assert paired({0: 60.0}, {0: 50.0}, Spread(1.0, 8)).p is None


def test_of_complete_rows_it_is_the_residual_of_a_randomised_block_design() -> None:
    values = np.random.default_rng(0).normal(20, 2, (5, 4))
    residuals = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    spread = pooled_spread([dict(enumerate(row)) for row in values])
    assert spread is not None
    assert spread.degrees == 4 * 3
    assert spread.deviation == pytest.approx(np.sqrt(2 * (residuals**2).sum() / 12), rel=1e-9)


def test_of_rows_that_lack_seeds_it_is_the_residual_of_one_fit_of_rows_and_seeds() -> None:
    rng = np.random.default_rng(1)
    seeds_of_rows = ((0, 1, 2), (1, 2, 3), (0, 2, 3, 4), (0, 1))
    rows = [{seed: float(rng.normal(20 + row, 2)) for seed in seeds} for row, seeds in enumerate(seeds_of_rows)]
    cells = [(row, seed, value) for row, by_seed in enumerate(rows) for seed, value in by_seed.items()]
    design = np.array([[row == r for r in range(4)] + [seed == s for s in range(5)] for row, seed, _ in cells], float)
    measured = np.array([value for *_, value in cells])
    left = measured - design @ np.linalg.lstsq(design, measured, rcond=None)[0]
    spread = pooled_spread(rows)
    assert spread is not None
    assert spread.degrees == 12 - (4 + 5 - 1)
    assert spread.deviation == pytest.approx(np.sqrt(2 * left @ left / 4), rel=1e-9)


def test_a_row_alone_and_rows_without_a_seed_in_common_have_no_spread() -> None:
    assert pooled_spread([]) is None
    assert pooled_spread([{0: 1.0, 1: 2.0}]) is None
    assert pooled_spread([{0: 1.0, 1: 2.0}, {2: 1.0, 3: 4.0}]) is None
    assert pooled_spread([{0: 1.0, 1: 2.0}, {0: 3.0, 1: 4.0}]) is None  # rows and seeds explain everything
    # A third row with both seeds of the first adds one degree of freedom; the second row's own seeds add none.
    spread = pooled_spread([{0: 1.0, 1: 2.0}, {2: 1.0, 3: 4.0}, {0: 3.0, 1: 5.0}])
    assert spread is not None
    assert spread.degrees == 1


def test_without_an_effect_one_comparison_in_twenty_is_a_false_alarm() -> None:
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(TRIALS):
        rows = blocks(rng, [20.0] * 6, noise=1.0)
        alarms += (paired(rows[1], rows[0], pooled_spread(rows)).p or 1.0) < LEVEL
    # 2,000 trials: the standard error is half a point.
    assert 100 * alarms / TRIALS == pytest.approx(5, abs=1.5)


@pytest.mark.slow  # thousands of F tests
@pytest.mark.parametrize("seeds", [2, 3])
def test_that_rows_may_be_left_out_costs_little_where_all_spread_alike(seeds: int) -> None:
    rng, alarms = np.random.default_rng(seeds), 0
    for _ in range(TRIALS):
        rows = {name: dict(enumerate(rng.normal(20, 1, seeds))) for name in "abcd"}
        alike = spreading_alike(rows)
        spread = pooled_spread(rows[row] for row in alike) if alike >= {"a", "b"} else None
        p = paired(rows["a"], rows["b"], spread).p
        alarms += p is not None and p < LEVEL
    # 2,000 trials: the standard error is half a point.
    assert 100 * alarms / TRIALS == pytest.approx(6, abs=1.5)


@pytest.mark.slow  # thousands of F tests
@pytest.mark.parametrize("seeds", [3, 5])
def test_where_rows_spread_unlike_every_tenth_comparison_of_the_widest_is_a_false_alarm(seeds: int) -> None:
    """MoCo v2's rows in examples/study do; docs/results.md says so, and that `--paired` keeps to one in twenty."""
    rng = np.random.default_rng(1)
    deviations = {"alone": 2.62, "high-pass": 1.11, "blur": 0.86, "mean": 1.22}  # in points
    false_alarms = {"shared": 0, "own": 0}
    for _ in range(TRIALS):
        values = {row: dict(enumerate(rng.normal(60, spread, seeds))) for row, spread in deviations.items()}
        alike = spreading_alike(values)
        spread = pooled_spread(values[row] for row in alike) if alike >= {"alone", "high-pass"} else None
        for name, judged_by in (("shared", spread), ("own", None)):
            p = paired(values["alone"], values["high-pass"], judged_by).p
            false_alarms[name] += p is not None and p < LEVEL
    # 2,000 trials: the standard errors are 0.7 and 0.5 points.
    assert 100 * false_alarms["shared"] / TRIALS == pytest.approx(10.5, abs=2)
    assert 100 * false_alarms["own"] / TRIALS == pytest.approx(5, abs=1.5)


def test_six_rows_tell_what_two_do_not() -> None:
    rng = np.random.default_rng(2)
    alone = together = 0
    for _ in range(500):
        rows = blocks(rng, [20.0, 23.0, 22.0, 21.0, 20.5, 19.0], noise=1.0)
        alone += (paired(rows[1], rows[0]).p or 1.0) < LEVEL
        together += (paired(rows[1], rows[0], pooled_spread(rows)).p or 1.0) < LEVEL
    assert together / 500 > 0.85
    assert alone / 500 < 0.65


def test_a_row_that_diverged_shares_its_spread_with_nobody() -> None:
    rng = np.random.default_rng(4)
    left_out = 0
    for _ in range(500):
        rows = dict(zip("abcd", blocks(rng, [20.0] * 4, noise=1.0), strict=True))
        left_out += spreading_alike(rows) != set(rows)
    # Of rows that spread alike, one is left out in at most 5 %: the standard error of 500 trials is one point.
    assert 0.01 < left_out / 500 < 0.08
    wild = {"a": {0: 20.0, 1: 20.5, 2: 20.2}, "b": {0: 22.0, 1: 22.3, 2: 22.4}, "c": {0: 21.0, 1: 21.4, 2: 21.3}}
    assert spreading_alike(wild | {"d": {0: 5.0, 1: 60.0, 2: 30.0}}) == set(wild)
    assert spreading_alike({"a": wild["a"], "d": {0: 5.0, 1: 60.0, 2: 30.0}}) == {"a", "d"}  # of two, either


def test_rows_that_do_not_scatter_lend_their_certainty_to_none_that_does() -> None:
    """Three rows at chance level made a difference to the fourth row significant that its own seeds do not show."""
    still = {name: {0: 1.0, 1: 1.0, 2: 1.0} for name in "abc"}
    moving = {"a": {0: 20.0, 1: 20.5, 2: 20.2}, "b": {0: 22.0, 1: 22.3, 2: 22.4}}
    assert spreading_alike(still | {"d": {0: 1.3, 1: 2.9, 2: 1.8}}) == set(still)
    assert spreading_alike(still) == set(still)
    assert spreading_alike({"a": still["a"], "b": still["b"], "d": {0: 1.3, 1: 2.9, 2: 1.8}}) == {"a", "b"}
    # With one degree of freedom two rows may agree by chance, so the third is not left out.
    two = {name: {0: 20.0, 1: 20.2} for name in "ab"}
    assert spreading_alike(two | {"c": {0: 20.0, 1: 20.5}}) == {"a", "b", "c"}
    # A row without a seed in common with the others cannot be compared with their spread.
    assert spreading_alike(moving | {"e": {7: 3.0}}) == {*moving, "e"}
    values = {"mocov2": [1.0] * 3, "mocov2+ours-blur": [1.0] * 3, "mocov2+ours-mean": [1.0] * 3}
    frame = frame_with(values | {"mocov2+ours-hp": [1.3, 2.9, 1.8]})
    expected = stats.ttest_1samp([0.3, 1.9, 0.8], 0).pvalue
    assert line_of(frame, "mocov2+ours-hp")["p"] == pytest.approx(expected)
    assert line_of(frame, "mocov2+ours-blur")["why"] == "all pairs differ by the same amount: no spread to judge by"


def test_by_default_the_rows_of_a_sentence_share_their_spread_and_no_other_run_changes_a_p() -> None:
    values = {
        "mocov2": [60.0, 61.0, 62.2],
        "mocov2+ours-hp": [64.0, 65.5, 66.0],
        "mocov2+ours-blur": [63.0, 63.6, 65.2],
    }
    frame = frame_of(*(row for method, of_method in values.items() for row in rows_of(method, of_method)))
    spread = pooled_spread([dict(enumerate(of_method)) for of_method in values.values()])
    expected = paired(*(dict(enumerate(values[name])) for name in ("mocov2+ours-hp", "mocov2")), spread).p
    others = frame_of(*rows_of("mocov2+mscn", (61.0, 80.0, 50.0)), *rows_of("mocov2+ours-hp-rho1", (10.0, 90.0, 40.0)))
    for at_hand in (frame, pd.concat([frame, others], ignore_index=True)):
        line = as_frame(judge(at_hand)).query("better == 'mocov2+ours-hp' and worse == 'mocov2' and n == 3").iloc[0]
        assert line["p"] == pytest.approx(expected)
    pooled = as_frame(judge(pd.concat([frame, others], ignore_index=True), spread=SpreadOf.framework))
    line = pooled.query("better == 'mocov2+ours-hp' and worse == 'mocov2' and n == 3").iloc[0]
    assert expected is not None
    assert line["p"] > 2 * expected


def test_a_perfect_reproduction_comes_out_as_it_should_by_default() -> None:
    """Tables 1 and 2 with noise of .3 points and three seeds; `salmask bench claims` counts more draws."""
    lines = {line["spread of"]: line for line in claim_power([3], noise=0.3, draws=4)}
    pair, sentence = lines["pair"], lines["sentence"]
    assert sentence["found, %"] > 80
    assert pair["found, %"] < 30
    assert sentence["wrong"] <= 0.5
    assert sentence["sentences"] == 3
    # All outcomes together are the questions of Tables 1 and 2.
    assert sum(sentence[outcome] for outcome in ("supported", "tie", "contradicted", "undecided")) == pytest.approx(
        185, abs=0.2
    )


def test_a_perfect_reproduction_of_table_1_is_told_as_one() -> None:
    """The published values, three seeds, noise of .3 points: the paper's statements must come out."""
    rng = np.random.default_rng(3)
    paper = published("table1")
    rows = [
        result
        for (method, group, metric), value in paper.values.items()
        if group == paper.groups[0].name and metric == paper.groups[0].metrics["top1"]
        for result in rows_of(method, [value + rng.normal(0, 0.3) for _ in range(3)])
    ]
    frame = frame_of(*rows)
    alone, pooled = judge(frame, spread=SpreadOf.pair), judge(frame, spread=SpreadOf.framework)
    assert count(pooled)[SUPPORTED] > count(alone)[SUPPORTED]
    lines = as_frame(pooled).query("worse in ('mocov2', 'simclr') and n == 3")
    assert len(lines) == 6
    assert set(lines["verdict"]) == {SUPPORTED}
    assert "row + seed" in method_notes(pooled)[0]
    assert "row + seed" not in " ".join(method_notes(alone))


def test_claims_are_judged_by_another_task_where_it_is_named() -> None:
    """The study's runs have no linear probe, so by default none of them can be judged."""
    frame = collect([ROOT / "examples" / "study" / "runs"])
    assert set(count(judge(frame))) - {NOT_RUN} == {name for name, n in count(judge(frame)).items() if n == 0}
    lines = as_frame(judge(frame, spread=SpreadOf.framework, task="logistic")).query("n > 0")
    best = lines.query("better == 'mocov2+ours-hp' and worse == 'mocov2'").iloc[0]
    assert (best["verdict"], best["table"]) == (SUPPORTED, "table1")


def line_of(frame: pd.DataFrame, better: str, worse: str = "mocov2") -> pd.Series:
    return as_frame(judge(frame)).query("better == @better and worse == @worse and n == 3").iloc[0]


def frame_with(values: dict[str, list[float]]) -> pd.DataFrame:
    return frame_of(*(row for method, of_method in values.items() for row in rows_of(method, of_method)))


def test_a_row_that_diverged_is_judged_by_its_own_pairs_and_widens_no_others() -> None:
    values = {
        "mocov2": [20.0, 20.5, 20.2],
        "mocov2+ours-hp": [22.0, 22.3, 22.4],
        "mocov2+ours-mean": [21.0, 21.4, 21.3],
        "mocov2+ours-blur": [5.0, 60.0, 30.0],
    }
    by_seed = {method: dict(enumerate(of_method)) for method, of_method in values.items()}
    wild = by_seed.pop("mocov2+ours-blur")
    alike = paired(by_seed["mocov2+ours-hp"], by_seed["mocov2"], pooled_spread(by_seed.values()))
    assert line_of(frame_with(values), "mocov2+ours-hp")["p"] == pytest.approx(alike.p)
    assert line_of(frame_with(values), "mocov2+ours-blur")["p"] == pytest.approx(paired(wild, by_seed["mocov2"]).p)


def test_what_a_seed_does_to_one_framework_it_need_not_do_to_the_other() -> None:
    values = {
        "mocov2": [60.0, 61.0, 62.2],
        "mocov2+ours-hp": [64.0, 65.5, 66.0],
        "simclr": [62.1, 61.0, 60.0],
        "simclr+ours-hp": [66.1, 65.4, 64.0],
    }
    named = {
        method: {(method.partition("+")[0], seed): value for seed, value in enumerate(of_method)}
        for method, of_method in values.items()
    }
    spread = pooled_spread(named.values())
    expected = paired(*(dict(enumerate(values[name])) for name in ("mocov2+ours-hp", "mocov2")), spread)
    assert line_of(frame_with(values), "mocov2+ours-hp")["p"] == pytest.approx(expected.p)


def test_a_pooled_spread_is_of_the_rows_of_one_framework() -> None:
    values = {"mocov2": [60.0, 61.0, 62.2], "mocov2+ours-hp": [64.0, 65.5, 66.0]}
    others = {"simclr": [62.1, 61.0, 60.0], "simclr+ours-hp": [50.0, 65.4, 64.0]}
    lines = [as_frame(judge(frame_with(rows), spread=SpreadOf.framework)) for rows in (values, values | others)]
    alone, among = (of_rows.query("better == 'mocov2+ours-hp' and n == 3").iloc[0] for of_rows in lines)
    assert (alone["p"], alone["low"]) == (among["p"], among["low"])


def test_the_spread_of_the_same_rows_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each claim used to compute it again: 2,000 runs took six minutes."""
    asked: list[frozenset[str]] = []

    def counted(rows: Mapping[str, Mapping[Any, float]]) -> set[str]:
        asked.append(frozenset(rows))
        return spreading_alike(rows)

    monkeypatch.setattr(claim_spreads, "spreading_alike", counted)
    noise = np.random.default_rng(0).normal(0, 1, (len(published("table1").rows), 3))
    rows = [rows_of(method, 60 + of_seeds) for method, of_seeds in zip(published("table1").rows, noise, strict=True)]
    told = [
        verdict for verdict in judge(frame_of(*(row for of_method in rows for row in of_method))) if verdict.both_run
    ]
    assert len(asked) == len(set(asked)) < len(told) / 3
