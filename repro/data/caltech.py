"""Caltech-101: 8,677 images of 101 classes, the background left out, without a split of its own."""

import tarfile
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from repro.data.archives import TORN, blaming, check_md5, fetch, locate, reason, unpack_folder
from repro.data.folders import FileImages, class_folders, image_files
from repro.data.subsets import Subset, divide
from repro.errors import UserError
from repro.runs.lock import held

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


def torchvision_root(root: Path) -> Path:
    """What torchvision's class calls root: the folder that `caltech101/` lies in, which may be named itself."""
    return root.parent if root.name == FOLDER and not (root / FOLDER).is_dir() else root


def open_pool(root: Path) -> FileImages:
    """All images of the 101 classes, listed by torchvision's class and decoded by `repro.data.images`.

    Args:
        root: `root/caltech101/101_ObjectCategories/CLASS/image_0001.jpg`; or the folder `caltech101` itself.

    Raises:
        UserError: the folder is missing, or is no Caltech-101.
    """
    from torchvision.datasets import Caltech101

    parent = torchvision_root(root)
    folder = parent / FOLDER / IMAGES
    # Looked at first: torchvision makes folders in a wrong root, and counts on every name in a right one.
    if not folder.is_dir():
        raise UserError(f"{root}: holds no {FOLDER}/{IMAGES}; {MEND}, or name the folder that it lies in")
    found = class_folders(folder, mend=MEND)
    if BACKGROUND not in found or len(found) != CLASSES + 1:
        raise UserError(
            f"{folder}: {len(found)} class folders, {BACKGROUND} {'among' if BACKGROUND in found else 'not among'} "
            f"them, where Caltech-101 has {CLASSES} and {BACKGROUND}; {MEND}"
        )
    _check_names(folder, found)
    listed = Caltech101(parent)
    names = [listed.categories[label] for label in listed.y]
    files = [f"{name}/image_{number:04d}.jpg" for name, number in zip(names, listed.index, strict=True)]
    return FileImages(folder, files, list(listed.y), listed.categories)


def _check_names(folder: Path, classes: Sequence[str]) -> None:
    """Make sure that each class holds image_0001.jpg to image_N.jpg: torchvision counts files and makes up names."""
    for name in classes:
        if name == BACKGROUND:
            continue
        files = image_files(folder / name)
        everything = sorted(path.name for path in (folder / name).iterdir())
        wanted = [f"image_{number:04d}.jpg" for number in range(1, len(everything) + 1)]
        if files != wanted:
            odd = sorted(set(everything) ^ set(wanted))
            what = f"{odd[0]} is missing or does not belong there" if odd else "the folder is empty"
            raise UserError(f"{folder / name}: {what}; {MEND}")


def split(pool: FileImages, seed: int) -> tuple[Subset, Subset, Subset]:
    """Draw 30 images of each class for training, and the rest for scoring.

    Args:
        pool: from `open_pool`.
        seed: of the draw.

    Returns:
        25 images a class to fit on, 5 a class to choose settings on (which are training images too), and the rest.

    Raises:
        UserError: a class has too few images.
    """
    counts = [0] * len(pool.classes)
    for target in pool.targets:
        counts[target] += 1
    if min(counts) <= TRAIN_EACH:
        name = pool.classes[counts.index(min(counts))]
        raise UserError(f"{pool.folder / name}: {min(counts)} images, where more than {TRAIN_EACH} are needed; {MEND}")
    classes = len(pool.classes)
    fit, held_out, rest = divide(pool, [[TRAIN_EACH - HELD_OUT_EACH] * classes, [HELD_OUT_EACH] * classes], seed)
    return fit, held_out, rest


def prepare_caltech101(archives: Sequence[Path], root: Path) -> None:
    """Unpack the images to `root/caltech101/101_ObjectCategories/`; done already is left alone.

    Args:
        archives: `caltech-101.zip` as data.caltech.edu gives it, the older `101_ObjectCategories.tar.gz`, or a folder
            with one of them; none: download.
        root: where to; made where it does not exist.

    Raises:
        UserError: there is no archive or network, an archive is torn or another one, or the disk is full.
    """
    target = torchvision_root(root) / FOLDER / IMAGES
    lock = held(
        root / ".salmask-prepare.lock",
        taken=UserError(f"{root}: another process is preparing this folder", mend="wait until it has finished"),
        unwritable="name a folder that can be written with --root",
    )
    with lock:
        if target.is_dir():
            return
        archive = _archive(archives, root)
        check_md5(archive, ARCHIVES[archive.name])
        target.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            with blaming(archive, target.parent):
                tar = stack.enter_context(tarfile.open(fileobj=_tar_stream(archive, stack), mode="r|gz"))
            unpack_folder(tar, IMAGES, target, source=archive)


def _archive(given: Sequence[Path], root: Path) -> Path:
    for name in ARCHIVES:
        if (found := locate(given, name)) is not None:
            return found
    if given:
        raise UserError(
            f"{', '.join(map(str, given))}: {' or '.join(ARCHIVES)} missing; download {URL} and name it with --from"
        )
    return fetch(URL, root, ARCHIVES["caltech-101.zip"])


def _tar_stream(archive: Path, stack: ExitStack) -> IO[bytes]:
    if archive.suffix != ".zip":
        return stack.enter_context(archive.open("rb"))
    try:
        outer = stack.enter_context(zipfile.ZipFile(archive))
        (inner,) = (name for name in outer.namelist() if name.endswith(f"/{IMAGES}.tar.gz") and "__MACOSX" not in name)
        return stack.enter_context(outer.open(inner))
    except (*TORN, ValueError) as error:
        raise UserError(f"{archive}: holds no {IMAGES}.tar.gz ({reason(error)}); download it again") from error
