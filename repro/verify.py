"""What is wrong with a data set: everything at once, not the first thing."""

import contextlib
import hashlib
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from rich.console import Console
from rich.progress import Progress

from repro import datasets, folders, images
from repro.datasets import SPLITS, Dataset, Images, Split
from repro.errors import UserError
from repro.findings import FindingKind, Survey
from repro.subsets import Subset

ProblemKind = Literal[
    FindingKind,
    "missing-split",
    "missing-class",
    "empty-class",
    "class-lists-differ",
    "zero-byte",
    "unreadable",
    "too-small",
    "overlap",
    "unusable",
    "wrong-size",
    "not-deterministic",
    "label-range",
]

_CHUNK = 32  # images handed to a decoding process at a time


@dataclass(frozen=True)
class Problem:
    """One thing to mend.

    Attributes:
        kind: What sort of thing, for counting.
        path: The file or folder.
        message: What is wrong with it.
    """

    kind: ProblemKind
    path: str
    message: str


@dataclass
class Report:
    """What `verify` found.

    Attributes:
        name: The data set.
        root: Its folder; None for drawn images.
        decoded: Whether every image was decoded.
        counts: Images for each split and class, or, of annotated images, objects; a missing class counts 0.
        images: Images for each split of annotated images, which no class counts.
        problems: What must be mended, in the order of the checks.
        warnings: What is unusual, but usable.
    """

    name: str
    root: Path | None
    decoded: bool
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there are no problems; warnings are allowed."""
        return not self.problems

    def total(self, split: str) -> int:
        """Images of a split; 0 where it is missing."""
        return self.images.get(split, sum(self.counts.get(split, {}).values()))

    def to_plain(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return {**asdict(self), "root": None if self.root is None else str(self.root), "ok": self.ok}

    def add(self, kind: ProblemKind, path: Path | str, message: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(kind, str(path), message))


@dataclass(frozen=True)
class _File:
    split: str
    path: str
    size: int  # bytes
    identity: tuple[int, int]  # device and inode: equal for links, and for folders that are reached twice


@dataclass(frozen=True)
class _Sample:
    """Settings of the scenes that are drawn to check them."""

    classes: int = 10
    size: int = 96
    train_count: int = 40
    val_count: int = 40
    seed: int = 0


def verify(name: str, root: Path | None, *, deep: bool = True, workers: int | None = None) -> Report:
    """Check a data set and report everything that is wrong with it.

    Args:
        name: Of the data set.
        root: From `repro.roots.find_root`.
        deep: Decode every image; False only looks at sizes (and at the content of files that may overlap).
        workers: Decoding processes; None: one for each core that this process may use.

    Raises:
        UserError: the name is unknown, or the data set needs a root and none was given.
    """
    entry = datasets.find(name)
    if entry.needs_root and root is None:
        raise UserError(f"data set {name!r} is read from a folder; give --root DIR")
    workers = _cores() if workers is None else workers
    report = Report(name, root if entry.needs_root else None, decoded=deep)
    with Progress(console=Console(stderr=True)) as progress:
        if entry.generated:
            _check_cutouts(report, deep, workers, progress)
            _check_scenes(report, entry)
        elif entry.survey is not None and root is not None:
            _check_annotations(report, entry, entry.survey, root, deep=deep, workers=workers, progress=progress)
        elif entry.parts is not None and root is not None:
            _check_parts(report, entry, entry.parts, root, deep=deep, workers=workers, progress=progress)
        elif root is not None:
            _check_folders(report, entry, root, deep=deep, workers=workers, progress=progress)
    return report


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # what the job was given, rather than what the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_folders(report: Report, entry: Dataset, root: Path, *, deep: bool, workers: int, progress: Progress) -> None:
    found = {split: _class_folders(report, root / split, entry) for split in SPLITS}
    if entry.classes is None:
        _compare_class_lists(report, root, found)
    files: list[_File] = []
    for split in SPLITS:
        if found[split] is not None:
            files += _count_split(report, entry, root, split, found[split] or [])
    _check_files(report, files, deep=deep, workers=workers, progress=progress)


def _check_parts(
    report: Report,
    entry: Dataset,
    parts: Callable[[Path], Mapping[str, Images]],
    root: Path,
    *,
    deep: bool,
    workers: int,
    progress: Progress,
) -> None:
    """A data set with published lists in place of folders for its splits."""
    try:
        opened = parts(root)
    except UserError as error:
        report.add("unusable", root, _without(error, root))
        return
    files: list[_File] = []
    for split, part in opened.items():
        names = Counter(part.classes[target] for target in part.targets)
        report.counts[split] = {name: names[name] for name in part.classes}
        files += list(_stat_all(report, split, _paths(part)))
        expected = entry.expected.get(split, len(part))
        if len(part) != expected:
            report.warnings.append(f"{split}: {len(part)} images, where {entry.title} has {expected}")
    _check_files(report, files, deep=deep, workers=workers, progress=progress)


def _check_annotations(
    report: Report,
    entry: Dataset,
    survey_root: Callable[[Path], Survey],
    root: Path,
    *,
    deep: bool,
    workers: int,
    progress: Progress,
) -> None:
    """A data set of images with annotated objects."""
    task = progress.add_task("reading annotations", total=None)
    try:
        survey = survey_root(root)
    except UserError as error:
        report.add("unusable", root, _without(error, root))
        return
    progress.update(task, total=1, completed=1)
    for finding in survey.findings:
        report.add(finding.kind, finding.path, f"{finding.message}; mend: {finding.mend}")
    report.counts, report.images = survey.objects, survey.images
    report.warnings += survey.warnings
    for split, number in survey.images.items():
        expected = entry.expected.get(split, number)
        if number != expected:
            report.warnings.append(f"{split}: {number} images, where {entry.title} has {expected}")
    files: list[_File] = []
    for role, test in (("train", False), ("test", True)):
        files += _stat_all(report, role, [image.path for image in survey.files if image.test is test])
    sizes = {image.path: image.size for image in survey.files}
    _check_files(report, files, sizes, deep=deep, workers=workers, progress=progress)


def _paths(part: Images) -> list[str]:
    pool, indices = (part.pool, part.indices.tolist()) if isinstance(part, Subset) else (part, range(len(part)))
    assert isinstance(pool, folders.FileImages)
    return [f"{pool.folder}/{pool.files[index]}" for index in indices]


def _check_files(
    report: Report,
    files: Sequence[_File],
    sizes: Mapping[str, tuple[int, int]] = MappingProxyType({}),
    *,
    deep: bool,
    workers: int,
    progress: Progress,
) -> None:
    for file in files:
        if file.size == 0:
            report.add("zero-byte", file.path, "the file is empty (0 bytes)")
    _check_overlap(report, files, workers, progress)
    if deep:
        _check_decoding(report, [file.path for file in files if file.size > 0], workers, progress, sizes)


def _class_folders(report: Report, folder: Path, entry: Dataset) -> list[str] | None:
    try:
        return folders.class_folders(folder, mend=entry.mend)
    except UserError as error:
        report.add("missing-split", folder, _without(error, folder))
        return None


def _compare_class_lists(report: Report, root: Path, found: dict[Split, list[str] | None]) -> None:
    train, val = found["train"], found["val"]
    if train is None or val is None:
        return
    for name in sorted(set(train) - set(val)):
        report.add("class-lists-differ", root / "val" / name, "the class is in train, but not in val")
    for name in sorted(set(val) - set(train)):
        report.add("class-lists-differ", root / "train" / name, "the class is in val, but not in train")


def _count_split(report: Report, entry: Dataset, root: Path, split: Split, found: Sequence[str]) -> list[_File]:
    counts = report.counts.setdefault(split, {})
    present = set(found)
    files: list[_File] = []
    for name in entry.classes or found:
        folder = root / split / name
        counts[name] = 0
        if name not in present:
            report.add("missing-class", folder, "the class folder is missing")
            continue
        of_class = list(_files_below(report, split, folder))
        counts[name] = len(of_class)
        if not of_class:
            report.add("empty-class", folder, "the class folder has no image")
        files += of_class
    expected = entry.expected.get(split)
    if expected is not None and len(files) != expected:
        report.warnings.append(f"{split}: {len(files)} images, where {entry.title} has {expected}")
    return files


def _files_below(report: Report, split: Split, folder: Path) -> Iterator[_File]:
    try:
        names = folders.image_files(folder)
    except UserError as error:
        report.add("unreadable", folder, _without(error, folder))
        return
    yield from _stat_all(report, split, [f"{folder}/{name}" for name in names])


def _stat_all(report: Report, split: str, paths: Iterable[str]) -> Iterator[_File]:
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116  a Path for each of 10^5 files costs more than the stat
        except OSError as error:
            report.add("unreadable", path, f"{error.strerror}")
        else:
            yield _File(split, path, status.st_size, (status.st_dev, status.st_ino))


def _check_overlap(report: Report, files: Sequence[_File], workers: int, progress: Progress) -> None:
    """Files that an earlier split holds too: by link, or as a copy. Only files of equal size are read."""
    links: dict[tuple[int, int], _File] = {}
    copies: list[_File] = []
    splits_of_size: dict[int, set[str]] = defaultdict(set)
    for file in files:
        known = links.setdefault(file.identity, file)
        if known.split != file.split:
            report.add("overlap", file.path, f"is the same file as {known.path}")
        elif file.size > 0:
            copies.append(file)
            splits_of_size[file.size].add(file.split)
    candidates = [file for file in copies if len(splits_of_size[file.size]) > 1]
    first: dict[str, _File] = {}
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


def _check_decoding(
    report: Report,
    paths: Sequence[str],
    workers: int,
    progress: Progress,
    sizes: Mapping[str, tuple[int, int]] = MappingProxyType({}),
) -> None:
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


def _check_cutouts(report: Report, deep: bool, workers: int, progress: Progress) -> None:
    if report.root is None:
        return
    try:
        paths = [f"{report.root}/{name}" for name in folders.image_files(report.root)]
    except UserError as error:
        report.add("unreadable", report.root, _without(error, report.root))
        return
    if deep:
        _check_decoding(report, paths, workers, progress)


def _check_scenes(report: Report, entry: Dataset) -> None:
    where = report.name if report.root is None else str(report.root)
    try:
        first = {split: entry.open(split, report.root, _Sample()) for split in SPLITS}
        again = {split: entry.open(split, report.root, _Sample()) for split in SPLITS}
        drawn = {split: _pixels(report, where, split, first[split], again[split]) for split in SPLITS}
    except UserError as error:
        report.add("unusable", where, str(error))
        return
    for split in SPLITS:
        counts: dict[str, int] = defaultdict(int, dict.fromkeys(first[split].classes, 0))
        for target in first[split].targets:
            if 0 <= target < len(first[split].classes):
                counts[first[split].classes[target]] += 1
        report.counts[split] = dict(counts)
    for digest in sorted(drawn["train"].keys() & drawn["val"].keys()):
        message = f"scene {drawn['val'][digest]} of val is scene {drawn['train'][digest]} of train"
        report.add("overlap", where, message)


def _pixels(report: Report, where: str, split: Split, first: Images, again: Images) -> dict[bytes, int]:
    """Draw a split twice; the digests of its images, each with its index."""
    digests: dict[bytes, int] = {}
    if first.fingerprint() != again.fingerprint():
        report.add("not-deterministic", where, f"{split}: two equal data sets have different fingerprints")
    for index, target in enumerate(first.targets):
        (image, label), (second, _) = first[index], again[index]
        if label != target or not 0 <= label < len(first.classes):
            message = f"scene {index} of {split}: label {label}, listed as {target}, of {len(first.classes)} classes"
            report.add("label-range", where, message)
        if image.tobytes() != second.tobytes():
            report.add("not-deterministic", where, f"scene {index} of {split} differs when it is drawn again")
        digests[hashlib.sha256(image.tobytes()).digest()] = index
    return digests


def _without(error: UserError, path: Path) -> str:
    """The message without the path that it begins with; a problem has a field for that."""
    return str(error).removeprefix(f"{path}").lstrip("/").removeprefix(": ")
