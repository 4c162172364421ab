"""COCO 2017 as it is downloaded: `train2017/`, `val2017/`, `annotations/instances_{train,val}2017.json`. No torch.

Verification, training and scoring all find out here what a folder holds, and what is missing or wrong. `coco_instances`
reads the files of annotations.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from repro.data.annotations.coco_instances import Instances, is_trained_on, read_instances
from repro.data.annotations.findings import (
    AnnotatedImage,
    BrokenFileError,
    FindingKind,
    Survey,
    box_fault,
    listing,
    repetitions,
)
from repro.data.annotations.masks import mask_fault
from repro.data.errors import PathError
from repro.errors import shortened
from repro.filesystem.presence import exists, is_folder
from repro.quantities import counted

TRAIN, TEST = SPLITS = ("train2017", "val2017")

EXPECTED: Mapping[str, int] = {"train2017": 118_287, "val2017": 5_000}
"""Images of each split (cocodataset.org)."""
CLASS_COUNT = 80

ANNOTATION_ARCHIVE = "annotations_trainval2017.zip"
"""The archive of both splits' annotations; a split's images are in `SPLIT.zip`."""


@dataclass(frozen=True)
class CocoFolder:
    """A COCO folder that `check_layout` found to be whole.

    Attributes:
        root: The folder that holds the folders of images and `annotations`.
        classes: Names in the order of their labels.
        mask_format: What detectron2's `INPUT.MASK_FORMAT` must be to train on the masks: `polygon` for COCO itself,
            `bitmask` where an object that is no crowd has an RLE, as `repro.data.annotations.scenes_export` writes.
        instances: The content of each split's annotations.
    """

    root: Path
    classes: tuple[str, ...]
    mask_format: Literal["polygon", "bitmask"]
    instances: Mapping[str, Instances]


@dataclass
class CocoSurvey(Survey):
    """All that COCO's annotations say, and all that is wrong with them; `Survey` has the other attributes.

    Attributes:
        bitmasks: Whether an object that is no crowd has an RLE.
        instances: The content of the annotations of each split that can be read.
    """

    bitmasks: bool = False
    instances: dict[str, Instances] = field(default_factory=dict)


def check_layout(root: Path) -> CocoFolder:
    """Makes sure, before anything is trained, that all images are there with annotations that can be read.

    Args:
        root: The folder that holds `train2017`, `val2017` and `annotations`.

    Returns:
        What the folder holds. Only the headers of images are read; `salmask data verify coco` decodes them.

    Raises:
        UserError: A folder, file or image is missing; a JSON is broken, is of another split's images, or names an image
            or a class that it does not list; a box or polygon lies outside its image; an image is listed twice, in both
            splits, or with another size; an object to score on has no mask; the splits have different classes; or a
            split has no object to train or score on.
    """
    require_coco(root)
    survey = survey_folder(root)
    survey.add_image_faults()
    survey.refuse()
    mask_format: Literal["polygon", "bitmask"] = "bitmask" if survey.bitmasks else "polygon"
    return CocoFolder(root, survey.classes, mask_format, survey.instances)


def require_coco(root: Path) -> None:
    """Refuses a folder that is not COCO's.

    Raises:
        UserError: The folder holds neither annotations nor images of COCO.
    """
    if not any(is_folder(root / name) for name in ("annotations", *SPLITS)):
        raise PathError(
            root,
            f"holds neither annotations/ nor {'/, '.join(SPLITS)}/",
            mend="name the folder that does, or unpack with `salmask data prepare coco --from ARCHIVES`",
        )


def annotation_file(root: Path, split: str) -> Path:
    """Returns the path of a split's annotations, `annotations/instances_SPLIT.json`."""
    return root / "annotations" / f"instances_{split}.json"


def require_parts(root: Path) -> None:
    """Refuses a folder without the images or the annotations of a split, for example if an archive was not unpacked.

    Unlike `check_layout`, which reads all annotations, this takes no time.

    Raises:
        UserError: The folder is not COCO's, or a part of it is missing or cannot be listed.
    """
    require_coco(root)
    survey = CocoSurvey()
    for split in SPLITS:
        _survey_folder_of(survey, root, split)
        path, mend = annotation_file(root, split), _mend(root, ANNOTATION_ARCHIVE)
        if not exists(path):
            survey.add("missing-annotation", path, "the file of annotations is missing", mend)
    survey.refuse()


