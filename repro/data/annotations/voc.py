"""PASCAL VOC as it is downloaded: `VOCdevkit/VOC2007` and `VOCdevkit/VOC2012`. No torch.

Detection trains on 2007 trainval and 2012 trainval and is scored on 2007 test. Verification, training and scoring all
find out here what a kit holds, and what is missing or wrong. `voc_annotation` reads the annotation of an image.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from repro.data.annotations.findings import (
    AnnotatedImage,
    BrokenFileError,
    FindingKind,
    Survey,
    box_fault,
    content_of,
    listing,
    repetitions,
)
from repro.data.annotations.voc_annotation import Annotation, read_annotation
from repro.data.errors import PathError
from repro.errors import shortened
from repro.filesystem.clutter import is_clutter
from repro.filesystem.presence import is_folder

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""VOC's own twenty classes, in the order of detectron2's labels, which is alphabetical."""


class ImageSet(NamedTuple):
    """A year's split, such as `VOC2007 test`."""

    year: int
    split: str

    def __str__(self) -> str:
        return f"VOC{self.year} {self.split}"


TRAIN = (ImageSet(2007, "trainval"), ImageSet(2012, "trainval"))
TEST = (ImageSet(2007, "test"),)
IMAGE_SETS = TRAIN + TEST

EXPECTED: Mapping[str, int] = {"VOC2007 trainval": 5_011, "VOC2012 trainval": 11_540, "VOC2007 test": 4_952}
"""Images of each set, by its name (host.robots.ox.ac.uk/pascal/VOC, the development kits' tables)."""

DEVKIT = "VOCdevkit"
"""The folder of each archive in which its year's folder lies."""

ARCHIVES: Mapping[ImageSet, str] = dict(
    zip(
        IMAGE_SETS,
        ("VOCtrainval_06-Nov-2007.tar", "VOCtrainval_11-May-2012.tar", "VOCtest_06-Nov-2007.tar"),
        strict=True,
    )
)
"""The file that each set is downloaded as."""

_ID = re.compile(r"[\w.-]+")  # no slash: the name becomes part of a path


@dataclass(frozen=True)
class Devkit:
    """A development kit that `check_layout` found to be whole.

    Attributes:
        folder: Holds `VOC2007` and `VOC2012`; detectron2 takes `folder / f"VOC{year}"` as `dirname`.
        classes: Names in the order of their labels: `CLASSES`, or others where the kit was written from `Scenes`.
        annotations: The annotations of each set, by the image's name without suffix, in the order of the set's list.
    """

    folder: Path
    classes: tuple[str, ...]
    annotations: Mapping[ImageSet, Mapping[str, Annotation]]


@dataclass
class VocSurvey(Survey):
    """All that VOC's annotations say, and all that is wrong with them; `Survey` has the other attributes.

    Attributes:
        annotations: What can be read of each set, by the image's name.
    """

    annotations: dict[ImageSet, dict[str, Annotation]] = field(default_factory=dict)


def check_layout(root: Path) -> Devkit:
    """Makes sure, before anything is trained, that all images and annotations are there and every XML can be read.

    Args:
        root: The folder `VOCdevkit`, or the one that holds it.

    Returns:
        Where the kit is, and what it holds. Only the headers of images are read; `salmask data verify voc07+12` decodes
        them.

    Raises:
        UserError: A year, split, image or annotation is missing; an XML is broken or names a class that the kit does
            not have; a box reaches out of its image; an image is listed twice, both for training and for testing, or
            has another size than its annotation says; or a set has no object to train or score on.
    """
    folder = find_devkit(root)
    survey = survey_devkit(folder)
    survey.add_image_faults()
    survey.refuse()
    return Devkit(folder, survey.classes, survey.annotations)


def require_lists(root: Path) -> None:
    """Refuses a kit in which a set's list of images is missing, for example if an archive was not unpacked.

    Unlike `check_layout`, which reads every annotation, this takes no time.

    Args:
        root: The folder `VOCdevkit`, or the one that holds it.

    Raises:
        UserError: There is no kit, or a year or a list of it is missing or cannot be read.
    """
    survey = VocSurvey()
    _survey_lists(survey, find_devkit(root))
    survey.refuse()


