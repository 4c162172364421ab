"""Small encoders, and random images, draws and embeddings, for tests of contrastive learning and augmentation."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from repro.augmentation.draws import Draw, draw_view
from repro.settings.sections import AugmentationSettings


def build_small(_arch: str, dim: int, _width: int = 64) -> nn.Module:
    """A ResNet takes a second to initialise; what is tested here does not depend on the encoder."""
    first = nn.Conv2d(3, 12, 5, stride=2, padding=2), nn.BatchNorm2d(12), nn.ReLU()
    second = nn.Conv2d(12, 24, 3), nn.BatchNorm2d(24), nn.ReLU()
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, dim))


@contextmanager
def small_encoders() -> Iterator[None]:
    """All encoders that are built within are small."""
    with (
        patch("repro.contrastive.moco.build_encoder", build_small),
        patch("repro.contrastive.simclr.build_encoder", build_small),
    ):
        yield


def pixels(count: int, size: int = 32, seed: int = 0) -> Tensor:
    """N×3×S×S, uniform in 0..1."""
    return torch.rand(count, 3, size, size, generator=Generator().manual_seed(seed))


def noise(count: int, size: int, seed: int = 0) -> Tensor:
    """N×3×S×S, normal, as normalised images are."""
    return torch.randn(count, 3, size, size, generator=Generator().manual_seed(seed))


def draws(count: int, settings: AugmentationSettings, seed: int = 0) -> list[Draw]:
    """The random draws of `count` views, from one stream."""
    rng = np.random.default_rng(seed)
    return [draw_view(rng, settings) for _ in range(count)]


def unit(*shape: int, seed: int = 0, dim: int = 1) -> Tensor:
    """Embeddings of length 1 along a dimension."""
    return F.normalize(torch.randn(*shape, generator=Generator().manual_seed(seed)), dim=dim)
