"""Saliency-guided masking: which patches of a view are hidden, and what stands in their place.

Sections A.3 and A.4 of the method, vectorised over the batch: no loop over images or patches, no transfer to the host,
all randomness from one explicit generator on the batch's device. Images are B×3×H×W, normalised; foregrounds B×g×g.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Generator, Tensor

from repro.augmentation.blur import gaussian_blur
from repro.augmentation.views import Views
from repro.runs.run import Branch, Fidelity, Masking, Source
from repro.runs.run import Strategy as StrategyName


def high_pass(images: Tensor) -> Tensor:
    """`x - blur(x)` with an 11×11 Gaussian of sigma 5 (released moco/loader.py:15,68-78).

    Args:
        images: B×3×H×W, normalised, H and W at least 6.

    Returns:
        B×3×H×W, of mean about 0.
    """
    return images - gaussian_blur(images, 11, 5.0)


def strong_blur(images: Tensor) -> Tensor:
    """A 31×31 Gaussian blur of sigma 10 (released moco/loader.py:16-19).

    Args:
        images: B×3×H×W, normalised, H and W at least 16.

    Returns:
        B×3×H×W.
    """
    return gaussian_blur(images, 31, 10.0)


@dataclass(frozen=True)
class Mode:
    """How strongly a view is masked: a *positive* keeps its object, a *hard* negative loses it."""

    name: str
    ratio: tuple[float, float]
    """Range of alpha, the share of patches masked in each stratum, drawn uniformly for each image."""
    background: bool
    """Whether background is masked too, at the same rate."""
    noise_std: float
    """Of the noise that replaces high-passed patches, in normalised units."""

    @classmethod
    def positive(cls, settings: Masking) -> "Mode":
        """Foreground and background at the same low rate (released main_moco.py:294-302)."""
        return cls("positive", (settings.ratio_min, settings.ratio_max), True, settings.noise_std)

    @classmethod
    def hard(cls, settings: Masking) -> "Mode":
        """Much of the foreground, no background."""
        return cls("hard", (settings.hard_ratio_min, settings.hard_ratio_max), False, settings.hard_noise_std)


def patch_counts(
    foreground: Tensor, ratio: Tensor, mode: Mode, fidelity: Fidelity, *, capped: bool = False
) -> tuple[Tensor, Tensor]:
    """How many patches to mask in the foreground and in the background of each image.

    Paper: `round(N * alpha * gamma)` and `round(N * alpha * (1 - gamma))`, gamma being the foreground's share of the N
    cells. Released code (random_mask_hp.py:55-60, 103, 125-126): see the switches of `Fidelity`.

    Args:
        foreground: B×g×g, boolean.
        ratio: B, alpha.
        mode: whether background is masked.
        fidelity: whose rounding, cap, negative counts and single patches.
        capped: whether the released code's cap applies; it has one for high-pass only.

    Returns:
        Two B, whole numbers from 0 to the size of the stratum.
    """
    cells = foreground.shape[-2] * foreground.shape[-1]
    size = foreground.sum((-2, -1))
    share = ratio * size / cells
    if capped and fidelity.cap is Source.released:
        share = torch.where(share >= 0.56, 0.55, share)
    front = torch.round(cells * share).long()
    if not mode.background:
        back = torch.zeros_like(front)
    elif fidelity.counts is Source.released:
        back = (cells * ratio).floor().long() - front
        if fidelity.negative_count is Source.released:
            back = torch.where(back < 0, cells - size + back, back)  # a slice [:-n] of the background
    else:
        back = torch.round(cells * ratio * (1 - size / cells)).long()
    front, back = front.clamp(min=0).minimum(size), back.clamp(min=0).minimum(cells - size)
    if fidelity.single_patch is Source.released:
        front, back = front.where(size != 1, 0), back.where(cells - size != 1, 0)
    return front, back


def draw_patches(foreground: Tensor, counts: tuple[Tensor, Tensor], channels: int, generator: Generator) -> Tensor:
    """Draw patches uniformly without replacement, so many in the foreground and so many in the background.

    Args:
        foreground: B×g×g, boolean.
        counts: of the foreground and of the background, B each.
        channels: independent draws for each image.
        generator: on the batch's device.

    Returns:
        B×channels×g×g, true where masked.
    """
    B, h, w = foreground.shape
    front, back = (count.view(B, 1, 1) for count in counts)
    is_back = ~foreground.reshape(B, 1, h * w)
    # Sorted by a random key, the foreground's cells come first: the rank of a cell tells its place in its stratum.
    key = torch.rand(B, channels, h * w, device=foreground.device, generator=generator) + is_back
    rank = key.argsort(-1).argsort(-1)
    size = (~is_back).sum(-1, keepdim=True)
    masked = torch.where(is_back, rank - size < back, rank < front)
    return masked.view(B, channels, h, w)


def to_pixels(patches: Tensor, size: Sequence[int]) -> Tensor:
    """Enlarge a grid of patches B×C×g×g to pixels B×C×H×W."""
    return patches.repeat_interleave(size[0] // patches.shape[-2], -2).repeat_interleave(
        size[1] // patches.shape[-1], -1
    )


class Strategy(Protocol):
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


def _draw_counts(
    foreground: Tensor, mode: Mode, fidelity: Fidelity, generator: Generator, *, capped: bool = False
) -> tuple[Tensor, Tensor]:
    low, high = mode.ratio
    ratio = low + (high - low) * torch.rand(len(foreground), device=foreground.device, generator=generator)
    return patch_counts(foreground, ratio, mode, fidelity, capped=capped)


@dataclass(frozen=True)
class PatchFill(ABC):
    """Whole patches are replaced, in all channels alike, by what `fill` makes of the view."""

    fidelity: Fidelity = field(default_factory=Fidelity)

    @abstractmethod
    def fill(self, views: Tensor) -> Tensor:
        """What stands in masked patches: B×3×H×W, or B×3×1×1, of views B×3×H×W."""

    def clean(self, views: Tensor) -> Tensor:
        """The view itself."""
        return views

    def mask(self, clean: Tensor, views: Tensor, foreground: Tensor, mode: Mode, generator: Generator) -> Tensor:
        """See `Strategy.mask`."""
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

    fidelity: Fidelity = field(default_factory=Fidelity)
    focal_probability: float = 0.2
    spatial_share: float = 0.3
    """Of the images that are not focal; 0.24 of all by default."""

    def clean(self, views: Tensor) -> Tensor:
        """The high-passed view."""
        return high_pass(views)

    def mask(self, clean: Tensor, views: Tensor, foreground: Tensor, mode: Mode, generator: Generator) -> Tensor:
        """See `Strategy.mask`."""
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


def build_strategy(settings: Masking, fidelity: Fidelity) -> Strategy:
    """The strategy that `settings` names."""
    if settings.strategy is StrategyName.high_pass:
        return HighPass(fidelity, settings.focal_probability, settings.spatial_share)
    return StrongBlur(fidelity) if settings.strategy is StrategyName.strong_blur else MeanFill(fidelity)


class SaliencyMasking:
    """Masks one branch, or both, and makes the hard negative from the key.

    The paper's method: the query loses the same share of foreground and background, the key stays whole, and a copy of
    the key that has lost much of its foreground is the query's hard negative.
    """

    def __init__(self, settings: Masking, fidelity: Fidelity) -> None:
        """Take the strategy, the branch and the rates from `settings`; its strategy is not `none`."""
        self.strategy = build_strategy(settings, fidelity)
        self.branch = settings.branch
        self.positive, self.hard = Mode.positive(settings), Mode.hard(settings)
        self.hard_negative = settings.hard_negative
        self.one_for_all = fidelity.hard_negative is Source.released

    def __call__(
        self, query: Tensor, key: Tensor, query_foreground: Tensor, key_foreground: Tensor, generator: Generator
    ) -> Views:
        """Mask normalised views.

        Args:
            query: B×3×H×W, normalised, as is `key`.
            key: the other view.
            query_foreground: B×g×g, boolean.
            key_foreground: B×g×g, boolean.
            generator: on the batch's device.
        """
        strategy = self.strategy
        clean_query, clean_key = strategy.clean(query), strategy.clean(key)
        masked_query, masked_key, hard = clean_query, clean_key, None
        if self.branch is not Branch.key:
            masked_query = strategy.mask(clean_query, query, query_foreground, self.positive, generator)
        if self.branch is not Branch.query:
            masked_key = strategy.mask(clean_key, key, key_foreground, self.positive, generator)
        if self.hard_negative:
            # The released code hands image 0's hard negative to every query of the batch (main_moco.py:362,375).
            chosen = slice(0, 1 if self.one_for_all else None)
            hard = strategy.mask(clean_key[chosen], key[chosen], key_foreground[chosen], self.hard, generator)
        return Views(masked_query, masked_key, hard)
