"""Boxes at random places, for the focal masks of the high-pass strategy."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Box:
    """A box of one size at a random place in each image."""

    top: Tensor
    """B×1, pixels from the image's upper edge."""
    left: Tensor
    """B×1, pixels from the image's left edge."""
    size: tuple[int, int]
    """Height and width of the box in pixels."""
    image: tuple[int, int]
    """Height and width of the image in pixels."""

    @classmethod
    def draw(cls, count: int, image: tuple[int, int], share: float, generator: Generator) -> "Box":
        """Places a box anywhere inside each of `count` images (random_mask_hp.py:28-38).

        Args:
            count: Number of images B.
            image: Their height and width in pixels.
            share: Side of the box as a share of the image's, 0..1.
            generator: On the device where the boxes are wanted.

        Returns:
            The boxes; all places inside the image are equally likely, those at its edges included.
        """
        size = (round(image[0] * share), round(image[1] * share))
        top, left = (
            torch.randint(0, image_side - box_side + 1, (count, 1), device=generator.device, generator=generator)
            for image_side, box_side in zip(image, size, strict=True)
        )
        return cls(top, left, size, image)

    def coordinates(self) -> tuple[Tensor, Tensor]:
        """Returns the rows B×H and the columns B×W of the image, counted from the box's upper left corner."""
        rows, columns = (torch.arange(side, device=self.top.device) for side in self.image)
        return rows - self.top, columns - self.left

    def outside(self) -> Tensor:
        """Returns a mask B×H×W that is true outside the box."""
        rows, columns = (
            (offsets >= 0) & (offsets < side) for offsets, side in zip(self.coordinates(), self.size, strict=True)
        )
        return ~(rows.unsqueeze(2) & columns.unsqueeze(1))
