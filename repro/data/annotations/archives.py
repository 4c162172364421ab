"""The downloaded archives of PASCAL VOC and COCO, unpacked into their own layouts."""

import contextlib
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from rich.console import Console
from rich.progress import Progress

from repro.data.annotations import coco, voc
from repro.data.archives import blaming, check_md5, fetch, locate
from repro.errors import UserError
from repro.runs.lock import held

_VOC_URL = "https://thor.robots.ox.ac.uk/pascal/VOC"  # as torchvision.datasets.voc has it
_COCO_URL = "http://images.cocodataset.org"
_VOC_FOLDERS = ("Annotations", "ImageSets", "JPEGImages")  # the others are of segmentation and of actions


_Members = Mapping[PurePosixPath, tuple[int, Callable[[], IO[bytes]]]]
"""Name -> (size in bytes, how to read it)."""


@dataclass(frozen=True)
class Archive:
    """One download.

    Attributes:
        url: Where it is published; the last part is its name.
        md5: Of the file.
        wanted: Whether detection needs the member of a path.
    """

    url: str
    md5: str
    wanted: Callable[[PurePosixPath], bool]

    @property
    def name(self) -> str:
        """Its file's name."""
        return self.url.rpartition("/")[2]


def _of_voc(path: PurePosixPath) -> bool:
    return len(path.parts) > 2 and path.parts[0] == "VOCdevkit" and path.parts[2] in _VOC_FOLDERS


def _coco_image(path: PurePosixPath) -> bool:
    return len(path.parts) == 2 and path.parts[0] in coco.SPLITS


def _coco_instances(path: PurePosixPath) -> bool:
    return path.parts[:1] == ("annotations",) and path.name in {f"instances_{split}.json" for split in coco.SPLITS}


# MD5: of VOC as torchvision.datasets.voc has them; of COCO as lightning-flash, PaddleDetection and others do.
_VOC_MD5 = ("c52e279531787c972589f7e41ab4ae64", "6cd6e144f989b92b3379bac3b3de84fd", "b6e924de25625d8de591ea690078ad9f")
VOC_ARCHIVES = tuple(
    Archive(f"{_VOC_URL}/voc{image_set.year}/{voc.ARCHIVES[image_set]}", md5, _of_voc)
    for image_set, md5 in zip(voc.IMAGE_SETS, _VOC_MD5, strict=True)
)
COCO_ARCHIVES = (
    Archive(f"{_COCO_URL}/annotations/{coco.ANNOTATION_ARCHIVE}", "f4bbac642086de4f52a3fdda2de5fa2c", _coco_instances),
    Archive(f"{_COCO_URL}/zips/{coco.IMAGE_ARCHIVES[coco.TEST]}", "442b8da7639aecaf257c1dceb8ba8c80", _coco_image),
    Archive(f"{_COCO_URL}/zips/{coco.IMAGE_ARCHIVES[coco.TRAIN]}", "cced6f7f71b7629ddf16f17bbcfab6b2", _coco_image),
)


def prepare_voc(archives: Sequence[Path], root: Path) -> None:
    """Unpack what detection needs of VOC 2007 trainval and test and of 2012 trainval into `root/VOCdevkit/`.

    It can be stopped at any time and run again: members that are there already are left alone.

    Args:
        archives: the three tar files of `voc.ARCHIVES`, or folders with them; none: download them into `root`.
        root: where to; made where it does not exist.

    Raises:
        UserError: an archive is missing, torn or another one, there is no network, the disk is full, the root cannot be
            written to, or another process is preparing it.
    """
    _prepare(VOC_ARCHIVES, archives, root)


def prepare_coco(archives: Sequence[Path], root: Path) -> None:
    """Unpack what detection needs of COCO 2017 into `root/train2017/`, `root/val2017/` and `root/annotations/`.

    It can be stopped at any time and run again: members that are there already are left alone.

    Args:
        archives: the three zip files, or folders with them; none: download them into `root`.
        root: where to; made where it does not exist.

    Raises:
        UserError: see `prepare_voc`.
    """
    _prepare(COCO_ARCHIVES, archives, root)


def _prepare(needed: Sequence[Archive], given: Sequence[Path], root: Path) -> None:
    lock = held(
        root / ".salmask-prepare.lock",
        taken=UserError(f"{root}: another process is preparing this folder", mend="wait until it has finished"),
        unwritable="name a folder that can be written with --root",
    )
    with lock:
        found = _located(needed, given, root)
        for archive, path in found.items():
            with _checking(archive):
                check_md5(path, archive.md5)
        for archive, path in found.items():
            with blaming(path, root), _members(path, archive) as members:
                _unpack_all(members, root, archive.name)
        os.sync()


def _checking(archive: Archive) -> contextlib.AbstractContextManager[object]:
    """Tell a person at a terminal why nothing is written yet."""
    console = Console(stderr=True)
    return console.status(f"{archive.name}: checksum") if console.is_terminal else contextlib.nullcontext()


def _unpack_all(members: _Members, root: Path, title: str) -> None:
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=sum(size for size, _ in members.values()))
        for name, (size, opened) in members.items():
            _unpack(root / name, size, opened)
            progress.advance(task, size)


def _located(needed: Sequence[Archive], given: Sequence[Path], root: Path) -> Mapping[Archive, Path]:
    """Where each archive is; all are known to be there before the first is read."""
    if not given:
        return {archive: fetch(archive.url, root, archive.md5) for archive in needed}
    found = {archive: locate(given, archive.name) for archive in needed}
    missing = [archive for archive, path in found.items() if path is None]
    if missing:
        urls = ", ".join(archive.url for archive in missing)
        raise UserError(f"{', '.join(map(str, given))}: missing {urls}", mend="download and name it with --from")
    return {archive: path for archive, path in found.items() if path is not None}


@contextlib.contextmanager
def _members(path: Path, archive: Archive) -> Iterator[_Members]:
    """The wanted members of an archive, while it is open."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as packed:
            listed = ((info.filename, info.file_size, partial(packed.open, info)) for info in packed.infolist())
            yield _wanted(listed, archive)
    else:
        with tarfile.open(path) as tar:
            files = ((member.name, member.size, partial(_extracted, tar, member)) for member in tar if member.isreg())
            yield _wanted(files, archive)


def _extracted(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = tar.extractfile(member)
    if stream is None:
        raise tarfile.ReadError(f"{member.name} is no regular file")
    return stream


def _wanted(inside: Iterator[tuple[str, int, Callable[[], IO[bytes]]]], archive: Archive) -> _Members:
    wanted = {}
    for name, size, opened in inside:
        path = PurePosixPath(name)
        if not name.endswith("/") and ".." not in path.parts and archive.wanted(path):
            wanted[path] = (size, opened)
    if not wanted:
        raise tarfile.ReadError("it holds nothing that detection needs")
    return wanted


def _unpack(target: Path, size: int, opened: Callable[[], IO[bytes]]) -> None:
    """Write a member; not synced, since a file that a power cut left short is told by its size and written again."""
    if target.is_file() and target.stat().st_size == size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with opened() as stream, part.open("wb") as file:
        shutil.copyfileobj(stream, file)
        if file.tell() != size:
            raise tarfile.ReadError(f"{target.name} has {file.tell()} of {size} bytes")
    part.replace(target)
