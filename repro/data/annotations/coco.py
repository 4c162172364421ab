"""COCO 2017 as it is downloaded: `train2017/`, `val2017/`, `annotations/instances_{train,val}2017.json`. No torch."""

import contextlib
import gc
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from repro.data.annotations.findings import AnnotatedImage, BrokenFileError, FindingKind, Survey, box_fault, listing
from repro.data.errors import PathError, reason_of
from repro.errors import shortened

TRAIN, TEST = SPLITS = ("train2017", "val2017")

EXPECTED: Mapping[str, int] = {"train2017": 118_287, "val2017": 5_000}
"""Images of each split (cocodataset.org)."""
CLASS_COUNT = 80

IMAGE_ARCHIVES: Mapping[str, str] = {"train2017": "train2017.zip", "val2017": "val2017.zip"}
ANNOTATION_ARCHIVE = "annotations_trainval2017.zip"


Entry = TypeVar("Entry")  # what an entry of one of the file's lists is read as


class ImageEntry(NamedTuple):
    """An entry of the list `images`: `size` is (width, height) in pixels."""

    id: int
    file_name: str
    size: tuple[int, int]


class ObjectEntry(NamedTuple):
    """An entry of the list `annotations`: `bbox` is (x, y, width, height) in pixels.

    A mask is polygons, or, where it is not, an RLE.
    """

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    crowd: bool
    polygons: bool


@dataclass(frozen=True)
class Instances:
    """The content of one `instances_*.json`, without the masks.

    Attributes:
        classes: Class names by category id, in the order of the ids, which is that of detectron2's labels.
        images: The images in the order of the file.
        objects: The objects in the order of the file.
    """

    classes: Mapping[int, str]
    images: Sequence[ImageEntry]
    objects: Sequence[ObjectEntry]


@dataclass(frozen=True)
class CocoFolder:
    """A COCO folder that `check_layout` found to be whole.

    Attributes:
        root: The folder that holds the folders of images and `annotations`.
        classes: Names in the order of their labels.
        images: Number of images of each split that was asked for.
        objects: Objects of each split and class, crowds included.
        mask_format: What detectron2's `INPUT.MASK_FORMAT` must be to train on the masks: `polygon` for COCO itself,
            `bitmask` where an object that is no crowd has an RLE, as `repro.data.annotations.scenes_export` writes.
    """

    root: Path
    classes: tuple[str, ...]
    images: Mapping[str, int]
    objects: Mapping[str, Mapping[str, int]]
    mask_format: Literal["polygon", "bitmask"]


@dataclass
class CocoSurvey(Survey):
    """All that COCO's annotations say, and all that is wrong with them; `Survey` has the other attributes.

    Attributes:
        bitmasks: Whether an object that is no crowd has an RLE.
    """

    bitmasks: bool = False


def check_layout(root: Path, splits: Sequence[str] = SPLITS) -> CocoFolder:
    """Makes sure, before anything is trained, that all images are there and the annotations can be read and are theirs.

    Args:
        root: The folder that holds `train2017`, `val2017` and `annotations`.
        splits: Those of `SPLITS` that are needed.

    Returns:
        What the folder holds. Images are not decoded: `salmask data verify coco` does that.

    Raises:
        UserError: A folder, file or image is missing, a JSON is broken, speaks of the images of another split or of an
            image or a class that it does not list, a box reaches out of its image, the splits have different classes,
            or a split has no object; with the mend.
    """
    require_coco(root)
    survey = survey_folder(root, splits)
    survey.refuse_first()
    mask_format: Literal["polygon", "bitmask"] = "bitmask" if survey.bitmasks else "polygon"
    return CocoFolder(root, survey.classes, survey.images, survey.objects, mask_format)


def require_coco(root: Path) -> None:
    """Refuses a folder that is none of COCO's.

    Raises:
        UserError: It holds neither annotations nor images of COCO.
    """
    if not any((root / name).is_dir() for name in ("annotations", *SPLITS)):
        raise PathError(
            root,
            f"holds neither annotations/ nor {'/, '.join(SPLITS)}/",
            mend="name the folder that does, or unpack with `salmask data prepare coco --from ARCHIVES`",
        )


