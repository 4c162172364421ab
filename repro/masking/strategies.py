"""What replaces a masked patch: strong blur, mean colour, or noise on a high-passed view.

Images are B×3×H×W, normalised; foregrounds B×g×g.
"""

import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Generator, Tensor

from repro.masking.boxes import Box
from repro.masking.filters import high_pass, strong_blur
from repro.masking.patches import Mode, draw_counts, draw_patches, to_pixels
from repro.settings.choices import FilterLibrary, NoiseArea, Source, Strategy
from repro.settings.sections import FidelitySettings, MaskingSettings

FOCAL_WINDOW = 200 / 224
"""Side of a query's focal window, as a share of the view's (random_mask_hp.py:28-36)."""
FOCAL_BOX = 130 / 224
"""Side of a hard negative's focal box, as a share of the view's (random_mask_hp.py:37-38)."""


class MaskingStrategy(Protocol):
    """Turns a view into what the network sees of it, clean or masked."""

    def clean(self, views: Tensor) -> Tensor:
        """Turns normalised views B×3×H×W into the network's inputs without masks, B×3×H×W."""
        ...

    def mask(self, clean: Tensor, views: Tensor, foreground: Tensor, mode: Mode, generator: Generator) -> Tensor:
        """Masks the network's inputs.

        Args:
            clean: `self.clean(views)`, B×3×H×W; left as it is.
            views: B×3×H×W, normalised.
            foreground: B×g×g of the views, boolean; g divides H and W.
            mode: How strongly to mask.
            generator: Random generator on the batch's device.

        Returns:
            The masked inputs, B×3×H×W.
        """
        ...


@dataclass(frozen=True)
class PatchFill(ABC):
    """Replaces whole patches, in all channels alike, by what `fill` returns for the view."""

    fidelity: FidelitySettings = field(default_factory=FidelitySettings)

    @abstractmethod
    def fill(self, views: Tensor) -> Tensor:
        """Returns what replaces masked patches of views B×3×H×W: B×3×H×W, or B×3×1×1 for one colour each."""

    def clean(self, views: Tensor) -> Tensor:
        """Returns the views themselves, B×3×H×W."""
        return views

    def mask(self, clean: Tensor, views: Tensor, foreground: Tensor, mode: Mode, generator: Generator) -> Tensor:
        """Masks the network's inputs as `MaskingStrategy.mask` describes it."""
        patches = draw_patches(foreground, draw_counts(foreground, mode, self.fidelity, generator), 1, generator)
        return torch.where(to_pixels(patches, views.shape[-2:]), self.fill(views), clean)


@dataclass(frozen=True)
class StrongBlur(PatchFill):
    """Shows the strongly blurred view in masked patches (random_mask_blur.py).

    The whole view is blurred, not each patch by itself: a patch continues its neighbours' colours, so that the mask
    adds hardly any edges.
    """

    library: FilterLibrary = FilterLibrary.torch

    def fill(self, views: Tensor) -> Tensor:
        """Returns the strongly blurred views, B×3×H×W."""
        return strong_blur(views, self.library)


class MeanFill(PatchFill):
    """Shows the mean colour of the view in masked patches (random_mask_mean.py)."""

    def fill(self, views: Tensor) -> Tensor:
        """Returns the mean of each image and channel, B×3×1×1; of the view before anything is masked."""
        return views.mean((-2, -1), keepdim=True)


