"""Images that are files, as a rule in one folder for each class, and how such folders are listed."""

import functools
import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from repro.data import images
from repro.data.errors import PathError, reason_of
from repro.data.jpeg import Pixels
from repro.errors import shortened
from repro.files import is_clutter
from repro.presence import is_folder

FOLDER_FOR_EACH_CLASS = "put the images into one folder for each class"
"""The mend of a folder of images that has another layout."""
PLAIN_ENDINGS = frozenset({".bmp", ".ppm", ".pgm", ".tif", ".tiff"})
"""Endings of images that are stored without compression as a rule: the size of such a file tells its sides alone."""
PLAIN_FILES = 64
"""How many of them are looked into for a fingerprint."""
PLAIN_BYTES = 1 << 16
"""How many of a file's first bytes are read then: some rows of pixels, and next to no time, whatever the image."""


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
        epoch. Of files whose size says nothing of their content (`PLAIN_ENDINGS`), the first `PLAIN_BYTES` of up to
        `PLAIN_FILES` evenly spaced ones count as well.

        Raises:
            UserError: A file has gone since the folder was read, or cannot be read.
        """
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:  # cached: on a file system over the network, 10^5 calls of stat take minutes
        # Linux allows names that are no UTF-8; Python hands their odd bytes over as surrogates, and back so.
        digest = hashlib.sha256("\0".join(self.classes).encode(errors="surrogateescape"))
        for file in self.files:
            path = f"{self.folder}/{file}"
            try:
                size = os.stat(path).st_size  # noqa: PTH116  # a Path for each of 10^5 files costs more than the stat
            except OSError as error:
                reason = f"{error.strerror}; the data changed since it was listed"
                raise PathError(path, reason, mend="start again") from error
            digest.update(f"\0{file}\0{size}".encode(errors="surrogateescape"))
        # Without such files the digits are those of older versions, which recorded results and runs hold.
        for file in _evenly_spaced([file for file in self.files if _ending(file) in PLAIN_ENDINGS], PLAIN_FILES):
            digest.update(_beginning(self.folder / file))
        return digest.hexdigest()[:16]


def _ending(file: str) -> str:
    return os.path.splitext(file)[1].lower()  # noqa: PTH122  # as in `_fingerprint`


def _evenly_spaced(files: Sequence[str], most: int) -> list[str]:
    count = min(len(files), most)
    return [files[number * len(files) // count] for number in range(count)]


def _beginning(path: Path) -> bytes:
    """Reads a file's first `PLAIN_BYTES`; nothing of a pipe, which would be waited for."""
    try:
        with open(path, "rb", opener=images.open_at_once) as stream:
            return stream.read(PLAIN_BYTES) if stat.S_ISREG(os.fstat(stream.fileno()).st_mode) else b""
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
            raise PathError(folder, f"{shortened(empty)} class folders have no image", mend="fill or remove them")


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
        layout = f"expected {folder.name}/CLASS/IMAGE in the data root"
        raise PathError(folder, f"{error.strerror}; {layout}", mend=mend) from error
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

    What counts is the name's ending; files that systems and editors leave are neither.

    Raises:
        UserError: The folder cannot be read.
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
            path = Path(folder, below)
            raise PathError(path, f"{error.strerror}", mend="make it readable or remove it") from error
    return sorted(files), sorted(others)


def folder_above(root: Path, name: str) -> Path:
    """Returns the folder that holds the folder of this name, whether a person gave the one or the other.

    torchvision's classes take the folder above (`root/caltech101/`) as their root; people name either.
    """
    return root.parent if root.name == name and not is_folder(root / name) else root
