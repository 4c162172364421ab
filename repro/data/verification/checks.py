"""The checks of a data set, by the form that it has: everything that is wrong is reported, not only the first thing.

Folders of classes, published parts, annotated images, drawn scenes and images of a user's own class are checked each in
its own way; `repro.data.verification.files` checks the files of the first three.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from pathlib import Path, PurePath

from repro.command_line.progress import ProgressBars
from repro.data import folders
from repro.data.annotations.findings import Survey
from repro.data.catalogue import Dataset, find_dataset, open_images
from repro.data.splits import SPLITS, Images, Split, read_image
from repro.data.subsets import Subset
from repro.data.verification.files import File, check_decoding, check_files, stat_all
from repro.data.verification.report import Report
from repro.errors import UserError, memory_shortage, one_line
from repro.processes.cores import usable_cores
from repro.quantities import counted
from repro.runs.added_code import added_place
from repro.settings.sections import ScenesSettings

_SAMPLE = ScenesSettings(train_count=40, val_count=40)
"""The settings of the scenes that are drawn to check them: enough for each of ten classes to come four times."""
_UNREADABLE = "replace its file, or leave it out"


def verify(name: str, root: Path | None, *, deep: bool = True, workers: int | None = None) -> Report:
    """Checks a data set and reports everything that is wrong with it.

    Args:
        name: The data set's name.
        root: The data set's folder, from `repro.data.roots.find_root`; None for one that is read from none.
        deep: Decode every image; False only looks at sizes (and at the content of files that may overlap).
        workers: The number of decoding processes; None: one for each core that this process may use.

    Raises:
        UserError: The name is unknown.
    """
    entry = find_dataset(name)
    workers = usable_cores() if workers is None else workers
    report = Report(name, root, decoded=deep)
    with ProgressBars() as progress:
        files: list[File] | None = None
        sizes: dict[str, tuple[int, int]] = {}
        if entry.generated:
            # Cut-outs first: a file that does not decode is a problem of its own, and ends the drawing of scenes.
            _check_cutouts(report, deep, workers, progress)
            _check_scenes(report, entry)
        elif entry.survey is not None and root is not None:
            files, sizes = _check_annotations(report, entry, entry.survey, root, progress)
        elif entry.parts is not None and root is not None:
            files = _check_parts(report, entry, entry.parts, root)
        elif entry.in_class_folders and root is not None:
            files = _check_folders(report, entry, root)
        else:
            _check_opened(report, entry, deep, progress)
        if files is not None:
            check_files(report, files, sizes, deep=deep, workers=workers, progress=progress)
    return report


def _check_folders(report: Report, entry: Dataset, root: Path) -> list[File]:
    """Checks a data set that has one folder for each split, and in it one for each class; returns its files."""
    present = {split: _class_folders(report, root / split, entry) for split in SPLITS}
    if entry.classes is None:  # else each split is compared with the data set's known classes anyway
        _compare_class_lists(report, root, present)
        if len(present["train"] or ()) == 1:
            report.warnings.append("1 class: enough to pretrain on, but every accuracy on it is 100 %")
    files: list[File] = []
    for split, classes in present.items():
        if classes is not None:
            files += _count_split(report, entry, root, split, classes)
    return files


def _check_parts(
    report: Report, entry: Dataset, parts: Callable[[Path], Mapping[str, Images]], root: Path
) -> list[File] | None:
    """Checks a data set with published lists in place of folders for its splits.

    Returns:
        Its files; None where it cannot be opened.
    """
    try:
        images_of = parts(root)
    except UserError as error:
        report.end_with(root, error)
        return None
    files: list[File] = []
    for split, images in images_of.items():
        report.counts[split] = _counts(images)
        labels = [images.classes[target] for target in images.targets]
        files += list(stat_all(report, split, _paths(images), labels))
        _compare_number(report, entry, split, len(images))
    return files


def _check_annotations(
    report: Report, entry: Dataset, survey_root: Callable[[Path], Survey], root: Path, progress: ProgressBars
) -> tuple[list[File] | None, dict[str, tuple[int, int]]]:
    """Checks a data set of images with annotated objects.

    Returns:
        Its files, None where it cannot be opened; and the width and height in pixels that annotations give each path.
    """
    task = progress.add_task("reading annotations", total=None)  # nobody knows how long: one large file, or thousands
    try:
        survey = survey_root(root)
    except UserError as error:
        report.end_with(root, error)
        return None, {}
    progress.update(task, total=1, completed=1)
    for finding in survey.findings:
        report.add(finding.kind, finding.path, finding.message, finding.mend)
    report.counts, report.images = survey.objects, survey.images
    report.warnings += survey.warnings
    for split, number in survey.images.items():
        _compare_number(report, entry, split, number)
    # By role rather than by split: an image in two training splits does no harm, one in a test split too does.
    files: list[File] = []
    for role, test in (("train", False), ("test", True)):
        files += stat_all(report, role, [image.path for image in survey.files if image.test is test])
    return files, {image.path: image.size for image in survey.files}


def _check_opened(report: Report, entry: Dataset, deep: bool, progress: ProgressBars) -> None:
    """Checks images of a user's own class, of which only the parts of `Images` are known."""
    where = report.name if report.root is None else str(report.root)
    images_of: dict[Split, Images] = {}
    for split in SPLITS:
        try:
            images_of[split] = open_images(entry.name, split, report.root, ScenesSettings())
        except UserError as error:
            report.end_with(Path(where), error)
            return
        except Exception as error:  # perhaps from reading its first image
            report.end_with(Path(where), _refusal_of(split, error))
            return
    digests: dict[Split, dict[bytes, int]] = {}
    for split, images in images_of.items():
        report.counts[split] = _counts(images)
        _compare_number(report, entry, split, len(images))
        digests[split] = _digests_of_readable(report, where, split, images, progress) if deep else {}
    _report_overlap(report, where, digests, "image")


