"""What is drawn at random for a view of an image.

Each sample's draw comes from the sample's own random stream. `reference` applies it with PIL as MoCo v2 does, image by
image; `on_device` applies the draws of a whole batch. `repro.settings.choices.Backend` states how far their results
differ.
"""

from dataclasses import dataclass, fields
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from repro.settings.sections import AugmentationSettings

ORDERS = tuple(permutations(range(4)))
"""The orders in which brightness (0), contrast (1), saturation (2) and hue (3) are changed."""


@dataclass(frozen=True)
class Draw:
    """What is drawn for one random view, besides its crop."""

    jitter: float
    """Whether the colours are changed; 0 or 1, as are `grey` and `flip`."""
    order: float
    """Index into `ORDERS`, the order of the changes."""
    brightness: float
    contrast: float
    saturation: float
    hue: float
    grey: float
    sigma: float
    """Standard deviation of the blur in pixels; 0 for none."""
    flip: float

    def row(self) -> Tensor:
        """Returns the draw as one tensor of 9 numbers, in the order of the fields, to be stacked by the loader."""
        return torch.tensor([getattr(self, name) for name in COLUMNS])


COLUMNS = tuple(field.name for field in fields(Draw))
"""Names of the numbers in a row of `Draw.row`, in order."""


def draw_view(rng: np.random.Generator, settings: AugmentationSettings) -> Draw:
    """Draws all but the crop of MoCo v2's augmentation (released main_moco.py:247-259).

    Args:
        rng: The sample's stream, after the view's box was drawn from it.
        settings: Probabilities and strengths.

    Returns:
        What happens to the view. All amounts are drawn, even those that are not applied, except for the blur: only a
        view that is blurred draws its sigma.
    """

    def around(value: float) -> float:
        return rng.uniform(max(0.0, 1 - value), 1 + value)

    # The lines below read the stream in this order: another order would change every view of every run.
    return Draw(
        jitter=rng.random() < settings.jitter_probability,
        order=int(rng.integers(len(ORDERS))),
        brightness=around(settings.brightness),
        contrast=around(settings.contrast),
        saturation=around(settings.saturation),
        hue=rng.uniform(-settings.hue, settings.hue),
        grey=rng.random() < settings.grey_probability,
        sigma=rng.uniform(settings.blur_sigma_min, settings.blur_sigma_max)
        if rng.random() < settings.blur_probability
        else 0.0,
        flip=rng.random() < settings.flip_probability,
    )


class CropBox(NamedTuple):
    """A part of an image, in pixels from its left upper corner."""

    left: int
    top: int
    width: int
    height: int


RATIO_MIN, RATIO_MAX = 3 / 4, 4 / 3
"""Least and largest aspect ratio (width by height) of a box, as in torchvision's RandomResizedCrop."""
TRIES = 10
"""How many boxes are drawn at most until one lies within the image."""


def draw_box(width: int, height: int, scale_min: float, rng: np.random.Generator) -> CropBox:
    """Draws what torchvision's RandomResizedCrop keeps of an image: area scale_min..1, aspect ratio 3/4..4/3.

    Args:
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        scale_min: Smallest share of the area.
        rng: The sample's stream.

    Returns:
        A box within the image.
    """
    for _ in range(TRIES):
        area = width * height * rng.uniform(scale_min, 1.0)
        # Uniform in the logarithm, so that a ratio and its inverse are equally likely.
        ratio = np.exp(rng.uniform(np.log(RATIO_MIN), np.log(RATIO_MAX)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return CropBox(int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h)
    # After ten misses, which happen with long and narrow images: the largest central crop of an allowed ratio.
    w, h = min(width, round(height * RATIO_MAX)), min(height, round(width * RATIO_MAX))
    return CropBox((width - w) // 2, (height - h) // 2, w, h)
