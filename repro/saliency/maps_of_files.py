"""A user's own saliency maps of the images, read from files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from repro.data.image_numbers import ImageNumbers
from repro.data.splits import Images
from repro.saliency.image_maps import MapSource, standardised
from repro.settings.saliency_sources import CELLS, SourceKind
from repro.settings.sections import LocalizerSettings


def maps_of_files(settings: LocalizerSettings, images: Images) -> MapSource:
    """Returns a folder of files as a source of maps.

    Args:
        settings: The folder, and the hash of its content when the run began.
        images: Of the data set; each must have a file.

    Raises:
        UserError: An image has no file, or the folder's content is not that of the hash.
    """
    folder = Path(settings.files)
    numbers = ImageNumbers.of(images, "localizer.files", folder, colours=False, sha256=settings.files_sha256)
    identity = {"source": str(SourceKind.maps), "files": numbers.digest(), "cells": CELLS}
    return MapSource(identity, CELLS, FileMaps(numbers), lambda _: standardised)


@dataclass(frozen=True)
class FileMaps:
    """The saliency map of each image, from a file."""

    numbers: ImageNumbers
    """Higher numbers are more salient, in any unit."""

    def __call__(self, index: int) -> Tensor:
        """Returns a map, G×G: the mean of each cell, minus the first number, divided by the largest absolute number.

        Raises:
            UserError: The file holds no map.
        """
        exact = self.numbers(index)
        # So that single precision holds the differences and their squares; a constant map becomes exactly 0.
        cells = exact / max(np.abs(exact).max(), np.finfo(np.float64).tiny)
        cells -= cells[0, 0]
        return F.adaptive_avg_pool2d(torch.from_numpy(cells.astype(np.float32)).unsqueeze(0), CELLS).squeeze(0)
