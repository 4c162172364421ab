"""ImageNet-100: its class list, and its images out of the ILSVRC2012 archives.

Only the hundred classes are written: about 13 GB rather than 150. The training archive holds one tar file for each
class; these are read in place, never copied out. The validation archive is flat, and the devkit says which class an
image is of.
"""

import importlib.resources
import io
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from rich.console import Console
from rich.progress import Progress

from repro.data.archives import TORN, blaming, locate, reason
from repro.errors import UserError
from repro.files import sync_folder
from repro.runs.lock import held

TRAIN_ARCHIVE = "ILSVRC2012_img_train.tar"
VAL_ARCHIVE = "ILSVRC2012_img_val.tar"
DEVKIT_ARCHIVE = "ILSVRC2012_devkit_t12.tar.gz"

_CLASS_TAR = re.compile(r"(n\d{8})\.tar")
_TRAIN_IMAGE = re.compile(r"n\d{8}_\d+\.JPEG")
_VAL_IMAGE = re.compile(r"ILSVRC2012_val_\d{8}\.JPEG")
_META = "data/meta.mat"
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"


def class_list() -> tuple[str, ...]:
    """The 100 WordNet ids of ImageNet-100, sorted; a label is an index into them.

    Source: the list of CMC (Tian et al., 2020), which the paper's code reads its classes from.
    """
    listed = importlib.resources.files("repro.data").joinpath("imagenet100_classes.txt").read_text()
    return tuple(sorted(listed.split()))


def prepare_imagenet100(archives: Sequence[Path], root: Path) -> None:
    """Unpack the hundred classes into `root/train/WNID/` and `root/val/WNID/`.

    It can be stopped at any time and run again: a training class appears under its name only when all of it is on disk,
    and classes and validation images that are there already are left alone.

    Args:
        archives: `TRAIN_ARCHIVE` (not needed once all training classes are there), `VAL_ARCHIVE` and `DEVKIT_ARCHIVE`,
            as image-net.org gives them, or folders with them.
        root: Folder to unpack into; made where it does not exist. An ImageNet-1k root is as good.

    Raises:
        UserError: an archive is missing, torn or not what its name says (what is finished is kept); the disk is full;
            the root cannot be written; or another process is preparing the same root.
    """
    train, val = root / "train", root / "val"
    pending = {wnid for wnid in class_list() if not (train / wnid).is_dir()}
    found = _require(archives, [*([TRAIN_ARCHIVE] if pending else []), VAL_ARCHIVE, DEVKIT_ARCHIVE])
    labels = _validation_labels(found[DEVKIT_ARCHIVE])
    lock = held(
        root / ".salmask-prepare.lock",
        taken=UserError(f"{root}: another process is preparing this folder", mend="wait until it has finished"),
        unwritable="name a folder that can be written with --root",
    )
    with lock, Progress(console=Console(stderr=True)) as progress:
        if pending:
            _unpack_train(found[TRAIN_ARCHIVE], pending, train, progress)
        _unpack_val(found[VAL_ARCHIVE], labels, val, progress)


def _require(given: Sequence[Path], names: list[str]) -> dict[str, Path]:
    found = {name: path for name in names if (path := locate(given, name)) is not None}
    if missing := [name for name in names if name not in found]:
        where = ", ".join(map(str, given)) or "imagenet100"
        raise UserError(
            f"{where}: {', '.join(missing)} missing; download from https://image-net.org (an account is needed) "
            "and name the files, or the folder that holds them, with --from"
        )
    return found