def survey_folder(root: Path) -> CocoSurvey:
    """Reads all annotations and finds everything that is wrong with them.

    Args:
        root: The COCO folder.

    Raises:
        UserError: A folder of images cannot be listed.
    """
    survey = CocoSurvey()
    # Both splits first: annotations of the wrong split are recognised by where their images lie.
    file_names = {split: _survey_folder_of(survey, root, split) for split in SPLITS}
    names_listed: dict[str, set[str]] = {}
    for split in SPLITS:
        path, mend = annotation_file(root, split), _mend(root, ANNOTATION_ARCHIVE)
        try:
            instances = read_instances(path)
        except BrokenFileError as error:
            kind: FindingKind = "broken-annotation" if path.is_file() else "missing-annotation"
            survey.add(kind, path, error.reason, mend)
            continue
        if instances.faults:
            for message in instances.faults:
                survey.add("broken-annotation", path, message, "correct the entry")
            continue  # more findings would only come from the entries that were left out
        survey.instances[split] = instances
        names_listed[split] = {image.file_name for image in instances.images}
        _survey_classes(survey, path, instances, mend)
        _survey_images(survey, root, split, instances, file_names)
        _survey_objects(survey, path, split, instances, mend)
    for name in sorted(set.intersection(*names_listed.values())) if len(names_listed) > 1 else ():
        survey.add("overlap", root / TEST / name, f"is listed in {TRAIN} and in {TEST}", "unpack the lists again")
    return survey


def _survey_folder_of(survey: CocoSurvey, root: Path, split: str) -> frozenset[str]:
    """Returns the names of a split's images; if there are none, adds a finding to a survey."""
    names = listing(root / split)
    if not names:
        mend = _mend(root, f"{split}.zip")
        survey.add("missing-split", root / split, "the folder of images is missing or empty", mend)
    return names


def _mend(root: Path, archive: str) -> str:
    """Returns what to do about a part of COCO that is not whole."""
    return f"unpack {archive} into {root}, or correct your files"


def survey_root(root: Path) -> Survey:
    """Surveys both splits for `salmask data verify`; see `survey_folder`.

    Raises:
        UserError: The folder is not COCO's, or a folder of images cannot be listed.
    """
    require_coco(root)
    survey = survey_folder(root)
    survey.instances.clear()  # a million masks, which the report need not hold
    return survey


def survey_published(root: Path) -> Survey:
    """Surveys COCO 2017 itself, as `survey_root` does, and warns if it has another number of classes."""
    survey = survey_root(root)
    if survey.classes and len(survey.classes) != CLASS_COUNT:
        survey.warnings.append(f"{len(survey.classes)} classes, where COCO has {CLASS_COUNT}")
    return survey


def _survey_classes(survey: CocoSurvey, path: Path, instances: Instances, mend: str) -> None:
    """Takes a survey's classes from the first split, and compares those of the second with them."""
    classes = tuple(instances.classes.values())
    if not survey.classes:
        survey.classes = classes
        if repeated := repetitions(classes):
            survey.warnings.append(f"names that several classes have: {shortened(repeated)}")
    elif classes != survey.classes:
        differing = sorted(set(classes) ^ set(survey.classes)) or ["their order"]
        survey.add("unknown-class", path, f"the splits have different classes: {shortened(differing)}", mend)


def _survey_images(
    survey: CocoSurvey, root: Path, split: str, instances: Instances, file_names: Mapping[str, frozenset[str]]
) -> None:
    """Adds a split's images to a survey, and those that are missing; `file_names` are the files of each split."""
    path, present = annotation_file(root, split), file_names[split]
    survey.images[split] = len(instances.images)
    names = [image.file_name for image in instances.images]
    if not names:
        survey.add("no-objects", path, "lists no image", _mend(root, ANNOTATION_ARCHIVE))
    # Each entry may have a part of the image's objects, and would show a detector the others as background.
    if repeated := repetitions(names):
        survey.add("overlap", path, f"lists images more than once: {shortened(repeated)}", "list each once")
    # One finding for all: annotations of another split would give a hundred thousand missing images.
    if present and names and present.isdisjoint(names):
        other_splits = (name for name in SPLITS if name != split and not file_names[name].isdisjoint(names))
        other_split = next(other_splits, "")
        owner = f"; they are in {other_split}: these are annotations of another split" if other_split else ""
        message = f"none of its {len(names)} images is in {split}{owner}"
        survey.add("other-split", path, message, _mend(root, ANNOTATION_ARCHIVE))
        return
    mend = _mend(root, f"{split}.zip")
    for image in instances.images:
        file = f"{root}/{split}/{image.file_name}"
        if image.file_name in present:
            survey.files.append(AnnotatedImage(file, split == TEST, image.size))
        elif present:  # an empty folder is a finding already
            survey.add("missing-image", file, f"the image is missing ({split})", mend)


