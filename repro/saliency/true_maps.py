"""True masks as maps of whole images, exact or degraded, and a centre prior."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from repro.randomness import Purpose, stream
from repro.saliency.image_maps import MapSource
from repro.saliency.true_masks import FileMasks, Mask, TrueMasks
from repro.settings.saliency_sources import CELLS, SaliencySource, SourceKind

CENTRE_WIDTH = 0.25
"""Standard deviation of the centre prior, in sides of the image."""


def true_maps(source: SaliencySource, masks: TrueMasks) -> MapSource:
    """Returns true masks as a source of maps, changed as the source says.

    Args:
        source: Of the kinds that change the mask, or `truth` itself.
        masks: Of the images.

    Raises:
        UserError: The files of the masks cannot be read, or have changed since the run began.
    """
    identity = {"source": str(source), "cells": CELLS}
    if isinstance(masks, FileMasks):  # scenes' masks follow from the images' fingerprint
        identity["masks"] = masks.numbers.digest()
    return MapSource(identity, CELLS, TrueMaps(source, masks), lambda _: lambda maps: maps)


@dataclass(frozen=True)
class TrueMaps:
    """The true mask of each image as a map: how much of each cell is the main object."""

    source: SaliencySource
    masks: TrueMasks

    def __call__(self, index: int) -> Tensor:
        """Returns a map, G×G in 0..1."""
        mask = self.masks(index)
        if self.source.kind is not SourceKind.truth:
            mask = changed(_squared(mask), self.source, index)
        return F.adaptive_avg_pool2d(torch.from_numpy(mask).float().unsqueeze(0), CELLS).squeeze(0)


def _squared(mask: Mask) -> Mask:
    """Returns a square mask as it is, and any other one resized to a square, as views are squeezed to squares too."""
    height, width = mask.shape
    if height == width:
        return mask
    side = (max(height, width),) * 2
    return np.array(Image.fromarray(mask).resize(side, Image.Resampling.NEAREST))  # a copy, which torch can write to


def changed(mask: Mask, source: SaliencySource, index: int) -> Mask:
    """Returns a true mask, changed as a source says.

    Args:
        mask: S×S; an empty one stays as it is.
        source: Which change, and by how many cells of the image.
        index: Of the image; the direction of its shift is drawn by this number.

    Returns:
        S×S; empty only if the mask is.
    """
    if not mask.any():
        return mask
    from scipy.ndimage import distance_transform_edt  # takes a while, and few runs have true maps

    pixels = source.cells * len(mask) / CELLS
    if source.kind is SourceKind.dilated:
        return np.asarray(distance_transform_edt(~mask) <= pixels)
    if source.kind is SourceKind.eroded:
        depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]  # the image's edge is also the object's
        return np.asarray(depth > min(pixels, depth.max() / 2))
    if source.kind is SourceKind.shifted:
        # Seed 0 whatever the run's, since all runs read one file of maps. Pixels that leave the image at one border
        # come back at the opposite one, so that a shift changes where the foreground is, and not its size.
        angle = stream(0, Purpose.localizer, index).uniform(0, 2 * np.pi)
        return np.roll(mask, (round(pixels * np.sin(angle)), round(pixels * np.cos(angle))), (0, 1))
    return mask


def centre_prior(device: torch.device) -> Tensor:
    """Returns a Gaussian around the image's centre, G×G in 0..1."""
    place = (torch.arange(CELLS, device=device) + 0.5) / CELLS - 0.5
    profile = torch.exp(-0.5 * (place / CENTRE_WIDTH) ** 2)
    return profile.unsqueeze(1) * profile
