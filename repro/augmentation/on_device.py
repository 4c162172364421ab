"""A batch of draws applied on the device to the whole batch at once."""

from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from repro.augmentation.blur import gaussian_blur
from repro.augmentation.draws import ORDERS, Draw

BLUR_TAPS = 17
"""Eight pixels to each side: four sigma at MoCo's largest."""


def apply_on_device(images: Tensor, rows: Tensor) -> Tensor:
    """Applies a batch of draws, each to its image.

    Args:
        images: B×3×H×W in 0..1, on any device; left as they are.
        rows: B×9, rows of `Draw.row`, on the host: they choose which images go through which step, and reading them
            there makes nothing wait for the device.

    Returns:
        B×3×H×W in 0..1.
    """
    draws = dict(zip((f.name for f in fields(Draw)), rows.unbind(1), strict=True))
    images = images.clone()

    def change(selected: Tensor, function: Callable[[Tensor, Tensor], Tensor], amount: Tensor) -> None:
        # Only the selected images are computed: most steps are for a part of the batch, and a step for all followed by
        # `where` would cost the others as well.
        index = selected.nonzero().squeeze(1)
        if len(index):
            on_device = index.to(images.device, non_blocking=True)
            values = amount[index].to(images.device, non_blocking=True).view(-1, 1, 1, 1)
            images.index_copy_(0, on_device, function(images.index_select(0, on_device), values))

    # Each image has an order of its own: the batch goes through the four positions, and at each one through the four
    # adjustments, every image by the one that is its turn.
    order = torch.tensor(ORDERS)[draws["order"].long()]
    for position in range(4):
        for adjustment, (name, adjust) in enumerate(ADJUSTMENTS.items()):
            change((draws["jitter"] > 0) & (order[:, position] == adjustment), adjust, draws[name])
    change(draws["grey"] > 0, lambda x, _: _grey(x).expand_as(x), draws["grey"])
    change(draws["sigma"] > 0, lambda x, sigma: gaussian_blur(x, BLUR_TAPS, sigma.flatten()), draws["sigma"])
    change(draws["flip"] > 0, lambda x, _: x.flip(-1), draws["flip"])
    return images


def _grey(images: Tensor) -> Tensor:
    """Returns the luma B×1×H×W of images B×3×H×W."""
    return tvf.rgb_to_grayscale(images)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Scales images B×3×H×W in 0..1 by factors B×1×1×1, as torchvision does one image at a time."""
    return (images * factor).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blends images B×3×H×W in 0..1 with their mean grey by factors B×1×1×1; a factor of 1 changes nothing."""
    return torch.lerp(_grey(images).mean((-3, -2, -1), keepdim=True), images, factor).clamp_(0, 1)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blends images B×3×H×W in 0..1 with their grey versions by factors B×1×1×1; a factor of 1 changes nothing."""
    return torch.lerp(_grey(images).expand_as(images), images, factor).clamp_(0, 1)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turns the hue of images B×3×H×W in 0..1 by shares B×1×1×1 of the circle, -0.5..0.5, through HSV."""
    value, largest = images.max(1, keepdim=True)
    chroma = value - images.min(1, keepdim=True).values
    red, green, blue = (channel.unsqueeze(1) for channel in images.unbind(1))
    # The hue in sixths of the circle, red being 0, by the channel that is largest. Grey has no hue and a chroma of 0.
    divisor = torch.where(chroma == 0, 1, chroma)
    sector = torch.where(
        largest == 0,
        (green - blue) / divisor,
        torch.where(largest == 1, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    # Back to RGB without cases: channel n is V - C * max(0, min(k, 4 - k, 1)) with k = (n + hue) mod 6 and n = 5, 3, 1
    # (the alternative formula of HSV to RGB); -1..5 of the hue and a negative shift come back into range by the modulo.
    corner = torch.arange(5, 0, -2, device=images.device).view(3, 1, 1)
    k = (corner + sector + 6 * shift).remainder_(6)
    return value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)


ADJUSTMENTS = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}
"""What changes each field of a `Draw`, in the order of the numbers of `ORDERS`."""
