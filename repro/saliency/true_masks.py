"""The true mask of each image's object: scenes draw it, and of other images a person may have it in files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repro.data.image_numbers import ImageNumbers
from repro.data.splits import Images
from repro.runs.run import Run
from repro.scenes.dataset import Scenes

Mask = NDArray[np.bool_]
TrueMasks = Callable[[int], Mask]
"""Gives the mask H×W of an image by its index, of the whole image and perhaps in another size."""


@dataclass(frozen=True)
class FileMasks:
    """The true mask of each image, from a file."""

    numbers: ImageNumbers
    """All but 0 is the object."""

    def __call__(self, index: int) -> Mask:
        """Returns a mask, H×W; empty where the image has no object.

        Raises:
            UserError: The file holds no mask.
        """
        return np.asarray(self.numbers(index) != 0)


def true_masks(run: Run, images: Images) -> TrueMasks | None:
    """Returns the true masks of the images of a run; None where they are not known.

    Args:
        run: Whose data set it is.
        images: That train.

    Raises:
        UserError: `data.masks` lacks a file.
    """
    if isinstance(images, Scenes):
        return images.main_mask
    if not run.data.masks:
        return None
    folder = Path(run.data.masks)
    return FileMasks(ImageNumbers.of(images, "data.masks", folder, colours=True, sha256=run.data.masks_sha256))
