"""Checks of many files at once: which are empty, which are in two splits, and whether each decodes."""

import hashlib
import os
import stat
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from types import MappingProxyType

from repro.command_line.progress import ProgressBars
from repro.data import images
from repro.data.errors import LINK_TO_NOTHING, is_broken_link, reason_of
from repro.data.processes import work_all
from repro.data.verification.report import Report
from repro.errors import shortened
from repro.quantities import counted

_CHUNK = 32  # images handed to a decoding process at a time

_BEGINNING_BYTES = 1 << 12
"""How many of a file's first bytes tell most images of one size apart."""


@dataclass(frozen=True)
class File:
    """A file of a split, as `stat` knows it.

    Attributes:
        split: The split's name.
        path: The file.
        size: The file's size in bytes.
        identity: Device and inode: equal for links, and for folders that are reached twice.
        label: Its class; empty where images have objects in place of one.
    """

    split: str
    path: str
    size: int
    identity: tuple[int, int]
    label: str = ""


def stat_all(report: Report, split: str, paths: Iterable[str], labels: Iterable[str] = repeat("")) -> Iterator[File]:
    """Yields the regular files of a split; any other path, or one that cannot be looked at, is reported instead.

    Args:
        report: The report that gets the problems.
        split: The split's name.
        paths: The files.
        labels: The class of each.
    """
    for path, label in zip(paths, labels, strict=False):
        try:
            status = os.stat(path)  # noqa: PTH116  # a Path for each of 10^5 files costs more than the stat
        except OSError as error:
            report.add("unreadable", path, LINK_TO_NOTHING if is_broken_link(path) else reason_of(error))
            continue
        if stat.S_ISREG(status.st_mode):
            yield File(split, path, status.st_size, (status.st_dev, status.st_ino), label)
        else:
            report.add("unreadable", path, "not a regular file")


def check_files(
    report: Report,
    files: Sequence[File],
    sizes: Mapping[str, tuple[int, int]],
    *,
    deep: bool,
    workers: int,
    progress: ProgressBars,
) -> None:
    """Reports empty files, those that another split holds too and, if `deep`, those that do not decode.

    If `deep`, it also warns of images that two classes of a split hold.

    Args:
        report: The report that gets the problems.
        files: The files of all splits, the earlier split first.
        sizes: Width and height in pixels that annotations give to a path.
        deep: Decode every file that is not empty.
        workers: The number of hashing threads and of decoding processes.
        progress: Shows how far it is.

    Raises:
        UserError: A decoding process was killed.
    """
    for file in files:
        if file.size == 0:
            report.add("zero-byte", file.path, "the file is empty (0 bytes)")
    _check_overlap(report, files, workers, progress, labels=deep)
    if deep:
        check_decoding(report, [file.path for file in files if file.size > 0], workers, progress, sizes)


def _check_overlap(
    report: Report, files: Sequence[File], workers: int, progress: ProgressBars, *, labels: bool
) -> None:
    """Reports files that an earlier split holds too: by link, or as a copy. Only files of equal size are read.

    With `labels` it warns of those that a split holds in two classes.
    """
    first_of_identity: dict[tuple[int, int], File] = {}
    distinct_files: list[File] = []
    for file in files:
        first = first_of_identity.setdefault(file.identity, file)
        if first.split != file.split:
            report.add("overlap", file.path, f"is the same file as {first.path}")
        elif file.size > 0:
            distinct_files.append(file)
    first_of_digest: dict[str, File] = {}
    of_two_classes: dict[str, list[str]] = defaultdict(list)
    with ThreadPoolExecutor(workers) as pool:  # hashing lets go of Python's lock
        candidates = _possible_copies(distinct_files, pool, labels=labels)
        task = progress.add_task("comparing files", total=len(candidates), unit="files")
        for file, digest in zip(candidates, pool.map(_digest, [file.path for file in candidates]), strict=True):
            progress.advance(task)
            if isinstance(digest, OSError):
                report.add("unreadable", file.path, reason_of(digest))
            elif (first := first_of_digest.setdefault(digest, file)).split != file.split:
                report.add("overlap", file.path, f"has the same content as {first.path}")
            elif first.label != file.label:
                of_two_classes[file.split].append(f"{file.path} is {first.path}")
    for split, pairs in of_two_classes.items():
        report.warnings.append(f"{split}: images of two classes have the same content: {shortened(pairs, 3)}")


