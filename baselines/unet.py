"""ADIOS's occlusion network: a U-Net that divides each image among N masks."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import UserError
from repro.settings.choices import Norm

GROUPS = 8
"""Channel groups of a group norm (ADIOS src/utils/blocks.py:48)."""
HIDDEN = 128
"""Width of the bottleneck's MLP (src/utils/unet.py:51-53)."""


class OcclusionNetwork(nn.Module):
    """Computes soft masks of an image that sum to one at each pixel (Shi et al. 2022; ADIOS src/utils/unet.py).

    The number of stages follows from the crop: log2(crop) - 1, rounded down (simclr_adios_s.py:71), six at 224 pixels,
    five at 64, four at 32. Each stage is a 3×3 convolution, a norm and a ReLU; between stages the side is halved or
    doubled, nearest neighbour. Stages have `base` channels, but twice as many in the last three down and the first two
    up. An MLP joins the two ways at the smallest scale, and each stage up also sees its counterpart's output.

    With the defaults (four masks, base 8, group norm) it has 240,540 parameters at 224 pixels.
    """

    def __init__(self, crop: int, *, masks: int = 4, base: int = 8, norm: Norm = Norm.group) -> None:
        """Builds the network for one size of images.

        Args:
            crop: Side of the images in pixels; 32 or more, a multiple of the smallest scale.
            masks: N.
            base: Channels at full size; with group norm a multiple of 8.
            norm: What follows each convolution, which has a bias only without a norm.

        Raises:
            UserError: The crop cannot be halved often enough, or the channels cannot be grouped.
        """
        super().__init__()
        stages = stages_of(crop)
        if norm is Norm.group and base % GROUPS:
            raise UserError(
                f"adios.base_filters={base} cannot be normalised in {GROUPS} groups",
                mend=f"a multiple of {GROUPS}, or adios.norm=instance",
            )
        # Channels before the first stage and after each one (src/utils/unet.py:21-35).
        down = [3, *[base] * (stages - 3), *[2 * base] * 3]
        up = [2 * base, 2 * base, 2 * base, *[base] * (stages - 2)]
        skips = down[:0:-1]  # a stage up also sees the output of the stage down at the same scale, the last one first
        self.down = nn.ModuleList(_stage(inputs, outputs, norm) for inputs, outputs in pairwise(down))
        self.up = nn.ModuleList(
            _stage(inputs + skip, outputs, norm) for (inputs, outputs), skip in zip(pairwise(up), skips, strict=True)
        )
        side = crop >> (stages - 1)  # halved between the stages, so once less than there are stages
        cells = 2 * base * side * side
        self.bottleneck = nn.Sequential(
            nn.Flatten(),
            nn.Linear(cells, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, cells),
            nn.ReLU(),
            nn.Unflatten(1, (2 * base, side, side)),
        )
        self.head = nn.Conv2d(base, masks, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Computes the masks of normalised images B×3×S×S.

        Returns:
            B×N×S×S in 0..1, in single precision; at each pixel an image's masks sum to one.
        """
        features, outputs_down = images, []
        for number, stage in enumerate(self.down):
            features = stage(F.interpolate(features, scale_factor=0.5) if number else features)
            outputs_down.append(features)
        features = self.bottleneck(features)
        for number, stage in enumerate(self.up):
            features = F.interpolate(features, scale_factor=2.0) if number else features
            features = stage(torch.cat([features, outputs_down.pop()], 1))
        # In half precision the masks would sum to one only within a percent. And their means would be rounded, although
        # the sparsity penalty is a steep function of them near 0 and 1.
        return self.head(features).float().softmax(1)


def stages_of(crop: int) -> int:
    """Returns how many stages down, and as many up, the network has for a crop of that many pixels a side.

    Raises:
        UserError: The crop is too small, or cannot be halved between all of them.
    """
    stages = int(math.log2(crop) - 1) if crop >= 1 else 0
    if stages < 4:
        raise UserError(f"data.crop={crop} is too small for ADIOS's occlusion network", mend="data.crop=32 or more")
    unit = 1 << (stages - 1)  # each stage but the first halves the side
    if crop % unit:
        raise UserError(
            f"data.crop={crop} cannot be halved {stages - 1} times, as ADIOS's occlusion network does",
            mend=f"data.crop={crop // unit * unit} or {(crop // unit + 1) * unit}",
        )
    return stages


def _stage(inputs: int, outputs: int, norm: Norm) -> nn.Sequential:
    """Builds a convolution with its norm and ReLU; both norms have a shift, so a bias would be redundant."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=norm is Norm.none)]
    if norm is Norm.group:
        layers.append(nn.GroupNorm(GROUPS, outputs))
    elif norm is Norm.instance:
        layers.append(nn.InstanceNorm2d(outputs, affine=True))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))
