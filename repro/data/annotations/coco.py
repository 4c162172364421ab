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
from repro.errors import UserError, shortened

TRAIN, TEST = SPLITS = ("train2017", "val2017")

EXPECTED: Mapping[str, int] = {"train2017": 118_287, "val2017": 5_000}
"""Images of each split (cocodataset.org); 80 classes."""
CLASS_COUNT = 80

IMAGE_ARCHIVES: Mapping[str, str] = {"train2017": "train2017.zip", "val2017": "val2017.zip"}
ANNOTATION_ARCHIVE = "annotations_trainval2017.zip"


Entry = TypeVar("Entry")


class ImageEntry(NamedTuple):
    """One of `images`: `size` is (width, height) in pixels."""

    id: int
    file_name: str
    size: tuple[int, int]


class ObjectEntry(NamedTuple):
    """One of `annotations`: `bbox` is (x, y, width, height) in pixels; a mask is polygons, or an RLE where not."""

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
        classes: Names by category id, in the order of the ids, which is that of detectron2's labels.
        images: In the order of the file.
        objects: In the order of the file.
    """

    classes: Mapping[int, str]
    images: Sequence[ImageEntry]
    objects: Sequence[ObjectEntry]


@dataclass(frozen=True)
class CocoFolder:
    """A COCO folder that `check_layout` found to be whole.

    Attributes:
        root: Holds the folders of images and `annotations`.
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
    """See `repro.data.annotations.findings.Survey`.

    Attributes:
        bitmasks: Whether an object that is no crowd has an RLE.
    """

    bitmasks: bool = False


def check_layout(root: Path, splits: Sequence[str] = SPLITS) -> CocoFolder:
    """Make sure, before anything is trained, that all images are there and the annotations can be read and are theirs.

    Args:
        root: Holds `train2017`, `val2017` and `annotations`.
        splits: What is needed, of `SPLITS`.

    Returns:
        What the folder holds. Images are not decoded: `salmask data verify coco` does that.

    Raises:
        UserError: a folder, file or image is missing, a JSON is broken, speaks of the images of another split or of an
            image or a class that it does not list, a box reaches out of its image, the splits have different classes,
            or a split has no object; with the mend.
    """
    require_root(root)
    survey = survey_folder(root, splits)
    survey.refuse_first()
    mask_format: Literal["polygon", "bitmask"] = "bitmask" if survey.bitmasks else "polygon"
    return CocoFolder(root, survey.classes, survey.images, survey.objects, mask_format)


def require_root(root: Path) -> None:
    """Refuse a folder that is none of COCO's.

    Raises:
        UserError: it holds neither annotations nor images of COCO.
    """
    if not any((root / name).is_dir() for name in ("annotations", *SPLITS)):
        raise UserError(
            f"{root}: holds neither annotations/ nor {'/, '.join(SPLITS)}/",
            mend="name the folder that does, or unpack with `salmask data prepare coco --from ARCHIVES`",
        )


def annotation_file(root: Path, split: str) -> Path:
    """`annotations/instances_SPLIT.json`."""
    return root / "annotations" / f"instances_{split}.json"


def survey_folder(root: Path, splits: Sequence[str] = SPLITS) -> CocoSurvey:
    """Read all annotations and find everything that is wrong with them.

    Args:
        root: Of COCO.
        splits: What to look at.
    """
    survey = CocoSurvey()
    names = {split: listing(root / split) for split in SPLITS}
    listed: dict[str, set[str]] = {}
    for split in splits:
        path = annotation_file(root, split)
        if not names[split]:
            mend = f"unpack {IMAGE_ARCHIVES[split]} into {root}"
            survey.add("missing-split", root / split, "the folder of images is missing or empty", mend)
        mend = f"unpack {ANNOTATION_ARCHIVE} into {root}"
        try:
            instances = read_instances(path)
        except BrokenFileError as error:
            kind: FindingKind = "broken-annotation" if path.is_file() else "missing-annotation"
            survey.add(kind, path, error.reason, mend)
            continue
        listed[split] = {image.file_name for image in instances.images}
        _survey_classes(survey, path, instances, mend)
        _survey_images(survey, root, split, instances, names)
        _survey_objects(survey, path, split, instances, mend)
    for name in sorted(set.intersection(*listed.values())) if len(listed) > 1 else ():
        path = root / splits[-1] / name
        survey.add("overlap", path, f"is listed in {' and in '.join(listed)}", "unpack the lists again")
    return survey


