"""What is drawn for a batch at once is what each image's own stream gives, bit for bit."""

import dataclasses

import numpy as np
import pytest

from repro.augmentation.batched_draws import draw_boxes, draw_views, largest_boxes
from repro.augmentation.batched_streams import BatchedStreams
from repro.augmentation.draws import draw_box, draw_view
from repro.randomness import Purpose, stream
from repro.settings.sections import AugmentationSettings

SEEDS = (0, 1, 2**32 - 1, 2**32, 2**63 + 5, 3**80)
"""Of one to four 32-bit words: numpy mixes the words of a name after the fourth in another way."""


@pytest.mark.parametrize("purpose", [Purpose.initialisation, Purpose.view])
@pytest.mark.parametrize("seed", SEEDS)
def test_streams_of_a_batch_are_numpys(seed: int, purpose: Purpose) -> None:
    epochs, indices = np.array([0, 1, 2**32 - 1, 7]), np.array([0, 2**32 - 1, 5, 126_688])
    batch = BatchedStreams(seed, purpose, epochs, indices)
    singles = [stream(seed, purpose, *name) for name in zip(epochs.tolist(), indices.tolist(), strict=True)]
    for kind in np.random.default_rng(0).integers(3, size=150):
        if kind == 0:
            assert batch.random().tolist() == [single.random() for single in singles]
        elif kind == 1:
            assert batch.uniform(-0.1, 0.3).tolist() == [single.uniform(-0.1, 0.3) for single in singles]
        else:
            bounds = [1, 24, 2**31 + 1, 2**32 - 1]
            expected = [int(single.integers(bound)) for single, bound in zip(singles, bounds, strict=True)]
            assert batch.integers(bounds).tolist() == expected


def test_streams_that_do_not_draw_stay_where_they_are() -> None:
    epochs, indices = np.zeros(64, np.int64), np.arange(64)
    batch = BatchedStreams(3, Purpose.view, epochs, indices)
    singles = [stream(3, Purpose.view, 0, index) for index in range(64)]
    choices = np.random.default_rng(0)
    for _ in range(60):
        where = choices.random(64) < 0.5
        doubles, whole = batch.random(where), batch.integers(2**31 + 1, where)  # half of the halves are rejected
        for index in where.nonzero()[0]:
            assert (doubles[index], whole[index]) == (singles[index].random(), singles[index].integers(2**31 + 1))


@pytest.mark.parametrize("scale", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_boxes_and_draws_of_a_batch_are_those_of_its_images(seed: int, scale: float) -> None:
    rng = np.random.default_rng(0)
    some_sizes = [rng.integers(2, most, (20, 2)) for most in (9, 600)] + [rng.choice([2, 3, 1000, 4000], (20, 2))]
    sizes, epoch = np.concatenate(some_sizes).tolist(), seed % 2**32
    chosen = dataclasses.replace(AugmentationSettings(), crop_scale_min=scale, contrast=1.5, hue=0.5)
    array, indices = np.array(sizes, np.int64), np.arange(len(sizes))
    streams = BatchedStreams(seed, Purpose.view, np.full(len(sizes), epoch), indices)
    views = [(draw_boxes(array, scale, streams), draw_views(streams, chosen)) for _ in range(2)]
    for index, (height, width) in enumerate(sizes):
        single = stream(seed, Purpose.view, epoch, index)
        for boxes, rows in views:
            box = draw_box(width, height, scale, single)
            assert boxes[index].tolist() == [box.top, box.left, box.height, box.width]
            assert rows[index].tolist() == draw_view(single, chosen).row().tolist()
            assert max(box.height, box.width) <= largest_boxes(array)[index]


def test_the_bound_of_boxes_is_no_larger_than_it_has_to_be() -> None:
    assert largest_boxes(np.array([[96, 96], [375, 500], [500, 375], [256, 1500]])).tolist() == [96, 500, 500, 716]
