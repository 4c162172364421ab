"""Tests by image: exact where they claim it, false alarms in 5 %, and more power than tests by seed."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from repro.runs.predictions import Predictions
from results.statistics import imagewise
from results.statistics.imagewise import Difference, difference_of_images, difference_of_seeds, mcnemar


def runs(rng: np.random.Generator, chances: np.ndarray, seeds: int, luck: float = 0.0) -> np.ndarray:
    """S×N: which images each run gets right; `luck` is the standard deviation, in points, of whole runs."""
    shift = rng.normal(0, luck / 100, (seeds, 1))
    return rng.random((seeds, len(chances))) < np.clip(chances + shift, 0, 1)


def difference_of(first: np.ndarray, second: np.ndarray, *names: int) -> imagewise.Difference:
    """Compares two methods by the images that their runs get right; all images count alike."""
    return difference_of_images(100 * first / first.shape[1], 100 * second / second.shape[1], *names)


def test_mcnemar_is_the_binomial_test_by_hand() -> None:
    first, second = np.array([1, 1, 1, 1, 1, 0, 1, 0], bool), np.array([0, 0, 0, 0, 0, 1, 1, 0], bool)
    test = mcnemar(first, second)
    assert (test.first_only, test.second_only) == (5, 1)
    assert test.p == pytest.approx(2 * (1 + 6) / 2**6)  # P(0 or 1 of 6), both ways
    assert mcnemar(first, first).p == 1.0


def test_the_difference_is_that_of_the_accuracies_and_draws_are_named() -> None:
    rng = np.random.default_rng(0)
    first, second = runs(rng, np.full(500, 0.7), 3), runs(rng, np.full(500, 0.6), 3)
    difference = difference_of(first, second, 1)
    assert difference.mean == pytest.approx(100 * (first.mean() - second.mean()))
    assert np.array_equal(difference.draws, difference_of(first, second, 1).draws)
    assert not np.array_equal(difference.draws, difference_of(first, second, 2).draws)
    low, high = difference.interval() or (0, 0)
    assert low < difference.mean < high
    narrow = difference.interval(0.5) or (0, 0)
    assert low < narrow[0] < narrow[1] < high
    assert difference_of(second, first, 1).mean == pytest.approx(-difference.mean)


def test_of_seeds_alone_it_is_students_t_test_of_two_samples() -> None:
    first, second = [70.1, 70.9, 71.4], [69.0, 69.8, 69.2]
    difference = difference_of_seeds(first, second, 3)
    test = stats.ttest_ind(first, second)
    assert difference.p == pytest.approx(test.pvalue, abs=0.006)
    assert difference.interval() == pytest.approx(test.confidence_interval(), abs=0.08)
    assert difference.freedom == pytest.approx(4)
    assert (difference.of_seeds, difference.of_images) == (True, False)


def test_of_three_runs_there_is_one_degree_of_freedom_and_of_two_none() -> None:
    difference = difference_of_seeds([70.0, 72.0], [69.0], 3)
    assert (difference.mean, difference.freedom, difference.of_seeds) == (2.0, pytest.approx(1), True)
    assert difference.spread == pytest.approx(((1 + 1) * (1 / 2 + 1)) ** 0.5)
    alone = difference_of_seeds([1e308], [-1e308])
    assert (alone.of_seeds, alone.spread, alone.finite) == (False, 0.0, False)  # the mean is too large a number


def test_variances_of_seeds_and_images_add_up_and_nothing_counts_twice() -> None:
    rng = np.random.default_rng(3)
    first, second = (100 * runs(rng, rng.beta(0.7, 0.3, 60), 2, luck=3.0) / 60 for _ in range(2))
    difference = difference_of_images(first, second, 7)
    of_seeds = (first.sum(1).var(ddof=1) + second.sum(1).var(ddof=1)) / 2  # two runs of each: Student's pooled error
    each = 60 * (first.mean(0) - second.mean(0))
    noise = 60**2 * (first.var(0, ddof=1).mean() / 2 + second.var(0, ddof=1).mean() / 2)
    of_images = (each.var(ddof=1) - noise) / 60
    assert 0 < of_images < each.var(ddof=1) / 60
    assert difference.spread == pytest.approx((of_seeds + of_images) ** 0.5)
    assert difference.freedom == pytest.approx((of_seeds + of_images) ** 2 / (of_seeds**2 / 2 + of_images**2 / 59))


def test_draws_of_few_images_scatter_as_resampled_ones_with_the_tails_of_students_t() -> None:
    points = np.arange(10.0)[None]
    difference = difference_of_images(points, np.zeros((1, 10)), 8)
    assert difference.spread == pytest.approx((10 * points).std(ddof=1) / 10**0.5)
    of_means = (10 * points).std() / 10**0.5  # of ten images drawn with replacement
    assert difference.draws.std() == pytest.approx(of_means * (9 / 7) ** 0.5, rel=0.02)


def test_of_one_run_each_it_is_students_t_test_of_paired_images_and_without_them_nothing() -> None:
    rng = np.random.default_rng(1)
    first, second = runs(rng, np.full(500, 0.75), 1), runs(rng, np.full(500, 0.71), 1)
    difference = difference_of(first, second, 4)
    test = stats.ttest_rel(100.0 * first[0], 100.0 * second[0])
    assert (difference.of_seeds, difference.of_images) == (False, True)
    assert difference.p == pytest.approx(test.pvalue, abs=0.003)
    assert difference.interval() == pytest.approx(test.confidence_interval(), abs=0.2)
    assert difference.freedom == pytest.approx(499)
    # With so many degrees of freedom the quantiles are the normal distribution's: 1.96 and 0.84.
    assert difference.smallest == pytest.approx((1.96 + 0.84) * difference.mean / test.statistic, rel=0.01)
    nothing = difference_of_seeds([70.0], [60.0], 5)
    assert (nothing.p, nothing.interval(), nothing.smallest) == (None, None, None)
    assert nothing.p_of_equivalence(10.0, 1.0) is None


def test_runs_that_are_alike_tell_no_spread() -> None:
    same = np.ones((3, 50), bool)
    assert difference_of(same, same, 0).p is None


def test_equivalence_needs_the_whole_interval_within_the_margin() -> None:
    difference = difference_of_seeds([70.0, 70.1, 69.9, 70.05], [68.0, 68.1, 67.9, 68.05], 6)
    assert (difference.p_of_equivalence(2.1, 1.0) or 1) < 0.01
    assert (difference.p_of_equivalence(3.2, 1.0) or 0) > 0.5
    wide = difference_of_seeds([70.0, 73.0, 67.0], [68.0, 71.0, 65.5], 6)
    assert (wide.p_of_equivalence(2.0, 1.0) or 0) > 0.05


@pytest.mark.parametrize(("fewer", "expected"), [(5, 0.062), (3, 0.123), (1, 0.295)])
def test_a_wide_side_of_fewer_runs_is_called_different_too_often(
    fewer: int, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2,000 null pairs against five runs that scatter 2.5 times less, as docs/results.md says."""
    monkeypatch.setattr(imagewise, "REPLICATES", 1000)
    rng = np.random.default_rng(13)
    ps = [difference_of_seeds(rng.normal(60, 1, 5), rng.normal(60, 2.5, fewer), name).p for name in range(2000)]
    assert np.mean([p is not None and p < 0.05 for p in ps]) == pytest.approx(expected, abs=0.025)


