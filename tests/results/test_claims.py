"""Claims are judged by statistics that can be checked by hand, and one pair of runs decides nothing."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from places import REPRODUCED
from scipy import stats
from table_samples import frame_of, rows_of

from results.claims.families import NO_VERDICT, families_as_frame, judge_families
from results.claims.spreads import TESTS, SpreadOf
from results.claims.verdict_frame import as_frame
from results.claims.verdicts import CONTRADICTED, NOT_RUN, SUPPORTED, TIE, UNDECIDED, count, judge, method_notes
from results.collection.collect import collect
from results.paper.paper_claims import margin, questions
from results.paper.published import published
from results.report.headline import headline
from results.statistics.paired import NO_NUMBERS, Comparison, Spread, holm, paired, seeds_needed


def seeds_of(values: dict[str, list[float]], **changes: str) -> pd.DataFrame:
    """One run per method and value, with seeds from 0."""
    return frame_of(*(row for method, column in values.items() for row in rows_of(method, column, **changes)))


def verdict(
    frame: pd.DataFrame,
    better: str = "mocov2+ours-hp",
    worse: str = "mocov2",
    spread: SpreadOf = SpreadOf.sentence,
) -> pd.Series:
    """The line of `as_frame` with the statement about two rows of Table 1."""
    lines = as_frame(judge(frame, spread=spread)).query("better == @better and worse == @worse")
    return lines[lines["table"] == "table1"].iloc[0]


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
    # Holm 1979: 4 × 0.005, then the maximum of the value before and p × the number left
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_holm_keeps_the_chance_of_any_false_alarm_below_the_level() -> None:
    draws = np.random.default_rng(0).uniform(size=(4000, 20))
    alarms = sum(min(holm(list(row))) < 0.05 for row in draws) / len(draws)
    assert alarms == pytest.approx(0.05, abs=0.012)


def test_the_number_of_seeds_needed_has_the_power_it_promises() -> None:
    seeds = seeds_needed(Comparison((0.0, 4.0, 2.0)), 2.0)  # the true effect is one spread, 2
    assert seeds == 10
    assert [seeds_needed(Comparison((0.0, 4.0, 2.0)), size) for size in (4.0, 4.2, 6.0, 8.0)] == [5, 5, 4, 3]
    assert seeds_needed(Comparison((0.0, 9.0), spread=Spread(2.0, 8)), 2.0) == seeds
    for small in (0.1, 0.0):
        assert seeds_needed(Comparison((0.0, 4.0, 2.0)), small) is None  # more than anybody is told to run
    draws = np.random.default_rng(0).normal(1.0, 1.0, size=(2000, seeds))
    assert np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.04)
    assert seeds_needed(Comparison((0.0,)), 1.0) is None


# --- the verdicts


def test_one_run_each_supports_nothing_however_large_the_difference() -> None:
    verdicts = judge(seeds_of({"mocov2": [10.0], "mocov2+ours-hp": [90.0]}))
    one_run = {SUPPORTED: 0, TIE: 0, CONTRADICTED: 0, UNDECIDED: 1, NOT_RUN: len(verdicts) - 1}
    assert count(verdicts) == one_run
    line = verdict(seeds_of({"mocov2": [10.0], "mocov2+ours-hp": [90.0]}))
    assert (line["n"], line["why"]) == (1, "one pair of runs has no spread to judge by")


def test_seeds_that_only_one_row_has_are_no_pair() -> None:
    """They used to read "not run", as if one of the two rows were missing."""
    line = verdict(frame_of(*rows_of("mocov2", [60.0]), *rows_of("mocov2+ours-hp", [70.0, 71.0])[1:]))
    assert (line["verdict"], line["n"], line["why"]) == (UNDECIDED, 0, "no seed that both have")
    line = verdict(frame_of(*rows_of("mocov2", [60.0])))
    assert (line["verdict"], line["n"], line["why"]) == (NOT_RUN, 0, "only one of the two was run")
    assert verdict(frame_of(*rows_of("simclr", [60.0])))["why"] == "not run"


def test_seeds_that_have_no_pair_are_said_where_others_have_one() -> None:
    """The longer row's additional seeds used to be left out without a message."""
    line = verdict(frame_of(*rows_of("mocov2", [60.0, 61.0]), *rows_of("mocov2+ours-hp", [70.0, 70.4, 73.0, 74.0])))
    assert line["n"] == 2
    assert line["why"].endswith("; left out: 2 seeds that only one of the two has")


