"""Oxford Flowers-102: 8,189 images of 102 classes, with the official split and one that fits the paper's numbers."""

import tarfile
from collections.abc import Sequence
from pathlib import Path

from repro.data.archives import blaming, check_md5, locate_all, md5_of, preparing, unpack_folder
from repro.data.downloads import obtain
from repro.data.errors import PathError
from repro.data.folders import FileImages, folder_above, image_files
from repro.data.subsets import Subset, apportion, divide, sizes
from repro.errors import shortened
from repro.filesystem.files import write_bytes
from repro.filesystem.presence import exists, is_file, is_folder

EXPECTED = 8_189
"""Images in all."""
OFFICIAL = {"train": 1_020, "val": 1_020, "test": 6_149}
"""Images of each list of the official split, in the order of `setid.mat`'s lists as torchvision reads them."""
VAL_SHARE, TEST_SHARE = 818, 819
"""Of 8,189: the paper's accuracies are multiples of 1/818, as of a folder split that has 6,552/818/819 images."""

FOLDER, IMAGES = "flowers-102", "jpg"
ARCHIVE = "102flowers.tgz"
MEND = "unpack with `salmask data prepare flowers102`"


def open_pool(root: Path) -> FileImages:
    """Lists all images, in the order of the official train, val and test lists; `repro.data.images` decodes them.

    Args:
        root: The folder above `flowers-102/` with `jpg/`, `imagelabels.mat` and `setid.mat`; or that folder itself.

    Raises:
        UserError: The folder is missing, or a list is missing or not the published one.
    """
    return _pool_and_counts(root)[0]


def official(root: Path) -> tuple[Subset, Subset, Subset]:
    """Opens the official split: train and val with ten images a class, and test.

    Raises:
        UserError: As `open_pool` does.
    """
    pool, counts = _pool_and_counts(root)
    ends = (counts[0], counts[0] + counts[1], len(pool))  # the pool has the lists one after another
    train, val, test = (Subset(pool, range(end - count, end)) for end, count in zip(ends, counts, strict=True))
    return train, val, test


def _pool_and_counts(root: Path) -> tuple[FileImages, list[int]]:
    """Returns all images, one official list after another, and how many images each list has."""
    from torchvision.datasets import Flowers102

    parent = folder_above(root, FOLDER)
    base = parent / FOLDER
    if not is_folder(base / IMAGES):
        raise PathError(root, f"holds no {FOLDER}/{IMAGES}", mend=f"{MEND}, or name the folder that it lies in")
    # torchvision checks them too, but says no more than that something is missing or corrupt.
    for name, md5 in _lists().items():
        if not is_file(base / name):
            raise PathError(base / name, "missing", mend=MEND)
        check_md5(base / name, md5, mend=MEND)
    splits = [Flowers102(parent, split) for split in OFFICIAL]
    files = [f"{IMAGES}/{path.name}" for split in splits for path in split._image_files]
    # The names come from the lists: without this check, a missing image would be noticed only when it is read.
    missing = sorted(set(files) - {f"{IMAGES}/{name}" for name in image_files(base / IMAGES)})
    if missing:
        again = f"remove {base / IMAGES}, and `salmask data prepare flowers102` again"
        raise PathError(base, f"{shortened(missing)} of {len(files)} images missing", mend=again)
    targets = [label for split in splits for label in split._labels]
    return FileImages(base, files, targets, Flowers102.classes), [len(split) for split in splits]


def _lists() -> dict[str, str]:
    """Returns the MD5 of the file of labels and of the file of splits, by their names."""
    from torchvision.datasets import Flowers102

    return dict(Flowers102._file_dict[key] for key in ("label", "setid"))


def eighty_ten_ten(pool: FileImages, seed: int) -> tuple[Subset, Subset, Subset]:
    """Draws train, val and test with every class in proportion: 6,552, 818 and 819 of 8,189.

    The published folder split itself is not available; one of the same sizes, drawn from a seed, stands for it.
    """
    class_sizes, count = sizes(pool), len(pool)
    val_counts = apportion(class_sizes, round(count * VAL_SHARE / EXPECTED))
    test_counts = apportion(class_sizes, round(count * TEST_SHARE / EXPECTED))
    # Training comes last since it is what remains: only the sizes of the other two are prescribed.
    val, test, train = divide(pool, [val_counts, test_counts], seed)
    return train, val, test


def prepare_flowers102(archives: Sequence[Path], root: Path) -> None:
    """Unpacks the images and copies the two lists to `root/flowers-102/`; what is done already is left alone.

    Args:
        archives: `102flowers.tgz`, `imagelabels.mat` and `setid.mat` as robots.ox.ac.uk gives them, or a folder with
            them; none: download.
        root: The folder to unpack into; made where it does not exist.

    Raises:
        UserError: There is no archive or network, a file is torn or another one, the disk is full, or images are
            missing from a folder of them that is there.
    """
    from torchvision.datasets import Flowers102

    base = folder_above(root, FOLDER) / FOLDER
    checksums = dict(Flowers102._file_dict.values())
    urls = {name: f"{Flowers102._download_url_prefix}{name}" for name in checksums}

    def pending() -> list[str]:
        lists = [name for name, md5 in _lists().items() if not (is_file(base / name) and md5_of(base / name) == md5)]
        return sorted([*lists, *([] if exists(base / IMAGES) else [ARCHIVE])])

    if not pending():
        open_pool(root)
        return
    # All of them before the first is unpacked, so that the error names everything that is missing. And before the
    # lock, which creates the root: if the wrong files were named, nothing is left on disk.
    paths = locate_all(archives, {name: urls[name] for name in pending()}, "flowers102") if archives else {}
    with preparing(root):
        for name in pending():
            source = obtain(urls[name], root, checksums[name], paths.get(name))
            with blaming(source, base):
                if name == ARCHIVE:
                    with tarfile.open(source, "r|gz") as archive:
                        unpack_folder(archive, IMAGES, base / IMAGES, source=source)
                else:
                    write_bytes(base / name, source.read_bytes())
    open_pool(root)
