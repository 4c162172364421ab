"""What a detector is scored against: the annotations as we read them, in the form that detectron2's evaluators read.

The evaluators read files, and die of what annotation tools leave out or write as a float. They get files of what was
verified and normalised before anything was trained, so that no second reader has a say.
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

    detectron2 refuses to change what a name once said, so what it said before is removed.

    Args:
        name: In detectron2's `MetadataCatalog`.
        classes: Names in the order of their labels.
        metadata: What an evaluator looks for there.
    """
    if name in MetadataCatalog.list():
        MetadataCatalog.remove(name)
    MetadataCatalog.get(name).set(thing_classes=list(classes), **metadata)
    return name


@dataclass(frozen=True)
class VocGroundTruth:
    """The annotations of a set of VOC that is scored on."""

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
        """Makes an evaluator; its files are removed with it."""
        return _VocEvaluator(self)


class _VocEvaluator(PascalVOCDetectionEvaluator):
    """detectron2's evaluator on a kit of its own, which has every field that it reads in the form that it reads."""

    def __init__(self, truth: VocGroundTruth) -> None:
        folder = Path(tempfile.mkdtemp(prefix="salmask-voc-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)  # read at the end, when all is detected
        annotations, lists = folder / "Annotations", folder / "ImageSets/Main"
        annotations.mkdir()
        lists.mkdir(parents=True)
        for name, annotation in truth.annotations.items():
            (annotations / f"{name}.xml").write_bytes(ElementTree.tostring(_voc_xml(annotation)))
        (lists / f"{truth.image_set.split}.txt").write_text("\n".join(truth.annotations), encoding="utf-8")
        year, split = truth.image_set
        super().__init__(register(truth.metadata, truth.classes, dirname=str(folder), year=year, split=split))


def _voc_xml(annotation: Annotation) -> ElementTree.Element:
    """Writes what the evaluator reads of an annotation.

    Its corners are whole numbers; a float is cut off, as mmdetection's reader does (mmdet/datasets/xml_style.py).
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

        Objects are numbered from 1: pycocotools takes an object of the id 0 for none (cocoeval.py, evaluateImg).
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
        with tempfile.TemporaryDirectory(prefix="salmask-coco-") as folder:  # it is read at once
            path = Path(folder) / "instances.json"
            path.write_text(json.dumps(self.content), encoding="utf-8")
            register(self.metadata, self.classes, json_file=str(path), thing_dataset_id_to_contiguous_id=labels)
            # The official API, as detectron2 recommends for papers: where it is built from source it would score by an
            # implementation of its own, and where it is a wheel by this one.
            return COCOEvaluator(self.metadata, ("bbox", "segm"), use_fast_impl=False)


def encoded_mask(mask: Mask) -> Mask:
    """Returns polygons as they are, and an RLE compressed, as detectron2 wants it."""
    if isinstance(mask, dict) and isinstance(mask["counts"], list):
        compressed: dict[str, Any] = coco_mask.frPyObjects(mask, *mask["size"])
        return compressed
    return mask


def area_of(entry: ObjectEntry, size: tuple[int, int]) -> float:
    """Returns the area of an object in pixels: the file's, or that of its mask, or else of its box.

    Args:
        entry: Of the file.
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
