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

from repro.filesystem.file_locks import locked
from repro.filesystem.files import CHECKSUM_BYTES, checksum, write_at
from repro.filesystem.paths import cache_home
from repro.filesystem.writability import why_unwritable

CHUNK = 64
"""Images whose maps are computed together and share a checksum.

Chunks have fixed bounds, because the last digit of a map may depend on the other images of its batch.
"""
_FORMAT = 1  # raise it when the same settings give other maps: it is part of the file's name

log = logging.getLogger("salmask")

Maps = NDArray[np.float16]


def saliency_cache() -> Path:
    """Returns the folder of computed maps; anything in it can be removed."""
    return cache_home() / "saliency"


def map_path(identity: Mapping[str, Any], fingerprint: str) -> Path:
    """Returns the file of the maps of one source and data set.

    Args:
        identity: What distinguishes the source of the maps from others; JSON values.
        fingerprint: Of the images.
    """
    content = json.dumps({**identity, "images": fingerprint, "format": _FORMAT}, sort_keys=True)
    words = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(map(str, identity.values()))).strip("-")[:60]
    return saliency_cache() / f"{words}-{hashlib.sha256(content.encode()).hexdigest()[:16]}.f16"


class MapFile:
    """A file of N maps G×G in half precision, followed by the CRC-32 of each chunk of `CHUNK` maps.

    Any number of processes fill it, chunk by chunk and in any order; the first to compute a chunk writes it. A chunk
    that was never written, or torn by a crash, fails its checksum. Where nothing can be written (a full disk, a home
    without write access), the maps are kept in memory, and a warning says so.
    """

    def __init__(self, path: Path | None, count: int, grid: int) -> None:
        """Opens the file; a missing one is created, with its folder.

        Args:
            path: The file; None keeps the maps in memory.
            count: Number N of maps.
            grid: Cells a side G of each.
        """
        self.count, self.grid, self.path = count, grid, path
        self._unwritten: dict[int, Maps] = {}
        self._whole: set[int] = set()
        """Chunks of the file that were found whole; remembered, because checking one reads all of its maps."""
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
        """Returns whether a chunk's maps are there and have their checksum."""
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
                if not self._is_own:  # writing would only raise "Bad file descriptor"
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
                with locked(self._descriptor):
                    # Another device's maps may differ in the last digit, so what others may have read is not replaced.
                    if not self.is_whole(chunk):
                        content = maps.tobytes()
                        write_at(self._descriptor, content, chunk * CHUNK * self._map_bytes)
                        write_at(self._descriptor, checksum(content), self._place_of_checksum(chunk))
                return
            except OSError as error:
                self._warn(error)
        self._unwritten[chunk] = maps

    def read(self) -> Tensor:
        """Returns all maps, N×G×G in half precision, memory-mapped if all are in the file; missing ones are zeros."""
        shape = (self.count, self.grid, self.grid)
        in_file = [chunk for chunk in range(self.chunks) if chunk not in self._unwritten and self.is_whole(chunk)]
        if self._descriptor is None or len(in_file) < self.chunks:
            # Not mapped: on a full file system in memory (/dev/shm), reading a hole of a mapped file kills the process.
            maps = np.zeros(shape, np.float16)
            for chunk in in_file:
                maps[self.images_of(chunk)] = np.frombuffer(self._content_of(chunk), np.float16).reshape(-1, *shape[1:])
        else:
            # By the open descriptor: if the cache was cleared, another file may have this name by now. Copy on write,
            # because torch has no read-only tensors, and `load_some_maps` writes to them.
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
        """Returns the file's descriptor; None if it can neither be created nor be read in its full length."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Another user's file is read, if it has its full length.
            self._is_own = not path.exists() or os.access(path, os.W_OK)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT if self._is_own else os.O_RDONLY, 0o644)
            weakref.finalize(self, os.close, descriptor)
            if self._is_own:
                # In its full length at once, for `read`; that another process does the same changes nothing.
                os.ftruncate(descriptor, self._place_of_checksum(self.chunks))
            elif os.fstat(descriptor).st_size < self._place_of_checksum(self.chunks):
                # `read` maps the full length into memory, and another user's file cannot be extended to it.
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
