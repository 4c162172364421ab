"""Images that are files, as a rule in one folder for each class, and how such folders are listed."""

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from repro.data import images
from repro.errors import UserError, shortened


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
        return images.decode(f"{self.folder}/{self.files[index]}"), self.targets[index]

    def fingerprint(self) -> str:
        """16 hex digits of a SHA-256 over the class order and every file's relative path and size; nothing is decoded.

        Raises:
            UserError: a file has gone since the folder was read.
        """
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for file in self.files:
            path = f"{self.folder}/{file}"
            try:
                size = os.stat(path).st_size  # noqa: PTH116  a Path for each of 10^5 files costs more than the stat
            except OSError as error:
                raise UserError(
                    f"{path}: {error.strerror}; the data changed since it was listed, start again"
                ) from error
            digest.update(f"\0{file}\0{size}".encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]


class FolderImages(FileImages):
    """Images in one folder for each class: `root/split/class/**/image.jpg`.

    Only the folders of the classes asked for are read, so that a hundred classes of an ImageNet-1k root cost no more
    than a root with these hundred alone. Hidden files and folders are skipped.

    Args:
        root: Folder of the data set.
        split: Name of the split's folder.
        classes: Class folders in the order of their labels; None: all of the split's folders, sorted.
        mend: What to do about a folder that has another layout; ends an error's message.

    Raises:
        UserError: the split's folder is missing or has no class folders, or classes are missing or without an image
            (all of them are counted, the first few named).
    """

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        mend: str = "put the images into one folder for each class",
    ) -> None:
        folder = root / split
        found = class_folders(folder, mend=mend)
        super().__init__(folder, [], [], found if classes is None else classes)
        missing = sorted(set(self.classes) - set(found))
        if missing:
            raise UserError(f"{folder}: {shortened(missing)} of {len(self.classes)} class folders missing; {mend}")
        empty = []
        for label, name in enumerate(self.classes):
            files = [f"{name}/{file}" for file in image_files(folder / name)]
            if not files:
                empty.append(name)
            self.files += files
            self.targets += [label] * len(files)
        if empty:
            raise UserError(f"{folder}: {shortened(empty)} class folders have no image; fill or remove them")


def class_folders(folder: Path, *, mend: str) -> list[str]:
    """The sorted names of the class folders of a split.

    Args:
        folder: Of the split.
        mend: Ends an error's message.

    Raises:
        UserError: the folder is missing or cannot be read, or holds no folder.
    """
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
            names = sorted(entry.name for entry in visible if entry.is_dir())
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; expected {folder.name}/CLASS/IMAGE in the data root") from error
    if not names:
        what = "the images lie flat, without class folders" if visible else "the folder is empty"
        raise UserError(f"{folder}: {what}; {mend}")
    return names


def image_files(folder: Path | str) -> list[str]:
    """The sorted paths, relative to a class's folder, of all image files in it and below.

    Raises:
        UserError: the folder cannot be read.
    """
    found = []
    pending = [""]
    while pending:
        below = pending.pop()
        try:
            with os.scandir(f"{folder}/{below}") as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        pending.append(f"{below}{entry.name}/")
                    elif os.path.splitext(entry.name)[1].lower() in images.EXTENSIONS:  # noqa: PTH122  as above
                        found.append(below + entry.name)
        except OSError as error:
            raise UserError(f"{folder}/{below}: {error.strerror}; make it readable or remove it") from error
    return sorted(found)