def annotation_file(root: Path, split: str) -> Path:
    """Returns the path of a split's annotations, `annotations/instances_SPLIT.json`."""
    return root / "annotations" / f"instances_{split}.json"


def survey_folder(root: Path, splits: Sequence[str] = SPLITS) -> CocoSurvey:
    """Reads all annotations and finds everything that is wrong with them.

    Args:
        root: The COCO folder.
        splits: The splits to look at.
    """
    survey = CocoSurvey()
    # Of both splits, whichever are asked for: annotations of the wrong one are told by where their images lie.
    file_names = {split: listing(root / split) for split in SPLITS}
    names_listed: dict[str, set[str]] = {}
    for split in splits:
        path = annotation_file(root, split)
        if not file_names[split]:
            mend = f"unpack {IMAGE_ARCHIVES[split]} into {root}"
            survey.add("missing-split", root / split, "the folder of images is missing or empty", mend)
        mend = f"unpack {ANNOTATION_ARCHIVE} into {root}"
        try:
            instances = read_instances(path)
        except BrokenFileError as error:
            kind: FindingKind = "broken-annotation" if path.is_file() else "missing-annotation"
            survey.add(kind, path, error.reason, mend)
            continue
        names_listed[split] = {image.file_name for image in instances.images}
        _survey_classes(survey, path, instances, mend)
        _survey_images(survey, root, split, instances, file_names)
        _survey_objects(survey, path, split, instances, mend)
    for name in sorted(set.intersection(*names_listed.values())) if len(names_listed) > 1 else ():
        path = root / splits[-1] / name
        survey.add("overlap", path, f"is listed in {' and in '.join(names_listed)}", "unpack the lists again")
    return survey


def survey_root(root: Path) -> Survey:
    """Surveys both splits, as `salmask data verify` asks for it; see `survey_folder`.

    Raises:
        UserError: The folder is none of COCO's.
    """
    require_coco(root)
    survey = survey_folder(root)
    if survey.classes and len(survey.classes) != CLASS_COUNT:
        survey.warnings.append(f"{len(survey.classes)} classes, where COCO has {CLASS_COUNT}")
    return survey


