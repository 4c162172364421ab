"""How often the tests of a difference find one: false alarms if there is none, and power if there is one.

Pairs of methods are drawn. Each image has a chance to be classified correctly, from a Beta distribution, which has the
shape of real classifiers' (many images always right, some never, few between). Each run has luck of its own, and one
method is better by a known number of points. The tests are those of `salmask claims` and `salmask compare`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repro.command_line.progress import tracked
from repro.randomness import Purpose, stream
from results.statistics.imagewise import difference_of_images
from results.statistics.paired import LEVEL, paired

DIFFICULTY = (0.7, 0.3)
"""Parameters of the Beta distribution of an image's chance: 70 % top-1, with 43 % of all images above 90 %."""


@dataclass(frozen=True)
class PairOfMethods:
    """The parameters from which the runs of two methods are drawn.

    Attributes:
        seeds: Runs of each.
        images: Scored images, the same for all runs.
        luck: Standard deviation in points by which a run is better or worse than its method.
        gain: The true difference: points by which the first method is better.
    """

    seeds: int
    images: int
    luck: float
    gain: float

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Returns S×N for each of the two methods: which images each run gets right."""
        gain = self.gain / 100
        # Scaled to leave room for the gain: no method can be better than a chance of 1.
        chances = (1 - gain) * rng.beta(*DIFFICULTY, self.images)
        luck = rng.normal(0, self.luck / 100, (2, self.seeds, 1))
        first, second = (
            rng.random((self.seeds, self.images)) < np.clip(chances + better + of_runs, 0, 1)
            for better, of_runs in zip((gain, 0.0), luck, strict=True)
        )
        return first, second


def power_table(gains: Sequence[float], *, pairs: int, seeds: int, images: int, luck: float) -> list[dict[str, Any]]:
    """Returns the percentage of pairs that each test calls different at the level of 5 %, a line for each true gain.

    Args:
        gains: True differences in points; for 0, the percentages are false alarms.
        pairs: Pairs of methods that are drawn for each.
        seeds: Runs of each method.
        images: Scored images.
        luck: Standard deviation of runs in points.
    """
    lines = []
    for place, gain in enumerate(gains):
        of_pair = PairOfMethods(seeds, images, luck, gain)
        called = np.array(list(tracked(_called(of_pair, pairs, place), f"gain {gain:g}", pairs, unit="pairs")))
        by_seeds, by_images = (round(percent, 2) for percent in (100 * called.mean(axis=0)).tolist())
        lines.append({"true gain": gain, "by seeds, %": by_seeds, "by seeds and images, %": by_images, "pairs": pairs})
    return lines


def _called(of_pair: PairOfMethods, pairs: int, place: int) -> Iterator[tuple[bool, bool]]:
    """Yields for each drawn pair whether the paired t-test, and whether seeds and images, call it different."""
    for number in range(pairs):
        first, second = of_pair.draw(stream(0, Purpose.bootstrap, place, number))
        by_seeds = paired(_values(first), _values(second))
        points = [100 * correct / of_pair.images for correct in (first, second)]
        ps = by_seeds.p, difference_of_images(points[0], points[1], place, number).p
        yield ps[0] is not None and ps[0] < LEVEL, ps[1] is not None and ps[1] < LEVEL


def _values(correct: NDArray[np.bool_]) -> dict[int, float]:
    """Returns seed -> accuracy in percent of S×N."""
    return dict(enumerate((100 * correct.mean(axis=1)).tolist()))
