"""torch's resizer departs from Pillow's by a level of 255 at most; all else about a view is the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from repro.augmentation.crops import resized_crop, resized_pixels
from repro.augmentation.draws import CropBox, draw_box
from repro.data.subsets import Subset
from repro.settings.choices import Backend, Resizer
from repro.settings.sections import AugmentationSettings
from repro.training.batches.loading import TwoViews

PHOTOGRAPHS = [Image.fromarray(pixels).resize((500, 375)) for pixels in load_sample_images().images]
FAST = AugmentationSettings(resizer=Resizer.torch)


class Photographs:
    classes, targets = ("temple", "flower"), (0, 1)

    def __len__(self) -> int:
        return len(PHOTOGRAPHS)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return PHOTOGRAPHS[index], index

    def fingerprint(self) -> str:
        return "photographs"


@pytest.mark.parametrize("size", [64, 112, 224])
def test_crops_of_photographs_depart_from_pillows_by_a_level_at_most_and_rarely(size: int) -> None:
    rng = np.random.default_rng(size)
    departures = []
    for image in PHOTOGRAPHS:
        pixels = np.asarray(image)
        for _ in range(15):
            box = draw_box(*image.size, 0.08, rng)
            ours = resized_pixels(pixels, box, size)
            assert ours.shape == (3, size, size)
            assert ours.dtype == torch.uint8
            assert ours.is_contiguous()
            pillows = np.asarray(resized_crop(image, box, size)).astype(int)
            departures.append(ours.permute(1, 2, 0).numpy() - pillows)
    assert max(np.abs(d).max() for d in departures) == 1
    assert np.mean([(d != 0).mean() for d in departures]) < 0.08
    assert abs(np.mean([d.mean() for d in departures])) < 0.04  # neither lighter nor darker


def test_a_crop_sees_nothing_outside_its_box_and_leaves_the_image_alone() -> None:
    pixels = np.full((40, 50, 3), 255, np.uint8)
    pixels[10:30, 5:45] = 7
    pixels.flags.writeable = False
    assert (resized_pixels(pixels, CropBox(left=5, top=10, width=40, height=20), 16) == 7).all()
    assert (resized_pixels(pixels, CropBox(left=0, top=0, width=50, height=5), 16) == 255).all()


@pytest.mark.parametrize("backend", list(Backend))
def test_both_resizers_show_the_same_views(backend: Backend) -> None:
    pil, fast = (
        TwoViews(Photographs(), 96, replace(FAST, backend=backend, resizer=resizer), seed=3) for resizer in Resizer
    )
    for index in range(2):
        one, other = pil[(1, index)], fast[(1, index)]
        assert one.keys() == other.keys()
        for name in one:
            if name not in TwoViews.names:
                assert np.array_equal(one[name], other[name])
                continue
            difference = (one[name].int() - other[name].int()).abs()
            if backend is Backend.device:
                assert difference.max() <= 1
            assert difference.float().mean() < 0.3
            assert difference.any()  # the torch resizer is not Pillow's by another name


def test_a_part_of_a_data_set_hands_out_the_pixels_of_its_pool() -> None:
    part = Subset(Photographs(), [1])
    pixels, label = part.pixels(0)
    assert label == 1
    assert np.array_equal(pixels, np.asarray(PHOTOGRAPHS[1]))
