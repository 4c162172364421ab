"""The annotation of one image of PASCAL VOC, as detectron2 reads it (data/datasets/pascal_voc.py).

Corners are 1-based and inclusive in the file, and become a box whose lower edges are one less. This is the only reader:
verification, training and scoring all use what it returns. No torch.
"""

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from repro.data.annotations import fields
from repro.data.annotations.fields import Fields
from repro.data.annotations.findings import BoxCorners, BrokenFileError, content_of


@dataclass(frozen=True)
class VocObject:
    """One object of an image.

    Attributes:
        name: The name of its class.
        box: (x0, y0, x1, y1) in pixels, upper edges exclusive.
        difficult: Whether it is left out when a detector is scored.
    """

    name: str
    box: BoxCorners
    difficult: bool


@dataclass(frozen=True)
class Annotation:
    """The content of one XML file.

    Attributes:
        size: (width, height) of the image in pixels.
        objects: The objects in the order of the file.
    """

    size: tuple[int, int]
    objects: tuple[VocObject, ...]


def read_annotation(path: Path) -> Annotation:
    """Reads one XML file.

    Raises:
        BrokenFileError: The file is missing, cannot be read, is broken, or lacks what detection needs.
    """
    content = content_of(path)
    try:
        tree = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the latter two: an unknown encoding
        raise BrokenFileError(path, f"broken XML ({error})") from error
    size = _fields_of(tree)
    width, height = size.read("size/width", fields.positive), size.read("size/height", fields.positive)
    faults, objects = size.faults, []
    for number, element in enumerate(tree.iterfind("object"), 1):
        try:
            objects.append(_object(element))
        except ValueError as error:
            faults.append(f"object {number}: {error}")
    if faults:
        raise BrokenFileError(path, "; ".join(faults))
    return Annotation((width, height), tuple(objects))


def _fields_of(element: ElementTree.Element) -> Fields:
    """Reads the texts below an element by paths such as `size/width`."""
    return Fields(element.findtext, lambda path: f"<{path.replace('/', '><')}>")


def _object(element: ElementTree.Element) -> VocObject:
    """Reads one <object>; what detection does not need (<pose>, <truncated>, parts) may say anything or be missing.

    Raises:
        ValueError: It lacks what detection needs, or its box has no area.
    """
    texts = _fields_of(element)
    name = texts.read("name", fields.name)
    corners = [texts.read(f"bndbox/{side}", fields.number) for side in ("xmin", "ymin", "xmax", "ymax")]
    difficult = texts.read_optional("difficult", fields.flag, default=False)
    texts.refuse_faults()
    xmin, ymin, xmax, ymax = corners
    if xmax < xmin or ymax < ymin:
        raise ValueError(f"the box of a {name} has no area ({xmin:g}, {ymin:g}, {xmax:g}, {ymax:g})")
    # From 1-based and inclusive to 0-based and exclusive: the upper edges stay, the lower ones are one less.
    return VocObject(name, (xmin - 1, ymin - 1, xmax, ymax), difficult)