@dataclass(frozen=True)
class HighPass:
    """High-passes views, and shows Gaussian noise in masked areas (random_mask_hp.py).

    Each image goes one of three ways: *focal* (for a query everything outside a random window, for a hard negative a
    random box, whatever the saliency), *spatial* (patches hidden in all channels alike) or *channel-wise* (patches
    drawn for each channel on its own).

    The noise replaces the masked content. It is about as strong as the contrast of a high-passed photograph, so that
    the border of a mask stands out less than with a constant.
    """

    fidelity: FidelitySettings = field(default_factory=FidelitySettings)
    focal_probability: float = 0.2
    spatial_share: float = 0.3
    """Share of spatial images among those that are not focal; by default 0.24 of all images."""
    group_size: int = sys.maxsize
    """How many consecutive images share the released code's noise; by default the whole batch."""
    noise_area: NoiseArea = NoiseArea.view
    library: FilterLibrary = FilterLibrary.torch

    def clean(self, views: Tensor) -> Tensor:
        """Returns the high-passed views, B×3×H×W."""
        return high_pass(views, self.library)

    def mask(self, clean: Tensor, views: Tensor, foreground: Tensor, mode: Mode, generator: Generator) -> Tensor:
        """Masks the network's inputs as `MaskingStrategy.mask` describes it."""
        # A branch for each image would wait for the device, so all three ways are drawn for all images, and `where`
        # selects. The order of the draws must stay, as each of them advances the stream.
        B, C, H, W = clean.shape
        counts = draw_counts(foreground, mode, self.fidelity, generator, capped=True)
        patches = draw_patches(foreground, counts, C, generator)
        focal_draw, spatial_draw = torch.rand(2, B, 1, 1, 1, device=clean.device, generator=generator)
        spatial = spatial_draw < self.spatial_share
        patches = torch.where(spatial, patches[:, :1], patches)  # the first channel's patches in all channels
        # A query keeps only what lies inside a large window; a hard negative loses what lies inside a box.
        box = Box.draw(B, (H, W), FOCAL_WINDOW if mode.background else FOCAL_BOX, generator)
        focal = focal_draw < self.focal_probability
        # Only on a CPU can the masked pixels be looked up without waiting for the device; see `NoiseArea`.
        if self.noise_area is NoiseArea.masked and self.fidelity.noise is Source.paper and clean.is_cpu:
            return fill_with_noise(clean, patches & ~focal, focal.flatten(), box, mode, generator)
        hidden = box.outside() if mode.background else ~box.outside()
        masked = torch.where(focal, hidden.unsqueeze(1), to_pixels(patches, (H, W)))
        if self.fidelity.noise is Source.released:
            noise = self._shared_noise(clean.shape, foreground.shape[-1], box, focal, spatial, mode, generator)
        else:
            noise = torch.randn(clean.shape, device=clean.device, generator=generator)
        return torch.where(masked, noise.mul_(mode.noise_std).to(clean.dtype), clean)

    def _shared_noise(
        self, shape: torch.Size, grid: int, box: Box, focal: Tensor, spatial: Tensor, mode: Mode, generator: Generator
    ) -> Tensor:
        """Returns the released code's noise B×3×H×W, much of which is shared by a group (there: a GPU's batch).

        One tile fills every spatially masked patch of the group, another one every channel-wise masked patch
        (random_mask_hp.py:122,140-155). Hard negatives share the noise in their focal box. Only the noise around a
        query's focal window is drawn afresh for each image (random_mask_hp.py:28-36).
        """
        B, C, H, W = shape
        group = torch.arange(B, device=focal.device) // self.group_size
        groups = math.ceil(B / self.group_size)
        tiles = torch.randn(2, groups, C, H // grid, W // grid, device=focal.device, generator=generator)
        patch_noise = tiles[(~spatial).flatten().long(), group].repeat(1, 1, grid, grid)
        if mode.background:
            focal_noise = torch.randn(shape, device=focal.device, generator=generator)
        else:
            box_noise = torch.randn(groups, C, *box.size, device=focal.device, generator=generator)
            # The noise is the same wherever the box lies: each pixel reads it at its coordinates in the box. Outside,
            # where nothing is masked, coordinates are clamped to valid ones.
            rows, columns = (
                offsets.clamp(0, side - 1) for offsets, side in zip(box.coordinates(), box.size, strict=True)
            )
            focal_noise = box_noise[group[:, None, None], :, rows.unsqueeze(2), columns.unsqueeze(1)].movedim(-1, 1)
        return torch.where(focal, focal_noise, patch_noise)


def fill_with_noise(
    clean: Tensor, patches: Tensor, focal: Tensor, box: Box, mode: Mode, generator: Generator
) -> Tensor:
    """Returns images whose masked pixels show noise, drawn for these pixels alone.

    Args:
        clean: B×C×H×W, on the host; left as it is.
        patches: B×C×g×g, true where masked; all false in focal images.
        focal: B, true for focal images: a query is masked outside a window, a hard negative inside a box.
        box: The window or the box of each image.
        mode: Whether the images are queries or hard negatives, and how strong the noise is.
        generator: Random generator of the noise, on the host.

    Returns:
        B×C×H×W.
    """
    B, C, H, W = clean.shape
    grid = patches.shape[-1]
    masked = clean.clone(memory_format=torch.contiguous_format)

    def noise(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=clean.dtype).normal_(0, mode.noise_std, generator=generator)

    cells = masked.view(B, C, grid, H // grid, grid, W // grid).transpose(3, 4)
    hidden = patches.nonzero(as_tuple=True)
    cells[hidden] = noise(len(hidden[0]), H // grid, W // grid)
    images = focal.nonzero()  # n×1
    rows, columns = (place[focal] for place in (box.top, box.left))
    height, width = box.size
    if mode.background:
        # The rows outside the window begin below it and wrap around to those above it; columns likewise. Whole rows are
        # replaced first, then whole columns, which replace the corners a second time.
        rows, columns = (rows + torch.arange(height, H)) % H, (columns + torch.arange(width, W)) % W
        masked[images, :, rows] = noise(len(images), H - height, C, W)
        masked[images, :, :, columns] = noise(len(images), W - width, C, H)
    else:
        boxes = masked.unfold(2, height, 1).unfold(3, width, 1)  # B×C×rows×columns×height×width, a view
        boxes[images, :, rows, columns] = noise(len(images), 1, height, width, C).movedim(-1, 2)
    return masked


def build_strategy(
    settings: MaskingSettings,
    fidelity: FidelitySettings,
    group_size: int = sys.maxsize,
    library: FilterLibrary = FilterLibrary.torch,
) -> MaskingStrategy:
    """Builds the masking strategy that `settings` name, which is not `none`.

    Args:
        settings: Strategy and rates.
        fidelity: Where to follow the released code instead of the paper.
        group_size: Images of a batch-norm group, see `HighPass`; by default the whole batch.
        library: Which library computes the strategy's filter on a CPU.

    Raises:
        ValueError: The strategy masks no patches.
    """
    match settings.strategy:
        case Strategy.high_pass:
            return HighPass(
                fidelity, settings.focal_probability, settings.spatial_share, group_size, settings.noise_area, library
            )
        case Strategy.strong_blur:
            return StrongBlur(fidelity, library)
        case Strategy.mean_fill:
            return MeanFill(fidelity)
        case Strategy.none | Strategy.learned:
            raise ValueError(f"{settings.strategy} masks no patches")
