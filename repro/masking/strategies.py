"""What stands in the place of a masked patch: strong blur, mean colour, or noise on a high-passed view.

Images are B×3×H×W, normalised; foregrounds B×g×g.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Generator, Tensor

from repro.masking.boxes import Box
from repro.masking.filters import high_pass, strong_blur
from repro.masking.patches import Mode, _draw_counts, draw_patches, to_pixels
from repro.runs.choices import Source, Strategy
from repro.runs.sections import FidelitySettings, MaskingSettings


class MaskingStrategy(Protocol):
    """What a network sees, clean and masked."""

    def clean(self, views: Tensor) -> Tensor:
        """Turn a normalised view B×3×H×W into the network's input without masks."""
        ...

    def mask(self, clean: Tensor, views: Tensor, foreground: Tensor, mode: Mode, generator: Generator) -> Tensor:
        """Mask the network's input.

        Args:
            clean: `self.clean(views)`, B×3×H×W; left as it is.
            views: B×3×H×W, normalised.
            foreground: B×g×g of the views, boolean; g divides H and W.
            mode: how strongly.
            generator: on the batch's device.

        Returns:
            B×3×H×W.
        """
        ...


@dataclass(frozen=True)
class PatchFill(ABC):
    """Whole patches are replaced, in all channels alike, by what `fill` makes of the view."""

    fidelity: FidelitySettings = field(default_factory=FidelitySettings)

    @abstractmethod
    def fill(self, views: Tensor) -> Tensor:
        """What stands in masked patches: B×3×H×W, or B×3×1×1, of views B×3×H×W."""

    def clean(self, views: Tensor) -> Tensor:
        """The view itself."""
        return views

    def mask(self, clean: Tensor, views: Tensor, foreground: Tensor, mode: Mode, generator: Generator) -> Tensor:
        """See `MaskingStrategy.mask`."""
        patches = draw_patches(foreground, _draw_counts(foreground, mode, self.fidelity, generator), 1, generator)
        return torch.where(to_pixels(patches, views.shape[-2:]), self.fill(views), clean)


class StrongBlur(PatchFill):
    """Masked patches show the strongly blurred view (random_mask_blur.py)."""

    def fill(self, views: Tensor) -> Tensor:
        """The view, blurred."""
        return strong_blur(views)


class MeanFill(PatchFill):
    """Masked patches show the mean colour of their view (random_mask_mean.py)."""

    def fill(self, views: Tensor) -> Tensor:
        """The mean of each image and channel."""
        return views.mean((-2, -1), keepdim=True)


@dataclass(frozen=True)
class HighPass:
    """Views are high-passed; masked areas show Gaussian noise (random_mask_hp.py).

    Each image goes one of three ways: *focal* (for a query everything outside a random window, for a hard negative a
    random box, whatever the saliency), *spatial* (patches hidden in all channels alike) or *channel-wise* (patches
    drawn for each channel on its own).
    """

    fidelity: FidelitySettings = field(default_factory=FidelitySettings)
    focal_probability: float = 0.2
    spatial_share: float = 0.3
    """Of the images that are not focal; 0.24 of all by default."""

    def clean(self, views: Tensor) -> Tensor:
        """The high-passed view."""
        return high_pass(views)

    def mask(self, clean: Tensor, views: Tensor, foreground: Tensor, mode: Mode, generator: Generator) -> Tensor:
        """See `MaskingStrategy.mask`."""
        B, C, H, W = clean.shape
        counts = _draw_counts(foreground, mode, self.fidelity, generator, capped=True)
        patches = draw_patches(foreground, counts, C, generator)
        draw = torch.rand(2, B, 1, 1, 1, device=clean.device, generator=generator)
        spatial = draw[1] < self.spatial_share
        patches = torch.where(spatial, patches[:, :1], patches)
        box = Box.draw(B, (H, W), 200 / 224 if mode.background else 130 / 224, generator)
        focal = draw[0] < self.focal_probability
        hidden = box.outside() if mode.background else ~box.outside()
        masked = torch.where(focal, hidden.unsqueeze(1), to_pixels(patches, (H, W)))
        if self.fidelity.noise is Source.released:
            noise = self._shared_noise(clean.shape, foreground.shape[-1], box, focal, spatial, mode, generator)
        else:
            noise = torch.randn(clean.shape, device=clean.device, generator=generator)
        return torch.where(masked, noise.mul_(mode.noise_std).to(clean.dtype), clean)

    def _shared_noise(
        self, shape: torch.Size, grid: int, box: "Box", focal: Tensor, spatial: Tensor, mode: Mode, generator: Generator
    ) -> Tensor:
        """One tile for every spatially masked patch of the batch, one for every channel-wise one (hp:122,140-155).

        Only the noise around a query's focal window is drawn afresh for each image (hp:28-36).
        """
        _, C, H, W = shape
        tiles = torch.randn(2, C, H // grid, W // grid, device=focal.device, generator=generator)
        shared, separate = tiles.repeat(1, 1, grid, grid)
        tile = torch.where(spatial, shared, separate)
        if mode.background:
            in_box = torch.randn(shape, device=focal.device, generator=generator)
        else:
            one = torch.randn(C, *box.size, device=focal.device, generator=generator)
            rows, columns = (i.clamp(0, n - 1) for i, n in zip(box.coordinates(), box.size, strict=True))
            in_box = one[:, rows.unsqueeze(2), columns.unsqueeze(1)].transpose(0, 1)
        return torch.where(focal, in_box, tile)


def build_strategy(settings: MaskingSettings, fidelity: FidelitySettings) -> MaskingStrategy:
    """The strategy that `settings` names."""
    if settings.strategy is Strategy.high_pass:
        return HighPass(fidelity, settings.focal_probability, settings.spatial_share)
    return StrongBlur(fidelity) if settings.strategy is Strategy.strong_blur else MeanFill(fidelity)
