"""Which images each protocol is fitted on and scored on; tests/repro/data/test_caltech_flowers.py tests the draws."""

from pathlib import Path

import numpy as np
import pytest
from training_samples import tiny
from transfer_samples import make_caltech, make_flowers

from downstream.measurement import Target
from downstream.partitions import paper_like, standard
from repro.data import flowers
from repro.data.splits import Images
from repro.data.subsets import Subset, sizes

pytestmark = pytest.mark.usefixtures("miniatures")


def chosen(images: Images) -> list[int]:
    assert isinstance(images, Subset)
    return images.indices.tolist()


def test_caltech_is_trained_on_thirty_images_of_each_class_and_scored_on_all_others(tmp_path: Path) -> None:
    target = Target("caltech101", make_caltech(tmp_path), tiny().data.scenes)
    for seed in (0, 1):
        parts = standard(target, seed)
        assert [sizes(part) for part in (parts.fit, parts.held_out, parts.scored)] == [[25] * 3, [5] * 3, [3, 1, 6]]
        assert chosen(parts.train) == sorted(chosen(parts.fit) + chosen(parts.held_out))
        assert sorted(chosen(parts.train) + chosen(parts.scored)) == list(range(100))
        train, scored, split = paper_like(target, seed)
        assert (chosen(train), chosen(scored), split) == (chosen(parts.train), chosen(parts.scored), parts.split)


def test_flowers_are_scored_on_the_paper_like_val_and_on_the_official_test(tmp_path: Path) -> None:
    root = make_flowers(tmp_path)
    target = Target("flowers102", root, tiny().data.scenes)
    train, scored, split = paper_like(target, 0)
    drawn = flowers.eighty_ten_ten(flowers.open_pool(root), 0)
    assert [chosen(part) for part in (train, scored)] == [chosen(part) for part in drawn[:2]]
    assert (len(train), len(scored), split) == (192, 24, "val")
    parts, official = standard(target, 0), flowers.official(root)
    assert [chosen(part) for part in (parts.fit, parts.held_out, parts.scored)] == [chosen(part) for part in official]
    assert np.array_equal(chosen(parts.train), np.arange(24 + 36))
    assert parts.split == "test"
