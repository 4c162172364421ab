"""What is wrong with a data set: everything at once, not the first thing."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from repro.data import catalogue as datasets
from repro.data import folders
from repro.data.annotations.findings import Survey
from repro.data.catalogue import Dataset
from repro.data.splits import SPLITS, Images, Split
from repro.data.subsets import Subset
from repro.data.verification.files import File, check_decoding, check_files, stat_all
from repro.data.verification.report import Report
from repro.errors import UserError
from repro.runs.sections import ScenesSettings

_SAMPLE = ScenesSettings(train_count=40, val_count=40)
"""Of the scenes that are drawn to check them."""


def verify(name: str, root: Path | None, *, deep: bool = True, workers: int | None = None) -> Report:
    """Check a data set and report everything that is wrong with it.

    Args:
        name: Of the data set.
        root: From `repro.data.roots.find_root`.
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
    files: list[File] = []
    for split in SPLITS:
        if found[split] is not None:
            files += _count_split(report, entry, root, split, found[split] or [])
    check_files(report, files, deep=deep, workers=workers, progress=progress)


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
    files: list[File] = []
    for split, part in opened.items():
        names = Counter(part.classes[target] for target in part.targets)
        report.counts[split] = {name: names[name] for name in part.classes}
        files += list(stat_all(report, split, _paths(part)))
        expected = entry.expected.get(split, len(part))
        if len(part) != expected:
            report.warnings.append(f"{split}: {len(part)} images, where {entry.title} has {expected}")
    check_files(report, files, deep=deep, workers=workers, progress=progress)


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
    files: list[File] = []
    for role, test in (("train", False), ("test", True)):
        files += stat_all(report, role, [image.path for image in survey.files if image.test is test])
    sizes = {image.path: image.size for image in survey.files}
    check_files(report, files, sizes, deep=deep, workers=workers, progress=progress)


def _paths(part: Images) -> list[str]:
    pool, indices = (part.pool, part.indices.tolist()) if isinstance(part, Subset) else (part, range(len(part)))
    assert isinstance(pool, folders.FileImages)
    return [f"{pool.folder}/{pool.files[index]}" for index in indices]


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


def _count_split(report: Report, entry: Dataset, root: Path, split: Split, found: Sequence[str]) -> list[File]:
    counts = report.counts.setdefault(split, {})
    present = set(found)
    files: list[File] = []
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


def _files_below(report: Report, split: Split, folder: Path) -> Iterator[File]:
    try:
        names = folders.image_files(folder)
    except UserError as error:
        report.add("unreadable", folder, _without(error, folder))
        return
    yield from stat_all(report, split, [f"{folder}/{name}" for name in names])


def _check_cutouts(report: Report, deep: bool, workers: int, progress: Progress) -> None:
    if report.root is None:
        return
    try:
        paths = [f"{report.root}/{name}" for name in folders.image_files(report.root)]
    except UserError as error:
        report.add("unreadable", report.root, _without(error, report.root))
        return
    if deep:
        check_decoding(report, paths, workers, progress)


def _check_scenes(report: Report, entry: Dataset) -> None:
    where = report.name if report.root is None else str(report.root)
    try:
        first = {split: entry.open(split, report.root, _SAMPLE) for split in SPLITS}
        again = {split: entry.open(split, report.root, _SAMPLE) for split in SPLITS}
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
