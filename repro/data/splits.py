"""The names of a data set's two splits, and what each split is to whoever trains on it."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from repro.data.jpeg import Pixels

Split = Literal["train", "val"]

SPLITS: tuple[Split, ...] = ("train", "val")


class Images(Protocol):
    """Decoded images with labels, by index: what every split of every data set is.

    An index gives an RGB image and its label. Files, parts of a pool and drawn scenes all have this form, and need not
    have a class in common. Those that can also have `pixels` and `size`, see `pixels_of` and `size_of`.
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


def pixels_of(images: Images, index: int) -> tuple[Pixels, int]:
    """Returns the pixels of an image, H×W×3 and perhaps read-only, and its label.

    By the images' own method `pixels` where they have one, which spares the way through PIL's image.
    """
    # Asked for by name: an `isinstance` of a protocol takes as long as a tenth of a crop.
    read: Callable[[int], tuple[Pixels, int]] | None = getattr(images, "pixels", None)
    if read is not None:
        return read(index)
    image, label = images[index]
    return np.asarray(image), label


def size_of(images: Images, index: int) -> tuple[int, int]:
    """Returns an image's width and height in pixels: by the images' own method `size`, or by decoding."""
    read: Callable[[int], tuple[int, int]] | None = getattr(images, "size", None)
    return images[index][0].size if read is None else read(index)
