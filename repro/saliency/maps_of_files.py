"""A person's own saliency of each image, read from files: maps that are graded, and masks that are not."""

import io
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from repro.data.errors import reason_of
from repro.data.images import DAMAGE
from repro.data.splits import Images, names_of
from repro.errors import UserError, shortened
from repro.runs.localizer_files import files_by_name, hash_files, read_map_file
from repro.runs.saliency_sources import CELLS, SaliencySource, SourceKind
from repro.runs.sections import LocalizerSettings
from repro.saliency.image_maps import MapSource, standardised

_GREY_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_MASK_MODES = (*_GREY_MODES, "P")
"""Masks as VOC has them are pictures with a palette, whose pixels are numbers of objects."""


def maps_of_files(source: SaliencySource, settings: LocalizerSettings, images: Images) -> MapSource:
    """Returns a folder of files as a source of maps.

    Args:
        source: `maps` or `masks`.
        settings: The folder, and the hash of what it held as the run began.
        images: Of the data set, each of which has a file.

    Raises:
        UserError: An image has no name, that of another one, or no file; or the folder's content is not that of the
            hash.
    """
    folder = Path(settings.files)
    files = files_by_name(folder)
    names = [os.path.splitext(name)[0] for name in names_of(images)]  # noqa: PTH122  # as in `files_by_name`
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        what = f"localizer.files={folder}: names of several images, but for their endings, are {shortened(twice)}"
        raise UserError(what, mend="rename all but one of each")
    if missing := sorted({name for name in names if name not in files}):
        what = f"localizer.files={folder}: of {len(names)} images {shortened(missing)} have no map"
        raise UserError(what, mend="a file of each image's name that ends with .png or .npy")
    if settings.files_sha256 not in ("", digest := hash_files(folder)):
        raise UserError(
            f"localizer.files={folder} does not hold what the run was made with: it has another SHA-256",
            mend="put these files back, or begin a new run",
        )
    identity: dict[str, Any] = {"source": str(source), "files": digest, "cells": CELLS}
    prepare = FileMaps(folder, [files[name] for name in names], graded=source.kind is SourceKind.maps)
    return MapSource(identity, CELLS, prepare, lambda _: standardised if prepare.graded else lambda maps: maps)


@dataclass(frozen=True)
class FileMaps:
    """The map of each image, from a file."""

    folder: Path
    files: list[str]
    """Of each image, relative to the folder."""
    graded: bool
    """Whether the numbers are as salient as they are high; else all but 0 is the object."""

    def __call__(self, index: int) -> Tensor:
        """Returns a map, G×G: the mean of each cell, or the share of it that is object.

        Raises:
            UserError: The file holds no map.
        """
        numbers = self._numbers(self.files[index])
        if self.graded:  # of whatever unit: single precision is to hold them, and their squares
            exact = numbers.astype(np.float64)
            cells = exact / max(np.abs(exact).max(), np.finfo(np.float64).tiny)
        else:
            cells = numbers != 0
        return F.adaptive_avg_pool2d(torch.from_numpy(cells.astype(np.float32)).unsqueeze(0), CELLS).squeeze(0)

    def _numbers(self, file: str) -> NDArray[Any]:
        """Returns what a file holds, H×W finite numbers."""
        content = read_map_file(self.folder, file)
        try:
            numbers = np.load(io.BytesIO(content)) if file.endswith(".npy") else self._pixels(content)
        except (*DAMAGE, MemoryError) as error:
            raise self._refusal(file, f"cannot be decoded ({reason_of(error)})") from error
        if not isinstance(numbers, np.ndarray) or numbers.dtype.kind not in "buif":
            raise self._refusal(file, "holds no array of numbers")
        if numbers.ndim != 2 or not numbers.size:
            shape = "×".join(map(str, numbers.shape))
            raise self._refusal(file, f"is of shape {shape or '()'}, where a map has rows and columns")
        if not np.isfinite(numbers).all():
            raise self._refusal(file, "holds NaN or an infinite number")
        return numbers

    def _pixels(self, content: bytes) -> NDArray[Any]:
        with Image.open(io.BytesIO(content)) as image:
            modes = _GREY_MODES if self.graded else _MASK_MODES
            if image.mode not in modes:
                # Of a map in colours nobody knows which colour is high.
                raise ValueError(f"its mode is {image.mode}, and not one channel of grey")  # becomes a refusal
            return np.asarray(image)

    def _refusal(self, file: str, why: str) -> UserError:
        return UserError(
            f"localizer.files={self.folder}: {file} {why}", mend="a picture in grey, or an array of rows and columns"
        )