@pytest.mark.slow
@pytest.mark.parametrize(("luck", "other"), [(0.0, 0.0), (0.5, 0.0), (0.5, 0.5)])
def test_without_an_effect_five_in_a_hundred_are_false_alarms(
    luck: float, other: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2,000 null pairs of three seeds: the two methods err on the same images, or equally often on different ones.

    Args:
        luck: Standard deviation, in points, of whole runs.
        other: Share of images whose difficulty for the second method is that of other images for the first.
    """
    monkeypatch.setattr(imagewise, "REPLICATES", 1000)
    rng, alarms = np.random.default_rng(7), 0
    for name in range(2000):
        chances = rng.beta(0.7, 0.3, 500)
        second = np.where(rng.random(500) < other, rng.beta(0.7, 0.3, 500), chances)
        p = difference_of(runs(rng, chances, 3, luck), runs(rng, second, 3, luck), name).p
        alarms += p is not None and p < 0.05
    assert alarms / 2000 == pytest.approx(0.05, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("others", "luck", "expected"), [(3, 0.0, 0.018), (3, 2.0, 0.04), (5, 0.0, 0.013), (5, 2.0, 0.028)]
)
def test_a_single_run_gives_fewer_false_alarms(
    others: int, luck: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2,000 null pairs of one run against some: 1 to 4 % are called different, as docs/results.md says."""
    monkeypatch.setattr(imagewise, "REPLICATES", 1000)
    rng, alarms = np.random.default_rng(7), 0
    for name in range(2000):
        chances = rng.beta(0.7, 0.3, 500)
        p = difference_of(runs(rng, chances, 1, luck), runs(rng, chances, others, luck), name).p
        alarms += p is not None and p < 0.05
    assert alarms / 2000 == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(("as_one", "alarms_expected"), [(True, 0.05), (False, 0.19)])
def test_images_of_three_drawn_splits_are_not_three_times_as_many(
    as_one: bool, alarms_expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 null pairs of methods that each err on images of their own, 300 of which are scored in three splits.

    Args:
        as_one: Whether an image counts once for all splits, as in `Predictions.points`.
        alarms_expected: How many pairs are called different.
    """
    monkeypatch.setattr(imagewise, "REPLICATES", 1000)
    rng, alarms = np.random.default_rng(10), 0
    image = np.tile(np.arange(300, dtype=np.int32), 3)
    for name in range(500):
        sides = [np.tile(runs(rng, rng.beta(0.7, 0.3, 300), 3), 3) for _ in range(2)]
        points = [100 * side / 900 for side in sides]
        if as_one:
            points = [np.stack([of_splits(image, right).points() for right in side]) for side in sides]
        p = difference_of_images(points[0], points[1], name).p
        alarms += p is not None and p < 0.05
    assert alarms / 500 == pytest.approx(alarms_expected, abs=0.04)


def of_splits(image: np.ndarray, right: np.ndarray) -> Predictions:
    """Predictions of 900 scored images, 300 in each of three drawn splits."""
    return Predictions(
        split=np.repeat(np.arange(3, dtype=np.int32), 300),
        image=image,
        label=np.zeros(900, np.int32),
        prediction=np.zeros(900, np.int32),
        score=np.ones(900, np.float32),
        place=right.astype(np.uint8),
        classes=("one",),
        images="same",
    )


def test_an_interval_of_the_seeds_alone_would_not_hold_for_other_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagewise, "REPLICATES", 1000)
    rng, alarms = np.random.default_rng(8), 0
    for name in range(400):
        first, second = (runs(rng, rng.beta(0.7, 0.3, 500), 3) for _ in range(2))
        p = difference_of_seeds(list(100 * first.mean(1)), list(100 * second.mean(1)), name).p
        alarms += p is not None and p < 0.05
    assert alarms / 400 > 0.1  # instead of 5 %


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_the_smallest_difference_has_its_power_with_few_seeds_too(seeds: int) -> None:
    """With quantiles of the central t distribution, which is symmetric, two seeds each had a power of 77 %."""
    values = np.random.default_rng(seeds).normal(60, 1, (2, seeds))
    difference = difference_of_seeds(values[0], values[1], seeds)
    freedom = 2 * seeds - 2
    assert difference.freedom == pytest.approx(freedom)
    assert difference.smallest is not None
    found = stats.nct.sf(stats.t.isf(0.025, freedom), freedom, difference.smallest / difference.spread)
    assert found == pytest.approx(0.8, abs=1e-6)


def test_the_smallest_difference_is_found_four_times_in_five(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagewise, "REPLICATES", 1000)
    rng, found, smallest = np.random.default_rng(9), [], []
    true = 3.5
    for name in range(300):
        chances = np.clip(rng.beta(0.7, 0.3, 800), 0, 1 - true / 100)
        difference = difference_of(runs(rng, chances + true / 100, 3), runs(rng, chances, 3), name)
        found.append((difference.p or 1) < 0.05)
        smallest.append(difference.smallest)
    # Each draw estimates the spread anew, and with it the smallest difference; on average it is the true one.
    assert np.mean(found) == pytest.approx(0.8, abs=0.1)
    assert np.median(smallest) == pytest.approx(true, abs=1.0)


def test_images_that_all_count_differently_take_no_more_than_others() -> None:
    """With classes of many sizes each image had a column of its own in the draws, which took 1.2 GB and 17 s."""
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.2, 2.0, 1500)
    easy = rng.random((2, 1500)) < [[0.7], [0.65]]  # for all runs of a method, except on a tenth of the images
    first, second = (100 * weights / weights.sum() * (its ^ (rng.random((3, 1500)) < 0.1)) for its in easy)
    tracemalloc.start()
    difference = difference_of_images(first, second, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32e6
    interval = difference.interval()
    assert interval is not None
    half = stats.t.isf(0.025, difference.freedom) * difference.spread
    assert interval == pytest.approx((difference.mean - half, difference.mean + half), abs=0.03 * half)


def test_images_of_many_kinds_are_told_apart_in_equal_steps() -> None:
    """Images within a step stand for the step's mean, so that the overall mean stays."""
    contributions = np.random.default_rng(0).permutation(np.arange(2560.0))
    values, sizes = imagewise._kinds(contributions)
    assert (len(values), set(sizes)) == (imagewise.KINDS, {10})
    assert values == pytest.approx(np.arange(2560.0).reshape(256, 10).mean(1))
    few, counts = imagewise._kinds(np.array([3.0, 1.0, 3.0]))
    assert (few.tolist(), counts.tolist()) == ([1.0, 3.0], [1, 2])


def test_a_single_image_tells_nothing_of_how_images_scatter() -> None:
    """Their variance used to be divided by the number of images less one, which is zero."""
    alone = difference_of_images(np.array([[100.0]]), np.array([[0.0]]))
    assert (alone.mean, alone.p, alone.interval(), alone.of_images) == (100.0, None, None, False)
    of_seeds = difference_of_images(np.array([[100.0], [100.0]]), np.array([[0.0], [100.0]]))
    assert of_seeds.interval() == difference_of_seeds([100.0, 100.0], [0.0, 100.0]).interval()


def test_p_counts_one_more_draw_on_either_side_than_there_are() -> None:
    difference = Difference(50.0, np.arange(1.0, 100.0), 1.0, 4.0, of_seeds=True, images=9)
    assert difference.p == pytest.approx(2 * 1 / 100)  # none of 99 draws is below zero, yet p is not 0
    assert difference.p_of_equivalence(50.0, 10.0) == pytest.approx((1 + 40) / 100)  # 1 … 40, as 60 … 99
    assert difference.p_of_equivalence(200.0, 50.0) == 1.0
    back = difference.reversed()
    assert (back.mean, back.p, back.interval()) == (-50.0, difference.p, pytest.approx((-96.55, -3.45)))