def test_the_note_names_the_test() -> None:
    frame = seeds_of({"mocov2": [60.0, 61.0], "mocov2+ours-hp": [65.0, 66.5]})
    for spread, test in TESTS.items():
        first, second, *_ = method_notes(judge(frame, spread=spread))
        assert first == test
        assert second.startswith("P values are corrected by Holm")
    assert method_notes([])[0] == TESTS[SpreadOf.sentence]


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
    assert verdict(close)["why"] == "the interval lies within ±1 point"
    # Only one end of the interval is within the margin: -2.66 … 0.72, and the same the other way round.
    for lopsided in ([69.8, 69.0, 68.6], [70.2, 71.4, 71.6]):
        frame = seeds_of({"mocov2": [70.0, 70.2, 70.1], "mocov2+ours-hp": lopsided})
        assert verdict(frame)["verdict"] == UNDECIDED
    scattered = seeds_of({"mocov2": [70.0, 70.2, 70.1], "mocov2+ours-hp": [65.0, 75.0, 71.0]})
    line = verdict(scattered)
    assert line["verdict"] == UNDECIDED
    too_few = "; about 9 seeds would show 5.58 points at this spread"
    assert line["why"] == f"the interval contains zero as well as more than 1 point{too_few}"
    # The only comparison of its sentence is not corrected.
    assert (line["low_corrected"], line["high_corrected"], line["p_corrected"]) == (
        line["low"],
        line["high"],
        line["p"],
    )
    assert "seeds would show" in verdict(seeds_of({"mocov2": [60.0, 61.0], "mocov2+ours-hp": [64.0, 66.0]}))["why"]


def test_verdicts_stand_in_the_order_of_the_tables() -> None:
    tables = [verdict.claim.table for verdict in judge(None)]
    assert tables == sorted(tables)
    assert set(tables) == {"table1", "table2", "table3"}


def test_pairs_without_a_spread_decide_nothing() -> None:
    line = verdict(seeds_of({"mocov2": [60.0, 61.0], "mocov2+ours-hp": [65.0, 66.0]}))
    assert line["verdict"] == UNDECIDED
    assert line["why"] == "all pairs differ by the same amount: no spread to judge by"


def test_a_borderline_difference_is_no_longer_supported_among_many_comparisons() -> None:
    pair = {"mocov2": [70.0, 70.0, 70.0], "mocov2+ours-hp": [72.0, 72.5, 73.3]}
    alone = verdict(seeds_of(pair), spread=SpreadOf.pair)
    assert alone["verdict"] == SUPPORTED
    more = {name: [70.0, 71.5, 70.4 + number] for number, name in enumerate(("mocov2+mscn", "mocov2+adios"))}
    more |= {"mocov2+ours-blur": [69.0, 71.0, 70.5], "mocov2+ours-mean": [70.9, 69.0, 71.5]}
    among = verdict(seeds_of(pair | more), spread=SpreadOf.pair)
    assert among["difference"] == alone["difference"]
    assert among["p_corrected"] > alone["p_corrected"]
    assert among["verdict"] == UNDECIDED
    assert among["why"].startswith("a difference only without correction (p = 0.021) for the 3 ")
    assert among["low_corrected"] < 0 < among["low"] < among["high"] < among["high_corrected"]