def survey_root(root: Path) -> Survey:
    """`survey_folder` of both splits, as `salmask data verify` calls it.

    Raises:
        UserError: the folder is none of COCO's.
    """
    require_root(root)
    survey = survey_folder(root)
    if survey.classes and len(survey.classes) != CLASS_COUNT:
        survey.warnings.append(f"{len(survey.classes)} classes, where COCO has {CLASS_COUNT}")
    return survey


def read_instances(path: Path) -> Instances:
    """Read one `instances_*.json`.

    Raises:
        BrokenFileError: it is missing, no JSON, or lacks what detection needs.
    """
    with _no_garbage_collection():
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise BrokenFileError(path, "the file of annotations is missing") from None
        except OSError as error:
            raise BrokenFileError(path, f"{error.strerror}") from error
        except ValueError as error:
            raise BrokenFileError(path, f"broken JSON ({error})") from error
        classes = dict(sorted(_entries(path, content, "categories", _category)))
        images = _entries(path, content, "images", _image)
        return Instances(classes, images, _entries(path, content, "annotations", _object))


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A million small objects without a circle among them: looking for circles takes twice as long as reading them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _entries(path: Path, content: Any, name: str, read: Callable[[Any], Entry]) -> list[Entry]:
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
    crowd, polygons = bool(entry.get("iscrowd", 0)), isinstance(entry.get("segmentation", []), list)
    return ObjectEntry(int(entry["id"]), int(entry["image_id"]), int(entry["category_id"]), box, crowd, polygons)


def _survey_classes(survey: CocoSurvey, path: Path, instances: Instances, mend: str) -> None:
    classes = tuple(instances.classes.values())
    if not survey.classes:
        survey.classes = classes
    elif classes != survey.classes:
        differing = sorted(set(classes) ^ set(survey.classes)) or ["their order"]
        survey.add("unknown-class", path, f"the splits have different classes: {shortened(differing)}", mend)


def _survey_images(
    survey: CocoSurvey, root: Path, split: str, instances: Instances, names: Mapping[str, frozenset[str]]
) -> None:
    path, there = annotation_file(root, split), names[split]
    survey.images[split] = len(instances.images)
    listed = [image.file_name for image in instances.images]
    if not listed:
        survey.add("no-objects", path, "lists no image", f"unpack {ANNOTATION_ARCHIVE} into {root}")
    if there and listed and there.isdisjoint(listed):
        other = next((name for name in SPLITS if name != split and not names[name].isdisjoint(listed)), "")
        whose = f", but in {other}: annotations of another split" if other else ""
        message = f"none of its {len(listed)} images is in {split}{whose}"
        survey.add("other-split", path, message, f"unpack {ANNOTATION_ARCHIVE} into {root} again")
        return
    mend = f"unpack {IMAGE_ARCHIVES[split]} into {root} again"
    for image in instances.images:
        file = f"{root}/{split}/{image.file_name}"
        if image.file_name in there:
            survey.files.append(AnnotatedImage(file, split == TEST, image.size))
        elif there:
            survey.add("missing-image", file, f"the image is missing ({split})", mend)


def _survey_objects(survey: CocoSurvey, path: Path, split: str, instances: Instances, mend: str) -> None:
    sizes = {image.id: image.size for image in instances.images}
    counts = Counter(thing.category_id for thing in instances.objects)
    survey.objects[split] = {name: counts[number] for number, name in instances.classes.items()}
    flat = 0
    for thing in instances.objects:
        x, y, width, height = thing.bbox
        survey.bitmasks = survey.bitmasks or not (thing.polygons or thing.crowd)
        flat += width <= 0 or height <= 0
        if thing.category_id not in instances.classes:
            message = f"object {thing.id} is of category {thing.category_id}, which is not listed"
            survey.add("unknown-class", path, message, mend)
        if thing.image_id not in sizes:
            message = f"object {thing.id} is on image {thing.image_id}, which is not listed"
            survey.add("other-split", path, message, mend)
        elif fault := box_fault((x, y, x + width, y + height), sizes[thing.image_id]):
            survey.add("outside-image", path, f"object {thing.id}: {fault}", "correct the box")
    if flat:
        survey.warnings.append(f"{split}: {flat} boxes without area; detectron2 leaves them out")
    if instances.images and not sum(survey.objects[split].values()):
        survey.add("no-objects", path, f"no object in any image of {split}", mend)
    if len(sizes) < len(instances.images):
        repeated = len(instances.images) - len(sizes)
        survey.add("broken-annotation", path, f"{repeated} images share the id of another", mend)
    if (distinct := len({thing.id for thing in instances.objects})) < len(instances.objects):
        repeated = len(instances.objects) - distinct
        survey.add("broken-annotation", path, f"{repeated} objects share the id of another", mend)
