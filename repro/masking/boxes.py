"""Boxes at random places, for the focal masks of the high-pass strategy."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Box:
    """A box of one size at a random place in each image."""

    top: Tensor
    """B×1, pixels."""
    left: Tensor
    """B×1, pixels."""
    size: tuple[int, int]
    image: tuple[int, int]

    @classmethod
    def draw(cls, count: int, image: tuple[int, int], share: float, generator: Generator) -> "Box":
        """Place `count` boxes, each side a share of the image's, anywhere inside (random_mask_hp.py:28-38)."""
        size = (round(image[0] * share), round(image[1] * share))
        top, left = (
            torch.randint(0, whole - part + 1, (count, 1), device=generator.device, generator=generator)
            for whole, part in zip(image, size, strict=True)
        )
        return cls(top, left, size, image)

    def coordinates(self) -> tuple[Tensor, Tensor]:
        """Rows B×H and columns B×W of the image, counted from the box's corner."""
        rows, columns = (torch.arange(n, device=self.top.device) for n in self.image)
        return rows - self.top, columns - self.left

    def outside(self) -> Tensor:
        """B×H×W, true outside the box."""
        inside = ((i >= 0) & (i < n) for i, n in zip(self.coordinates(), self.size, strict=True))
        rows, columns = inside
        return ~(rows.unsqueeze(2) & columns.unsqueeze(1))
