"""Images that are files, as a rule in one folder for each class, and how such folders are listed."""

import functools
import hashlib
import os
import stat
import struct
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from repro.data import images
from repro.data.errors import LINK_TO_NOTHING, PathError, is_broken_link, mend_of, reason_of, refuse_circle
from repro.data.jpeg import Pixels
from repro.data.splits import SPLITS
from repro.errors import shortened
from repro.filesystem.clutter import is_clutter
from repro.filesystem.presence import is_folder

FOLDER_FOR_EACH_CLASS = "put the images into one folder for each class"
"""The mend of a folder of images that has another layout."""
PLAIN_ENDINGS = frozenset({".bmp", ".ppm", ".pgm", ".tif", ".tiff"})
"""Endings of images that are usually stored without compression: such a file's size says nothing of its pixels."""
PLAIN_FILES = 64
"""If there are at most this many such files, the first `PLAIN_BYTES` of each count in a fingerprint. Of every other
ending, this many files are looked at to see whether they are stored without compression as well."""
PLAIN_BYTES = 1 << 16
"""How many of the first bytes are read of each: some rows of pixels, in next to no time whatever the image."""
PLAIN_PART = 1 << 12
"""If there are more such files, how many bytes are read from the middle of each: a page of the disk."""

_PNG_HEADER = struct.Struct(">16sIIBB")
"""A PNG's first bytes: signature, length and name of its first chunk; width, height, bits, kind of colours."""
_PNG_CHANNELS = {2: 3, 4: 2, 6: 4}
"""Channels by the kind of colours; any other kind has one."""


class FileImages:
    """Images that are files below one folder.

    Attributes:
        folder: Where they lie.
        files: Their paths relative to it; one flat list is cheap to hand to a worker.
        targets: Their labels.
        classes: Class names in the order of the labels.
    """

    def __init__(self, folder: Path, files: list[str], targets: list[int], classes: Sequence[str]) -> None:
        self.folder, self.files, self.targets = folder, files, targets
        self.classes: tuple[str, ...] = tuple(classes)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return images.decode(self._path(index)), self.targets[index]

    @property
    def names(self) -> list[str]:
        """The images' paths, relative to the folder."""
        return self.files

    def pixels(self, index: int) -> tuple[Pixels, int]:
        """Returns an image's pixels, H×W×3, and its label."""
        return images.decode_pixels(self._path(index)), self.targets[index]

    def size(self, index: int) -> tuple[int, int]:
        """Returns an image's width and height in pixels, from its file's header."""
        return images.read_size(self._path(index))

    def _path(self, index: int) -> str:
        return f"{self.folder}/{self.files[index]}"

    def fingerprint(self) -> str:
        """Returns 16 hex digits that change when the classes' order, a file's relative path or a file's size does.

        They are of a SHA-256 over these; nothing is decoded, since a fingerprint of the pixels would take as long as an
        epoch. Of files that are stored without compression, whose size says nothing of their content, some bytes count
        as well: the first `PLAIN_BYTES`, or `PLAIN_PART` in the middle if there are more than `PLAIN_FILES` of them.

        Raises:
            UserError: A file has gone since the folder was read, or cannot be read.
        """
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:  # cached: on a file system over the network, 10^5 calls of stat take minutes
        # Linux allows names that are not UTF-8; Python represents such bytes as surrogates, which become bytes again.
        digest = hashlib.sha256("\0".join(self.classes).encode(errors="surrogateescape"))
        for file in self.files:
            path = f"{self.folder}/{file}"
            try:
                size = os.stat(path).st_size  # noqa: PTH116  # a Path for each of 10^5 files costs more than the stat
            except OSError as error:
                if is_broken_link(path):
                    raise PathError(path, LINK_TO_NOTHING, mend="remove it") from error
                reason = f"{error.strerror}; the data changed since it was listed"
                raise PathError(path, reason, mend="start again") from error
            digest.update(f"\0{file}\0{size}".encode(errors="surrogateescape"))
        # With few such files or none, the digits are those of older versions, which recorded results and runs hold.
        plain = self._plain_files()
        few = len(plain) <= PLAIN_FILES
        for file in plain:
            count = PLAIN_BYTES if few else PLAIN_PART
            digest.update(_bytes_of(self.folder / file, count, from_middle=not few))
        return digest.hexdigest()[:16]

    def _plain_files(self) -> list[str]:
        """Returns the files of each ending that is one of `PLAIN_ENDINGS`, or of which a sample is not compressed."""
        by_ending: dict[str, list[str]] = {}
        for file in self.files:
            by_ending.setdefault(_ending(file), []).append(file)
        plain = {
            ending
            for ending, files in by_ending.items()
            if ending in PLAIN_ENDINGS or any(_is_plain(self.folder / file) for file in _evenly_spaced(files))
        }
        return [file for file in self.files if _ending(file) in plain] if plain else []


def _ending(file: str) -> str:
    return os.path.splitext(file)[1].lower()  # noqa: PTH122  # as in `_fingerprint`


