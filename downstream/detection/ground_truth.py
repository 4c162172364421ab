"""What a detector is scored against: the annotations as we read them, in the form that detectron2's evaluators read.

The evaluators read files, and fail if an annotation tool left a field out or wrote a float. They are therefore given
files made from the annotations that were verified and normalised before any training, and never read the originals.
"""

import hashlib
import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, PascalVOCDetectionEvaluator
from pycocotools import mask as coco_mask

from repro.data.annotations import voc
from repro.data.annotations.coco_instances import Instances, ObjectEntry
from repro.data.annotations.masks import Mask
from repro.data.annotations.voc_annotation import Annotation


def register(name: str, classes: tuple[str, ...], **metadata: Any) -> str:
    """Registers fresh metadata under a name, and returns the name.

    detectron2 refuses to change registered metadata, so those registered under this name before are removed.

    Args:
        name: In detectron2's `MetadataCatalog`.
        classes: Names in the order of their labels.
        metadata: Further entries that an evaluator reads.
    """
    if name in MetadataCatalog.list():
        MetadataCatalog.remove(name)
    MetadataCatalog.get(name).set(thing_classes=list(classes), **metadata)
    return name


@dataclass(frozen=True)
class VocGroundTruth:
    """The annotations of the image set of VOC that is scored on."""

    metadata: str
    """Name of the data set's entry in detectron2's `MetadataCatalog`."""
    image_set: voc.ImageSet
    classes: tuple[str, ...]
    annotations: Mapping[str, Annotation]
    """By the image's name."""

    def fingerprint(self) -> str:
        """Returns twelve hex digits over all that is scored against."""
        return _digest([self.classes, {name: asdict(each) for name, each in self.annotations.items()}])

    def evaluator(self) -> PascalVOCDetectionEvaluator:
        """Makes an evaluator; its temporary files are removed with it."""
        return _VocEvaluator(self)


class _VocEvaluator(PascalVOCDetectionEvaluator):
    """detectron2's evaluator on a temporary devkit, which has every field in the form that the evaluator reads."""

    def __init__(self, truth: VocGroundTruth) -> None:
        folder = Path(tempfile.mkdtemp(prefix="salmask-voc-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)  # not earlier: read only after detection
        annotations, lists = folder / "Annotations", folder / "ImageSets/Main"
        annotations.mkdir()
        lists.mkdir(parents=True)
        for name, annotation in truth.annotations.items():
            (annotations / f"{name}.xml").write_bytes(ElementTree.tostring(_voc_xml(annotation)))
        (lists / f"{truth.image_set.split}.txt").write_text("\n".join(truth.annotations), encoding="utf-8")
        year, split = truth.image_set
        super().__init__(register(truth.metadata, truth.classes, dirname=str(folder), year=year, split=split))


def _voc_xml(annotation: Annotation) -> ElementTree.Element:
    """Writes the fields of an annotation that the evaluator reads.

    It reads corners as integers, so floats are truncated, as in mmdetection's reader (mmdet/datasets/xml_style.py).
    """
    tree = ElementTree.Element("annotation")
    for item in annotation.objects:
        x0, y0, x1, y1 = item.box
        element = ElementTree.SubElement(tree, "object")
        texts = {"name": item.name, "pose": "Unspecified", "truncated": "0", "difficult": str(int(item.difficult))}
        for tag, text in texts.items():
            ElementTree.SubElement(element, tag).text = text
        corners = ElementTree.SubElement(element, "bndbox")
        # 1-based and inclusive again, as `read_annotation` found them.
        for tag, edge in {"xmin": x0 + 1, "ymin": y0 + 1, "xmax": x1, "ymax": y1}.items():
            ElementTree.SubElement(corners, tag).text = str(int(edge))
    return tree


@dataclass(frozen=True)
class CocoGroundTruth:
    """The annotations of a split of COCO that is scored on."""

    metadata: str
    """Name of the data set's entry in detectron2's `MetadataCatalog`."""
    classes: tuple[str, ...]
    instances: Instances

    @cached_property
    def content(self) -> dict[str, Any]:
        """The split as pycocotools reads it, with the area and the mask of every object.

        Objects are numbered from 1: pycocotools takes a match with the id 0 for no match (cocoeval.py, evaluateImg).
        """
        sizes = {image.id: image.size for image in self.instances.images}
        return {
            "info": {},
            "categories": [{"id": number, "name": name} for number, name in self.instances.classes.items()],
            "images": [
                {"id": image.id, "file_name": image.file_name, "width": image.size[0], "height": image.size[1]}
                for image in self.instances.images
            ],
            "annotations": [
                {
                    "id": number,
                    "image_id": entry.image_id,
                    "category_id": entry.category_id,
                    "bbox": entry.bbox,
                    "iscrowd": int(entry.crowd),
                    "area": area_of(entry, sizes[entry.image_id]),
                    "segmentation": entry.mask,
                }
                for number, entry in enumerate(self.instances.objects, 1)
            ],
        }

    def fingerprint(self) -> str:
        """Returns twelve hex digits over all that is scored against."""
        return _digest(self.content)

    def evaluator(self) -> COCOEvaluator:
        """Makes an evaluator."""
        labels = {number: label for label, number in enumerate(self.instances.classes)}
        with tempfile.TemporaryDirectory(prefix="salmask-coco-") as folder:  # the constructor reads the file
            path = Path(folder) / "instances.json"
            path.write_text(json.dumps(self.content), encoding="utf-8")
            register(self.metadata, self.classes, json_file=str(path), thing_dataset_id_to_contiguous_id=labels)
            # The official API, as detectron2 recommends for papers. By default a detectron2 built from source would use
            # an implementation of its own, and one from a wheel the official one.
            return COCOEvaluator(self.metadata, ("bbox", "segm"), use_fast_impl=False)


def encoded_mask(mask: Mask) -> Mask:
    """Returns polygons as they are, and an RLE compressed, as detectron2 wants it."""
    if isinstance(mask, dict) and isinstance(mask["counts"], list):
        compressed: dict[str, Any] = coco_mask.frPyObjects(mask, *mask["size"])
        return compressed
    return mask


def area_of(entry: ObjectEntry, size: tuple[int, int]) -> float:
    """Returns the area of an object in pixels: as annotated, else of its mask, else of its box.

    Args:
        entry: The object's annotation.
        size: The image's (width, height) in pixels.
    """
    if entry.area is not None:
        return entry.area
    if entry.mask is None:
        return entry.bbox[2] * entry.bbox[3]
    width, height = size
    mask = encoded_mask(entry.mask)
    code = mask if isinstance(mask, dict) else coco_mask.merge(coco_mask.frPyObjects(mask, height, width))
    return float(coco_mask.area(code))


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
