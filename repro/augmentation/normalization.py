"""What every network here sees: images normalised by ImageNet's mean and standard deviation."""

import torch
from torch import Tensor, nn

from repro.data.images import IMAGENET_MEAN, IMAGENET_STD


class Normalization(nn.Module):
    """Normalises images on its device, as torchvision's `Normalize`; it adds nothing to checkpoints.

    A separate step after the augmentation, which works on colours in 0..1 as PIL does (released moco/loader.py:28-29
    normalises last, too).
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Returns images B×3×H×W, whose pixels are in 0..1, normalised."""
        return (images - self.mean) / self.std
