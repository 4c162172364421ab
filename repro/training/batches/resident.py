"""A whole data set in the device's memory, as bytes; views are cropped from it there, in batches.

The loader sends only the numbers of images, their boxes and draws: it neither decodes images nor copies pixels.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from repro.augmentation.batched_draws import largest_boxes
from repro.augmentation.resampling import resample
from repro.command_line.progress import ProgressBars
from repro.data.pixel_cache import CachedImages, PixelArrays
from repro.data.splits import Images, pixels_of, size_of
from repro.errors import UserError
from repro.processes.distributed import gather, in_order, rank, share_of_rank, world_size
from repro.processes.loader import Loader
from repro.quantities import counted, memory_text
from repro.settings.choices import Interpolation
from repro.training.batches.device_memory import free_bytes

log = logging.getLogger("salmask")

MOST_OF_THE_DEVICE = 0.8
"""Share of the device's free memory that the images may take; the training needs the rest."""
CHUNK = 64
"""Images that a process reads at a time."""
WINDOW_BYTES = 2**28
"""Most bytes of windows, in single precision, that are resized at a time; twice as many are needed on the way."""
WINDOW_STEP = 32
"""Where images differ in size, the side of windows is a multiple of this many pixels, or the longest box."""

Sizes = NDArray[np.int64]
"""N×2: height and width of each image in pixels."""


