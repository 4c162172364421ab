"""Decodes one image file to one RGB image, whatever the file holds.

ImageNet itself has a few CMYK JPEGs and a PNG that is named `.JPEG`; users' folders have palettes, transparency, 16-bit
greys and files that a full disk cut short. Every file either decodes to what a viewer would show (but for an EXIF
orientation, which is ignored), or is refused in one line that names it.
"""

import os
import stat
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, TypeVar

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from repro.data.errors import mend_of, reason_of
from repro.data.jpeg import Pixels, decode_jpeg
from repro.errors import UserError

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}
)
"""Endings, in lower case, by which a file counts as an image; what it really holds shows when it is decoded."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels in 0..1, by channel: every network here sees images normalised by them (torchvision, timm)."""

SMALLEST_SIDE = 2
"""In pixels; an image with a shorter side cannot be cropped at random."""

FaultKind = Literal["zero-byte", "unreadable", "too-small", "wrong-size"]
"""What sort of thing is wrong with an image file."""

_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # "I" has 32 bits, but Pillow opened 16-bit greys as it
_TRANSPARENT_MODES = ("LA", "La", "PA", "RGBA", "RGBa")

_TURNED = (5, 6, 7, 8)  # EXIF orientations whose width and height are exchanged
_NOT_AS_STORED = range(2, 9)  # EXIF orientations by which a viewer turns or mirrors an image

DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow's decoders raise for damaged bytes, by observation or by their documentation."""


@dataclass(frozen=True)
class Fault:
    """Why one file cannot be used.

    Attributes:
        kind: What is wrong, for counting.
        reason: What is wrong, for reading; no path in it.
        mend: What a person can do about it.
    """

    kind: FaultKind
    reason: str
    mend: str = "replace or delete it"


def decode(path: Path | str) -> Image.Image:
    """Decodes all of an image file.

    16-bit greys are scaled to 8 bits, transparency is laid over white, CMYK and palettes are converted, and of an
    animation the first frame is taken. Orientation tags are ignored, as torchvision's image folders do; only a TIFF is
    turned by its own, which Pillow does for torchvision as well.

    Args:
        path: An image file of any format that Pillow reads; its suffix is not trusted.

    Returns:
        An image of mode RGB with both sides of at least `SMALLEST_SIDE` pixels.

    Raises:
        UserError: The file is missing, not readable, empty, damaged, or smaller than `SMALLEST_SIDE` pixels.
    """
    return _sound(path, _decode_image)


def decode_pixels(path: Path | str) -> Pixels:
    """Decodes all of an image file, as `decode` does, to an array, which may be read-only.

    Args:
        path: An image file of any format that Pillow reads.

    Raises:
        UserError: As `decode` does.
    """
    return _sound(path, _decode_pixels)


def read_size(path: Path | str) -> tuple[int, int]:
    """Reads the width and height in pixels that `decode` gives an image, from the file's header.

    Args:
        path: An image file of any format that Pillow reads.

    Raises:
        UserError: The file is missing, not readable, empty or smaller than `SMALLEST_SIDE` pixels, or its header is
            damaged.
    """
    return _sound(path, lambda image, stream: _decoded_size(image))


def _decoded_size(image: Image.Image) -> tuple[int, int]:
    """Returns the size that an opened image has once it is decoded."""
    if image.format == "TIFF" and _orientation(image) in _TURNED:
        # Every version of Pillow turns it when it decodes; before version 11, `image.size` changes only then.
        exif = image.getexif()
        return exif[ExifTags.Base.ImageLength], exif[ExifTags.Base.ImageWidth]
    return image.size


@dataclass(frozen=True)
class Inspection:
    """What decoding all of an image file tells.

    Attributes:
        fault: What is wrong with it; None where it can be used.
        turned: Whether its EXIF orientation would have a viewer turn or mirror it.
    """

    fault: Fault | None = None
    turned: bool = False


def inspect(path: Path | str, size: tuple[int, int] | None = None) -> Inspection:
    """Inspects an image file, by decoding all of it.

    Args:
        path: An image file.
        size: (width, height) in pixels that it must have upright, as its EXIF orientation turns it; None: any.
    """

    def read(image: Image.Image, stream: IO[bytes]) -> Inspection:
        # Before decoding, by which Pillow removes a TIFF's orientation.
        tiff_fault = None if size is None else _tiff_fault(image)
        # Pixels before EXIF: a PNG's EXIF may follow its pixels, so that reading it decodes these and hides damage.
        _decode_image(image, stream)
        return Inspection(tiff_fault or _size_fault(image, size), _orientation(image) in _NOT_AS_STORED)

    outcome = _outcome(path, read)
    return Inspection(outcome) if isinstance(outcome, Fault) else outcome


def find_header_fault(path: Path | str, size: tuple[int, int]) -> Fault | None:
    """Says what is wrong with an image file as far as its header tells, which takes a hundredth of decoding it.

    Args:
        path: An image file.
        size: (width, height) in pixels that it must have upright, as its EXIF orientation turns it.

    Returns:
        The fault; None where the header is sound.
    """
    return _outcome(path, lambda image, stream: _tiff_fault(image) or _size_fault(image, size))


