"""One image file to one RGB image, whatever the file holds.

ImageNet itself has a few CMYK JPEGs and a PNG that is named `.JPEG`; users' folders have palettes, transparency, 16-bit
greys and files that a full disk cut short. Every one either decodes to what a viewer would show, or is refused in one
line that names the file.
"""

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from repro.errors import UserError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"})


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels in 0..1, by channel: every network here sees images normalised by them (torchvision, timm)."""
SMALLEST_SIDE = 2
"""In pixels; an image with a shorter side cannot be cropped at random."""


FaultKind = Literal["zero-byte", "unreadable", "too-small", "wrong-size"]


_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")


_TRANSPARENT_MODES = ("LA", "La", "PA", "RGBA", "RGBa")


# What Pillow's decoders were seen to raise, or say that they may, for damaged bytes.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Fault:
    """Why one file cannot be used.

    Attributes:
        kind: What is wrong, for counting.
        reason: What is wrong, for reading; no path in it.
    """

    kind: FaultKind
    reason: str


def decode(path: Path | str) -> Image.Image:
    """The image of a file, fully decoded.

    16-bit greys are scaled to 8 bits, transparency is laid over white, CMYK and palettes are converted, and of an
    animation the first frame is taken. Orientation tags are ignored, as torchvision's image folders do.

    Args:
        path: An image file of any format that Pillow reads; its suffix is not trusted.

    Returns:
        An image of mode RGB with both sides of at least `SMALLEST_SIDE` pixels.

    Raises:
        UserError: the file is missing, empty, damaged, or smaller than `SMALLEST_SIDE` pixels.
    """
    outcome = _decode_or_fault(path)
    if isinstance(outcome, Fault):
        raise UserError(
            f"{path}: {outcome.reason}; replace or delete it (`salmask data verify NAME` lists every such file)"
        )
    return outcome


def fault(path: Path | str, size: tuple[int, int] | None = None) -> Fault | None:
    """What is wrong with an image file, found by decoding all of it; None where nothing is.

    Args:
        path: An image file.
        size: (width, height) in pixels that it must have; None: any.
    """
    outcome = _decode_or_fault(path)
    if isinstance(outcome, Fault):
        return outcome
    if size is not None and outcome.size != size:
        (width, height), (wanted_width, wanted_height) = outcome.size, size
        return Fault("wrong-size", f"{width}×{height} pixels, where its annotation says {wanted_width}×{wanted_height}")
    return None


def _decode_or_fault(path: Path | str) -> Image.Image | Fault:
    try:
        with Path(path).open("rb") as stream:
            if os.fstat(stream.fileno()).st_size == 0:
                return Fault("zero-byte", "the file is empty (0 bytes)")
            with Image.open(stream) as opened:
                # Before the pixels are decoded: the header alone tells.
                if min(opened.size) < SMALLEST_SIDE:
                    width, height = opened.size
                    return Fault(
                        "too-small",
                        f"{width}×{height} pixels are too small to crop; {SMALLEST_SIDE}×{SMALLEST_SIDE} is the least",
                    )
                return _to_rgb(opened)
    except UnidentifiedImageError:
        return Fault("unreadable", "not an image, or its header is damaged")
    except _DAMAGE as error:
        return Fault("unreadable", f"the image cannot be decoded ({_one_line(error)})")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT_MODES:
        return _sixteen_bit_to_rgb(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined white; save it with 8 bits")
    if image.mode in _TRANSPARENT_MODES or "transparency" in image.info:
        cutout = image.convert("RGBA")
        # Dropping alpha would show whatever colours the file keeps under its transparent pixels.
        return Image.alpha_composite(Image.new("RGBA", cutout.size, "white"), cutout).convert("RGB")
    return image.convert("RGB")


def _sixteen_bit_to_rgb(image: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255; Pillow's own conversion clips, which turns most of such an image white."""
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError("its 32-bit pixels exceed 16 bits; save it with 8 bits")
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")


def _one_line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
