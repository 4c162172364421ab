"""Image files, good and bad, and small data sets made of them."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from repro.data.imagenet import class_list


def write_image(path: Path, seed: int, mode: str = "RGB", size: tuple[int, int] = (12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def bad_image(folder: Path, what: str) -> Path:
    path = folder / f"{what}.jpg"
    if what == "empty":
        path.write_bytes(b"")
    elif what == "text":
        path.write_text("404: not found")
    elif what == "truncated":
        whole = write_image(folder / "whole.jpg", 5, size=(64, 64))
        path.write_bytes(whole.read_bytes()[:-400])
        whole.unlink()
    elif what == "corrupt-png":
        whole = write_image(folder / "whole.png", 5, size=(64, 64))
        content = bytearray(whole.read_bytes())
        content[60:90] = bytes(30)
        path.write_bytes(content)
        whole.unlink()
    elif what == "float":
        Image.new("F", (8, 8), 0.5).save(path, format="TIFF")
    else:
        Image.new("RGB", {"1x1": (1, 1), "1x40": (1, 40)}[what], "red").save(path)
    return path


BAD_IMAGES = {
    "empty": ("zero-byte", "empty"),
    "text": ("unreadable", "not an image"),
    "truncated": ("unreadable", "truncated"),
    "corrupt-png": ("unreadable", "cannot be decoded"),
    "float": ("unreadable", "floating-point"),
    "1x1": ("too-small", "1×1"),
    "1x40": ("too-small", "1×40"),
}


def make_folder_root(root: Path) -> Path:
    """Three classes, four training and two validation images each."""
    seed = 0
    for split, count in (("train", 4), ("val", 2)):
        for name in ("zebra", "ant", "mole"):
            for index in range(count):
                seed += 1
                write_image(root / split / name / f"{index}.png", seed)
    return root


def make_imagenet_root(root: Path) -> Path:
    """A small ImageNet-1k root: an image per split for each of the hundred classes and two others."""
    seed = 0
    for split in ("train", "val"):
        for wnid in (*class_list(), "n00000001", "n99999999"):
            seed += 1
            write_image(root / split / wnid / f"{wnid}_{seed}.JPEG", seed, size=(4, 4))
    return root


def save_numbers(path: Path, numbers: Any) -> Path:
    """Writes a map or a mask as a picture or as an array, by its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, numbers)
    else:
        Image.fromarray(numbers).save(path)
    return path


def write_objects(root: Path, folder: Path) -> Path:
    """Writes a map with an object in it for each training image, each elsewhere, alternately as PNG and as array."""
    for number, image in enumerate(sorted((root / "train").glob("*/*"))):
        numbers = np.zeros((20, 30), dtype=np.uint8)
        numbers[number : number + 8, 2 * number : 2 * number + 9] = 200
        save_numbers(folder / image.parent.name / f"{image.stem}{'.npy' if number % 2 else '.png'}", numbers)
    return folder
