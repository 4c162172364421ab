"""ImageNet-100: its class list, and its images out of the ILSVRC2012 archives.

Only the hundred classes are written: about 13 GB rather than 150. The training archive holds one tar file for each
class; these are read in place, never copied out. The validation archive is flat, and the devkit says which class an
image is of.
"""

import importlib.resources
import io
import re
import tarfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from repro.command_line.progress import BYTES, ProgressBars
from repro.data.archives import (
    DOWNLOAD_AGAIN,
    MAKE_READABLE,
    TORN,
    blaming,
    has_all,
    locate_all,
    open_member,
    preparing,
    whole_folder,
    write_member,
    write_member_atomically,
)
from repro.data.errors import PathError, reason_of
from repro.data.folders import image_files
from repro.filesystem.presence import is_folder

TRAIN_ARCHIVE = "ILSVRC2012_img_train.tar"
VAL_ARCHIVE = "ILSVRC2012_img_val.tar"
DEVKIT_ARCHIVE = "ILSVRC2012_devkit_t12.tar.gz"
VAL_EACH = 50
"""Validation images of each class."""

_CLASS_TAR = re.compile(r"(n\d{8})\.tar")
_TRAIN_IMAGE = re.compile(r"n\d{8}_\d+\.JPEG")
_VAL_IMAGE = re.compile(r"ILSVRC2012_val_\d{8}\.JPEG")
_META = "data/meta.mat"  # a member of the devkit: WordNet ids by ILSVRC2012's own numbers
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"  # such a number for each validation image, by line
_AVERAGE_BYTES = 130_000  # of a validation image, to say how much room is needed
_SOURCE = "https://image-net.org (an account is needed)"


def class_list() -> tuple[str, ...]:
    """Returns the 100 WordNet ids of ImageNet-100, sorted; a label is an index into them.

    Source: the list of CMC (Tian et al., 2020), which the paper's code reads its classes from.
    """
    text = importlib.resources.files("repro.data").joinpath("imagenet100_classes.txt").read_text(encoding="utf-8")
    return tuple(sorted(text.split()))


def prepare_imagenet100(archives: Sequence[Path], root: Path) -> None:
    """Unpacks the hundred classes into `root/train/WNID/` and `root/val/WNID/`.

    It can be stopped at any time and run again: a training class appears under its name only when all of it is on disk,
    and classes and validation images that are there already are left alone.

    Args:
        archives: `TRAIN_ARCHIVE` (not needed once all training classes are there), `VAL_ARCHIVE` and `DEVKIT_ARCHIVE`
            (not needed once all validation images are there too), as image-net.org gives them, or folders with them.
        root: Folder to unpack into; made where it does not exist. An ImageNet-1k root serves too.

    Raises:
        UserError: An archive is missing, torn or not what its name says (what is finished is kept); the disk is full;
            the root cannot be written; or another process is preparing the same root.
    """
    train, val = root / "train", root / "val"
    # A class folder is there only when it is whole, so the 138 GB of training images are not needed a second time.
    pending = {wnid for wnid in class_list() if not is_folder(train / wnid)}
    names = [*([TRAIN_ARCHIVE] if pending else []), VAL_ARCHIVE, DEVKIT_ARCHIVE]
    if not pending and not has_all(archives, names) and _is_whole(val):
        return
    # Before the lock, which creates the root: if the wrong files were named, nothing is left on disk.
    paths = locate_all(archives, dict.fromkeys(names, _SOURCE), "imagenet100")
    labels = _validation_labels(paths[DEVKIT_ARCHIVE])
    with preparing(root), ProgressBars() as progress:
        if pending:
            _unpack_train(paths[TRAIN_ARCHIVE], pending, train, progress)
        _unpack_val(paths[VAL_ARCHIVE], labels, val, progress)


def _is_whole(val: Path) -> bool:
    """Returns whether all validation images of the hundred classes are there."""
    folders = [val / wnid for wnid in class_list()]
    return all(is_folder(folder) and len(image_files(folder)) == VAL_EACH for folder in folders)


def _validation_labels(devkit: Path) -> dict[str, str]:
    """Reads which class each validation image is of.

    Returns:
        The WordNet id by file name, only for images of the hundred classes.

    Raises:
        UserError: The devkit is torn or another file, or a class has no validation image.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        with tarfile.open(devkit, "r:gz") as archive:
            contents = {ending: _member_bytes(archive, ending) for ending in (_META, _GROUND_TRUTH)}
        synsets = loadmat(io.BytesIO(contents[_META]), squeeze_me=True)["synsets"]
        leaves = synsets[synsets["num_children"] == 0]  # inner nodes of WordNet have ids too, but no images
        wnid_of = {int(number): str(wnid) for number, wnid in zip(leaves["ILSVRC2012_ID"], leaves["WNID"], strict=True)}
        truth = [wnid_of[int(line)] for line in contents[_GROUND_TRUTH].split()]
    except (*TORN, OSError, MatReadError, ValueError, KeyError, IndexError, TypeError) as error:
        # Only errors of the system have a number; those about torn files have none.
        if isinstance(error, OSError) and error.errno:
            raise PathError(devkit, reason_of(error), mend=MAKE_READABLE) from error
        raise PathError(
            devkit, f"not a whole ILSVRC2012 devkit ({reason_of(error)})", mend="download it again"
        ) from error
    classes = set(class_list())
    labels = {f"ILSVRC2012_val_{n:08d}.JPEG": wnid for n, wnid in enumerate(truth, start=1) if wnid in classes}
    if lacking := classes - set(labels.values()):
        reason = f"no validation image of {len(lacking)} of the 100 classes"
        raise PathError(devkit, reason, mend="download it again")
    return labels


def _member_bytes(archive: tarfile.TarFile, ending: str) -> bytes:
    """Reads the member whose name has this ending; the folder above it is named after the devkit's version."""
    for member in archive:
        if member.isfile() and member.name.endswith(f"/{ending}"):
            return _content(archive, member).read()
    raise tarfile.ReadError(f"no {ending}")