def find_devkit(root: Path) -> Path:
    """Returns the folder that holds `VOC2007` and `VOC2012`: `root` or `root/VOCdevkit`.

    Raises:
        UserError: Neither does.
    """
    # One year is enough to recognise a kit: the survey reports a missing one, with the archive to unpack.
    for folder in (root / DEVKIT, root):
        if any(is_folder(folder / f"VOC{year}") for year in (2007, 2012)):
            return folder
    if is_folder(root / "JPEGImages"):
        raise PathError(root, "this is one year of VOC", mend="name the folder above it, which holds both years")
    raise PathError(
        root,
        "holds neither VOCdevkit nor VOC2007 and VOC2012",
        mend="name the folder that does, or unpack with `salmask data prepare voc07+12 --from ARCHIVES`",
    )


def survey_devkit(folder: Path) -> VocSurvey:
    """Reads all annotations and finds everything that is wrong with them.

    Args:
        folder: The kit's folder, from `find_devkit`.

    Raises:
        UserError: A folder cannot be listed.
    """
    survey = VocSurvey(class_names(folder))
    ids = _survey_lists(survey, folder)
    for image_set, names in ids.items():
        _survey_set(survey, folder, image_set, names)
    _survey_overlap(survey, folder, ids)
    return survey


def _survey_lists(survey: VocSurvey, folder: Path) -> dict[ImageSet, tuple[str, ...]]:
    """Returns the names of each set's images; a set whose list cannot be read is added to a survey instead."""
    ids = {}
    for image_set in IMAGE_SETS:
        year = folder / f"VOC{image_set.year}"
        if not is_folder(year):
            present = ", ".join(sorted(name for name in listing(folder) if name.startswith("VOC")))
            survey.add("missing-split", year, f"the folder is missing ({present} is there)", _mend(folder, image_set))
            continue
        try:
            ids[image_set] = image_ids(folder, image_set)
        except BrokenFileError as error:
            survey.add("missing-split", error.path, error.reason, _mend(folder, image_set))
    return ids


def _mend(folder: Path, image_set: ImageSet) -> str:
    """Returns what to do about a set of a kit that is not whole."""
    return f"unpack {ARCHIVES[image_set]} into {folder.parent}, or correct your files"


def survey_root(root: Path) -> Survey:
    """Surveys all that detection in VOC's layout needs, for `salmask data verify`; see `survey_devkit`.

    Raises:
        UserError: There is no kit, or a folder of it cannot be listed.
    """
    return survey_devkit(find_devkit(root))


def survey_published(root: Path) -> Survey:
    """Surveys VOC07+12 itself, as `survey_root` does, and warns of other classes than VOC's."""
    survey = survey_root(root)
    if survey.classes != CLASSES:
        survey.warnings.append(
            f"its {len(survey.classes)} classes are not VOC's 20 (the first is '{survey.classes[0]}')"
        )
    return survey


def class_names(folder: Path) -> tuple[str, ...]:
    """Returns the classes of a kit: those with an image set of their own (`cat_trainval.txt`), sorted; else VOC's.

    Kits that `repro.data.annotations.scenes_export` wrote have other classes than VOC. The lists give them without
    reading every annotation.

    Raises:
        UserError: The folder of lists cannot be read.
    """
    ending = "_trainval.txt"
    lists = [name for name in listing(folder / "VOC2007/ImageSets/Main") if not is_clutter(name)]
    return tuple(sorted(name.removesuffix(ending) for name in lists if name.endswith(ending))) or CLASSES


def image_ids(folder: Path, image_set: ImageSet) -> tuple[str, ...]:
    """Reads the names of a set's images, without suffix, as `ImageSets/Main/SPLIT.txt` lists them.

    Raises:
        BrokenFileError: The list is missing, empty, cannot be read, or lists something else than names.
    """
    path = folder / f"VOC{image_set.year}" / "ImageSets" / "Main" / f"{image_set.split}.txt"
    try:
        # "utf-8-sig" drops the byte order mark that some editors write, which would become part of the first name.
        lines = content_of(path, missing="the list of images is missing").decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise BrokenFileError(path, "cannot be read as text") from error
    ids = tuple(line.strip() for line in lines if line.strip())
    if not ids:
        raise BrokenFileError(path, "lists no image")
    strange = next((name for name in ids if not _ID.fullmatch(name)), None)
    if strange is not None:
        raise BrokenFileError(path, f"'{strange}' is not the name of an image")
    return ids


