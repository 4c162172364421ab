"""Checks of many files at once: empty ones, the same in two splits, and whether each decodes."""

import contextlib
import hashlib
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType

from rich.progress import Progress

from repro.data import images
from repro.data.verification.report import Report
from repro.errors import UserError

_CHUNK = 32  # images handed to a decoding process at a time


@dataclass(frozen=True)
class File:
    """A file of a split, as `stat` knows it."""

    split: str
    path: str
    size: int  # bytes
    identity: tuple[int, int]  # device and inode: equal for links, and for folders that are reached twice


def stat_all(report: Report, split: str, paths: Iterable[str]) -> Iterator[File]:
    """The files of a split; those that cannot be looked at are reported instead."""
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116  a Path for each of 10^5 files costs more than the stat
        except OSError as error:
            report.add("unreadable", path, f"{error.strerror}")
        else:
            yield File(split, path, status.st_size, (status.st_dev, status.st_ino))


def check_files(
    report: Report,
    files: Sequence[File],
    sizes: Mapping[str, tuple[int, int]] = MappingProxyType({}),
    *,
    deep: bool,
    workers: int,
    progress: Progress,
) -> None:
    """Report empty files, those that another split holds too and, if `deep`, those that do not decode.

    Args:
        report: Gets the problems.
        files: Of all splits, the earlier split first.
        sizes: Width and height in pixels that annotations give to a path.
        deep: Decode every file that is not empty.
        workers: Hashing threads and decoding processes.
        progress: Shows how far it is.

    Raises:
        UserError: a decoding process was killed.
    """
    for file in files:
        if file.size == 0:
            report.add("zero-byte", file.path, "the file is empty (0 bytes)")
    _check_overlap(report, files, workers, progress)
    if deep:
        check_decoding(report, [file.path for file in files if file.size > 0], workers, progress, sizes)


def _check_overlap(report: Report, files: Sequence[File], workers: int, progress: Progress) -> None:
    """Files that an earlier split holds too: by link, or as a copy. Only files of equal size are read."""
    links: dict[tuple[int, int], File] = {}
    copies: list[File] = []
    splits_of_size: dict[int, set[str]] = defaultdict(set)
    for file in files:
        known = links.setdefault(file.identity, file)
        if known.split != file.split:
            report.add("overlap", file.path, f"is the same file as {known.path}")
        elif file.size > 0:
            copies.append(file)
            splits_of_size[file.size].add(file.split)
    candidates = [file for file in copies if len(splits_of_size[file.size]) > 1]
    first: dict[str, File] = {}
    task = progress.add_task("comparing splits", total=len(candidates))
    with ThreadPoolExecutor(workers) as pool:  # hashing lets go of Python's lock
        for file, digest in zip(candidates, pool.map(_digest, [file.path for file in candidates]), strict=True):
            progress.advance(task)
            if isinstance(digest, OSError):
                report.add("unreadable", file.path, f"{digest.strerror}")
            elif (known := first.setdefault(digest, file)).split != file.split:
                report.add("overlap", file.path, f"has the same content as {known.path}")


def _digest(path: str) -> str | OSError:
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        return error


def check_decoding(
    report: Report,
    paths: Sequence[str],
    workers: int,
    progress: Progress,
    sizes: Mapping[str, tuple[int, int]] = MappingProxyType({}),
) -> None:
    """Report what does not decode, or not to the size in `sizes`; arguments as of `check_files`."""
    task = progress.add_task("decoding", total=len(paths))
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    sizes_of = [[sizes.get(path) for path in chunk] for chunk in chunks]
    noted = {problem.path for problem in report.problems if problem.kind == "unreadable"}
    with contextlib.ExitStack() as stack:
        outcomes: Iterable[list[images.Fault | None]]
        if workers > 1 and len(chunks) > 1:
            # Not forked: the progress bar's thread would be in an unknown state in the copy.
            pool = stack.enter_context(ProcessPoolExecutor(workers, mp_context=get_context("spawn")))
            outcomes = pool.map(_faults, chunks, sizes_of)
        else:
            outcomes = map(_faults, chunks, sizes_of)
        try:
            for chunk, faults in zip(chunks, outcomes, strict=True):
                progress.advance(task, len(chunk))
                for path, fault in zip(chunk, faults, strict=True):
                    if fault is not None and path not in noted:
                        report.add(fault.kind, path, fault.reason)
        except BrokenProcessPool as error:
            raise UserError("a decoding process was killed, perhaps for memory; repeat with --workers 1") from error


def _faults(paths: Sequence[str], sizes: Sequence[tuple[int, int] | None]) -> list[images.Fault | None]:
    with warnings.catch_warnings():
        # Pillow warns of odd metadata on the terminal of every process; what matters here is whether pixels come out.
        warnings.simplefilter("ignore")
        return [images.fault(path, size) for path, size in zip(paths, sizes, strict=True)]
