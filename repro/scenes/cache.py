"""Drawn pictures, kept on disk for all epochs, workers and runs, because drawing takes long. No torch."""

import logging
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from repro.filesystem.files import CHECKSUM_BYTES, checksum, write_at
from repro.filesystem.paths import cache_home
from repro.filesystem.writability import why_unwritable

MOST_BYTES = 2 * 2**30
"""A larger set of pictures is not kept, and drawn anew each time: it would fill the cache folder."""

log = logging.getLogger("salmask")


def scenes_cache() -> Path:
    """Returns the folder of drawn scenes; anything in it can be removed."""
    return cache_home() / "scenes"


class DrawnPictures:
    """Pictures of one size in one sparse file, each at the place of its index: the CRC-32 of its pixels, then these.

    Processes need no lock, since all of them write the same bytes. A picture that was torn by a crash, or read while
    another process was writing it, fails its checksum and is drawn again. Where the file cannot be written to (a full
    disk, a home without write access), pictures are drawn each time, and each process warns once.
    """

    def __init__(self, path: Path, size: int) -> None:
        """Remembers where the pictures lie; nothing is opened yet.

        Args:
            path: The file; made with its folder when the first picture is drawn.
            size: The height and width of each picture in pixels.
        """
        self._path, self._size = path, size
        self._descriptor: int | None = None
        self._usable = True

    def get(self, index: int, draw: Callable[[], Image.Image]) -> Image.Image:
        """Returns the RGB picture of an index, as it was drawn before, or as `draw` draws it now."""
        if not self._usable:
            return draw()
        try:
            picture = self._read(index)
            if picture is None:
                picture = draw()
                self._write(index, picture)
            return picture
        except OSError as error:
            # Not tried again: on a full disk there would be a warning, and a failed write, for each picture.
            log.warning(
                "%s: %s; pictures are drawn anew each time", self._path, why_unwritable(self._path.parent, error)
            )
            self._usable = False
            return draw()

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the open file out: a spawned worker opens its own."""
        return self.__dict__ | {"_descriptor": None}

    def _open(self) -> int:
        """Returns the descriptor of the file, which is opened and made the first time.

        A forked worker inherits it: `pread` and `pwrite` say where to read and write, so that a shared position in the
        file does no harm.
        """
        if self._descriptor is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            # A descriptor, unlike a file object, is not closed by itself when nobody needs these pictures any more.
            weakref.finalize(self, os.close, self._descriptor)
        return self._descriptor

    def _record_bytes(self) -> int:
        return CHECKSUM_BYTES + 3 * self._size**2

    def _read(self, index: int) -> Image.Image | None:
        """Returns the picture of an index; None where it was never written whole."""
        record = os.pread(self._open(), self._record_bytes(), index * self._record_bytes())
        pixels = record[CHECKSUM_BYTES:]
        if len(record) < self._record_bytes() or record[:CHECKSUM_BYTES] != checksum(pixels):
            return None
        return Image.frombytes("RGB", (self._size, self._size), pixels)

    def _write(self, index: int, picture: Image.Image) -> None:
        pixels = np.asarray(picture).tobytes()
        write_at(self._open(), checksum(pixels) + pixels, index * self._record_bytes())