def _survey_set(survey: VocSurvey, folder: Path, image_set: ImageSet, ids: Sequence[str]) -> None:
    """Adds to a survey what the annotations of one set say, and what is wrong with them."""
    year, mend = folder / f"VOC{image_set.year}", _mend(folder, image_set)
    read = survey.annotations.setdefault(image_set, {})
    # Every class counts from 0, so that one without an object has a line in the report too.
    counts = survey.objects.setdefault(str(image_set), dict.fromkeys(survey.classes, 0))
    survey.images[str(image_set)] = len(ids)
    images, annotations = year / "JPEGImages", year / "Annotations"
    without_image = _add_missing(survey, "missing-image", images, ".jpg", image_set, ids, mend)
    without_annotation = _add_missing(survey, "missing-annotation", annotations, ".xml", image_set, ids, mend)
    for name in ids:
        if name in without_annotation:
            continue
        path = annotations / f"{name}.xml"
        try:
            annotation = read_annotation(path)
        except BrokenFileError as error:
            survey.add("broken-annotation", path, error.reason, mend)
            continue
        read[name] = annotation
        _survey_objects(survey, path, annotation, counts)
        if name not in without_image:
            survey.files.append(AnnotatedImage(f"{images}/{name}.jpg", image_set in TEST, annotation.size))
    # If all annotations are missing, that is a finding already.
    if not sum(counts.values()) and len(without_annotation) < len(ids):
        survey.add("no-objects", annotations, f"no object in any image of {image_set.split}", mend)
    elif image_set in TEST and read and all(item.difficult for each in read.values() for item in each.objects):
        message = f"every object of {image_set.split} is difficult, and none of those counts when a detector is scored"
        survey.add("no-objects", annotations, message, "correct <difficult>")
    # The objects of an image that is listed twice would count twice in scoring, but be detected once; in training, the
    # image would have twice the weight.
    if repeated := repetitions(ids):
        path = year / f"ImageSets/Main/{image_set.split}.txt"
        survey.add("overlap", path, f"lists images more than once: {shortened(repeated)}", "list each once")


def _add_missing(
    survey: Survey, kind: FindingKind, folder: Path, suffix: str, image_set: ImageSet, ids: Sequence[str], mend: str
) -> frozenset[str]:
    """Returns the names that have no file in a folder. Each is a finding; if all are missing, they are one together."""
    present = listing(folder)
    missing = [name for name in ids if name + suffix not in present]
    noun = "image" if kind == "missing-image" else "annotation"
    if len(missing) == len(ids):
        survey.add(kind, folder, f"no {noun} of {image_set.split} is there, {len(ids)} are listed", mend)
    else:
        for name in missing:
            survey.add(kind, folder / f"{name}{suffix}", f"the {noun} is missing ({image_set})", mend)
    return frozenset(missing)


def _survey_objects(survey: Survey, path: Path, annotation: Annotation, counts: dict[str, int]) -> None:
    """Counts the objects of one image by class, and adds to a survey what is wrong with them."""
    for instance in annotation.objects:
        if instance.name in counts:
            counts[instance.name] += 1
        else:
            mend = "correct the class, or remove the object"
            survey.add("unknown-class", path, f"'{instance.name}' is none of the {len(counts)} classes", mend)
        if fault := box_fault(instance.box, annotation.size):
            survey.add("outside-image", path, fault, "correct the box")


def _survey_overlap(survey: Survey, folder: Path, ids: Mapping[ImageSet, Sequence[str]]) -> None:
    """Adds to a survey the images that are listed both for training and for testing."""
    # Within one year only: the same name in two years is two images, in two folders.
    for test, train in itertools.product(set(TEST) & ids.keys(), set(TRAIN) & ids.keys()):
        if test.year == train.year:
            for name in sorted(set(ids[test]) & set(ids[train])):
                path = folder / f"VOC{test.year}/JPEGImages/{name}.jpg"
                survey.add("overlap", path, f"is listed in {train} and in {test}", "unpack both archives again")
