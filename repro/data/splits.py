"""The names of a data set's two splits, and the interface that each split has."""

import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from repro.data.jpeg import Pixels
from repro.errors import UserError

Split = Literal["train", "val"]

SPLITS: tuple[Split, ...] = ("train", "val")


class Images(Protocol):
    """Decoded images with labels, by index: what every split of every data set is.

    An index gives an RGB image and its label. Files, parts of a pool and drawn scenes all have this form, without a
    common base class. Some also have `pixels`, `size` or `names`, see `pixels_of`, `size_of` and `names_of`.
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


def read_image(images: Images, index: int) -> tuple[Image.Image, int]:
    """Returns an image and its label.

    When a data set is opened, only its first image is checked. A fault of a later one would otherwise show far from
    here, as batches whose parts do not fit, or not at all: an image without a pixel becomes black.

    Raises:
        UserError: The image is no RGB image with pixels, or its label is of no class.
    """
    answer: object = images[index]
    name = f"image {index} of {type(images).__name__}"
    if not isinstance(answer, tuple | list) or len(answer) != 2 or not isinstance(answer[0], Image.Image):
        parts = answer if isinstance(answer, tuple | list) else (answer,)
        found = ", ".join(type(part).__name__ for part in parts)
        raise UserError(f"{name} is ({found})", mend="a PIL image and its label, as a tuple")
    image, label = answer
    if image.mode != "RGB":
        raise UserError(f"{name} is of mode {image.mode}, not RGB", mend='image.convert("RGB")')
    if not image.width or not image.height:
        raise UserError(f"{name} is {image.width}×{image.height}, without a pixel", mend="leave it out, or replace it")
    if not _is_label(label, len(images.classes)):
        mend = f"whole numbers from 0 to {len(images.classes) - 1}, the place of the class in `classes`"
        raise UserError(f"{name} has the label {label}, which no class has", mend=mend)
    return image, label


def _is_label(value: Any, classes: int) -> bool:
    """Returns whether a value, perhaps of numpy or torch, is a whole number that names a class."""
    try:
        return 0 <= operator.index(value) < classes
    except TypeError:  # such as a class's name
        return False


def pixels_of(images: Images, index: int) -> tuple[Pixels, int]:
    """Returns the pixels of an image, H×W×3 and perhaps read-only, and its label.

    The images' own method `pixels` is used where they have one, which avoids a PIL image.
    """
    # `getattr`, since `isinstance` of a protocol takes a tenth of the time of a crop.
    read: Callable[[int], tuple[Pixels, int]] | None = getattr(images, "pixels", None)
    if read is not None:
        return read(index)
    image, label = read_image(images, index)
    return np.asarray(image), label


def size_of(images: Images, index: int) -> tuple[int, int]:
    """Returns an image's width and height in pixels: by the images' own method `size`, or by decoding."""
    read: Callable[[int], tuple[int, int]] | None = getattr(images, "size", None)
    return read_image(images, index)[0].size if read is None else read(index)


def names_of(images: Images) -> Sequence[str]:
    """Returns the name of each image, by which a user's own files of it are found: their attribute `names`.

    Raises:
        UserError: The images have no names.
    """
    names: Sequence[str] | None = getattr(images, "names", None)
    if names is None:
        mend = "an attribute `names`, a name for each image"
        raise UserError(f"images of {type(images).__name__} have no names", mend=mend)
    return names


def require_images(what: str, images: Images) -> None:
    """Refuses what a data set's opener returned if it lacks a part of `Images`, or holds no image.

    Args:
        what: The data set and its split, for the message.
        images: What was returned.

    Raises:
        UserError: A part is missing, there is no image, a label is of no class, or the first image is no RGB image with
            its label.
    """
    kind = type(images).__name__
    if missing := [name for name in _PARTS if not hasattr(images, name)]:
        raise UserError(f"{what}: {kind} has no {missing[0]}", mend="what `Images` (repro/data/splits.py) lists")
    labels, classes = np.asarray(images.targets), len(images.classes)
    if len(labels) != len(images) or labels.ndim != 1:
        mend = "a label for each image"
        raise UserError(f"{what}: {kind} has {len(images)} images, but {len(labels)} targets", mend=mend)
    if not len(images):
        raise UserError(f"{what} holds no image", mend="see what its opener looks for")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes)) if labels.dtype.kind in "iu" else [0]
    if len(wrong):
        mend = f"whole numbers from 0 to {classes - 1}, the place of the class in `classes`"
        reason = f"image {wrong[0]} has the label {labels[wrong[0]]}, which no class has"
        raise UserError(f"{what}: {reason}", mend=mend)
    if hasattr(images, "pixels"):  # salmask's own, which need no check; reading a file may be slow
        return
    _, label = read_image(images, 0)
    if label != labels[0]:
        reason = f"{kind}[0] has the label {label}, but targets[0] is {labels[0]}"
        raise UserError(f"{what}: {reason}", mend="the same label in both")


_PARTS = ("classes", "targets", "fingerprint", "__len__", "__getitem__")
"""What all `Images` have."""
