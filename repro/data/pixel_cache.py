"""The decoded images of a data set in one memory-mapped file, which all runs of a node share. No torch.

A cache is a folder, `NAME-SPLIT-SIDE-FINGERPRINT`, that has its name only once it is whole. It holds

- `pixels.u8`: the images one after the other, each H×W×3, and nothing between them;
- `index.npy`: a row of `INDEX` for each image;
- `checksums.jsonl`: the CRC-32 of the pixels of each chunk of `CHUNK` images;
- `cache.json`: the classes, and the number of images and bytes.

`repro.data.pixel_cache_writer` writes it.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from repro.data.errors import PathError
from repro.data.jpeg import Pixels
from repro.data.splits import Images, Split
from repro.errors import UserError
from repro.filesystem.files import reading
from repro.filesystem.paths import cache_home, expanded
from repro.filesystem.presence import is_folder
from repro.runs.schemas import Field, Schema

WRITE_AGAIN = "remove the folder and write it again with `salmask data cache`"
"""The mend of a cache that is damaged."""

INDEX = np.dtype([("offset", "<i8"), ("height", "<i4"), ("width", "<i4"), ("label", "<i4")])
"""Where an image's pixels begin, in bytes; its height and width in pixels; its class."""

CHUNK = 256
"""Images that are written together, with one checksum."""

PIXELS, INDEX_FILE, CHECKSUMS, MANIFEST = "pixels.u8", "index.npy", "checksums.jsonl", "cache.json"
_MANIFEST = Schema(
    {
        "fingerprint": Field(str),
        "side": Field(int, low=1),
        "images": Field(int, low=0),
        "bytes": Field(int, low=0),
        "classes": Field(list),
    },
    mend=WRITE_AGAIN,
)


def cache_root(given: str = "") -> Path:
    """Returns the folder of decoded images: as given, else `pixels` in the cache folder."""
    return expanded(given) if given else cache_home() / "pixels"


def cache_folder(root: Path, dataset: str, split: Split, side: int, fingerprint: str) -> Path:
    """Returns the folder of a cache below `root`; it need not exist.

    Args:
        root: The folder of the caches.
        dataset: The data set's name.
        split: Its split.
        side: The images' short side in pixels.
        fingerprint: Of the images that were decoded.
    """
    return root / f"{dataset}-{split}-{side}-{fingerprint}"