def _validation_labels(devkit: Path) -> dict[str, str]:
    """File name -> WordNet id of those validation images that are of the hundred classes."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        with tarfile.open(devkit, "r:gz") as archive:
            texts = {wanted: _member_bytes(archive, wanted) for wanted in (_META, _GROUND_TRUTH)}
        synsets = loadmat(io.BytesIO(texts[_META]), squeeze_me=True)["synsets"]
        leaves = synsets[synsets["num_children"] == 0]  # inner nodes of WordNet have ids too, but no images
        wnid_of = {int(number): str(wnid) for number, wnid in zip(leaves["ILSVRC2012_ID"], leaves["WNID"], strict=True)}
        truth = [wnid_of[int(line)] for line in texts[_GROUND_TRUTH].split()]
    except (*TORN, OSError, MatReadError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{devkit}: not a whole ILSVRC2012 devkit ({reason(error)}); download it again") from error
    wanted = set(class_list())
    labels = {f"ILSVRC2012_val_{n:08d}.JPEG": wnid for n, wnid in enumerate(truth, start=1) if wnid in wanted}
    if lacking := wanted - set(labels.values()):
        raise UserError(f"{devkit}: no validation image of {len(lacking)} of the 100 classes; download it again")
    return labels


def _member_bytes(archive: tarfile.TarFile, ending: str) -> bytes:
    for member in archive:
        if member.isfile() and member.name.endswith(f"/{ending}"):
            return _content(archive, member)
    raise tarfile.ReadError(f"no {ending}")


def _unpack_train(archive: Path, pending: set[str], folder: Path, progress: Progress) -> None:
    """Unpack the classes of `pending`, which is emptied as they are finished."""
    if kept := len(class_list()) - len(pending):
        progress.console.print(f"train: {kept} classes are there already")
    with blaming(archive, folder), tarfile.open(archive, "r:") as outer:
        members, torn = _class_members(outer, pending)
        task = progress.add_task("train", total=sum(member.size for member in members.values()))
        for wnid, member in members.items():
            left = sum(members[name].size for name in pending & members.keys())
            with blaming(f"{archive}: member {member.name}", folder, left):
                _unpack_class(outer, member, folder / wnid, lambda size: progress.advance(task, size))
            pending.remove(wnid)
    if pending:
        first = min(pending)
        raise UserError(
            f"{archive}: member {first}.tar and {len(pending) - 1} more of the 100 classes are not in it"
            f"{f' ({torn})' if torn else ''}; the archive is incomplete: download it again and repeat (what is "
            "finished is kept)"
        )


def _class_members(outer: tarfile.TarFile, wanted: set[str]) -> tuple[dict[str, tarfile.TarInfo], str]:
    """The nested tars of the wanted classes, and why the list ends early ("" where it does not)."""
    found: dict[str, tarfile.TarInfo] = {}
    try:
        for member in outer:
            name = _plain_name(member, _CLASS_TAR)
            if name is not None and (wnid := name.removesuffix(".tar")) in wanted:
                found[wnid] = member
    except tarfile.ReadError as error:
        return found, reason(error)
    return found, ""


def _unpack_class(
    outer: tarfile.TarFile, member: tarfile.TarInfo, target: Path, advance: Callable[[int], None]
) -> None:
    part = target.with_name(f".{target.name}.part")
    if part.exists():  # left by a process that was killed
        shutil.rmtree(part)
    part.mkdir(parents=True)
    try:
        with _stream(outer, member) as stream, tarfile.open(fileobj=stream, mode="r:") as nested:
            end = 0
            for image in nested:
                name = _plain_name(image, _TRAIN_IMAGE)
                if name is not None:
                    _write(part / name, _content(nested, image))
                    advance(image.size)
                end = image.offset_data + -(-image.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            # tarfile takes a damaged header for the end of the archive; the end is zeros, and not nothing.
            stream.seek(end)
            tail = stream.read()
            if end == 0 or not tail or any(tail):
                raise tarfile.ReadError(f"damaged after {end} bytes")
        sync_folder(part)
        part.rename(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _unpack_val(archive: Path, labels: Mapping[str, str], folder: Path, progress: Progress) -> None:
    task = progress.add_task("val", total=len(labels))
    left = dict(labels)
    average = 130_000  # bytes an image, to say how much room is needed
    for wnid in sorted(set(labels.values())):
        with blaming(archive, folder, len(left) * average):
            (folder / wnid).mkdir(parents=True, exist_ok=True)
    with blaming(archive, folder, len(left) * average), tarfile.open(archive, "r:") as outer:
        for member in outer:
            name = _plain_name(member, _VAL_IMAGE)
            if name not in left:
                continue
            target = folder / labels[name] / name
            with blaming(f"{archive}: member {member.name}", folder, len(left) * average):
                if not (target.is_file() and target.stat().st_size == member.size):
                    part = target.with_name(f".{name}.part")
                    _write(part, _content(outer, member))
                    part.replace(target)
            del left[name]
            progress.advance(task)
    if left:
        raise UserError(
            f"{archive}: member {min(left)} and {len(left) - 1} more are not in it; the archive is incomplete: "
            "download it again and repeat (what is finished is kept)"
        )


def _plain_name(member: tarfile.TarInfo, pattern: re.Pattern[str]) -> str | None:
    """The last part of a member's name, so that no member can be written outside its folder; None for a folder.

    Raises:
        tarfile.ReadError: the member is no regular file, or its name does not follow the pattern.
    """
    if member.isdir():
        return None
    name = PurePosixPath(member.name).name
    if not member.isreg() or not pattern.fullmatch(name):
        raise tarfile.ReadError(f"holds {member.name!r}, which does not belong there")
    return name


def _stream(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(member)
    if stream is None:
        raise tarfile.ReadError(f"{member.name} is no regular file")
    return stream


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    with _stream(archive, member) as stream:
        content = stream.read()
    if len(content) != member.size:
        raise tarfile.ReadError(f"{member.name} has {len(content)} of {member.size} bytes")
    return content


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
