"""The downloaded archives of PASCAL VOC and COCO, unpacked into their own layouts."""

import contextlib
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from repro.command_line.progress import BYTES, ProgressBars, doing
from repro.data.annotations import coco, voc
from repro.data.annotations.findings import Survey
from repro.data.archives import (
    blaming,
    has_all,
    locate_all,
    open_member,
    preparing,
    write_member_atomically,
)
from repro.data.downloads import obtain
from repro.data.folders import folder_above
from repro.errors import UserError

_VOC_URL = "https://thor.robots.ox.ac.uk/pascal/VOC"  # as torchvision.datasets.voc has it
_COCO_URL = "http://images.cocodataset.org"
_VOC_FOLDERS = ("Annotations", "ImageSets", "JPEGImages")  # the others are for segmentation and action recognition


_Members = Mapping[PurePosixPath, tuple[int, Callable[[], IO[bytes]]]]
"""The members of an open archive, tar or zip, by name: (size in bytes, how to open it)."""


@dataclass(frozen=True)
class Archive:
    """One file to download.

    Attributes:
        url: Where it is published; the last part is the file's name.
        md5: The MD5 of the file, 32 hex digits.
        needs: Returns whether detection needs the member at a path.
    """

    url: str
    md5: str
    needs: Callable[[PurePosixPath], bool]

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


def _is_of_voc(path: PurePosixPath) -> bool:
    return len(path.parts) > 2 and path.parts[0] == voc.DEVKIT and path.parts[2] in _VOC_FOLDERS


def _is_coco_image(path: PurePosixPath) -> bool:
    return len(path.parts) == 2 and path.parts[0] in coco.SPLITS


def _is_annotation_file(path: PurePosixPath) -> bool:
    return Path(path) in [coco.annotation_file(Path(), split) for split in coco.SPLITS]


# MD5: of VOC as torchvision.datasets.voc has them; of COCO as lightning-flash, PaddleDetection and others do.
_VOC_MD5 = ("c52e279531787c972589f7e41ab4ae64", "6cd6e144f989b92b3379bac3b3de84fd", "b6e924de25625d8de591ea690078ad9f")
VOC_ARCHIVES = tuple(
    Archive(f"{_VOC_URL}/voc{image_set.year}/{voc.ARCHIVES[image_set]}", md5, _is_of_voc)
    for image_set, md5 in zip(voc.IMAGE_SETS, _VOC_MD5, strict=True)
)
COCO_ARCHIVES = (
    Archive(
        f"{_COCO_URL}/annotations/{coco.ANNOTATION_ARCHIVE}", "f4bbac642086de4f52a3fdda2de5fa2c", _is_annotation_file
    ),
    Archive(f"{_COCO_URL}/zips/{coco.TEST}.zip", "442b8da7639aecaf257c1dceb8ba8c80", _is_coco_image),
    Archive(f"{_COCO_URL}/zips/{coco.TRAIN}.zip", "cced6f7f71b7629ddf16f17bbcfab6b2", _is_coco_image),
)


def prepare_voc(archives: Sequence[Path], root: Path) -> None:
    """Unpacks what detection needs of VOC 2007 trainval and test and of 2012 trainval into `root/VOCdevkit/`.

    It can be stopped at any time and run again: members that are there already are left alone.

    Args:
        archives: The three tar files of `voc.ARCHIVES`, or folders with them; none: download them into `root`. Not
            needed where the data set is whole.
        root: The folder to unpack into, or `VOCdevkit` in it; made where it does not exist.

    Raises:
        UserError: An archive is missing, torn or another one, there is no network, the disk is full, the root cannot be
            written to, or another process is preparing it.
    """
    above = folder_above(root, voc.DEVKIT)
    _prepare(VOC_ARCHIVES, "voc07+12", archives, root, above, lambda: _is_whole(voc.survey_root, root, voc.EXPECTED))


def prepare_coco(archives: Sequence[Path], root: Path) -> None:
    """Unpacks what detection needs of COCO 2017 into `root/train2017/`, `root/val2017/` and `root/annotations/`.

    It can be stopped at any time and run again: members that are there already are left alone.

    Args:
        archives: The three zip files, or folders with them; none: download them into `root`. Not needed where the data
            set is whole.
        root: The folder to unpack into; made where it does not exist.

    Raises:
        UserError: As `prepare_voc` does.
    """
    _prepare(COCO_ARCHIVES, "coco", archives, root, root, lambda: _is_whole(coco.survey_root, root, coco.EXPECTED))


def _prepare(
    archives: Sequence[Archive],
    dataset: str,
    given: Sequence[Path],
    root: Path,
    above: Path,
    is_whole: Callable[[], bool],
) -> None:
    """Unpacks archives, given or downloaded into `root`, so that their members lie below `above`."""
    names = {archive.name: archive.url for archive in archives}
    # A whole data set needs no archive. If all are given, the size of each member is compared, which finds torn images.
    if not has_all(given, names) and is_whole():
        return
    # Before the lock, which creates the root: if the wrong files were named, nothing is left on disk.
    located = locate_all(given, names, dataset) if given else {}
    with preparing(root):
        # All checksums before the first member is written: a wrong archive must not leave half a data set.
        paths = {archive: obtain(archive.url, root, archive.md5, located.get(archive.name)) for archive in archives}
        for archive, path in paths.items():
            with blaming(path, root), _members(path, archive) as members:
                _unpack_all(members, above, archive.name)
        os.sync()  # 10^5 small files: flushing each of them would take longer than unpacking


def _is_whole(survey_root: Callable[[Path], Survey], root: Path, expected: Mapping[str, int]) -> bool:
    """Returns whether a root holds as many images as were published, and nothing is wrong with the annotations."""
    with doing(f"reading what is in {root}"):
        try:
            survey = survey_root(root)
        except UserError:
            return False
    return not survey.findings and survey.images == expected


def _unpack_all(members: _Members, root: Path, title: str) -> None:
    with ProgressBars() as progress:
        task = progress.add_task(title, total=sum(size for size, _ in members.values()), unit=BYTES)
        for name, (size, open_stream) in members.items():
            write_member_atomically(root / name, size, open_stream, synced=False)
            progress.advance(task, size)


@contextlib.contextmanager
def _members(path: Path, archive: Archive) -> Iterator[_Members]:
    """Opens an archive and yields the members that detection needs; they can be read while it is open."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as packed:
            files = ((info.filename, info.file_size, partial(packed.open, info)) for info in packed.infolist())
            yield _needed_members(files, archive)
    else:
        with tarfile.open(path) as tar:
            files = ((member.name, member.size, partial(open_member, tar, member)) for member in tar if member.isreg())
            yield _needed_members(files, archive)


def _needed_members(files: Iterator[tuple[str, int, Callable[[], IO[bytes]]]], archive: Archive) -> _Members:
    """Picks the members that detection needs from all of them, each as (name, size in bytes, how to open it).

    Raises:
        tarfile.ReadError: There are none, so this is another archive.
    """
    members = {}
    for name, size, open_stream in files:
        path = PurePosixPath(name)
        # ".." is refused since it could lead out of the root.
        if not name.endswith("/") and ".." not in path.parts and archive.needs(path):
            members[path] = (size, open_stream)
    if not members:
        raise tarfile.ReadError("it holds nothing that detection needs")
    return members