def _unpack_train(archive: Path, pending: set[str], folder: Path, progress: ProgressBars) -> None:
    """Unpacks the classes of `pending`, which is emptied as they are finished."""
    if finished := len(class_list()) - len(pending):
        progress.console.print(f"train: {finished} of {len(class_list())} classes are there already")
    with blaming(archive, folder), tarfile.open(archive, "r:") as outer:
        members, torn = _class_members(outer, pending)
        task = progress.add_task("train", total=sum(member.size for member in members.values()), unit=BYTES)
        for wnid, member in members.items():
            remaining = sum(members[name].size for name in pending & members.keys())
            with blaming(f"{archive}: member {member.name}", folder, remaining):
                _unpack_class(outer, member, folder / wnid, lambda size: progress.advance(task, size))
            pending.remove(wnid)
    # Raised only now: the classes before the cut of a truncated archive are worth having.
    if pending:
        reason = _not_in_it(f"{min(pending)}.tar", f"{len(pending) - 1} more of the 100 classes", len(pending))
        if torn:
            reason += f" ({torn})"
        raise PathError(archive, f"{reason}; the archive is incomplete", mend=DOWNLOAD_AGAIN)


def _class_members(outer: tarfile.TarFile, wnids: set[str]) -> tuple[dict[str, tarfile.TarInfo], str]:
    """Returns the nested tar file of each of the classes, and why the list ends early ("" where it does not)."""
    members: dict[str, tarfile.TarInfo] = {}
    try:
        for member in outer:
            name = _plain_name(member, _CLASS_TAR)
            if name is not None and (wnid := name.removesuffix(".tar")) in wnids:
                members[wnid] = member
    except tarfile.ReadError as error:
        return members, reason_of(error)
    return members, ""


def _unpack_class(
    outer: tarfile.TarFile, member: tarfile.TarInfo, target: Path, advance: Callable[[int], None]
) -> None:
    """Unpacks the nested tar file of one class in place; `advance` is told the bytes of each image."""
    with (
        whole_folder(target) as folder,
        open_member(outer, member) as stream,
        tarfile.open(fileobj=stream, mode="r:") as nested,
    ):
        end = 0
        for image in nested:
            name = _plain_name(image, _TRAIN_IMAGE)
            if name is not None:
                write_member(folder / name, _content(nested, image), image.size)
                advance(image.size)
            # A member's content is padded to whole blocks, and the next header follows; -(-a // b) rounds up.
            end = image.offset_data + -(-image.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        # tarfile takes a damaged header for the end of the archive; the true end is zeros.
        stream.seek(end)
        tail = stream.read()
        if end == 0 or not tail or any(tail):
            raise tarfile.ReadError(f"damaged after {end} bytes")


def _unpack_val(archive: Path, labels: Mapping[str, str], folder: Path, progress: ProgressBars) -> None:
    """Unpacks the validation images of `labels`, which says the class of each, image by image.

    Unlike those for training, they cannot be unpacked class by class: the archive is flat, and its classes are mixed.
    """
    task = progress.add_task("val", total=len(labels), unit="images")
    remaining = dict(labels)
    for wnid in sorted(set(labels.values())):
        with blaming(archive, folder, len(remaining) * _AVERAGE_BYTES):
            (folder / wnid).mkdir(parents=True, exist_ok=True)
    with blaming(archive, folder, len(remaining) * _AVERAGE_BYTES), tarfile.open(archive, "r:") as outer:
        for member in outer:
            name = _plain_name(member, _VAL_IMAGE)
            if name not in remaining:
                continue
            target = folder / labels[name] / name
            with blaming(f"{archive}: member {member.name}", folder, len(remaining) * _AVERAGE_BYTES):
                write_member_atomically(target, member.size, partial(_content, outer, member), synced=True)
            del remaining[name]
            progress.advance(task)
    if remaining:
        reason = _not_in_it(min(remaining), f"{len(remaining) - 1} more", len(remaining))
        raise PathError(archive, f"{reason}; the archive is incomplete", mend=DOWNLOAD_AGAIN)


def _not_in_it(first: str, others: str, count: int) -> str:
    """Says which members an archive lacks: one by its name, of several the first one's."""
    return f"member {first} is not in it" if count == 1 else f"member {first} and {others} are not in it"


def _plain_name(member: tarfile.TarInfo, pattern: re.Pattern[str]) -> str | None:
    """Returns the last part of a member's name, so that none can be written outside its folder; None for a folder.

    Raises:
        tarfile.ReadError: The member is not a regular file, or its name does not follow the pattern.
    """
    if member.isdir():
        return None
    name = PurePosixPath(member.name).name
    if not member.isreg() or not pattern.fullmatch(name):
        raise tarfile.ReadError(f"holds {member.name!r}, which does not belong there")
    return name


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    """Reads a member whole, so that nothing is written of one that is cut short, of which tarfile raises an error."""
    with open_member(archive, member) as stream:
        return io.BytesIO(stream.read())
