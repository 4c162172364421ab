"""The filters of the masking strategies: one fills patches, through the other one views are seen."""

import torch
from torch import Tensor

from repro.augmentation.blur import gaussian_blur


def high_pass(images: Tensor) -> Tensor:
    """Returns `x - blur(x)` with an 11×11 Gaussian of sigma 5 (released moco/loader.py:15,68-78).

    Args:
        images: B×3×H×W, normalised, H and W at least 6.

    Returns:
        B×3×H×W, of mean about 0.
    """
    blurred = gaussian_blur(images, 11, 5.0)
    return torch.sub(images, blurred, out=blurred)


def strong_blur(images: Tensor) -> Tensor:
    """Blurs images by a 31×31 Gaussian of sigma 10 (released moco/loader.py:16-19).

    Args:
        images: B×3×H×W, normalised, H and W at least 16.

    Returns:
        B×3×H×W.
    """
    return gaussian_blur(images, 31, 10.0)
