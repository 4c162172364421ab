"""A user's own files of the images, maps or masks, as arrays of numbers. No torch."""

import io
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from repro.data.errors import reason_of
from repro.data.images import DAMAGE
from repro.data.splits import Images, names_of
from repro.errors import UserError, shortened
from repro.settings.image_files import files_by_name, hash_once, read_file

_GREY = ("1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
"""Pillow's modes of one channel, that of brightness."""


@dataclass(frozen=True)
class ImageNumbers:
    """A file of numbers for each image of a data set.

    Attributes:
        setting: The setting that names the folder.
        folder: Where the files lie.
        files: The file of each image, relative to the folder.
        colours: Whether pictures may have colours, all but black being other than 0; else they must be grey.
        sha256: The SHA-256 of the folder's files when the run began, in hex; empty if that is not known.
    """

    setting: str
    folder: Path
    files: list[str]
    colours: bool
    sha256: str

    @classmethod
    def of(cls, images: Images, setting: str, folder: Path, *, colours: bool, sha256: str) -> "ImageNumbers":
        """Finds the file of each image.

        Args:
            images: Of the data set.
            setting: The setting that names the folder.
            folder: Where the files lie.
            colours: Whether pictures may have colours.
            sha256: The SHA-256 of the folder's files when the run began, in hex; empty if that is not known.

        Raises:
            UserError: The folder cannot be read, or an image has no name, the name of another one, or no file.
        """
        files = files_by_name(setting, folder)
        names = [os.path.splitext(name)[0] for name in names_of(images)]  # noqa: PTH122  # as in `files_by_name`
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            what = f"{setting}={folder}: names that several images have, but for their endings: {shortened(twice)}"
            raise UserError(what, mend="rename all but one of each")
        if missing := [name for name in names if name not in files]:
            what = f"{setting}={folder}: {shortened(missing)} of {len(names)} images without a file"
            raise UserError(what, mend="a file for each image, of its name and ending with .png or .npy")
        return cls(setting, folder, [files[name] for name in names], colours, sha256)

    def digest(self) -> str:
        """Returns the SHA-256 of the folder's files; it reads all of them, once in a process.

        Raises:
            UserError: A file cannot be read, or the files have changed since the run began.
        """
        if self.sha256 not in ("", digest := hash_once(self.setting, self.folder)):
            raise UserError(
                f"{self.setting}={self.folder} does not hold what the run was made with: it has another SHA-256",
                mend=f"put these files back, or begin a new run, with {self.setting}_sha256=''",
            )
        return digest

    def __call__(self, index: int) -> NDArray[Any]:
        """Returns the numbers of an image, H×W in double precision, all finite.

        Raises:
            UserError: The file holds no such numbers.
        """
        file = self.files[index]
        content = read_file(self.setting, self.folder, file)
        try:
            numbers = np.load(io.BytesIO(content)) if file.endswith(".npy") else self._pixels(content)
        except (*DAMAGE, MemoryError, TokenError) as error:  # the last is for an array whose header is torn
            is_other = isinstance(error, UnidentifiedImageError)
            why = (
                "is not a picture, or its header is damaged" if is_other else f"cannot be decoded ({reason_of(error)})"
            )
            raise self._refusal(file, why) from error
        if not isinstance(numbers, np.ndarray) or numbers.dtype.kind not in "buif":
            raise self._refusal(file, "holds no array of numbers")
        if numbers.ndim != 2 or not numbers.size:
            shape = "×".join(map(str, numbers.shape))
            raise self._refusal(file, f"is of shape {shape or '()'}, where there must be rows and columns")
        with np.errstate(over="ignore"):  # numbers of more than double precision may become infinite, see below
            numbers = numbers.astype(np.float64)
        if not np.isfinite(numbers).all():
            raise self._refusal(file, "holds NaN or an infinite number")
        return numbers

    def _pixels(self, content: bytes) -> NDArray[Any]:
        with Image.open(io.BytesIO(content)) as image:
            if image.mode in _GREY:
                return np.asarray(image)
            if not self.colours:
                # Nothing says which colours of a map are high.
                raise ValueError(f"its mode is {image.mode}, and not one channel of grey")  # becomes a refusal
            # A palette's indices become colours, since index 0 may be any colour.
            pixels = np.asarray(image.convert("RGBA"))
        if pixels[..., 3].min() < 255:
            raise ValueError("it is partly transparent")
        return pixels[..., :3].max(-1)

    def _refusal(self, file: str, why: str) -> UserError:
        mend = f"{'an opaque picture' if self.colours else 'a picture in grey'}, or an array of rows and columns"
        return UserError(f"{self.setting}={self.folder}: {file} {why}", mend=mend)
