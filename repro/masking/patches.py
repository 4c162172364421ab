"""Which patches of a view are masked: how many in each stratum, and which ones.

Sections A.3 and A.4 of the method, vectorised over the batch: no loop over images or patches, no transfer to the host,
all randomness from one explicit generator on the batch's device. Foregrounds are B×g×g.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from repro.runs.choices import Source
from repro.runs.sections import FidelitySettings, MaskingSettings


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
    def positive(cls, settings: MaskingSettings) -> "Mode":
        """Foreground and background at the same low rate (released main_moco.py:294-302)."""
        return cls("positive", (settings.ratio_min, settings.ratio_max), True, settings.noise_std)

    @classmethod
    def hard(cls, settings: MaskingSettings) -> "Mode":
        """Much of the foreground, no background."""
        return cls("hard", (settings.hard_ratio_min, settings.hard_ratio_max), False, settings.hard_noise_std)


def patch_counts(
    foreground: Tensor, ratio: Tensor, mode: Mode, fidelity: FidelitySettings, *, capped: bool = False
) -> tuple[Tensor, Tensor]:
    """How many patches to mask in the foreground and in the background of each image.

    Paper: `round(N * alpha * gamma)` and `round(N * alpha * (1 - gamma))`, gamma being the foreground's share of the N
    cells. Released code (random_mask_hp.py:55-60, 103, 125-126): see the switches of `FidelitySettings`.

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


def _draw_counts(
    foreground: Tensor, mode: Mode, fidelity: FidelitySettings, generator: Generator, *, capped: bool = False
) -> tuple[Tensor, Tensor]:
    low, high = mode.ratio
    ratio = low + (high - low) * torch.rand(len(foreground), device=foreground.device, generator=generator)
    return patch_counts(foreground, ratio, mode, fidelity, capped=capped)


def as_many_at_random(cells: Tensor, generator: Generator) -> Tensor:
    """Chance: a map B×g×g with as many cells as the given one in each image, anywhere."""
    counts = (cells.sum((1, 2)), torch.zeros(len(cells), device=cells.device))
    return draw_patches(torch.ones_like(cells), counts, 1, generator).squeeze(1)


def overlap(cells: Tensor, masks: Tensor) -> dict[str, float]:
    """How well cells B×g×g cover objects B×H×W, both boolean, every object with at least one pixel."""
    shown = to_pixels(cells.unsqueeze(1), masks.shape[-2:]).squeeze(1)
    both, either = (pixels.sum((1, 2)).float() for pixels in (shown & masks, shown | masks))
    return {
        "mean IoU": round((both / either).mean().item(), 3),
        "precision": round((both / shown.sum((1, 2)).clamp(min=1)).mean().item(), 3),
        "recall": round((both / masks.sum((1, 2))).mean().item(), 3),
        "gamma": round(cells.float().mean().item(), 3),
    }
