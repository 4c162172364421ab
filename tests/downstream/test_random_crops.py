"""The training views of probes and fine-tuning: torchvision's RandomResizedCrop of scale 0.08 to 1, and flips.

test_features.py compares the central crops that are scored with torchvision's.
"""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from downstream.crops import RandomCrops
from repro.augmentation.draws import draw_box
from repro.randomness import Purpose, stream

WIDTH, HEIGHT, SIDE, VIEWS = 240, 160, 48, 300


class Ramp:
    """A picture whose red encodes the column and whose green encodes the row."""

    classes = ("a", "b")
    targets = (0, 1)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        red, green = np.meshgrid(np.linspace(0, 255, WIDTH), np.linspace(0, 255, HEIGHT))
        picture = np.stack([red, green, np.zeros_like(red)], 2).round().astype(np.uint8)
        return Image.fromarray(picture), self.targets[index]

    def fingerprint(self) -> str:
        return "ramp"


def test_crops_are_as_large_as_torchvisions_and_half_of_them_are_flipped() -> None:
    """Measured on the views, against torchvision's: which part of the picture each shows, and whether it is flipped."""
    ours, theirs = RandomCrops(Ramp(), SIDE, seed=0), v2.RandomResizedCrop(SIDE, scale=(0.08, 1))
    shown = [ours[epoch, 1]["images"].float() for epoch in range(VIEWS)]
    slopes = torch.stack([view[[0, 1], [0, -1], [-1, 0]] - view[:2, 0, 0] for view in shown]).numpy()
    assert 0.4 < np.mean(slopes[:, 0] < 0) < 0.6
    assert (slopes[:, 1] > 0).all()  # never upside down
    widths, heights = np.abs(slopes).T / 255 * SIDE / (SIDE - 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        boxes = [theirs.make_params([Ramp()[0][0]]) for _ in range(VIEWS)]
    expected = [box["height"] * box["width"] / (WIDTH * HEIGHT) for box in boxes]
    for share in (0, 0.25, 0.5, 0.75, 1):
        assert np.quantile(widths * heights, share) == pytest.approx(np.quantile(expected, share), abs=0.1)
    assert 0.07 < (widths * heights).min() < 0.1


def test_a_crop_is_torchvisions_of_its_box_with_the_images_label() -> None:
    crops, picture, seen = RandomCrops(Ramp(), SIDE, seed=3), Ramp()[1][0], Counter[bool]()
    for epoch in range(12):
        item = crops[epoch, 1]
        draws = stream(3, Purpose.view, epoch, 1)
        box = draw_box(*picture.size, 0.08, draws)
        cut = v2.functional.resized_crop(picture, box.top, box.left, box.height, box.width, [SIDE, SIDE])
        expected = v2.functional.pil_to_tensor(cut)
        flipped = draws.random() < 0.5
        assert torch.equal(item["images"], expected.flip(-1) if flipped else expected)
        assert item["labels"] == 1
        seen[flipped] += 1
    assert seen[False]
    assert seen[True]