def _tiff_fault(image: Image.Image) -> Fault | None:
    """Refuses, among images with boxes, a TIFF that has an orientation: Pillow turns it, and detectron2 once more."""
    if image.format != "TIFF" or _orientation(image) not in _NOT_AS_STORED:
        return None
    return Fault("unreadable", "a TIFF with an EXIF orientation, which detectron2 turns twice; save it upright")


def _size_fault(image: Image.Image, listed: tuple[int, int] | None) -> Fault | None:
    """Says how an opened image differs from the size that its annotation says; None where it does not.

    Boxes are of the upright image: detectron2 turns an image by its EXIF orientation before it looks at the size
    (data/detection_utils.py, read_image).
    """
    if listed is None:
        return None
    width, height = image.size
    turned = _orientation(image) in _TURNED
    if turned:
        width, height = height, width
    if (width, height) == listed:
        return None
    how = " upright (its EXIF orientation turns it)" if turned else ""
    return Fault("wrong-size", f"{width}×{height} pixels{how}, where its annotation says {listed[0]}×{listed[1]}")


def _orientation(image: Image.Image) -> int | None:
    """Reads an image's EXIF orientation; None where there is none, or it cannot be read."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except DAMAGE:  # of the metadata alone: the pixels may be sound, and detectron2 takes them as they are
        return None


_T = TypeVar("_T")
_Read = Callable[[Image.Image, IO[bytes]], _T]
"""Reads something from an image that Pillow has opened, and from its file."""


def _sound(path: Path | str, read: _Read[_T]) -> _T:
    """Returns what `read` reads from an image file.

    Raises:
        UserError: The file cannot be used.
    """
    outcome = _outcome(path, read)
    if isinstance(outcome, Fault):
        # A plain `UserError`: a loader's worker passes errors on as text, and other classes cannot be made of a text.
        raise UserError(
            f"{path}: {outcome.reason}",
            mend=f"{outcome.mend} (`salmask data verify NAME` lists every such file)",
        )
    return outcome


def _outcome(path: Path | str, read: _Read[_T]) -> _T | Fault:
    """Returns what `read` reads from an image file, or why the file cannot be used."""
    try:
        # Opened here rather than by Pillow, so that the size and the pixels are of the same file, and it is closed.
        with open(path, "rb", opener=open_at_once) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                return Fault("unreadable", "not a regular file")
            if status.st_size == 0:
                return Fault("zero-byte", "the file is empty (0 bytes)")
            with Image.open(stream) as image:
                # Before the pixels are decoded: the header has the size.
                if min(image.size) < SMALLEST_SIDE:
                    width, height = image.size
                    return Fault(
                        "too-small",
                        f"{width}×{height} pixels are too small to crop; {SMALLEST_SIDE}×{SMALLEST_SIDE} is the least",
                    )
                return read(image, stream)
    except DAMAGE as error:
        return _fault_of(error)


def _fault_of(error: BaseException) -> Fault:
    """Returns an error of opening or decoding an image file as a fault of the file."""
    if isinstance(error, UnidentifiedImageError):
        return Fault("unreadable", "not an image, or its header is damaged")
    if isinstance(error, PermissionError | FileNotFoundError):  # the file itself may be sound
        mend = mend_of(error, "put it back, or start again without it")
        return Fault("unreadable", f"the image cannot be read ({reason_of(error)})", mend=mend)
    return Fault("unreadable", f"the image cannot be decoded ({reason_of(error)})")


def open_at_once(path: str, flags: int) -> int:
    """Opens a file; if it is a pipe, without waiting until something writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _decode_image(image: Image.Image, stream: IO[bytes]) -> Image.Image:
    pixels = decode_jpeg(image, stream)
    return _to_rgb(image) if pixels is None else Image.fromarray(pixels)


def _decode_pixels(image: Image.Image, stream: IO[bytes]) -> Pixels:
    pixels = decode_jpeg(image, stream)
    return np.asarray(_to_rgb(image)) if pixels is None else pixels


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of any mode to RGB, and decodes it on the way.

    Raises:
        ValueError: Its pixels have no defined white, so that their brightness is not known.
    """
    if image.mode in _SIXTEEN_BIT_MODES:
        return _sixteen_bit_to_rgb(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined white; save it with 8 bits")  # becomes a `Fault`
    if image.mode in _TRANSPARENT_MODES or "transparency" in image.info:
        cutout = image.convert("RGBA")
        # Dropping alpha would show whatever colours the file keeps under its transparent pixels.
        return Image.alpha_composite(Image.new("RGBA", cutout.size, "white"), cutout).convert("RGB")
    return image.convert("RGB")


def _sixteen_bit_to_rgb(image: Image.Image) -> Image.Image:
    """Scales 0..65535 to 0..255; Pillow's own conversion clips, which turns most of such an image white.

    Raises:
        ValueError: Its pixels are outside of 0..65535.
    """
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError("its 32-bit pixels exceed 16 bits; save it with 8 bits")
    # 65535 = 257 · 255, so that this rounds exactly; 128 is half of the divisor.
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
