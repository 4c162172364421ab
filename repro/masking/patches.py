"""Which patches of a view are masked: how many in each stratum, foreground and background, and which ones.

Sections A.3 and A.4 of the method, vectorised over the batch: no loop over images or patches, no transfer to the host,
all randomness from one explicit generator on the batch's device. Foregrounds are B×g×g.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from repro.settings.choices import Source
from repro.settings.sections import FidelitySettings, MaskingSettings


@dataclass(frozen=True)
class Mode:
    """How strongly a view is masked: a *positive* keeps its object, a *hard* negative loses it."""

    ratio: tuple[float, float]
    """Range of alpha, the share of patches that are masked in each stratum; drawn uniformly for each image."""
    background: bool
    """Whether the background is masked too, at the same rate: true for a positive, false for a hard negative."""
    noise_std: float
    """Standard deviation of the noise that replaces high-passed patches, in normalised units."""

    @classmethod
    def positive(cls, settings: MaskingSettings) -> "Mode":
        """Returns the mode that masks foreground and background at one low rate (released main_moco.py:294-302)."""
        return cls((settings.ratio_min, settings.ratio_max), True, settings.noise_std)

    @classmethod
    def hard(cls, settings: MaskingSettings) -> "Mode":
        """Returns the mode that masks much of the foreground and no background."""
        return cls((settings.hard_ratio_min, settings.hard_ratio_max), False, settings.hard_noise_std)


def patch_counts(
    foreground: Tensor, ratio: Tensor, mode: Mode, fidelity: FidelitySettings, *, capped: bool = False
) -> tuple[Tensor, Tensor]:
    """Returns how many patches to mask in the foreground and in the background of each image.

    Paper: `round(N * alpha * gamma)` and `round(N * alpha * (1 - gamma))`, gamma being the foreground's share of the N
    cells. Released code (random_mask_hp.py:55-60, 103, 125-126): see the switches of `FidelitySettings`.

    Args:
        foreground: B×g×g, boolean.
        ratio: B, the alpha of each image.
        mode: Whether background is masked.
        fidelity: Whether rounding, cap, negative counts and single patches are the paper's or the released code's.
        capped: Whether the released code's cap applies; it has one for high-pass only.

    Returns:
        Two tensors B, whole numbers from 0 to the number of cells of the stratum.
    """
    cells = foreground.shape[-2] * foreground.shape[-1]
    front_cells = foreground.sum((-2, -1))
    back_cells = cells - front_cells
    share = ratio * front_cells / cells  # alpha * gamma
    if capped and fidelity.cap is Source.released:
        share = torch.where(share >= 0.56, 0.55, share)  # the released code's numbers: shares between them stay
    front = torch.round(cells * share).long()  # halves to even, as Python's `round` in the released code
    if not mode.background:
        back = torch.zeros_like(front)
    elif fidelity.counts is Source.released:
        # The released code rounds the total down, but the foreground to the nearest number. The background is the
        # difference, which can be -1.
        back = (cells * ratio).floor().long() - front
        if fidelity.negative_count is Source.released:
            # The released code masks the slice [:back] of the shuffled background, for -1 all cells but one.
            back = torch.where(back < 0, back_cells + back, back)
    else:
        back = torch.round(cells * ratio * (1 - front_cells / cells)).long()
    # Only the released code's counts leave the range: below 0, or, with the cap, above the number of background cells.
    back = back.clamp(min=0).minimum(back_cells)
    if fidelity.single_patch is Source.released:  # which skips a stratum of exactly one cell, whatever the count
        front, back = front.where(front_cells != 1, 0), back.where(back_cells != 1, 0)
    return front, back


def draw_patches(foreground: Tensor, counts: tuple[Tensor, Tensor], channels: int, generator: Generator) -> Tensor:
    """Draws patches uniformly without replacement, a given number each in the foreground and in the background.

    Args:
        foreground: B×g×g, boolean.
        counts: Numbers of patches in the foreground and in the background, B each.
        channels: Number C of independent draws for each image.
        generator: Random generator on the batch's device.

    Returns:
        B×C×g×g, true where masked.
    """
    B, h, w = foreground.shape
    front, back = (count.view(B, 1, 1) for count in counts)
    is_back = ~foreground.reshape(B, 1, h * w)
    # To draw without replacement, cells are shuffled and the first ones taken. One sort shuffles both strata of all
    # images, although their counts differ: sorting keys lie in 0..1 in the foreground and in 1..2 in the background, so
    # that the foreground's cells come first, in random order, and then the background's.
    sorting_key = torch.rand(B, channels, h * w, device=foreground.device, generator=generator) + is_back
    rank = ranks(sorting_key)
    front_cells = (~is_back).sum(-1, keepdim=True)  # these rank before the background's cells
    masked = torch.where(is_back, rank - front_cells < back, rank < front)
    return masked.view(B, channels, h, w)


def ranks(numbers: Tensor) -> Tensor:
    """Returns the rank of each number along the last dimension, from 0 for the least, in the same shape."""
    # The first argsort gives the number at each rank, and the second one its inverse, the rank of each number.
    return numbers.argsort(-1).argsort(-1)


def to_pixels(patches: Tensor, size: Sequence[int]) -> Tensor:
    """Enlarges a grid of patches B×C×g×g to pixels B×C×H×W; `size` is H, W, and g divides both."""
    return patches.repeat_interleave(size[0] // patches.shape[-2], -2).repeat_interleave(
        size[1] // patches.shape[-1], -1
    )


def draw_counts(
    foreground: Tensor, mode: Mode, fidelity: FidelitySettings, generator: Generator, *, capped: bool = False
) -> tuple[Tensor, Tensor]:
    """Draws the share of masked patches for each image, and returns how many that makes in each stratum.

    Args:
        foreground: B×g×g, boolean.
        mode: The range of the share, and whether background is masked.
        fidelity: See `patch_counts`.
        generator: Random generator on the batch's device.
        capped: See `patch_counts`.

    Returns:
        Two tensors B, as `draw_patches` takes them.
    """
    low, high = mode.ratio
    # One share for each image, the same in all of its channels, as in the released code.
    ratio = low + (high - low) * torch.rand(len(foreground), device=foreground.device, generator=generator)
    return patch_counts(foreground, ratio, mode, fidelity, capped=capped)


def as_many_at_random(cells: Tensor, generator: Generator) -> Tensor:
    """Returns a random foreground of the same size: in each image as many cells as given, at random places.

    Args:
        cells: B×g×g, boolean.
        generator: Random generator on the same device.

    Returns:
        B×g×g, boolean.
    """
    counts = (cells.sum((1, 2)), torch.zeros(len(cells), device=cells.device))
    return draw_patches(torch.ones_like(cells), counts, 1, generator).squeeze(1)


def overlap(cells: Tensor, masks: Tensor) -> dict[str, float | None]:
    """Returns how well foregrounds cover objects, in pixels.

    Args:
        cells: B×g×g, boolean, the foregrounds.
        masks: B×H×W, boolean, the objects; each has at least one pixel, and g divides H and W.

    Returns:
        Means over the images of IoU, precision, recall, and gamma, the foreground's share of the cells; each in 0..1,
        rounded to three digits. Of no images they are None.
    """

    def mean(values: Tensor) -> float | None:
        return round(values.mean().item(), 3) if len(values) else None  # NaN would be no JSON

    foreground = to_pixels(cells.unsqueeze(1), masks.shape[-2:]).squeeze(1)
    intersection, union = (pixels.sum((1, 2)).float() for pixels in (foreground & masks, foreground | masks))
    return {
        "mean IoU": mean(intersection / union),
        # An empty foreground has a precision of 0 instead of NaN.
        "precision": mean(intersection / foreground.sum((1, 2)).clamp(min=1)),
        "recall": mean(intersection / masks.sum((1, 2))),
        "gamma": mean(cells.float()),
    }
