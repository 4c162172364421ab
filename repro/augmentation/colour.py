"""Changes the colours of whole batches in place, each image by its own amount.

Images are B×3×H×W in 0..1; amounts B×1×1×1. Each equals torchvision's function on each image up to float rounding.
"""

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf


def luma(images: Tensor) -> Tensor:
    """Returns the grey versions B×1×H×W of images."""
    return tvf.rgb_to_grayscale_image(images)


def blend_(images: Tensor, factor: Tensor, grey_weight: Tensor, mean_weight: Tensor) -> None:
    """Blends images with their grey versions and their mean grey, in place, and clamps them to 0..1.

    `factor * x + grey_weight * grey(x) + mean_weight * mean(grey(x))`: with a factor f this is torchvision's
    `adjust_brightness` for weights of 0, `adjust_saturation` for a grey weight of 1 - f, and `adjust_contrast` for a
    mean weight of 1 - f. A factor of 1 with weights of 0 changes nothing.

    Args:
        images: B×3×H×W in 0..1; changed.
        factor: B×1×1×1, as are the weights.
        grey_weight: Of each pixel's luma.
        mean_weight: Of the image's mean luma. Both weights may be negative, as they are for factors above 1.
    """
    grey = luma(images)
    mean = grey.mean((1, 2, 3), keepdim=True).mul_(mean_weight)
    images.mul_(factor).add_(grey.mul_(grey_weight).add_(mean)).clamp_(0, 1)


def turn_hue_(images: Tensor, shift: Tensor) -> None:
    """Turns the hue of images in place, by shares -0.5..0.5 of the circle; torchvision's `adjust_hue`.

    Computes HSV without a case for each sector. Hue h is counted in sixths of the circle, from red at 0 to cyan at 3 by
    way of yellow and green, and to -3 by way of magenta and blue. Of chroma C = max - min, channel r has the share
    (r - min) / C, which is 1 up to a distance of one sixth from its own hue, and falls to 0 at a distance of two. So
    the distance of h from red is `1 + ((g - r) + (b - min)) / C` in all six sectors, and its sign is that of g - b.
    """
    red, green, blue = images[:, :1], images[:, 1:2], images[:, 2:]
    least = torch.minimum(torch.minimum(red, green), blue)
    chroma = torch.maximum(torch.maximum(red, green), blue).sub_(least)
    hue = (green - red).add_(blue).sub_(least)
    # For grey pixels the hue is 0 so far, so that any divisor will do.
    hue.div_(chroma.clamp_min(torch.finfo(chroma.dtype).tiny)).add_(1)
    hue = torch.copysign(hue, green - blue).add_(shift, alpha=6)
    # Back to RGB: x is the signed distance from each channel's own hue (0, 2, 4), and | |x| - 3 | is the distance from
    # the opposite hue, for |x| up to 6. From 6 to 7 it is too large, and so is the share, which is clamped to 1 anyway.
    hue.sub_(torch.round(hue / 6), alpha=6)
    own = torch.arange(0, 6, 2, device=images.device).view(3, 1, 1)  # a list would have to be copied
    share = (hue - own).abs_().sub_(3).abs_().sub_(1).clamp_(0, 1)
    torch.addcmul(least, chroma, share, out=images)
