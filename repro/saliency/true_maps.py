"""The true masks of scenes as maps of whole images, exact or spoilt to a grade, and the prior of a centre."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from repro.randomness import Purpose, stream
from repro.runs.saliency_sources import CELLS, SaliencySource, SourceKind
from repro.saliency.image_maps import MapSource
from repro.scenes.dataset import Scenes

CENTRE_WIDTH = 0.25
"""Standard deviation of the centre prior, in sides of the image."""

Mask = NDArray[np.bool_]


def true_maps(source: SaliencySource, scenes: Scenes) -> MapSource:
    """Returns the true masks of scenes as a source of maps, changed as the source says.

    Args:
        source: Of the kinds that change the mask, or `truth` itself.
        scenes: The images.
    """
    return MapSource(
        {"source": str(source), "cells": CELLS}, CELLS, TrueMaps(source, scenes), lambda _: lambda maps: maps
    )


@dataclass(frozen=True)
class TrueMaps:
    """The true mask of each scene as a map: how much of each cell is the main object."""

    source: SaliencySource
    scenes: Scenes

    def __call__(self, index: int) -> Tensor:
        """Returns a map, G×G in 0..1."""
        mask = changed(self.scenes.main_mask(index), self.source, index)
        return F.adaptive_avg_pool2d(torch.from_numpy(mask).float().unsqueeze(0), CELLS).squeeze(0)


def changed(mask: Mask, source: SaliencySource, index: int) -> Mask:
    """Returns a true mask as a source has it.

    Args:
        mask: S×S, with at least one pixel.
        source: Which change, and by how many cells of the image.
        index: Of the image, which has a direction of its own to be shifted into.

    Returns:
        S×S, with at least one pixel too.
    """
    from scipy.ndimage import distance_transform_edt  # takes a while, and few runs have true maps

    pixels = source.cells * len(mask) / CELLS
    if source.kind is SourceKind.dilated:
        return np.asarray(distance_transform_edt(~mask) <= pixels)
    if source.kind is SourceKind.eroded:
        depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]  # the image's edge is an edge of the object
        return np.asarray(depth > min(pixels, depth.max() / 2))
    if source.kind is SourceKind.shifted:
        # Seed 0 whatever the run's: all runs read one file of maps. What leaves the image at one border comes back at
        # the other, so that a shift changes where the foreground is and not how large.
        angle = stream(0, Purpose.localizer, index).uniform(0, 2 * np.pi)
        return np.roll(mask, (round(pixels * np.sin(angle)), round(pixels * np.cos(angle))), (0, 1))
    return mask


def centre_prior(device: torch.device) -> Tensor:
    """Returns a Gaussian around the image's centre, G×G in 0..1."""
    place = (torch.arange(CELLS, device=device) + 0.5) / CELLS - 0.5
    profile = torch.exp(-0.5 * (place / CENTRE_WIDTH) ** 2)
    return profile.unsqueeze(1) * profile
