"""Writes the decoded images of a data set, see `repro.data.pixel_cache`: resumable, and one process at a time.

The chunks of a cache do not depend on each other. Each is written as pixels, then fsync, then the line of its checksum.
So if a process is killed, the chunks with a line are whole, and the next process writes the others. Threads decode: the
libraries release Python's lock, and threads end with a process that is killed.
"""

import contextlib
import json
import math
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from repro.command_line.progress import ProgressBars, tracked
from repro.data.archives import blaming
from repro.data.errors import PathError
from repro.data.jpeg import Pixels
from repro.data.pixel_cache import (
    CHECKSUMS,
    CHUNK,
    INDEX,
    INDEX_FILE,
    MANIFEST,
    PIXELS,
    WRITE_AGAIN,
    CachedImages,
    cache_folder,
    read_index,
    size_at,
)
from repro.data.splits import Images, Split, pixels_of, size_of
from repro.errors import UserError
from repro.filesystem.files import append_lines, reading, sync_folder, write_at, write_atomically, write_json
from repro.filesystem.presence import exists, is_folder
from repro.quantities import counted, size_text
from repro.runs.lock import held

SPARE_SHARE = 0.01
"""Share of a cache's size that must stay free beside it: for the index, and for what a file system keeps back."""
_READ_BYTES = 16 * 2**20
"""Bytes that a thread reads at a time."""


@dataclass(frozen=True)
class Plan:
    """What is to be written.

    Attributes:
        images: The images to decode.
        side: Their short side in pixels, see `size_at`.
        index: A row of `INDEX` for each image.
        missing: The chunks that are not written yet.
    """

    images: Images
    side: int
    index: NDArray
    missing: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """The size of all pixels."""
        return end_of(self.index)

    @property
    def missing_bytes(self) -> int:
        """The size of the pixels that are not written yet."""
        return sum(end - start for start, end in (span_of(self.index, chunk) for chunk in self.missing))


class BusyError(UserError):
    """Another process is writing the cache."""


def cache_images(
    images: Images,
    dataset: str,
    split: Split,
    side: int,
    root: Path,
    *,
    workers: int,
    check: bool = False,
    say: Callable[[str], object],
) -> dict[str, Any]:
    """Makes sure that the cache of some images is whole: writes it, continues it, or waits for another process.

    Args:
        images: The images to decode.
        dataset: The data set's name.
        split: Its split.
        side: The short side of the decoded images in pixels, see `size_at`.
        root: The folder of the caches.
        workers: Threads.
        check: Whether to compare the checksums of a cache that is whole already, and to mend what is damaged.
        say: Called with a line on what will be written, on what is damaged, and on another process that is waited for.

    Returns:
        What is cached, where, and how many of its images had to be decoded now.

    Raises:
        UserError: A file is damaged or gone, the folder cannot be written to, or the disk has no room.
    """
    target = cache_folder(root, dataset, split, side, images.fingerprint())
    # Without the lock, since a whole cache may be another user's, in a folder that this user may only read.
    is_whole = is_folder(target)
    damaged = damaged_chunks(target, workers) if is_whole and check else []
    if damaged:  # said first: a user who may only read the folder cannot mend it, but has to know
        say(f"{target}: {counted(len(damaged), 'part')} of {CHUNK} images damaged, to be decoded again")
    chunks = [] if is_whole and not damaged else _write_or_repair(images, side, target, workers, damaged, say)
    cached = CachedImages(target)
    return {
        "dataset": dataset,
        "split": split,
        "side": side,
        "images": len(cached),
        "bytes": cached.arrays().pixels.nbytes,
        "decoded": sum(len(images_of(chunk, len(cached))) for chunk in chunks),
        "fingerprint": cached.fingerprint(),
        "folder": str(target),
    }


