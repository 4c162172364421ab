"""Views of an image: what is drawn at random, and two ways to apply it.

The draw is made once, for each sample from its own stream. The reference applies it with PIL as MoCo v2 does, image by
image; the device applies the same draw to the whole batch. Both give the same view up to PIL's rounding to 8 bits.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import permutations

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from repro.augmentation.blur import gaussian_blur
from repro.runs.run import Augmentation, Interpolation


@dataclass(frozen=True)
class Views:
    """The network's inputs for one batch, each B×3×H×W."""

    query: Tensor
    key: Tensor
    hard_negative: Tensor | None = None
    """B×3×H×W, or 1×3×H×W where one image serves every query (the released code)."""


ORDERS = tuple(permutations(range(4)))
"""The orders in which brightness (0), contrast (1), saturation (2) and hue (3) are changed."""
BLUR_TAPS = 17
"""Eight pixels to each side: four sigma at MoCo's largest."""


@dataclass(frozen=True)
class Draw:
    """One random view, or a batch of them with a tensor in each field."""

    jitter: float
    """0 or 1, as are `grey` and `flip`."""
    order: float
    """Index into `ORDERS`."""
    brightness: float
    contrast: float
    saturation: float
    hue: float
    grey: float
    sigma: float
    """Of the blur in pixels; 0 for none."""
    flip: float

    def row(self) -> Tensor:
        """The draw as one tensor, to be stacked by the loader."""
        return torch.tensor([getattr(self, f.name) for f in fields(self)])


def draw_view(rng: np.random.Generator, settings: Augmentation) -> Draw:
    """Draw all but the crop of MoCo v2's augmentation (released main_moco.py:247-259)."""

    def around(value: float) -> float:
        return rng.uniform(max(0.0, 1 - value), 1 + value)

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


RESAMPLING = {
    Interpolation.bilinear: Image.Resampling.BILINEAR,
    Interpolation.bicubic: Image.Resampling.BICUBIC,
}


def random_crop(
    image: Image.Image,
    size: int,
    scale_min: float,
    rng: np.random.Generator,
    interpolation: Interpolation = Interpolation.bilinear,
) -> Image.Image:
    """RandomResizedCrop as torchvision draws it: area scale_min..1, aspect ratio 3/4..4/3.

    Args:
        image: any size.
        size: side of the result in pixels.
        scale_min: smallest share of the area.
        rng: the sample's stream.
        interpolation: of the resizing.
    """
    W, H = image.size
    for _ in range(10):
        area = W * H * rng.uniform(scale_min, 1.0)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= W and 0 < h <= H:
            left, top = int(rng.integers(W - w + 1)), int(rng.integers(H - h + 1))
            break
    else:
        # Ten misses: the largest central crop of an allowed ratio.
        w, h = min(W, round(H * 4 / 3)), min(H, round(W * 4 / 3))
        left, top = (W - w) // 2, (H - h) // 2
    # Cropped first: with `box` alone, PIL would blend in pixels from outside it.
    return image.crop((left, top, left + w, top + h)).resize((size, size), RESAMPLING[interpolation])


def apply_reference(image: Image.Image, draw: Draw) -> Image.Image:
    """Apply a draw to one PIL image, as MoCo v2 does (moco/loader.py:53-65)."""
    if draw.jitter:
        changes = (
            (tvf.adjust_brightness, draw.brightness),
            (tvf.adjust_contrast, draw.contrast),
            (tvf.adjust_saturation, draw.saturation),
            (tvf.adjust_hue, draw.hue),
        )
        for change in ORDERS[int(draw.order)]:
            adjust, factor = changes[change]
            image = adjust(image, factor)
    if draw.grey:
        image = tvf.to_grayscale(image, num_output_channels=3)
    if draw.sigma:
        image = image.filter(ImageFilter.GaussianBlur(draw.sigma))
    return tvf.hflip(image) if draw.flip else image


def apply_on_device(images: Tensor, rows: Tensor) -> Tensor:
    """Apply a batch of draws.

    Args:
        images: B×3×H×W in 0..1, on any device; left as they are.
        rows: B×9, rows of `Draw.row`, on the host: they choose which images go through which step, and reading them
            there makes nothing wait for the device.

    Returns:
        B×3×H×W in 0..1.
    """
    draws = dict(zip((f.name for f in fields(Draw)), rows.unbind(1), strict=True))
    images = images.clone()

    def change(chosen: Tensor, function: Callable[[Tensor, Tensor], Tensor], amount: Tensor) -> None:
        index = chosen.nonzero().squeeze(1)
        if len(index):
            on_device = index.to(images.device, non_blocking=True)
            values = amount[index].to(images.device, non_blocking=True).view(-1, 1, 1, 1)
            images.index_copy_(0, on_device, function(images.index_select(0, on_device), values))

    order = torch.tensor(ORDERS)[draws["order"].long()]
    for place in range(4):
        for which, (name, adjust) in enumerate(ADJUSTMENTS.items()):
            change((draws["jitter"] > 0) & (order[:, place] == which), adjust, draws[name])
    change(draws["grey"] > 0, lambda x, _: _grey(x).expand_as(x), draws["grey"])
    change(draws["sigma"] > 0, lambda x, sigma: gaussian_blur(x, BLUR_TAPS, sigma.flatten()), draws["sigma"])
    change(draws["flip"] > 0, lambda x, _: x.flip(-1), draws["flip"])
    return images


def _grey(images: Tensor) -> Tensor:
    return tvf.rgb_to_grayscale(images)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Scale B×3×H×W in 0..1 by factors B×1×1×1, as torchvision does one image at a time."""
    return (images * factor).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with each image's mean grey."""
    return torch.lerp(_grey(images).mean((-3, -2, -1), keepdim=True), images, factor).clamp_(0, 1)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with each image's grey version."""
    return torch.lerp(_grey(images).expand_as(images), images, factor).clamp_(0, 1)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by a share of the circle, -0.5..0.5, through HSV."""
    value, which = images.max(1, keepdim=True)
    chroma = value - images.min(1, keepdim=True).values
    red, green, blue = (channel.unsqueeze(1) for channel in images.unbind(1))
    divisor = torch.where(chroma == 0, 1, chroma)
    sector = torch.where(
        which == 0,
        (green - blue) / divisor,
        torch.where(which == 1, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    corner = torch.arange(5, 0, -2, device=images.device).view(3, 1, 1)
    k = (corner + sector + 6 * shift).remainder_(6)
    return value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)


ADJUSTMENTS = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}
