"""Caltech-101 and Flowers-102 in small: their real layouts, lists and archives, with a few tiny images."""

import functools
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import Flowers102

from repro.data import caltech

CALTECH = {"BACKGROUND_Google": 3, "Faces": 33, "accordion": 31, "yin_yang": 36}
"""Class folder -> images."""
KINDS = 6
"""Kinds of flowers that occur; the real 102 names remain."""
FLOWERS = KINDS * 40


def jpeg(seed: int, size: int = 16) -> bytes:
    """Noise in which one channel, seed mod 3, is brighter; every seventh image is grey, as some of Caltech's are."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 80, (size, size + 4, 3), dtype=np.uint8)
    pixels[..., seed % 3] += 100
    stream = io.BytesIO()
    Image.fromarray(pixels).convert("L" if seed % 7 == 0 else "RGB").save(stream, "JPEG")
    return stream.getvalue()


@functools.cache
def caltech_images() -> dict[str, bytes]:
    """Path below `101_ObjectCategories` -> content."""
    names = [f"{name}/image_{n:04d}.jpg" for name, count in CALTECH.items() for n in range(1, count + 1)]
    return {name: jpeg(seed) for seed, name in enumerate(names)}


def make_caltech(root: Path) -> Path:
    for name, content in caltech_images().items():
        path = root / "caltech101" / "101_ObjectCategories" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


@functools.cache  # cached: files contain the time of writing, so two calls would differ
def flower_lists() -> tuple[bytes, bytes]:
    """`imagelabels.mat` and `setid.mat`: labels from 1, image i of kind i mod 6; 24 train, 36 val, the rest test."""
    labels = np.array([[1 + image % KINDS for image in range(FLOWERS)]], dtype=np.uint8)
    order = np.random.default_rng(0).permutation(FLOWERS) + 1
    sets = {"trnid": order[None, :24], "valid": order[None, 24:60], "tstid": order[None, 60:]}
    first, second = io.BytesIO(), io.BytesIO()
    savemat(first, {"labels": labels})
    savemat(second, {name: ids.astype(np.uint16) for name, ids in sets.items()})
    return first.getvalue(), second.getvalue()


@functools.cache
def flower_files() -> dict[str, bytes]:
    """Path below `flowers-102` -> content."""
    labels, sets = flower_lists()
    images = {f"jpg/image_{number:05d}.jpg": jpeg(1000 + number) for number in range(1, FLOWERS + 1)}
    return {"imagelabels.mat": labels, "setid.mat": sets, **images}


def make_flowers(root: Path) -> Path:
    for name, content in flower_files().items():
        path = root / "flowers-102" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def tar_gz(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@functools.cache  # cached: files contain the time of writing, so two calls would differ
def caltech_zip() -> bytes:
    """As data.caltech.edu packs it, with the files that macOS adds."""
    images = {f"101_ObjectCategories/{name}": content for name, content in caltech_images().items()}
    images["101_ObjectCategories/Faces/._image_0001.jpg"] = b"mac"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("caltech-101/101_ObjectCategories.tar.gz", tar_gz(images))
        archive.writestr("__MACOSX/caltech-101/._101_ObjectCategories.tar.gz", b"mac")
        archive.writestr("caltech-101/Annotations.tar", b"not read")
    return stream.getvalue()


@functools.cache  # cached: files contain the time of writing, so two calls would differ
def flower_archives() -> dict[str, bytes]:
    files = flower_files()
    images = {name: content for name, content in files.items() if name.startswith("jpg/")}
    return {"102flowers.tgz": tar_gz(images), **{name: files[name] for name in ("imagelabels.mat", "setid.mat")}}


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def recognise_miniatures(patch: pytest.MonkeyPatch, archives: dict[str, bytes] | None = None) -> None:
    """Let the checks take the miniatures' sizes and checksums for the published ones."""
    labels, sets = flower_lists()
    contents = archives or {}
    patch.setattr(caltech, "CLASSES", len(CALTECH) - 1)
    patch.setattr(
        Flowers102,
        "_file_dict",
        {
            "image": ("102flowers.tgz", md5(contents.get("102flowers.tgz", b""))),
            "label": ("imagelabels.mat", md5(labels)),
            "setid": ("setid.mat", md5(sets)),
        },
    )
    for name in caltech.ARCHIVES:
        if name in contents:
            patch.setitem(caltech.ARCHIVES, name, md5(contents[name]))