def _write_or_repair(
    images: Images, side: int, target: Path, workers: int, damaged: Sequence[int], say: Callable[[str], object]
) -> Sequence[int]:
    """Makes a cache whole, once no other process is writing it; returns the chunks that were decoded.

    See `cache_images`; `damaged` are the chunks of a finished cache that were found to be damaged.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(writing(target, wait=0))
        except BusyError:
            say(f"{target}: another process is writing this cache; waiting until it has finished")
            stack.enter_context(writing(target, wait=math.inf))
        if is_folder(target):
            if not damaged:
                return ()
            # Checked again: another process may have mended them meanwhile.
            still_damaged = tuple(damaged_chunks(target, workers, damaged))
            write_missing(Plan(images, side, read_index(target), still_damaged), target, workers)
            return still_damaged
        if exists(target) or target.is_symlink():
            # Refused now, and not after hours of decoding, when the finished cache could not take the name.
            raise UserError(f"{target} has the name of a cache but is not a folder", mend="move it away")
        planned = plan(images, side, target, workers)
        root = target.parent
        free = shutil.disk_usage(root).free
        say(
            f"{target.name}: {counted(len(images), 'image')} at {side} px will take {size_text(planned.bytes)}; "
            f"{size_text(planned.missing_bytes)} are to be written to {root}, where {size_text(free)} are free"
        )
        folder = unfinished(target)
        write_missing(planned, folder, workers)
        folder.rename(target)
        sync_folder(root)
        return planned.missing


def writing(target: Path, *, wait: float) -> AbstractContextManager[None]:
    """Holds the lock under which a cache is written, for the length of a `with` block.

    Args:
        target: The cache's final folder.
        wait: Seconds to wait for another process.

    Raises:
        BusyError: Another process holds the lock.
        UserError: The folder above cannot be written to.
    """
    return held(
        target.with_name(f".{target.name}.lock"),
        taken=lambda: BusyError(f"{target}: another process is writing this cache", mend="wait until it has finished"),
        unwritable="name a folder that can be written with --to, or set $SALMASK_CACHE",
        wait=wait,
    )


def plan(images: Images, side: int, target: Path, workers: int) -> Plan:
    """Plans a cache, or what is left of one that was begun; under the lock.

    Args:
        images: The images to decode.
        side: Their short side in pixels.
        target: The cache's final folder.
        workers: Threads that read the sizes of images.

    Raises:
        UserError: A file is damaged or gone, the folder cannot be written to, or the disk has no room.
    """
    folder = unfinished(target)
    if not exists(folder / MANIFEST):  # written last
        _write_index(images, side, folder, workers)
    index = read_index(folder)
    written = set(read_checksums(folder))
    missing = tuple(chunk for chunk in range(chunks_of(index)) if chunk not in written)
    planned = Plan(images, side, index, missing)
    free = shutil.disk_usage(folder).free
    if planned.missing_bytes * (1 + SPARE_SHARE) > free:
        raise PathError(
            target.parent,
            f"{size_text(planned.missing_bytes)} are to be written, but {size_text(free)} are free",
            mend="make room, name another disk's folder with --to or $SALMASK_CACHE, or take a smaller --side",
        )
    return planned


def write_missing(planned: Plan, folder: Path, workers: int) -> None:
    """Decodes the missing chunks, and writes their pixels and then their checksums into a folder; under the lock.

    Raises:
        UserError: A file is damaged or is not what it was when the cache was planned, or the disk is full; what is
            finished is kept.
    """
    with (
        blaming(folder, folder.parent, planned.missing_bytes),
        os.fdopen(os.open(folder / PIXELS, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0) as file,
        ThreadPoolExecutor(workers) as pool,
        ProgressBars() as progress,
    ):
        file.truncate(planned.bytes)  # sparse: each chunk has its place, in whatever order they are finished
        sizes = {chunk: len(images_of(chunk, len(planned.index))) for chunk in planned.missing}
        task = progress.add_task("decoding", total=sum(sizes.values()), unit="images")
        futures = {pool.submit(_write_chunk, planned, folder, file, chunk): size for chunk, size in sizes.items()}
        try:
            for future in as_completed(futures):
                future.result()
                progress.advance(task, futures[future])
        except BaseException:
            # Otherwise the pool would work through 10^5 images before the error is shown.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def damaged_chunks(folder: Path, workers: int, among: Sequence[int] | None = None) -> list[int]:
    """Returns the chunks of a whole cache whose pixels have another checksum than they were written with.

    Args:
        folder: The cache's.
        workers: Threads.
        among: The chunks to look at; None: all.

    Raises:
        UserError: The index or the pixels cannot be read.
    """
    index, expected = read_index(folder), read_checksums(folder)

    def is_damaged(chunk: int) -> bool:
        start, end = span_of(index, chunk)
        return _checksum_at(file.fileno(), start, end) != expected.get(chunk)

    with blaming(folder, folder.parent), (folder / PIXELS).open("rb") as file, ThreadPoolExecutor(workers) as pool:
        chunks = range(chunks_of(index)) if among is None else among
        return [chunk for chunk, damaged in zip(chunks, pool.map(is_damaged, chunks), strict=True) if damaged]


def _checksum_at(descriptor: int, start: int, end: int) -> int:
    """Returns the CRC-32 of a part of a file, up to the file's end if that comes first."""
    # `pread`, so that each thread reads at its own place; with a memory map the whole file would count as this
    # process's memory. In pieces: Linux reads at most 2 GiB at once, and a chunk of large images has more.
    crc = 0
    while start < end and (piece := os.pread(descriptor, min(end - start, _READ_BYTES), start)):
        crc, start = zlib.crc32(piece, crc), start + len(piece)
    return crc