def test_a_comparison_that_two_families_ask_about_counts_once() -> None:
    verdicts = judge(seeds_of({"mocov2+ours-hp": [60.0, 61.0, 62.5], "mocov2+ours-blur": [50.0, 52.0, 51.0]}))
    (tested,) = (item for item in verdicts if item.p is not None)
    assert [claim.family.id for claim in tested.question.claims] == ["high-pass-is-best", "best-and-second-best"]
    assert "Here these are at most 1;" in " ".join(method_notes(verdicts))
    assert tested.p == tested.comparison.p


def test_the_note_counts_no_comparisons_where_one_seed_tests_none() -> None:
    verdicts = judge(seeds_of({"mocov2": [60.0], "mocov2+ours-hp": [65.0]}))
    assert "Here none could be;" in " ".join(method_notes(verdicts))


def test_p_is_the_same_whatever_else_was_run() -> None:
    """Neither another setting of the same rows nor runs for another sentence change a verdict's numbers."""
    pairs = {"mocov2": [70.0, 70.2, 70.1], "mocov2+ours-hp": [72.0, 72.5, 73.3]}
    frame = seeds_of(pairs)
    more = {"mocov2": [10.0, 11.0, 12.5], "mocov2+ours-hp": [13.0, 12.0, 12.6]}
    settings = ({"dataset": "scenes", "scale": "resnet18"}, {"dataset": "scenes"}, {"fidelity": "released"})
    elsewhere = pd.concat([seeds_of(more, **setting) for setting in settings], ignore_index=True)
    other_sentence = seeds_of({"mocov2+mscn": [70.0, 71.5, 70.4], "mocov2+adios": [69.0, 71.5, 70.0]})
    alone = verdict(frame)
    both = as_frame(judge(pd.concat([frame, elsewhere, other_sentence], ignore_index=True)))
    of_baseline = both.query("claim == 'ours-beats-baseline' and n > 0")
    (here,) = of_baseline.query("where == 'ImageNet-100' and fidelity == 'paper'").to_dict("records")
    for name in ("p", "p_corrected", "low_corrected", "high_corrected", "verdict", "why"):
        assert here[name] == alone[name], name
    whole = families_as_frame(judge_families(judge(pd.concat([frame, elsewhere], ignore_index=True))))
    of_sentence = whole[(whole["claim"] == "ours-beats-baseline") & (whole["setting"] == "the paper's data")].iloc[0]
    assert of_sentence["p"] == sentences(frame).loc["ours-beats-baseline", "p"]


def test_tiny_runs_are_judged_but_named() -> None:
    frame = seeds_of({"mocov2": [10.0, 11.0], "mocov2+ours-hp": [20.0, 22.0]}, dataset="scenes", scale="resnet18")
    line = verdict(frame)
    assert line["where"] == "scenes (TINY)"
    assert line["scale"] == "resnet18"


def test_without_any_run_every_question_is_listed() -> None:
    verdicts = judge(None)
    assert len(verdicts) == len(questions())
    assert {(item.outcome, item.why) for item in verdicts} == {(NOT_RUN, "not run")}
    assert margin() == 1.0
    assert {(item.outcome, item.why) for item in judge_families(verdicts)} == {(NOT_RUN, "not run")}


# --- the sentences


def sentences(frame: pd.DataFrame | None, spread: SpreadOf = SpreadOf.pair) -> pd.DataFrame:
    """The lines of `families_as_frame` by the family's id."""
    return families_as_frame(judge_families(judge(frame, spread=spread))).set_index("claim")


def reproduced(
    spread: float, *, effect: float = 1.0, draw: int = 0, tables: Sequence[str] = ("table1", "table2")
) -> pd.DataFrame:
    """Three seeds of every row with the published values and noise; gains over the framework are scaled by `effect`."""
    noise = np.random.default_rng(draw)
    rows = []
    for paper in map(published, tables):
        places = {(group.name, name): (group, ours) for group in paper.groups for ours, name in group.metrics.items()}
        for (method, name, printed), value in paper.values.items():
            group, metric = places[name, printed]
            base = paper.values.get((method.split("+")[0], name, printed), value)
            values = base + effect * (value - base) + noise.normal(0, spread, 3)
            task = paper.task or group.dataset
            rows += rows_of(method, list(values), dataset=group.dataset, metric=metric, task=task)
    return frame_of(*rows)