class ResidentImages:
    """Images of any sizes, one after the other in one tensor of bytes.

    Every process of a training has all images, as any of them may come in its part of a batch.
    """

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        """Reserves the memory.

        Args:
            sizes: Of the images.
            device: Where they go.

        Raises:
            UserError: They do not fit.
        """
        self.sizes = sizes
        lengths = 3 * sizes.prod(1)
        offsets = np.concatenate([[0], lengths.cumsum()])
        self.largest_box = int(largest_boxes(sizes).max())
        """Longest side of a box in any of the images, in pixels."""
        self.of_one_size = bool((sizes == sizes[0]).all())
        # A window may reach beyond its image, and that of the last image beyond the end of the buffer.
        needed = int(offsets[-1]) + 3 * self.largest_box
        free = free_bytes(device)
        if needed > MOST_OF_THE_DEVICE * free:
            raise UserError(
                f"machine.resident=true: {len(sizes)} images take {memory_text(needed)}, more than "
                f"{MOST_OF_THE_DEVICE:.0%} of the {memory_text(free)} that is free on {device}",
                mend="machine.resident=false, or smaller images by data.cached_side",
            )
        self.pixels = torch.zeros(needed, dtype=torch.uint8, device=device)
        self._starts: NDArray[np.int64] = offsets
        self._offsets = torch.from_numpy(offsets[:-1]).to(device)
        self._heights, self._widths = (torch.from_numpy(side.copy()).to(device) for side in sizes.T)

    @classmethod
    def load(cls, images: Images, device: torch.device, workers: int) -> "ResidentImages":
        """Decodes all images, each on one of the ranks, and copies them to every rank's device; a collective.

        Args:
            images: Of the training split.
            device: Where they go.
            workers: Decoding processes of this rank; with 0 it decodes by itself.

        Returns:
            The images, the same bytes on every rank.

        Raises:
            UserError: An image is broken, or they do not fit into the device's memory.
        """
        resident = cls(read_sizes(images, device, workers), device)
        began = time.monotonic()
        shares = [len(images) * number // world_size() for number in range(world_size() + 1)]
        resident._fill(images, range(shares[rank()], shares[rank() + 1]), workers)
        for source in range(world_size() if world_size() > 1 else 0):
            dist.broadcast(resident.pixels[slice(*resident._starts[shares[source : source + 2]].tolist())], source)
        size = f"{counted(len(images), 'image')}, {memory_text(resident.pixels.numel())}"
        log.info("loaded %s, onto %s in %.0f s", size, device, time.monotonic() - began)
        return resident

    def crops(self, index: Tensor, boxes: Tensor, size: int, interpolation: Interpolation) -> Tensor:
        """Cuts boxes out of images and resizes them, to the bytes that PIL would give.

        If all images have one size, or the boxes are on the GPU already, nothing is read on the host, and shapes are
        the same for every batch, so that a CUDA graph can capture it. Otherwise views with boxes of similar size are
        resized together, so that a few large boxes do not make all others as expensive.

        Args:
            index: B, of the images.
            boxes: B×4, top, left, height and width in pixels.
            size: S, side of the crops in pixels.
            interpolation: Of the resizing.

        Returns:
            B×3×S×S floats, whole numbers in 0..255, on the device.
        """
        device = self.pixels.device
        order = (
            None if self.of_one_size or boxes.device.type != "cpu" else boxes[:, 2:].amax(1).argsort(descending=True)
        )
        chunks = list(self._chunks(boxes, order))
        index, boxes = (values.to(device, non_blocking=True) for values in (index, boxes))
        if order is not None:
            order = order.to(device, non_blocking=True)
            index, boxes = index[order], boxes[order]
        parts = (torch.split(values, [count for count, _ in chunks]) for values in (index, boxes.long()))
        crops = torch.cat(
            [
                resample(self._windows(images, part, side), part[:, 2], part[:, 3], size, interpolation)
                for (_, side), images, part in zip(chunks, *parts, strict=True)
            ]
        )
        return crops if order is None else torch.empty_like(crops).index_copy_(0, order, crops)

    def _chunks(self, boxes: Tensor, order: Tensor | None) -> Iterator[tuple[int, int]]:
        """Yields, for each chunk of views, their number and the side of their windows.

        Args:
            boxes: B×4.
            order: Order of the views, the longest boxes first; None where all windows have the same size.
        """
        longest = [] if order is None else boxes[order, 2:].amax(1).tolist()
        start = 0
        while start < len(boxes):
            # Rounded up, so that only few shapes occur.
            side = -(-longest[start] // WINDOW_STEP) * WINDOW_STEP if longest else self.largest_box
            side = min(side, self.largest_box)
            # Three colours of four bytes each: `resample` computes in single precision.
            count = min(max(1, WINDOW_BYTES // (12 * side**2)), len(boxes) - start)
            yield count, side
            start += count

    def _windows(self, index: Tensor, boxes: Tensor, side: int) -> Tensor:
        """Returns the squares B×L×L×3, uint8, of `side` pixels whose upper left corners are those of the boxes.

        What lies beyond the box is arbitrary.
        """
        top, left = boxes[:, 0:1], boxes[:, 1:2]
        width = self._widths[index].unsqueeze(1)
        rows = torch.minimum(top + torch.arange(side, device=boxes.device), self._heights[index].unsqueeze(1) - 1)
        starts = self._offsets[index].unsqueeze(1) + 3 * (rows * width + left)
        # A view in which row i is the line that begins at byte i of the buffer: it costs nothing, and one number
        # selects a line.
        lines = self.pixels.unfold(0, 3 * side, 1)
        return lines.index_select(0, starts.flatten()).view(len(boxes), side, side, 3)

    def _fill(self, images: Images, own: range, workers: int) -> None:
        """Decodes the images numbered `own`, and copies them to their places."""
        if isinstance(images, CachedImages):
            pieces = _pieces(images.arrays(), own)
        else:
            pieces = iter(_loader(_DecodedImages(images), own, workers))
        with ProgressBars(shown=rank() == 0) as bars:
            bar = bars.add_task(f"images to {self.pixels.device}", total=len(own), unit="images")
            for number, piece in enumerate(pieces):
                first, end = (min(own.start + CHUNK * n, own.stop) for n in (number, number + 1))
                place = self.pixels[self._starts[first] : self._starts[end]]
                if len(piece) != len(place):
                    raise UserError(
                        f"images {first} to {end - 1} have other sizes than when they were listed", mend="start again"
                    )
                place.copy_(piece)
                bars.advance(bar, end - first)


class _DecodedImages(Dataset[Any]):
    """The pixels of many images at once, one after the other."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __getitems__(self, indices: list[int]) -> Tensor:
        return torch.from_numpy(np.concatenate([pixels_of(self.images, index)[0].ravel() for index in indices]))


class _ImageSizes(Dataset[Any]):
    """Height and width of many images at once."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __getitems__(self, indices: list[int]) -> Tensor:
        return torch.tensor([size_of(self.images, index)[::-1] for index in indices])


def read_sizes(images: Images, device: torch.device, workers: int) -> Sizes:
    """Returns the sizes of images, from their headers where possible; ranks share the reading, so it is a collective.

    Args:
        images: Of any kind.
        device: Of this process.
        workers: Reading processes of this rank; with 0 it reads by itself.

    Raises:
        UserError: An image is broken.
    """
    if isinstance(images, CachedImages):
        arrays = images.arrays()
        return np.stack([arrays.height, arrays.width], 1).astype(np.int64)
    own = torch.cat(list(_loader(_ImageSizes(images), share_of_rank(len(images)), workers)))
    return in_order(gather(own.to(device)), len(images)).cpu().numpy()


def _loader(dataset: Dataset[Any], indices: Sequence[int], workers: int) -> Loader:
    """Returns a loader of consecutive chunks of images, which leaves the data set's batches as they are."""
    chunks = [list(indices[start : start + CHUNK]) for start in range(0, len(indices), CHUNK)]
    return Loader(dataset, workers=workers, batch_sampler=chunks, collate_fn=_unchanged)


def _unchanged(chunk: Any) -> Any:
    """Returns its argument; a named function, as a lambda cannot be sent to spawned workers."""
    return chunk


def _pieces(arrays: PixelArrays, own: range) -> Iterator[Tensor]:
    """Yields chunks of decoded images from a cache."""
    for first in range(own.start, own.stop, CHUNK):
        last = min(first + CHUNK, own.stop) - 1
        end = arrays.offset[last] + 3 * int(arrays.height[last]) * int(arrays.width[last])
        # A copy, as torch warns of read-only memory.
        yield torch.from_numpy(arrays.pixels[arrays.offset[first] : end].copy())
