"""The maps of all images of a data set in one file, which all runs of a machine share."""

import errno
import hashlib
import json
import logging
import mmap
import os
import re
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repro.file_locks import locked
from repro.files import CHECKSUM_BYTES, checksum, write_at
from repro.paths import cache_home
from repro.writability import why_unwritable

CHUNK = 64
"""Images that are computed, and have a checksum, together.

Its bounds are fixed: a map may depend, in its last digit, on the images that pass through the network beside it.
"""
_FORMAT = 1  # raise it when the same settings give other maps: it is part of the file's name

log = logging.getLogger("salmask")

Maps = NDArray[np.float16]


def saliency_cache() -> Path:
    """Returns the folder of maps once computed; whatever lies in it can be removed."""
    return cache_home() / "saliency"


def map_path(identity: Mapping[str, Any], fingerprint: str) -> Path:
    """Returns the file of the maps of one source and data set.

    Args:
        identity: What tells the source of the maps from another; JSON values.
        fingerprint: Of the images.
    """
    content = json.dumps({**identity, "images": fingerprint, "format": _FORMAT}, sort_keys=True)
    words = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(map(str, identity.values()))).strip("-")[:60]
    return saliency_cache() / f"{words}-{hashlib.sha256(content.encode()).hexdigest()[:16]}.f16"


class MapFile:
    """N maps G×G in half precision, one after the other, and behind them the CRC-32 of each `CHUNK` of maps.

    It is filled chunk by chunk, in any order and by any number of processes, of which the first to have a chunk writes
    it. What was never written, or torn by a crash, fails its checksum. Where nothing can be written (a full disk, a
    home without write access), the maps are kept in memory, and a warning says so.
    """

    def __init__(self, path: Path | None, count: int, grid: int) -> None:
        """Opens the file, and makes it with its folder if it is not there.

        Args:
            path: The file; None keeps the maps in memory.
            count: Number N of maps.
            grid: Cells a side G of each.
        """
        self.count, self.grid, self.path = count, grid, path
        self._unwritten: dict[int, Maps] = {}
        self._whole: set[int] = set()
        """Chunks of the file that were found whole: to find it out, all of their maps are read."""
        self._is_own = False
        self._descriptor = None if path is None else self._open(path)

    @property
    def chunks(self) -> int:
        """The number of chunks; the last one may be smaller."""
        return -(-self.count // CHUNK)

    def images_of(self, chunk: int) -> range:
        """Returns the indices of a chunk's images."""
        return range(chunk * CHUNK, min((chunk + 1) * CHUNK, self.count))

    def is_whole(self, chunk: int) -> bool:
        """Says whether a chunk's maps are there."""
        if chunk in self._unwritten or chunk in self._whole:
            return True
        if self._descriptor is None:
            return False
        kept = os.pread(self._descriptor, CHECKSUM_BYTES, self._place_of_checksum(chunk))
        if kept == checksum(self._content_of(chunk)):
            self._whole.add(chunk)
        return chunk in self._whole

    def write(self, chunk: int, maps: Maps) -> None:
        """Writes the maps of a chunk, n×G×G for its n images."""
        if self._descriptor is not None:
            try:
                if not self._is_own:  # the descriptor's own error, of a bad file descriptor, says nothing to anybody
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
                with locked(self._descriptor):
                    # Another device's may differ in the last digit: the first ones stay, for whoever has read them.
                    if not self.is_whole(chunk):
                        content = maps.tobytes()
                        write_at(self._descriptor, content, chunk * CHUNK * self._map_bytes)
                        write_at(self._descriptor, checksum(content), self._place_of_checksum(chunk))
                return
            except OSError as error:
                self._warn(error)
        self._unwritten[chunk] = maps

    def read(self) -> Tensor:
        """Returns all maps, N×G×G in half precision, in the file's own memory; zeros stand for missing ones."""
        shape = (self.count, self.grid, self.grid)
        in_file = [chunk for chunk in range(self.chunks) if chunk not in self._unwritten and self.is_whole(chunk)]
        if self._descriptor is None or len(in_file) < self.chunks:
            # To look at a hole of a mapped file, on a file system in memory that is full (/dev/shm), ends the process.
            maps = np.zeros(shape, np.float16)
            for chunk in in_file:
                maps[self.images_of(chunk)] = np.frombuffer(self._content_of(chunk), np.float16).reshape(-1, *shape[1:])
        else:
            # The file that was looked through: where somebody cleared the cache, another has its name by now. Copy on
            # write: nobody writes, but torch has no tensors that cannot be written to.
            mapped = mmap.mmap(self._descriptor, self.count * self._map_bytes, access=mmap.ACCESS_COPY)
            maps = np.frombuffer(mapped, np.float16).reshape(shape)
        for chunk, unwritten in self._unwritten.items():
            maps[self.images_of(chunk)] = unwritten
        return torch.from_numpy(maps)

    def _content_of(self, chunk: int) -> bytes:
        """Returns the bytes of a chunk's maps in the file, whole or not."""
        assert self._descriptor is not None
        images = self.images_of(chunk)
        return os.pread(self._descriptor, len(images) * self._map_bytes, images.start * self._map_bytes)

    @property
    def _map_bytes(self) -> int:
        return self.grid**2 * np.dtype(np.float16).itemsize

    def _place_of_checksum(self, chunk: int) -> int:
        return self.count * self._map_bytes + chunk * CHECKSUM_BYTES

    def _open(self, path: Path) -> int | None:
        """Returns the file's descriptor; None where it can be neither made nor read in its whole length."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # What another user has computed can be read, if it is whole.
            self._is_own = not path.exists() or os.access(path, os.W_OK)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT if self._is_own else os.O_RDONLY, 0o644)
            weakref.finalize(self, os.close, descriptor)
            if self._is_own:
                # Its whole length at once, for `read`; to that length again by another process changes nothing.
                os.ftruncate(descriptor, self._place_of_checksum(self.chunks))
            elif os.fstat(descriptor).st_size < self._place_of_checksum(self.chunks):
                # `read` maps the whole length into memory, and nobody here can give it to another user's file.
                raise OSError(errno.ENODATA, "it is shorter than its maps, and cannot be written to")
            return descriptor
        except OSError as error:
            self._warn(error)
            return None

    def _warn(self, error: OSError) -> None:
        if not self._unwritten:  # once, and not for every chunk
            assert self.path is not None  # maps in memory are not written
            reason = why_unwritable(self.path.parent, error)
            log.warning("%s: %s; saliency maps are kept in memory only", self.path, reason)
