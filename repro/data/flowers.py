"""Oxford Flowers-102: 8,189 images of 102 classes, with an official split and the one that the paper's numbers fit."""

import tarfile
from collections.abc import Sequence
from pathlib import Path

from repro.data.archives import blaming, check_md5, fetch, locate, unpack_folder
from repro.data.folders import FileImages
from repro.data.subsets import Subset, apportion, divide, sizes
from repro.errors import UserError
from repro.files import write_atomically
from repro.runs.lock import held

EXPECTED = 8_189
OFFICIAL = {"train": 1_020, "val": 1_020, "test": 6_149}
VAL_SHARE, TEST_SHARE = 818, 819
"""Of 8,189: the paper's accuracies are multiples of 1/818, and that folder split is 6,552/818/819."""

FOLDER, IMAGES = "flowers-102", "jpg"
ARCHIVE = "102flowers.tgz"
MEND = "unpack with `salmask data prepare flowers102`"


def torchvision_root(root: Path) -> Path:
    """What torchvision's class calls root: the folder that `flowers-102/` lies in, which may be named itself."""
    return root.parent if root.name == FOLDER and not (root / FOLDER).is_dir() else root


def open_pool(root: Path) -> FileImages:
    """All images, in the order of the official train, val and test lists; decoded by `repro.data.images`.

    Args:
        root: `root/flowers-102/` with `jpg/`, `imagelabels.mat` and `setid.mat`; or that folder itself.

    Raises:
        UserError: the folder is missing, or a list is missing or not the published one.
    """
    return _official(root)[0]


def official(root: Path) -> tuple[Subset, Subset, Subset]:
    """The official split: train and val with ten images a class, and test.

    Raises:
        UserError: as `open_pool`.
    """
    pool, counts = _official(root)
    ends = (counts[0], counts[0] + counts[1], len(pool))
    train, val, test = (Subset(pool, range(end - count, end)) for end, count in zip(ends, counts, strict=True))
    return train, val, test


def _official(root: Path) -> tuple[FileImages, list[int]]:
    from torchvision.datasets import Flowers102

    parent = torchvision_root(root)
    base = parent / FOLDER
    if not (base / IMAGES).is_dir():
        raise UserError(f"{root}: holds no {FOLDER}/{IMAGES}; {MEND}, or name the folder that it lies in")
    for name, md5 in _lists().items():
        if not (base / name).is_file():
            raise UserError(f"{base / name}: missing; {MEND}")
        check_md5(base / name, md5)
    parts = [Flowers102(parent, part) for part in OFFICIAL]
    files = [f"{IMAGES}/{path.name}" for part in parts for path in part._image_files]
    targets = [label for part in parts for label in part._labels]
    return FileImages(base, files, targets, Flowers102.classes), [len(part) for part in parts]


def _lists() -> dict[str, str]:
    from torchvision.datasets import Flowers102

    return {Flowers102._file_dict[key][0]: Flowers102._file_dict[key][1] for key in ("label", "setid")}


def eighty_ten_ten(pool: FileImages, seed: int) -> tuple[Subset, Subset, Subset]:
    """Draw train, val and test with every class in proportion: 6,552, 818 and 819 of 8,189.

    The published folder split itself is not at hand; one of its sizes, drawn from a seed, stands for it.
    """
    available, count = sizes(pool), len(pool)
    val = apportion(available, round(count * VAL_SHARE / EXPECTED))
    test = apportion(available, round(count * TEST_SHARE / EXPECTED))
    drawn_val, drawn_test, train = divide(pool, [val, test], seed)
    return train, drawn_val, drawn_test


def prepare_flowers102(archives: Sequence[Path], root: Path) -> None:
    """Unpack the images and copy the two lists to `root/flowers-102/`; done already is left alone.

    Args:
        archives: `102flowers.tgz`, `imagelabels.mat` and `setid.mat` as robots.ox.ac.uk gives them, or a folder with
            them; none: download.
        root: where to; made where it does not exist.

    Raises:
        UserError: there is no archive or network, a file is torn or another one, or the disk is full.
    """
    from torchvision.datasets import Flowers102

    base = torchvision_root(root) / FOLDER
    lock = held(
        root / ".salmask-prepare.lock",
        taken=UserError(f"{root}: another process is preparing this folder", mend="wait until it has finished"),
        unwritable="name a folder that can be written with --root",
    )
    published = dict(Flowers102._file_dict.values())
    with lock:
        wanted = {name for name in published if not (base / (IMAGES if name == ARCHIVE else name)).exists()}
        found = {name: locate(archives, name) for name in sorted(wanted)}
        missing = [name for name, path in found.items() if path is None]
        if archives and missing:
            raise UserError(
                f"{', '.join(map(str, archives))}: {', '.join(missing)} missing; download from "
                f"{Flowers102._download_url_prefix} and name the files, or their folder, with --from"
            )
        base.mkdir(parents=True, exist_ok=True)
        for name, path in found.items():
            source = path or fetch(f"{Flowers102._download_url_prefix}{name}", root, published[name])
            check_md5(source, published[name])
            if name == ARCHIVE:
                with blaming(source, base), tarfile.open(source, "r|gz") as archive:
                    unpack_folder(archive, IMAGES, base / IMAGES, source=source)
            else:
                _copy(source, base / name)


def _copy(source: Path, target: Path) -> None:
    content = source.read_bytes()
    write_atomically(target, lambda file: file.write(content))
