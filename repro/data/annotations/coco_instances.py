"""The reader of COCO's `instances_*.json`, one file at a time and entry by entry. No torch.

It is the only one: verification, training and scoring all use what it returns.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from repro.data.annotations import fields
from repro.data.annotations.fields import Fields
from repro.data.annotations.findings import BrokenFileError, content_of
from repro.data.annotations.masks import Mask, has_pixels, read_mask
from repro.processes.garbage import collection_paused

Entry = TypeVar("Entry")  # what an entry of one of the file's lists is read as


class ImageEntry(NamedTuple):
    """An entry of the list `images`: `size` is (width, height) in pixels."""

    id: int
    file_name: str
    size: tuple[int, int]


class ObjectEntry(NamedTuple):
    """An entry of the list `annotations`: `bbox` is (x, y, width, height) in pixels.

    `area` and `mask` are None where the file has none, or an empty one.
    """

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    crowd: bool
    area: float | None
    mask: Mask | None


@dataclass(frozen=True)
class Instances:
    """The content of one `instances_*.json`.

    Attributes:
        classes: Class names by category id, in the order of the ids, which is that of detectron2's labels.
        images: The images in the order of the file.
        objects: The objects in the order of the file.
        faults: What is wrong with the entries of the three lists that were left out.
    """

    classes: Mapping[int, str]
    images: Sequence[ImageEntry]
    objects: Sequence[ObjectEntry]
    faults: Sequence[str] = ()


def is_trained_on(entry: ObjectEntry) -> bool:
    """Says whether a detector learns from an object: it is no crowd, has a mask, and its box has an area."""
    return not entry.crowd and entry.mask is not None and min(entry.bbox[2:]) > 0


def read_instances(path: Path) -> Instances:
    """Reads one `instances_*.json`.

    Returns:
        All entries that can be read, and what is wrong with the others.

    Raises:
        BrokenFileError: The file is missing, cannot be read, is not JSON, or lacks one of the three lists.
    """
    # The garbage collector would look for cycles among a million small objects, which takes twice as long as reading.
    with collection_paused():
        try:
            content = json.loads(content_of(path, missing="the file of annotations is missing"))
        except (ValueError, RecursionError) as error:
            raise BrokenFileError(path, f"broken JSON ({error})") from error
        faults: list[str] = []
        categories = _entries(path, content, "categories", _category, faults)
        images = _entries(path, content, "images", _image, faults)
        objects = _entries(path, content, "annotations", _object, faults)
        # Sorted by id: detectron2 numbers its labels so, whatever the order of the file.
        classes = dict(sorted(categories))
        if len(classes) < len(categories):
            faults.append(f"entries of 'categories' that share the id of another: {len(categories) - len(classes)}")
        return Instances(classes, images, objects, faults)


def _entries(path: Path, content: Any, name: str, read: Callable[[Fields], Entry], faults: list[str]) -> list[Entry]:
    """Reads one of the file's lists, entry by entry.

    Args:
        path: The file, for messages.
        content: The file's content, whatever JSON it is.
        name: The list's key.
        read: Reads one entry; its `ValueError` says what is wrong with it.
        faults: Gets what is wrong with the entries that cannot be read, which are left out.

    Raises:
        BrokenFileError: The list is missing.
    """
    values = content.get(name) if isinstance(content, dict) else None
    if not isinstance(values, list):
        raise BrokenFileError(path, f"has no list '{name}', and so is not a file of instances")
    entries = []
    for position, value in enumerate(values):
        try:
            if not isinstance(value, dict):
                raise ValueError("is not a JSON object")
            entries.append(read(Fields(value.get, repr)))
        except ValueError as error:
            faults.append(f"entry {position} of '{name}': {error}")
    return entries


def _category(entry: Fields) -> tuple[int, str]:
    category = entry.read("id", fields.whole), entry.read("name", fields.name)
    entry.refuse_faults()
    return category


def _image(entry: Fields) -> ImageEntry:
    image_id, file_name = entry.read("id", fields.whole), entry.read("file_name", fields.name)
    size = entry.read("width", fields.positive), entry.read("height", fields.positive)
    entry.refuse_faults()
    return ImageEntry(image_id, file_name, size)


def _object(entry: Fields) -> ObjectEntry:
    ids = [entry.read(name, fields.whole) for name in ("id", "image_id", "category_id")]
    box, crowd = entry.read("bbox", _box), entry.read_optional("iscrowd", fields.flag, default=False)
    area = entry.read_optional("area", _area, default=None)
    mask = entry.read_optional("segmentation", read_mask, default=None)
    if entry.read_optional("ignore", fields.flag, default=False):
        entry.faults.append("'ignore' is set, which COCO does not have; remove the object, or set 'iscrowd'")
    entry.refuse_faults()
    if mask is not None and not crowd and not has_pixels(mask):
        mask = None
    object_id, image_id, category_id = ids
    return ObjectEntry(object_id, image_id, category_id, box, crowd, area, mask)


def _box(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError("is not a list of four numbers")
    box = tuple(fields.number(edge) for edge in value)
    if min(box[2:]) < 0:
        raise ValueError(f"has a negative width or height ({box[2]:g}, {box[3]:g})")
    return box


def _area(value: Any) -> float:
    area = fields.number(value)
    if area < 0:
        raise ValueError(f"is {area:g}, which is negative")
    return area
