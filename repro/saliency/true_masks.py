"""The true mask of each image's object: drawn by scenes, and for other images read from a user's files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repro.data.image_numbers import ImageNumbers
from repro.data.splits import Images
from repro.scenes.dataset import Scenes
from repro.settings.run import Run

Mask = NDArray[np.bool_]
TrueMasks = Callable[[int], Mask]
"""Returns the mask H×W of the whole image of an index; its size may differ from the image's."""


@dataclass(frozen=True)
class FileMasks:
    """The true mask of each image, from a file."""

    numbers: ImageNumbers
    """Other than 0 where the object is."""

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
        images: The training images.

    Raises:
        UserError: `data.masks` has no file for an image.
    """
    if isinstance(images, Scenes):
        return images.main_mask
    if not run.data.masks:
        return None
    folder = Path(run.data.masks)
    return FileMasks(ImageNumbers.of(images, "data.masks", folder, colours=True, sha256=run.data.masks_sha256))
