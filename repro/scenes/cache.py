"""Pictures that take long to draw, kept on disk once drawn, for all epochs, workers and runs. No torch."""

import logging
import os
import weakref
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from PIL import Image

MOST_BYTES = 2 * 2**30
"""A set that would take more is drawn anew each time: the file lies in the user's cache folder."""
_CHECKSUM = 4  # bytes; a place never written to reads as zeros, whose checksum is not 0

log = logging.getLogger("salmask")


def scenes_cache() -> Path:
    """The user's folder for built-in scenes once drawn; whatever lies in it can be removed."""
    return platformdirs.user_cache_path("salmask") / "scenes"


class DrawnPictures:
    """Pictures of one size in one sparse file, each where its index says, behind the CRC-32 of its pixels.

    Processes need not agree on anything: they would write the same bytes, and what was torn, by a crash or by reading
    while another one writes, fails its checksum and is drawn again. Where the file cannot be written to (a full disk, a
    home without write access), pictures are drawn each time, and a warning says so once a process.
    """

    def __init__(self, path: Path, size: int) -> None:
        """Nothing is opened yet.

        Args:
            path: the file; made with its folder when the first picture is drawn.
            size: height and width in pixels.
        """
        self._path, self._size = path, size
        self._descriptor: int | None = None
        self._usable = True

    def get(self, index: int, draw: Callable[[], Image.Image]) -> Image.Image:
        """The RGB picture of an index, as it was drawn before, or as `draw` draws it now."""
        if not self._usable:
            return draw()
        try:
            return self._read(index) or self._written(index, draw())
        except OSError as error:
            log.warning("%s: %s; pictures are drawn anew each time", self._path, error.strerror or error)
            self._usable = False
            return draw()

    def __getstate__(self) -> dict[str, Any]:
        """Without the open file: a spawned worker opens its own."""
        return self.__dict__ | {"_descriptor": None}

    def _open(self) -> int:
        if self._descriptor is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            weakref.finalize(self, os.close, self._descriptor)
        return self._descriptor

    def _record(self) -> int:
        return _CHECKSUM + 3 * self._size**2

    def _read(self, index: int) -> Image.Image | None:
        record = os.pread(self._open(), self._record(), index * self._record())
        pixels = record[_CHECKSUM:]
        if len(record) < self._record() or record[:_CHECKSUM] != _checksum(pixels):
            return None
        return Image.frombytes("RGB", (self._size, self._size), pixels)

    def _written(self, index: int, picture: Image.Image) -> Image.Image:
        pixels = np.asarray(picture).tobytes()
        os.pwrite(self._open(), _checksum(pixels) + pixels, index * self._record())  # cut short: fails its checksum
        return picture


def _checksum(pixels: bytes) -> bytes:
    return zlib.crc32(pixels).to_bytes(_CHECKSUM, "little")