def unfinished(target: Path) -> Path:
    """Returns the folder of a cache that is not whole yet, beside its final folder."""
    return target.with_name(f".{target.name}.part")


def chunks_of(index: NDArray) -> int:
    """Returns the number of chunks of a cache."""
    return -(-len(index) // CHUNK)


def images_of(chunk: int, count: int) -> range:
    """Returns the indices of a chunk's images, of `count` images."""
    return range(chunk * CHUNK, min((chunk + 1) * CHUNK, count))


def span_of(index: NDArray, chunk: int) -> tuple[int, int]:
    """Returns where a chunk's pixels begin and end, in bytes."""
    images = images_of(chunk, len(index))
    rows = index[images.start : images.stop]
    return int(rows["offset"][0]), end_of(rows)


def end_of(rows: NDArray) -> int:
    """Returns where the pixels of the last of some images end, in bytes."""
    offset, height, width, _ = rows[-1].item()
    return offset + 3 * height * width


def read_checksums(folder: Path) -> dict[int, int]:
    """Reads the CRC-32 of each chunk that was written; of a chunk that was written twice, the last one."""
    path = folder / CHECKSUMS
    if not exists(path):
        return {}
    with reading(path, WRITE_AGAIN):
        lines = path.read_bytes().splitlines()
    checksums = {}
    for line in lines:
        try:
            entry = json.loads(line)
            checksums[int(entry["chunk"])] = int(entry["crc32"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue  # torn by a crash: the chunk is written again
    return checksums


def _write_index(images: Images, side: int, folder: Path, workers: int) -> None:
    """Reads the size of every image, and writes where each one's pixels will be."""
    with ThreadPoolExecutor(workers) as pool:
        sizes = pool.map(lambda index: size_at(*size_of(images, index), side), range(len(images)))
        sides = np.array(list(tracked(sizes, "reading sizes", len(images), unit="images")), np.int64).reshape(-1, 2)
    index = np.empty(len(images), INDEX)
    index["width"], index["height"], index["label"] = *sides.T, images.targets
    ends = np.cumsum(3 * sides.prod(1))
    index["offset"] = np.concatenate(([0], ends[:-1]))
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted planning left
    write_atomically(folder / INDEX_FILE, lambda file: np.save(file, index))
    manifest = {
        "fingerprint": images.fingerprint(),
        "side": side,
        "images": len(images),
        "bytes": int(ends[-1]),
        "classes": list(images.classes),
    }
    write_json(folder / MANIFEST, manifest)


def _write_chunk(planned: Plan, folder: Path, file: IO[bytes], chunk: int) -> None:
    """Decodes a chunk's images and writes their pixels, and then the line of their checksum."""
    start, end = span_of(planned.index, chunk)
    pixels = np.empty(end - start, np.uint8)
    for index in images_of(chunk, len(planned.index)):
        offset, height, width, label = planned.index[index].item()
        decoded, decoded_label = pixels_of(planned.images, index)
        resized = _resized(decoded, planned.side)
        if resized.shape != (height, width, 3) or decoded_label != label:
            # The folder has to go: the next call would find the same index in it, and fail again.
            reason = f"image {index} has changed since the cache was planned"
            raise PathError(folder, reason, mend="remove this folder and start again")
        pixels[offset - start : offset - start + resized.size] = resized.ravel()
    write_at(file.fileno(), pixels.data, start)
    os.fsync(file.fileno())
    line = json.dumps({"chunk": chunk, "crc32": zlib.crc32(pixels.data)}) + "\n"
    append_lines(folder / CHECKSUMS, line.encode())


def _resized(pixels: Pixels, side: int) -> Pixels:
    """Resizes an image H×W×3 to `size_at`, by Pillow: this is done once, for all that read the cache."""
    height, width, _ = pixels.shape
    size = size_at(width, height, side)
    if size == (width, height):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