def _digests_of_readable(
    report: Report, where: str, split: Split, images: Images, progress: ProgressBars
) -> dict[bytes, int]:
    """Reads all images of a split, and reports those that cannot be used.

    Returns:
        The index of each image that can be used by the SHA-256 of its pixels.
    """
    digests: dict[bytes, int] = {}
    task = progress.add_task(f"reading {split}", total=len(images), unit="images")
    for index in range(len(images)):
        try:
            image, _ = read_image(images, index)
            pixels = image.tobytes()  # PIL may have read only the beginning of its file until here
        except UserError as error:
            report.add("unreadable", where, f"{split}: {error.what}", error.mend)
        except Exception as error:  # decoders raise anything, and the report is to name each image
            refusal = _refusal_of(f"{split}: image {index} of {type(images).__name__}", error)
            report.add("unreadable", where, refusal.what, refusal.mend)
        else:
            digests[hashlib.sha256(pixels).digest()] = index
        progress.advance(task)
    return digests


def _refusal_of(what: str, error: Exception) -> UserError:
    """Returns an error of a user's own code as what is wrong and the mend; raises it again if memory ran out.

    Args:
        what: What was being read.
        error: Of the operating system, if a file is missing or damaged; or whatever else that code raises.
    """
    if isinstance(error, OSError):
        return UserError(f"{what}: {one_line(error)}", mend=_UNREADABLE)
    if memory_shortage(error):
        raise error
    place, kind = added_place(error), type(error).__name__
    told = ": ".join(dict.fromkeys([kind, one_line(error)]))  # the kind alone, where there is no message
    return UserError(
        f"{what}: {told}{f' ({place})' if place else ''}", mend="correct its file, or the code that reads it"
    )


def _counts(images: Images) -> dict[str, int]:
    """Returns how many images each class has; labels of no class are reported elsewhere."""
    counts = Counter(images.classes[target] for target in images.targets if 0 <= target < len(images.classes))
    return {name: counts[name] for name in images.classes}


def _report_overlap(report: Report, where: str, digests: Mapping[Split, Mapping[bytes, int]], kind: str) -> None:
    """Reports each image of val whose pixels are those of an image of train; `kind` is the word for an image."""
    for digest in sorted(digests["train"].keys() & digests["val"].keys(), key=digests["val"].__getitem__):
        message = f"{kind} {digests['val'][digest]} of val is {kind} {digests['train'][digest]} of train"
        report.add("overlap", where, message)


def _compare_number(report: Report, entry: Dataset, split: str, number: int) -> None:
    """Warns where a split has another number of images than the published data set."""
    expected = entry.expected.get(split, number)
    if number != expected:
        report.warnings.append(f"{split}: {counted(number, 'image')}, where {entry.title} has {expected}")


def _paths(images: Images) -> list[str]:
    """Returns the paths of images that are files, or a subset of files."""
    pool, indices = (
        (images.pool, images.indices.tolist()) if isinstance(images, Subset) else (images, range(len(images)))
    )
    assert isinstance(pool, folders.FileImages)
    return [f"{pool.folder}/{pool.files[index]}" for index in indices]