def _evenly_spaced(files: Sequence[str]) -> list[str]:
    """Returns `PLAIN_FILES` of the files, or all where there are fewer."""
    count = min(len(files), PLAIN_FILES)
    return [files[number * len(files) // count] for number in range(count)]


def _is_plain(path: Path) -> bool:
    """Returns whether a file holds an image without compression, by its first bytes, whatever its ending."""
    try:
        header = _bytes_of(path, _PNG_HEADER.size)
        size = path.stat().st_size
    except (PathError, OSError):
        return False  # decoding will report this file
    if header.startswith((b"BM", b"P5", b"P6", b"II*\0", b"MM\0*")):
        return True
    if not header.startswith(b"\x89PNG") or len(header) < _PNG_HEADER.size:
        return False
    _, width, height, bits, colours = _PNG_HEADER.unpack(header)
    # Without compression, each row has one more byte, for its filter (RFC 2083, 6); a compressed file is smaller.
    return size >= height * (1 + -(-width * bits * _PNG_CHANNELS.get(colours, 1) // 8))


def _bytes_of(path: Path, count: int, *, from_middle: bool = False) -> bytes:
    """Reads a file's first bytes, or those in its middle; nothing of a pipe, which would block.

    Raises:
        PathError: The file cannot be read.
    """
    try:
        with open(path, "rb", opener=images.open_at_once) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                return b""
            if from_middle:
                stream.seek(max(0, (status.st_size - count) // 2))
            return stream.read(count)
    except OSError as error:
        raise PathError(path, reason_of(error), mend="make it readable or replace it") from error


class FolderImages(FileImages):
    """Images in one folder for each class: `root/split/class/**/image.jpg`.

    Only the folders of the classes asked for are read, so that a hundred classes of an ImageNet-1k root cost no more
    than a root with these hundred alone. Hidden files and folders are skipped.

    Args:
        root: Folder of the data set.
        split: Name of the split's folder.
        classes: Class folders in the order of their labels; None: all of the split's folders, sorted.
        mend: What a person can do about a folder that has another layout.

    Raises:
        UserError: The split's folder is missing or has no class folders, or classes are missing or without an image
            (all of them are counted, the first few named).
    """

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        mend: str = FOLDER_FOR_EACH_CLASS,
    ) -> None:
        folder = root / split
        present = class_folders(folder, mend=mend)
        super().__init__(folder, [], [], present if classes is None else classes)
        missing = sorted(set(self.classes) - set(present))
        if missing:
            reason = f"{shortened(missing)} of {len(self.classes)} class folders missing"
            raise PathError(folder, reason, mend=mend)
        empty = []
        for label, name in enumerate(self.classes):
            files = [f"{name}/{file}" for file in image_files(folder / name)]
            if not files:
                empty.append(name)
            self.files += files
            self.targets += [label] * len(files)
        if empty:
            raise PathError(folder, f"class folders without an image: {shortened(empty)}", mend="fill or remove them")


def class_folders(folder: Path, *, mend: str) -> list[str]:
    """Returns the sorted names of the class folders of a split.

    Args:
        folder: The split's folder.
        mend: What a person can do about a folder without class folders.

    Raises:
        UserError: The folder is missing or cannot be read, or holds no folder.
    """
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not is_clutter(entry.name, folder=entry.is_dir())]
            names = sorted(entry.name for entry in visible if entry.is_dir())
    except OSError as error:
        refuse_circle(error)
        layout, root = f"expected {folder.name}/CLASS/IMAGE in the data root", folder.parent
        # Perhaps a split was named instead of the folder that holds both.
        if root.name in SPLITS and not any(is_folder(root / split) for split in SPLITS):
            mend = f"name the folder above as the root: {root.parent}"
        raise PathError(folder, f"{error.strerror}; {layout}", mend=mend_of(error, mend)) from error
    if not names:
        reason = "the images lie flat, without class folders" if visible else "the folder is empty"
        raise PathError(folder, reason, mend=mend)
    return names


def image_files(folder: Path | str) -> list[str]:
    """Returns the sorted paths, relative to a class's folder, of all image files in it and below.

    Raises:
        UserError: The folder cannot be read.
    """
    return files_below(folder)[0]


def files_below(folder: Path | str) -> tuple[list[str], list[str]]:
    """Returns the sorted paths, relative to a folder, of all image files in it and below, and of all other files.

    The ending of a name decides; files that systems and editors leave are in neither list.

    Raises:
        UserError: The folder cannot be read, or links in it lead in a circle.
    """
    files: list[str] = []
    others: list[str] = []
    # `os.scandir` rather than `Path.rglob`: it tells files from folders without a call of stat for each, and hidden
    # folders are never entered.
    pending = [""]
    while pending:
        below = pending.pop()
        try:
            with os.scandir(f"{folder}/{below}") as entries:
                for entry in entries:
                    if is_clutter(entry.name, folder=entry.is_dir()):
                        continue
                    if entry.is_dir():
                        pending.append(f"{below}{entry.name}/")
                        continue
                    (files if _ending(entry.name) in images.EXTENSIONS else others).append(below + entry.name)
        except OSError as error:
            refuse_circle(error)
            path = Path(folder, below)
            raise PathError(path, f"{error.strerror}", mend="make it readable or remove it") from error
    return sorted(files), sorted(others)


def folder_above(root: Path, name: str) -> Path:
    """Returns the folder that holds the folder of this name, whether `root` is the one or the other.

    torchvision's classes take the folder above, that of `caltech101/`, as their root; people name either.
    """
    return root.parent if root.name == name and not is_folder(root / name) else root
