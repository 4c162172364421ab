"""Caltech-101: 8,677 images of 101 classes, not counting the background class; no split was published."""

import tarfile
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from repro.data.archives import blaming, locate, preparing, unpack_folder
from repro.data.downloads import obtain
from repro.data.errors import PathError
from repro.data.folders import FileImages, class_folders, files_below, folder_above
from repro.data.subsets import Subset, divide, sizes
from repro.errors import UserError
from repro.filesystem.presence import is_folder
from repro.quantities import counted

CLASSES = 101
EXPECTED = 8_677
"""Images without the background (torchvision.datasets.Caltech101)."""
TRAIN_EACH = 30
"""Training images of each class; the rest is scored (Fei-Fei et al. 2004; Kornblith et al. 2019)."""
HELD_OUT_EACH = 5
"""Of these, how many choose the regularisation: 510 of 3,060 in BYOL (Grill et al. 2020, table 18)."""

BACKGROUND = "BACKGROUND_Google"
FOLDER, IMAGES = "caltech101", "101_ObjectCategories"
URL = "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip"
ARCHIVES = {
    "caltech-101.zip": "3138e1922a9193bfa496528edbbc45d0",  # torchvision/datasets/caltech.py
    "101_ObjectCategories.tar.gz": "b224c7392d521a49829488ab0f1120d9",  # the same images, torchvision 0.12 and older
}
MEND = "unpack with `salmask data prepare caltech101`"


def open_pool(root: Path) -> FileImages:
    """Lists all images of the 101 classes, like torchvision's class, but without what systems and editors left.

    torchvision's takes any name in the folder for a class, and makes up the names of files by their number.

    Args:
        root: The folder above `caltech101/101_ObjectCategories/CLASS/image_0001.jpg`, or that `caltech101` itself.

    Raises:
        UserError: The folder is missing, or is not a whole Caltech-101.
    """
    folder = folder_above(root, FOLDER) / FOLDER / IMAGES
    if not is_folder(folder):
        raise PathError(root, f"holds no {FOLDER}/{IMAGES}", mend=f"{MEND}, or name the folder that it lies in")
    again = _again(folder)
    classes = class_folders(folder, mend=again)
    if BACKGROUND not in classes or len(classes) != CLASSES + 1:
        whether = "among" if BACKGROUND in classes else "not among"
        expected = f"Caltech-101 has {CLASSES} and {BACKGROUND}"
        reason = f"{counted(len(classes), 'class folder')}, {BACKGROUND} {whether} them, where {expected}"
        raise PathError(folder, reason, mend=again)
    classes.remove(BACKGROUND)  # left out, whatever it holds
    files = [_images_of_class(folder / name, again) for name in classes]
    paths = [f"{name}/{file}" for name, names in zip(classes, files, strict=True) for file in names]
    return FileImages(folder, paths, [label for label, names in enumerate(files) for _ in names], classes)


def _again(folder: Path) -> str:
    """Returns the mend of a folder of images that is not whole; preparing would leave an existing folder alone."""
    return f"remove {folder}, and `salmask data prepare caltech101` again"


def _images_of_class(folder: Path, mend: str) -> list[str]:
    """Returns the names of a class's images; raises a UserError unless they are image_0001.jpg to image_N.jpg."""
    images, others = files_below(folder)
    everything = {*images, *others}
    expected = [f"image_{number:04d}.jpg" for number in range(1, len(everything) + 1)]
    if images != expected or not images:
        odd = sorted(everything ^ set(expected))
        reason = f"{odd[0]} is missing or does not belong there" if odd else "the folder is empty"
        raise PathError(folder, reason, mend=mend)
    return images


def split(pool: FileImages, seed: int) -> tuple[Subset, Subset, Subset]:
    """Draws 30 images of each class for training, and the rest for scoring.

    Args:
        pool: All images, from `open_pool`.
        seed: The seed of the draw.

    Returns:
        25 images a class to fit on, 5 a class to choose settings on (which are training images too), and the rest.

    Raises:
        UserError: A class has too few images.
    """
    counts = sizes(pool)
    if min(counts) <= TRAIN_EACH:
        name = pool.classes[counts.index(min(counts))]
        reason = f"{counted(min(counts), 'image')}, where more than {TRAIN_EACH} are needed"
        raise PathError(pool.folder / name, reason, mend=_again(pool.folder))
    classes = len(pool.classes)
    fit, held_out, rest = divide(pool, [[TRAIN_EACH - HELD_OUT_EACH] * classes, [HELD_OUT_EACH] * classes], seed)
    return fit, held_out, rest


def prepare_caltech101(archives: Sequence[Path], root: Path) -> None:
    """Unpacks the images to `root/caltech101/101_ObjectCategories/`; what is done already is left alone.

    Args:
        archives: `caltech-101.zip` as data.caltech.edu gives it, the older `101_ObjectCategories.tar.gz`, or a folder
            with one of them; none: download.
        root: The folder to unpack into; made where it does not exist.

    Raises:
        UserError: There is no archive or network, an archive is torn or another one, the disk is full, or what is
            there is no Caltech-101.
    """
    target = folder_above(root, FOLDER) / FOLDER / IMAGES
    if is_folder(target):
        open_pool(root)
        return
    # Before the lock, which creates the root: if the wrong files were named, nothing is left on disk.
    given = _among(archives) if archives else None
    with preparing(root):
        if is_folder(target):  # another process has made it meanwhile
            return
        archive = obtain(URL, root, ARCHIVES[given.name if given else "caltech-101.zip"], given)
        with ExitStack() as stack:
            with blaming(archive, target.parent):
                # As a stream ("r|gz"): each step back in a zip file's member would decompress it from its beginning.
                tar = stack.enter_context(tarfile.open(fileobj=_tar_stream(archive, stack), mode="r|gz"))
            unpack_folder(tar, IMAGES, target, source=archive)


def _among(given: Sequence[Path]) -> Path:
    """Returns whichever of the two archives was given.

    Raises:
        UserError: Neither was.
    """
    for name in ARCHIVES:
        if (path := locate(given, name)) is not None:
            return path
    names = ", ".join(map(str, given))
    raise UserError(f"{names}: {' or '.join(ARCHIVES)} missing", mend=f"download {URL} and name it with --from")


def _tar_stream(archive: Path, stack: ExitStack) -> IO[bytes]:
    """Opens the tar file of the images, which today's archive holds in a zip file; `stack` closes what is opened."""
    if archive.suffix != ".zip":
        return stack.enter_context(archive.open("rb"))
    outer = stack.enter_context(zipfile.ZipFile(archive))
    # Packed on a Mac: each file has a second one under __MACOSX, with attributes of macOS.
    (inner,) = (name for name in outer.namelist() if name.endswith(f"/{IMAGES}.tar.gz") and "__MACOSX" not in name)
    return stack.enter_context(outer.open(inner))