def _survey_objects(survey: CocoSurvey, path: Path, split: str, instances: Instances, mend: str) -> None:
    """Adds a split's objects to a survey, and what is wrong with them."""
    sizes = {image.id: image.size for image in instances.images}
    counts = Counter(instances.classes.get(entry.category_id) for entry in instances.objects)
    survey.objects[split] = {name: counts[name] for name in instances.classes.values()}
    for entry in instances.objects:
        # Crowds are RLEs in COCO itself too, and are not trained on; only another object's RLE needs `bitmask`.
        survey.bitmasks = survey.bitmasks or (isinstance(entry.mask, dict) and not entry.crowd)
        if entry.category_id not in instances.classes:
            message = f"object {entry.id} is of category {entry.category_id}, which is not listed"
            survey.add("unknown-class", path, message, mend)
        if entry.image_id not in sizes:
            message = f"object {entry.id} is on image {entry.image_id}, which is not listed"
            survey.add("other-split", path, message, mend)
            continue
        x, y, width, height = entry.bbox
        if fault := box_fault((x, y, x + width, y + height), sizes[entry.image_id]):
            survey.add("outside-image", path, f"object {entry.id}: {fault}", "correct the box")
        if fault := mask_fault(entry.mask, sizes[entry.image_id]):
            survey.add("outside-image", path, f"object {entry.id}: 'segmentation' is {fault}", "correct the mask")
    if split == TEST:
        _survey_scored(survey, path, instances)
    else:
        _survey_trained(survey, path, split, instances)
    if instances.images and not sum(survey.objects[split].values()):
        survey.add("no-objects", path, f"no object in any image of {split}", mend)
    # Objects name their image by its id: if two images share one, objects would silently move to the other image.
    if len(sizes) < len(instances.images):
        repeated = len(instances.images) - len(sizes)
        survey.add("broken-annotation", path, f"images that share the id of another: {repeated}", mend)
    if (distinct := len({entry.id for entry in instances.objects})) < len(instances.objects):
        repeated = len(instances.objects) - distinct
        survey.add("broken-annotation", path, f"objects that share the id of another: {repeated}", mend)


def _survey_scored(survey: CocoSurvey, path: Path, instances: Instances) -> None:
    """Adds to a survey the objects that cannot be scored: the AP of masks needs the mask of every object."""
    for entry in instances.objects:
        if entry.mask is None:
            message = f"object {entry.id}: 'segmentation' is missing or empty, and masks are scored by it"
            survey.add("broken-annotation", path, message, "add the mask, or remove the object")
    if instances.objects and all(entry.crowd for entry in instances.objects):
        message = "every object is a crowd, and none of those counts when a detector is scored"
        survey.add("no-objects", path, message, "add objects that are no crowd")


def _survey_trained(survey: CocoSurvey, path: Path, split: str, instances: Instances) -> None:
    """Adds to a survey a warning of objects that training leaves out, and a finding if it leaves out all."""
    objects = [entry for entry in instances.objects if not entry.crowd]
    flat = sum(not is_trained_on(entry) for entry in objects if entry.mask is not None)
    if flat:  # COCO itself has some
        survey.warnings.append(f"{split}: {counted(flat, 'object')} left out by detectron2: the box has no area")
    if maskless := sum(entry.mask is None for entry in objects):
        survey.warnings.append(f"{split}: {counted(maskless, 'object')} left out of the training: no mask")
    if instances.objects and not any(is_trained_on(entry) for entry in objects):
        message = f"no object of {split} has a mask to train on (crowds and boxes without area left out)"
        survey.add("no-objects", path, message, "add masks")
