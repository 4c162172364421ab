"""The archives of ImageNet in small: images, tar files of them, and a devkit in the layout of the real one."""

import io
import tarfile
from collections.abc import Iterator

import numpy as np
from PIL import Image
from scipy.io import savemat


def jpegs() -> Iterator[bytes]:
    for seed in range(10_000):
        stream = io.BytesIO()
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(stream, "JPEG")
        yield stream.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def tar_of(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members.items():
            add(archive, name, content)
    return stream.getvalue()


def devkit(wnids: list[str], truth: list[int]) -> bytes:
    """A devkit in the layout of the real one: 1-based ids, and inner nodes after the leaves."""
    nodes = [(number, wnid, 0) for number, wnid in enumerate(wnids, start=1)]
    nodes += [(len(wnids) + 1, "n00001740", 3), (len(wnids) + 2, "n00001930", 2)]
    fields = [
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    ]
    synsets = np.zeros((len(nodes), 1), dtype=[(name, "O") for name in fields])
    for row, (number, wnid, children) in enumerate(nodes):
        synsets[row, 0] = (
            number,
            wnid,
            "a, b",
            "a thing",
            children,
            np.arange(children),
            0 if not children else 2,
            1300,
        )
    mat = io.BytesIO()
    savemat(mat, {"synsets": synsets})
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        add(archive, "ILSVRC2012_devkit_t12/readme.txt", b"hello")
        add(archive, "ILSVRC2012_devkit_t12/data/meta.mat", mat.getvalue())
        lines = "".join(f"{number}\n" for number in truth)
        add(archive, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", lines.encode())
    return stream.getvalue()
