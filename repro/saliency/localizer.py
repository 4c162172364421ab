"""The localizer: a frozen network that turns views into activations on a grid of patches."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data.images import IMAGENET_MEAN, IMAGENET_STD
from repro.errors import UserError, one_line

MIN_GRID = 4
"""Least number of cells a side. A coarser grid leaves too few patches to draw from, so smaller views are enlarged."""
STRIDE = 32
"""Pixels that a cell of the last stage spans, in every network of the ResNet and EfficientNet families."""


class Localizer(nn.Module):
    """A frozen network that turns views into activations on a grid.

    It is never trained: it stays in eval mode, has no gradients and is not saved in checkpoints. Views under 128 px are
    enlarged to 128 px, so that the grid has at least 4×4 cells. A shallower stage would need no enlarging, but its map
    hardly finds the object (`salmask bench saliency --size 64`).
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, network: nn.Module, *, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> None:
        """Freezes a network.

        Args:
            network: Maps B×3×H×W to the activations of its last stage, B×D×h×w.
            mean: Mean of each channel that was subtracted from the network's training images, with pixels in 0..1.
            std: Standard deviation of each channel that these were divided by.
        """
        super().__init__()
        # Depthwise convolution is three times faster in this layout, on CPUs too.
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        # Views come normalised by ImageNet's mean and std. One affine map undoes that and normalises as the network
        # was trained: (view * std_imagenet + mean_imagenet - mean) / std. With ImageNet's own it is the identity.
        scale = torch.tensor(IMAGENET_STD) / torch.tensor(std)
        shift = (torch.tensor(IMAGENET_MEAN) - torch.tensor(mean)) / torch.tensor(std)
        self.register_buffer("scale", scale.view(3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(3, 1, 1), persistent=False)

    def check(self, side: int, setting: str = "data.crop") -> None:
        """Makes sure that the network's grid is the one that patches are drawn on; networks differ in how they round.

        Args:
            side: Of the images that the network sees, in pixels.
            setting: The setting that gives the side, for the error.

        Raises:
            UserError: The side is not a multiple of the grid, the network takes no side×side view, or its activations
                have another shape.
        """
        cells = grid_of(side, setting)
        try:
            shape = self(torch.zeros(1, 3, side, side, device=self.scale.device)).shape
        except AssertionError as error:  # raised by timm's networks that are built for one size
            raise UserError(
                f"the localizer takes no views of {setting}={side} ({one_line(error)})",
                mend="another localizer.network, or the side that it was built for",
            ) from error
        if len(shape) != 4 or tuple(shape[2:]) != (cells, cells):
            actual = "×".join(map(str, shape[1:]))
            own_side = f"{setting}={STRIDE * cells}, or " if side != STRIDE * cells else ""
            raise UserError(
                f"the localizer's activations are {actual} at {setting}={side}, not D×{cells}×{cells}",
                mend=f"{own_side}another localizer.network",
            )

    def train(self, mode: bool = True) -> "Localizer":
        """Stays in eval mode: batch statistics would change the foreground."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, views: Tensor) -> Tensor:
        """Returns activations B×D×h×w of square views B×3×S×S, normalised by ImageNet's mean and std.

        The network runs in the training's precision; its activations are summed in single precision afterwards
        (`repro.saliency.scda`).
        """
        if views.shape[-1] < MIN_GRID * STRIDE:
            views = F.interpolate(views, size=(MIN_GRID * STRIDE,) * 2, mode="bilinear")
        return self.network((views * self.scale + self.shift).contiguous(memory_format=torch.channels_last))


def grid_of(crop: int, setting: str = "data.crop") -> int:
    """Returns the number of cells a side of the activations of a crop×crop view; a patch is one cell.

    Args:
        crop: In pixels.
        setting: The setting that gives the crop, for the error.

    Raises:
        UserError: The crop is not a multiple of the grid, so that patches would not tile it.
    """
    # Rounded up, as by networks whose convolutions pad.
    cells = -(-max(crop, MIN_GRID * STRIDE) // STRIDE)
    if crop % cells:
        # The nearest multiple of this grid may have another grid; a multiple of the stride always fits its own.
        nearest_crop = (
            STRIDE * round(crop / STRIDE) if crop > MIN_GRID * STRIDE else cells * max(1, round(crop / cells))
        )
        raise UserError(
            f"{setting}={crop} is not divisible by the {cells}×{cells} grid", mend=f"{setting}={nearest_crop}"
        )
    return cells
