"""The table of false alarms and finds: draws have the stated gain, repeat, and bad input is one line."""

import json
import re
from typing import Any

import numpy as np
import pytest
from training_samples import refused, salmask

from repro.randomness import Purpose, stream
from results import bench
from results.claims import power
from results.claims.power import claim_power
from results.claims.verdicts import MeasuredColumn
from results.paper.paper_claims import margin, questions
from results.statistics.power import PairOfMethods, power_table


def test_pairs_have_the_gain_and_the_luck_that_they_are_drawn_with() -> None:
    of_pair = PairOfMethods(seeds=3, images=2000, luck=1.0, gain=2.0)
    drawn = [of_pair.draw(stream(0, Purpose.bootstrap, 1, number)) for number in range(300)]
    means = np.array([[100 * correct.mean(axis=1) for correct in pair] for pair in drawn])
    assert (means[:, 0] - means[:, 1]).mean() == pytest.approx(2.0, abs=0.2)
    assert means[:, 1].mean() == pytest.approx(70 * 0.98, abs=0.7)  # 70 %, scaled to leave room for the gain
    # Seeds scatter by their luck, and by chance on each image; the images of a pair are the same.
    scatter = means[:, 0].std(axis=1, ddof=1) ** 2
    chance = 100**2 * 0.7 * 0.3 / 2 / 2000  # for Beta(.7, .3), the mean of p (1 − p) is half of that at its mean
    assert scatter.mean() == pytest.approx(1.0 * 0.75 + chance, rel=0.35)  # clipping removes part of the luck


def test_a_gain_of_all_points_makes_the_first_right_of_every_image_and_the_second_of_none() -> None:
    first, second = PairOfMethods(seeds=2, images=500, luck=0.0, gain=100.0).draw(stream(0, Purpose.bootstrap, 1))
    assert (first.mean(), second.mean()) == (1.0, 0.0)


def test_each_test_has_a_column_of_its_own() -> None:
    """With one seed each, only the images can tell; with two, the t-test hardly finds what the images show."""
    (one,) = power_table([20], pairs=3, seeds=1, images=300, luck=0.1)
    assert (one["by seeds, %"], one["by seeds and images, %"]) == (0, 100)
    (two,) = power_table([6], pairs=12, seeds=2, images=300, luck=0.1)
    assert two["by seeds, %"] in (0, 8.33)
    assert two["by seeds and images, %"] > 25


@pytest.mark.slow
def test_images_find_more_than_seeds_and_cry_wolf_no_more_often() -> None:
    null, real = power_table([0, 1.5], pairs=300, seeds=3, images=2000, luck=0.3)
    assert null["by seeds and images, %"] == pytest.approx(5, abs=3.2)  # within 2.5 standard errors
    assert real["by seeds and images, %"] > real["by seeds, %"] + 10
    assert power_table([0, 1.5], pairs=20, seeds=3, images=500, luck=0.3) == power_table(
        [0, 1.5], pairs=20, seeds=3, images=500, luck=0.3
    )


def test_a_gain_far_above_the_scatter_is_always_called_and_that_of_none_is_not() -> None:
    null, real = power_table([0, 20], pairs=6, seeds=3, images=300, luck=0.1)
    tests = ("by seeds, %", "by seeds and images, %")
    assert [null[test] for test in tests] == [0, 0]
    assert [real[test] for test in tests] == [100, 100]


def test_reproductions_without_noise_come_out_as_the_paper_has_it() -> None:
    published = [question.claim.published for question in questions() if question.claim.table != "table3"]
    for line in claim_power([3], noise=0.001, draws=2):
        assert (line["supported"], line["contradicted"]) == (
            sum(p > 0 for p in published),
            sum(p < 0 for p in published),
        )
        assert (line["found, %"], line["wrong"], line["sentences"]) == (100, 0, 3)


@pytest.mark.parametrize("slope", [-1, 1e-4])
def test_what_contradicts_the_published_difference_is_counted_as_wrong(
    slope: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reversed differences are wrong, and so are ties where the published difference is the margin or more."""
    drawn = power._reproduction

    def falsely(*given: Any) -> dict[str, list[MeasuredColumn]]:
        return {
            table: [
                (column, {cell: {seed: slope * v for seed, v in of.items()} for cell, of in values.items()}, None)
                for column, values, _ in columns
            ]
            for table, columns in drawn(*given).items()
        }

    monkeypatch.setattr(power, "_reproduction", falsely)
    published = [question.claim.published for question in questions() if question.claim.table != "table3"]
    wrong = sum(abs(p) >= margin() for p in published) if slope > 0 else len(published)
    noise = 0.001 if slope < 0 else 300.0  # no difference is found, and all are within the margin
    (line, *_) = claim_power([3], noise=noise, draws=2)
    assert line["wrong"] == wrong
    assert line["found, %"] == 0


def test_verdicts_and_collecting_are_printed_as_they_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(numbers: list[int], **options: float) -> list[object]:
        return [numbers, options]

    monkeypatch.setattr(power, "claim_power", counted)
    ended = salmask("bench", "claims", "--seeds", "2,50", "--noise", "0.4", "--draws", "3", "--json")
    assert json.loads(ended.out) == [[2, 50], {"noise": 0.4, "draws": 3}]
    monkeypatch.setattr(bench, "collecting", lambda rows: {"rows": rows})
    assert json.loads(salmask("bench", "collect", "--rows", "7", "--json").out) == {"rows": 7}


def test_the_command_prints_the_table_and_refuses_what_is_no_gain() -> None:
    ended = salmask("bench", "power", "--pairs", "10", "--images", "200", "--gains", "0,2", "--json")
    assert [line["true gain"] for line in json.loads(ended.out)] == [0, 2]
    for bad in ("x", "-1", "nan", "0,50", "", "0,,1", "1_0", "٣"):
        assert refused("bench", "power", f"--gains={bad}").startswith(f"--gains {bad}: ")
    for bad in ("x", "1", "2,", "", "٣"):
        assert refused("bench", "claims", f"--seeds={bad}").startswith(f"--seeds {bad}: ")
    for command, option in (("power", "--luck"), ("claims", "--noise")):
        said = refused("bench", command, option, "inf")
        assert said.startswith(f"`salmask bench {command}`: invalid value for '{option}': ")
        assert re.search("less than or equal to 50|not in the range 0<=x<=50", said)  # typer's words, by version