def _class_folders(report: Report, folder: Path, entry: Dataset) -> list[str] | None:
    """Returns the names of a split's class folders; None, and a problem, where there are none."""
    try:
        return folders.class_folders(folder, mend=entry.mend)
    except UserError as error:
        report.add_error("missing-split", folder, error)
        return None


def _compare_class_lists(report: Report, root: Path, present: Mapping[Split, list[str] | None]) -> None:
    """Reports classes that only one of the splits has."""
    train, val = present["train"], present["val"]
    if train is None or val is None:
        return
    for name in sorted(set(train) - set(val)):
        report.add("class-lists-differ", root / "val" / name, "the class is in train, but not in val")
    for name in sorted(set(val) - set(train)):
        report.add("class-lists-differ", root / "train" / name, "the class is in val, but not in train")


def _count_split(report: Report, entry: Dataset, root: Path, split: Split, present: Sequence[str]) -> list[File]:
    """Counts the images of each class of a split and returns them; `present` are the class folders that it has."""
    counts = report.counts.setdefault(split, {})
    # Only the data set's own classes, if it has some: the other nine hundred of an ImageNet-1k root do not matter.
    present_names = frozenset(present)
    files: list[File] = []
    left_out: list[str] = []
    for name in entry.classes or present:
        folder = root / split / name
        counts[name] = 0
        if name not in present_names:
            report.add("missing-class", folder, "the class folder is missing")
            continue
        try:
            names, others = folders.files_below(folder)
        except UserError as error:
            report.add_error("unreadable", folder, error)
            continue
        left_out += others
        class_files = list(stat_all(report, split, [f"{folder}/{file}" for file in names], repeat(name)))
        counts[name] = len(class_files)
        if not class_files:
            report.add("empty-class", folder, "the class folder has no image")
        files += class_files
    _count_left_out(report, split, left_out)
    _compare_number(report, entry, split, len(files))
    return files


def _count_left_out(report: Report, where: str, names: Sequence[str]) -> None:
    """Warns of files that are not read because of their names' endings; by ending, the most frequent first."""
    if names:
        counts = Counter(PurePath(name).suffix.lower() or "without an ending" for name in names)
        kinds = ", ".join(f"{count} {ending}" for ending, count in counts.most_common())
        report.warnings.append(f"{where}: {counted(len(names), 'file')} left out, without an image's ending: {kinds}")


def _check_cutouts(report: Report, deep: bool, workers: int, progress: ProgressBars) -> None:
    """Checks the files that scenes are composed from; scenes of drawn shapes have none."""
    if report.root is None:
        return
    try:
        names, others = folders.files_below(report.root)
    except UserError as error:
        report.add_error("unreadable", report.root, error)
        return
    _count_left_out(report, "cut-outs", others)
    if deep:
        check_decoding(report, [f"{report.root}/{name}" for name in names], workers, progress)


def _check_scenes(report: Report, entry: Dataset) -> None:
    """Checks that a sample of drawn scenes is the same at each drawing, and that the splits share no scene."""
    where = report.name if report.root is None else str(report.root)
    try:
        first = {split: entry.images(split, report.root, _SAMPLE) for split in SPLITS}
        again = {split: entry.images(split, report.root, _SAMPLE) for split in SPLITS}
        digests = {split: _pixel_digests(report, where, split, first[split], again[split]) for split in SPLITS}
    except UserError as error:
        report.add("unusable", where, error.what, error.mend)
        return
    for split in SPLITS:
        report.counts[split] = _counts(first[split])
    _report_overlap(report, where, digests, "scene")


def _pixel_digests(report: Report, where: str, split: Split, first: Images, again: Images) -> dict[bytes, int]:
    """Draws a split twice and reports what differs.

    Args:
        report: The report that gets the problems.
        where: The path that problems are reported of.
        split: The split's name.
        first: The split.
        again: The same split, opened a second time.

    Returns:
        The index of each image by the SHA-256 of its pixels.
    """
    digests: dict[bytes, int] = {}
    if first.fingerprint() != again.fingerprint():
        report.add("not-deterministic", where, f"{split}: two equal data sets have different fingerprints")
    for index, target in enumerate(first.targets):
        (image, label), (second_image, _) = first[index], again[index]
        if label != target or not 0 <= label < len(first.classes):
            message = f"scene {index} of {split}: label {label}, listed as {target}, of {len(first.classes)} classes"
            report.add("label-range", where, message)
        if image.tobytes() != second_image.tobytes():
            report.add("not-deterministic", where, f"scene {index} of {split} differs when it is drawn again")
        digests[hashlib.sha256(image.tobytes()).digest()] = index
    return digests