def test_the_mean_over_a_family_is_taken_seed_by_seed_by_hand() -> None:
    frame = seeds_of(
        {"mocov2": [60.0, 61.0, 62.0], "mocov2+ours-hp": [62.0, 64.0, 66.0], "mocov2+ours-blur": [61.0, 60.0, 63.0]}
    )
    line = sentences(frame).loc["ours-beats-baseline"]
    assert (line["setting"], line["compared"], line["scope"]) == ("the paper's data", 2, "on 2 of 72")
    differences = [(2.0 + 1.0) / 2, (3.0 - 1.0) / 2, (4.0 + 1.0) / 2]
    assert line["difference"] == pytest.approx(np.mean(differences))
    test = stats.ttest_1samp(differences, 0)
    assert line["p"] == pytest.approx(test.pvalue)
    assert (line["low"], line["high"]) == pytest.approx(test.confidence_interval(0.95))
    assert line["published"] == pytest.approx((5.58 + 4.28) / 2)
    assert line["n"] == 3
    assert line["not_run"] == 70


def test_a_family_is_decided_where_its_pairs_are_not() -> None:
    frame = reproduced(0.3)
    lines = sentences(frame)
    assert dict(lines["verdict"]) == {
        "ours-beats-baseline": SUPPORTED,
        "ours-beats-other-masking": SUPPORTED,
        "high-pass-is-best": SUPPORTED,
        "query-beats-both": NOT_RUN,
        "both-beats-key": NOT_RUN,
        "best-and-second-best": NO_VERDICT,
    }
    assert lines["scope"].eq("").all()
    assert lines["compared"].to_list() == [72, 48, 48, 0, 0, 0]
    first = lines.loc["ours-beats-baseline"]
    assert first["difference"] == pytest.approx(first["published"], abs=0.2)
    assert first["supported"] + first["tie"] + first["contradicted"] + first["undecided"] == 72
    assert first["supported"] < 36  # the correction for 72 comparisons leaves few of them
    # By the spread that the sentence's rows share, nearly all of those with runs.
    assert sentences(frame, SpreadOf.sentence).loc["ours-beats-baseline", "supported"] > 40
    reversed_runs = reproduced(0.3, effect=-1.0)
    assert sentences(reversed_runs).loc["ours-beats-baseline", "verdict"] == CONTRADICTED


def test_without_an_effect_false_alarms_are_rare() -> None:
    frames = [reproduced(0.3, effect=0.0, draw=draw, tables=["table1"]) for draw in range(20)]
    alarms = pd.DataFrame([sentences(frame)["verdict"].isin([SUPPORTED, CONTRADICTED]) for frame in frames])
    # Sentences are not corrected for one another. Each has more alarms at 5 % with a chance of 0.3 %.
    assert alarms.sum().max() <= 4
    assert (alarms.sum() > 0).any()


def test_a_reversed_claim_counts_the_other_way_round() -> None:
    runs = {"simclr+ours-hp": [30.0, 30.1, 29.9], "simclr+adios": [40.0, 40.2, 39.8]}
    frame = seeds_of(runs, dataset="coco", metric="bbox_AP", task="coco", framework="simclr")
    lines = sentences(frame)
    assert lines.loc["ours-beats-other-masking", "contradicted"] == 1
    assert lines.loc["best-and-second-best", "supported"] == 1
    assert lines.loc["best-and-second-best", "verdict"] == NO_VERDICT


def test_data_that_the_paper_does_not_name_is_not_called_the_papers() -> None:
    values = {f"mocov2+ours-hp{branch}-no-hard-negative": [60.0, 61.0, 62.5] for branch in ("", "@both")}
    told = [each for each in judge_families(judge(seeds_of(values | {"mocov2+ours-hp": [61.0]}))) if each.setting]
    assert {each.family.id: each.setting for each in told} == {"query-beats-both": "imagenet100"}