def _possible_copies(files: Sequence[File], pool: Executor, *, labels: bool) -> list[File]:
    """Returns the files that may be copies of another split's or, with `labels`, of another class's."""
    splits_of_size: dict[int, set[str]] = defaultdict(set)
    labels_of_size: dict[int, set[str]] = defaultdict(set)
    for file in files:
        splits_of_size[file.size].add(file.split)
        labels_of_size[file.size].add(file.label)
    # A copy has its original's size, so that few files have to be read, even of a data set of hundreds of GB.
    across_splits = {file for file in files if len(splits_of_size[file.size]) > 1}
    if not labels:
        return [file for file in files if file in across_splits]
    # Within a split, half of the files may have the size of another; their beginnings are compared first.
    of_equal_size = [file for file in files if file not in across_splits and len(labels_of_size[file.size]) > 1]
    beginnings = dict(zip(of_equal_size, pool.map(_beginning, [file.path for file in of_equal_size]), strict=True))
    counts = Counter((file.size, beginning) for file, beginning in beginnings.items())
    return [
        file
        for file in files
        if file in across_splits or (file in beginnings and counts[file.size, beginnings[file]] > 1)
    ]


def _beginning(path: str) -> bytes:
    """Returns a digest of a file's first bytes; empty if it cannot be read, which decoding reports."""
    try:
        with Path(path).open("rb", buffering=0) as stream:
            return hashlib.sha256(stream.read(_BEGINNING_BYTES)).digest()
    except OSError:
        return b""


def _digest(path: str) -> str | OSError:
    """Returns the SHA-256 of a file, or why it cannot be read: an error raised would end the other threads' work."""
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        return error


def check_decoding(
    report: Report,
    paths: Sequence[str],
    workers: int,
    progress: ProgressBars,
    sizes: Mapping[str, tuple[int, int]] = MappingProxyType({}),
) -> None:
    """Reports what does not decode, or not to the size in `sizes`.

    Args:
        report: The report that gets the problems.
        paths: The files.
        workers: The number of decoding processes.
        progress: Shows how far it is.
        sizes: Width and height in pixels that annotations give to a path.

    Raises:
        UserError: A decoding process was killed.
    """
    task = progress.add_task("decoding", total=len(paths), unit="images")
    inspections = work_all(
        _inspect_all,
        [(path, sizes.get(path)) for path in paths],
        workers=workers,
        chunk=_CHUNK,
        name="decoding",
        advance=partial(progress.advance, task),
    )
    # A file that another check could not read does not decode either; one problem for each file is enough.
    unreadable = {problem.path for problem in report.problems if problem.kind == "unreadable"}
    turned = 0
    for path, inspection in zip(paths, inspections, strict=True):
        turned += inspection.turned and path not in sizes
        if inspection.fault is not None and path not in unreadable:
            report.add(inspection.fault.kind, path, inspection.fault.reason)
    if turned:  # of classified images; those with boxes are turned, as detectron2 turns them
        turnable = f"{counted(turned, 'image')} with an EXIF orientation"
        report.warnings.append(f"{turnable}, which is not applied: used as stored, as by torchvision")


def _inspect_all(files: Sequence[tuple[str, tuple[int, int] | None]]) -> list[images.Inspection]:
    """Inspects files, each given as a path and perhaps a size: the work of one decoding process."""
    with warnings.catch_warnings():
        # Pillow warns of odd metadata on the terminal of every process; what matters here is whether pixels come out.
        warnings.simplefilter("ignore")
        return [images.inspect(path, size) for path, size in files]