def size_at(width: int, height: int, side: int) -> tuple[int, int]:
    """Returns width and height of an image of which the short side is resized to `side` pixels, as torchvision does.

    An image that is smaller stays as it is: crops of it are resized anyway, and once is better than twice.
    """
    short = min(width, height)
    return (width, height) if short <= side else (width * side // short, height * side // short)


def read_index(folder: Path) -> NDArray:
    """Reads the row of `INDEX` of each image of a cache.

    Raises:
        UserError: The file is missing or damaged.
    """
    with reading(folder / INDEX_FILE, WRITE_AGAIN):
        index: NDArray = np.load(folder / INDEX_FILE, allow_pickle=False)
    if index.dtype != INDEX or index.ndim != 1:
        raise PathError(folder, f"{INDEX_FILE} is not of a cache", mend=WRITE_AGAIN)
    return index


def _is_within(index: NDArray, size: int, classes: int) -> bool:
    """Returns whether the pixels of each row of an index lie within a file of `size` bytes, and its class exists."""
    height, width, label = (index[name].astype(np.int64) for name in ("height", "width", "label"))
    if not (((height > 0) & (width > 0)).all() and ((label >= 0) & (label < classes)).all()):
        return False
    # As floats: the product of damaged sides can overflow numpy's whole numbers.
    ends = index["offset"] + 3.0 * height * width
    return bool(((index["offset"] >= 0) & (ends <= size)).all())


class PixelArrays(NamedTuple):
    """A whole data set as arrays, image i at `pixels[offset[i] : offset[i] + 3 * height[i] * width[i]]`."""

    pixels: Pixels
    """One-dimensional, memory-mapped and read-only; copying it reads the whole file once, from front to back."""
    offset: NDArray[np.int64]
    height: NDArray[np.int32]
    width: NDArray[np.int32]
    label: NDArray[np.int32]


class CachedImages:
    """Images that were decoded once, with a short side of at most the cache's number of pixels.

    Attributes:
        folder: The cache's folder.
        classes: Class names in the order of the labels.
        targets: The label of every image.
        names: The name of every image that was decoded, see `names_of`; None where they are not known.
    """

    def __init__(self, folder: Path, names: Sequence[str] | None = None) -> None:
        """Opens a cache.

        Args:
            folder: Of the cache.
            names: Of the images that were decoded.

        Raises:
            UserError: There is no cache, or it is not whole.
        """
        self.folder, self.names = folder, names
        self._index = read_index(folder)
        manifest = _MANIFEST.read(folder / MANIFEST)
        with reading(folder / PIXELS, WRITE_AGAIN):
            size = (folder / PIXELS).stat().st_size
        if size != manifest["bytes"] or len(self._index) != manifest["images"]:
            reason = f"{PIXELS} or {INDEX_FILE} is not of the size that {MANIFEST} says"
            raise PathError(folder, reason, mend=WRITE_AGAIN)
        if not _is_within(self._index, size, len(manifest["classes"])):
            raise PathError(folder, f"{INDEX_FILE} names what {PIXELS} does not hold", mend=WRITE_AGAIN)
        self.classes: tuple[str, ...] = tuple(manifest["classes"])
        self.targets: list[int] = self._index["label"].tolist()
        self._fingerprint = f"{manifest['fingerprint']}-{manifest['side']}px"

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        pixels, label = self.pixels(index)
        return Image.fromarray(pixels), label

    def pixels(self, index: int) -> tuple[Pixels, int]:
        """Returns an image's pixels, H×W×3, read-only and in the file's own memory, and its label."""
        offset, height, width, label = self._index[index].item()
        return self._mapped[offset : offset + 3 * height * width].reshape(height, width, 3), label

    def size(self, index: int) -> tuple[int, int]:
        """Returns an image's width and height in pixels."""
        _, height, width, _ = self._index[index].item()
        return width, height

    def arrays(self) -> PixelArrays:
        """Returns the whole data set, to be loaded at once, for example into a GPU's memory."""
        columns = (np.ascontiguousarray(self._index[name]) for name in ("offset", "height", "width", "label"))
        return PixelArrays(self._mapped, *columns)

    def fingerprint(self) -> str:
        """Returns the fingerprint of the images that were decoded, with the side: `1a2b3c4d5e6f7a8b-256px`."""
        return self._fingerprint

    @functools.cached_property
    def _mapped(self) -> Pixels:
        # As a plain array: each slice of a `np.memmap` takes as long as a small crop.
        return np.memmap(self.folder / PIXELS, dtype=np.uint8, mode="r").view(np.ndarray)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out names, and the map, which would be sent as pixels: a spawned worker maps the file itself."""
        return {**{name: value for name, value in self.__dict__.items() if name != "_mapped"}, "names": None}


def open_cached(images: Images, dataset: str, split: Split, side: int, root: Path, command: str) -> CachedImages:
    """Opens the cache of some images.

    Args:
        images: The images that were decoded; they are not read.
        dataset: The data set's name.
        split: Its split.
        side: The cached images' short side in pixels.
        root: The folder of the caches.
        command: The command that would cache them, for the error.

    Raises:
        UserError: The images as they are now are not cached, or the cache is damaged.
    """
    folder = cache_folder(root, dataset, split, side, images.fingerprint())
    if not is_folder(folder):
        raise UserError(
            f"no cache of data set {dataset!r} as it is now at {side} px in {root}",
            mend=f"{command}, or data.cached_side=0",
        )
    return CachedImages(folder, getattr(images, "names", None))