def test_settings_are_never_averaged() -> None:
    pair = {"mocov2": [10.0, 11.0, 12.0], "mocov2+ours-hp": [20.0, 22.0, 21.5]}
    tiny = [seeds_of(pair, dataset="scenes", scale=scale) for scale in ("resnet18", "resnet50, 64 px")]
    frame = pd.concat([seeds_of(pair), *tiny], ignore_index=True)
    lines = sentences(frame).loc["ours-beats-baseline"]
    assert lines["setting"].to_list() == [
        "scenes; TINY: resnet18",
        "scenes; TINY: resnet50, 64 px",
        "the paper's data",
    ]
    assert lines["compared"].to_list() == [1, 1, 1]


def test_the_measures_of_one_column_are_comparisons_of_their_own() -> None:
    pair = {"mocov2": [30.0, 30.4, 30.1], "mocov2+ours-hp": [31.0, 31.9, 31.2]}
    results = [
        row
        for gain, metric in enumerate(("bbox_AP", "bbox_AP50", "bbox_AP75"))
        for method, values in pair.items()
        for row in rows_of(
            method,
            [v + gain * n * (method != "mocov2") for n, v in enumerate(values)],
            task="coco",
            dataset="coco",
            protocol="coco-mrcnn-c4-2x-v1",
            metric=metric,
        )
    ]
    lines = as_frame(judge(frame_of(*results), spread=SpreadOf.pair))
    lines = lines.query("better == 'mocov2+ours-hp' and worse == 'mocov2' and n == 3")
    assert len(set(lines["p"])) == 3
    assert lines["p_corrected"].to_list() == pytest.approx(holm(lines["p"].to_list()))


def test_untrained_networks_are_no_runs_of_the_method_whose_name_they_have() -> None:
    trained = collect([REPRODUCED / "cpu-112px"])
    both = collect([REPRODUCED / "cpu-112px", REPRODUCED / "cpu-112px-untrained"])
    assert len(both) > len(trained)
    assert judge(both, task="logistic") == judge(trained, task="logistic")


@pytest.mark.parametrize(
    "values",
    [(math.nan,) * 3, (60.0, math.nan, 61.0), (60.0, math.nan), (1e308, -1e308, 1e308), (1e160, 1e161, 1e160)],
)
def test_values_that_are_no_numbers_decide_nothing_and_leave_the_others_as_they_are(values: tuple[float, ...]) -> None:
    """The note used to say that all pairs differ by the same amount."""
    others = [*rows_of("mocov2", (60.0, 61.0, 62.5)), *rows_of("mocov2+ours-blur", (65.0, 66.2, 67.0))]
    alone = {verdict.claim: verdict for verdict in judge(frame_of(*others)) if verdict.both_run}
    verdicts = [verdict for verdict in judge(frame_of(*others, *rows_of("mocov2+ours-hp", values))) if verdict.both_run]
    of_it = [verdict for verdict in verdicts if "mocov2+ours-hp" in (verdict.claim.better, verdict.claim.worse)]
    assert len(of_it) == 2
    for verdict in of_it:
        assert (verdict.outcome, verdict.p, verdict.comparison.interval()) == (UNDECIDED, None, None)
        assert verdict.why.partition("; ")[0] == NO_NUMBERS  # then the seeds that the shorter one lacks
    (other,) = [verdict for verdict in verdicts if verdict not in of_it]
    assert (other.outcome, other.p) == (alone[other.claim].outcome, alone[other.claim].p)
    families = judge_families(verdicts)
    family = next(family for family in families if family.family.id == "ours-beats-baseline")
    assert (family.outcome, family.comparison.p, family.why) == (UNDECIDED, None, NO_NUMBERS)
    assert headline(families, frame_of(*others), []).result.startswith(f"{NO_NUMBERS}; the further ones: ")
