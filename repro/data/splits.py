"""The names of a data set's two splits, and what each split is to whoever trains on it."""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from repro.data.jpeg import Pixels

Split = Literal["train", "val"]

SPLITS: tuple[Split, ...] = ("train", "val")


class Images(Protocol):
    """Decoded images with labels, by index: what every split of every data set is.

    An index gives an RGB image and its label. Files, parts of a pool and drawn scenes all have this form, and need not
    have a class in common.
    """

    @property
    def classes(self) -> Sequence[str]:
        """The class names; a label is an index into them."""

    @property
    def targets(self) -> Sequence[int]:
        """The label of every image, known without decoding any."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image.Image, int]: ...

    def fingerprint(self) -> str:
        """Returns a few letters and digits that change when the data does."""


@runtime_checkable
class PixelImages(Protocol):
    """Images that also come as arrays, without the way through PIL's."""

    def pixels(self, index: int) -> tuple[Pixels, int]:
        """Returns an image's pixels, H×W×3 and perhaps read-only, and its label."""

    def size(self, index: int) -> tuple[int, int]:
        """Returns an image's width and height in pixels, without decoding it."""


def pixels_of(images: Images, index: int) -> tuple[Pixels, int]:
    """Returns the pixels of an image, H×W×3 and perhaps read-only, and its label, by the shortest way there is."""
    if isinstance(images, PixelImages):
        return images.pixels(index)
    image, label = images[index]
    return np.asarray(image), label


def size_of(images: Images, index: int) -> tuple[int, int]:
    """Returns an image's width and height in pixels, by the shortest way there is."""
    return images.size(index) if isinstance(images, PixelImages) else images[index][0].size
