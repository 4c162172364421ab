"""Crops of images, resized to squares: by Pillow, or three times as fast by torch, at most one level of 255 off."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from repro.augmentation.draws import CropBox
from repro.data.jpeg import Pixels
from repro.settings.choices import Interpolation

RESAMPLING = {
    Interpolation.bilinear: Image.Resampling.BILINEAR,
    Interpolation.bicubic: Image.Resampling.BICUBIC,
}
"""PIL's name of each interpolation."""


def resized_crop(
    image: Image.Image, box: CropBox, size: int, interpolation: Interpolation = Interpolation.bilinear
) -> Image.Image:
    """Cuts a box out of an image and resizes it to a square of `size` pixels a side, with antialiasing.

    Equals torchvision's `resized_crop` of a PIL image, which RandomResizedCrop calls.

    Args:
        image: Any size and mode.
        box: The part to keep, within the image.
        size: Side of the result in pixels.
        interpolation: Of the resizing.
    """
    # Cropped first: `resize` with a `box` would blend in pixels from outside the box.
    cut = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    return cut.resize((size, size), RESAMPLING[interpolation])


def resized_pixels(pixels: Pixels, box: CropBox, size: int) -> Tensor:
    """Cuts a box out of an image and resizes it bilinearly with antialiasing, as `resized_crop` does but for rounding.

    torch's weights have 16 bits and Pillow's 22: on photographs, one pixel in twenty is off by one level of 255, and
    none by more. torch's bicubic resizing is off by up to 31 levels, which is why a run cannot choose it.

    Args:
        pixels: H×W×3, which may be read-only.
        box: The part to keep.
        size: Side of the result in pixels.

    Returns:
        3×S×S, uint8.
    """
    rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
    # A copy, as torch wants writable memory. `permute` leaves the channels last in memory, for which torch has a
    # faster kernel.
    cut = torch.from_numpy(np.array(pixels[rows, columns], order="C")).permute(2, 0, 1).unsqueeze(0)
    resize = torch.nn.functional.interpolate
    return resize(cut, size=(size, size), mode="bilinear", antialias=True, align_corners=False).squeeze(0)