def read_instances(path: Path) -> Instances:
    """Reads one `instances_*.json`.

    Raises:
        BrokenFileError: It is missing, no JSON, or lacks what detection needs.
    """
    with _no_garbage_collection():
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise BrokenFileError(path, "the file of annotations is missing") from None
        except OSError as error:
            raise BrokenFileError(path, reason_of(error)) from error
        except ValueError as error:
            raise BrokenFileError(path, f"broken JSON ({error})") from error
        # Sorted by id: detectron2 numbers its labels so, whatever the order of the file.
        classes = dict(sorted(_entries(path, content, "categories", _category)))
        images = _entries(path, content, "images", _image)
        return Instances(classes, images, _entries(path, content, "annotations", _object))


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Turns Python's search for circles of references off, for the length of a `with` block.

    The files hold a million small objects without a circle among them: looking for one takes twice as long as reading.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _entries(path: Path, content: Any, name: str, read: Callable[[Any], Entry]) -> list[Entry]:
    """Reads one of the file's lists, entry by entry.

    Args:
        path: The file, for messages.
        content: The file's content, whatever JSON it is.
        name: The list's key.
        read: Reads one entry; what it raises for an odd one becomes a `BrokenFileError`.

    Raises:
        BrokenFileError: The list is missing, or an entry cannot be read.
    """
    values = content.get(name) if isinstance(content, dict) else None
    if not isinstance(values, list):
        raise BrokenFileError(path, f"has no list '{name}'; it is no file of instances")
    entries = []
    for position, value in enumerate(values):
        try:
            entries.append(read(value))
        except (KeyError, TypeError, ValueError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be read ({error})"
            raise BrokenFileError(path, f"entry {position} of '{name}' {reason}") from error
    return entries


def _category(entry: Any) -> tuple[int, str]:
    return int(entry["id"]), str(entry["name"])


def _image(entry: Any) -> ImageEntry:
    return ImageEntry(int(entry["id"]), str(entry["file_name"]), (int(entry["width"]), int(entry["height"])))


def _object(entry: Any) -> ObjectEntry:
    x, y, width, height = entry["bbox"]
    box = (float(x), float(y), float(width), float(height))
    # An RLE is an object in JSON, polygons are a list. Masks may be missing: detection of boxes needs none.
    crowd, polygons = bool(entry.get("iscrowd", 0)), isinstance(entry.get("segmentation", []), list)
    return ObjectEntry(int(entry["id"]), int(entry["image_id"]), int(entry["category_id"]), box, crowd, polygons)


def _survey_classes(survey: CocoSurvey, path: Path, instances: Instances, mend: str) -> None:
    """Takes a survey's classes from the first split, and holds those of the second against them."""
    classes = tuple(instances.classes.values())
    if not survey.classes:
        survey.classes = classes
    elif classes != survey.classes:
        differing = sorted(set(classes) ^ set(survey.classes)) or ["their order"]
        survey.add("unknown-class", path, f"the splits have different classes: {shortened(differing)}", mend)


def _survey_images(
    survey: CocoSurvey, root: Path, split: str, instances: Instances, file_names: Mapping[str, frozenset[str]]
) -> None:
    """Adds a split's images to a survey, and those that are missing; `file_names` are those in each split's folder."""
    path, present = annotation_file(root, split), file_names[split]
    survey.images[split] = len(instances.images)
    names = [image.file_name for image in instances.images]
    if not names:
        survey.add("no-objects", path, "lists no image", f"unpack {ANNOTATION_ARCHIVE} into {root}")
    # One finding for all: annotations of another split would make a hundred thousand of missing images.
    if present and names and present.isdisjoint(names):
        other_splits = (name for name in SPLITS if name != split and not file_names[name].isdisjoint(names))
        other_split = next(other_splits, "")
        owner = f", but in {other_split}: annotations of another split" if other_split else ""
        message = f"none of its {len(names)} images is in {split}{owner}"
        survey.add("other-split", path, message, f"unpack {ANNOTATION_ARCHIVE} into {root} again")
        return
    mend = f"unpack {IMAGE_ARCHIVES[split]} into {root} again"
    for image in instances.images:
        file = f"{root}/{split}/{image.file_name}"
        if image.file_name in present:
            survey.files.append(AnnotatedImage(file, split == TEST, image.size))
        elif present:  # an empty folder is a finding already
            survey.add("missing-image", file, f"the image is missing ({split})", mend)


def _survey_objects(survey: CocoSurvey, path: Path, split: str, instances: Instances, mend: str) -> None:
    """Adds a split's objects to a survey, and what is wrong with them."""
    sizes = {image.id: image.size for image in instances.images}
    counts = Counter(entry.category_id for entry in instances.objects)
    survey.objects[split] = {name: counts[number] for number, name in instances.classes.items()}
    flat_boxes = 0
    for entry in instances.objects:
        x, y, width, height = entry.bbox
        # Crowds are RLEs in COCO itself too, and are not trained on; only another object's RLE asks for `bitmask`.
        survey.bitmasks = survey.bitmasks or not (entry.polygons or entry.crowd)
        flat_boxes += width <= 0 or height <= 0
        if entry.category_id not in instances.classes:
            message = f"object {entry.id} is of category {entry.category_id}, which is not listed"
            survey.add("unknown-class", path, message, mend)
        if entry.image_id not in sizes:
            message = f"object {entry.id} is on image {entry.image_id}, which is not listed"
            survey.add("other-split", path, message, mend)
        elif fault := box_fault((x, y, x + width, y + height), sizes[entry.image_id]):
            survey.add("outside-image", path, f"object {entry.id}: {fault}", "correct the box")
    if flat_boxes:  # COCO itself has some
        survey.warnings.append(f"{split}: {flat_boxes} boxes without area; detectron2 leaves them out")
    if instances.images and not sum(survey.objects[split].values()):
        survey.add("no-objects", path, f"no object in any image of {split}", mend)
    # Ids join images and objects: where two share one, objects would silently move to another image.
    if len(sizes) < len(instances.images):
        repeated = len(instances.images) - len(sizes)
        survey.add("broken-annotation", path, f"{repeated} images share the id of another", mend)
    if (distinct := len({entry.id for entry in instances.objects})) < len(instances.objects):
        repeated = len(instances.objects) - distinct
        survey.add("broken-annotation", path, f"{repeated} objects share the id of another", mend)
