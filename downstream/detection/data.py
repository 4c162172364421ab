"""Images of detection: VOC and COCO as they are downloaded.

The annotations become detectron2's records, and a training's batches are drawn so that it can be resumed exactly.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList, DatasetMapper
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset, Sampler

from downstream.detection.ground_truth import CocoGroundTruth, VocGroundTruth, encoded_mask, register
from repro.data import images
from repro.data.annotations import coco, voc
from repro.data.errors import mend_of
from repro.errors import UserError, one_line
from repro.processes.distributed import rank, world_size
from repro.processes.loader import Loader
from repro.randomness import Purpose, stream, stream_seed
from repro.settings.detection import VOC

log = logging.getLogger("salmask")
OWN_DATA = "the {} that is downloaded, --data scenes for built-in scenes, or your own under its name (docs/extend.md)"
"""The mend if the folder given for a published data set holds other classes."""
Record = dict[str, Any]
"""An image and its objects, in detectron2's dataset format."""


@dataclass(frozen=True)
class DetectionData:
    """A data set of detection.

    Attributes:
        name: As results name the data set.
        split: Name of the split that is scored on.
        classes: Names of the classes in the order of their labels.
        train: Images with at least one object.
        test: All images of the split.
        mask_format: detectron2's `INPUT.MASK_FORMAT`.
        metadata: Name of its entry in detectron2's `MetadataCatalog`.
        evaluator: Makes detectron2's evaluator of the split.
        test_fingerprint: Twelve hex digits over all that the evaluator knows of the split.
        category_ids: The number of each class in the annotations; if these have only names, counted from 1.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    train: list[Record]
    test: list[Record]
    mask_format: str
    metadata: str
    evaluator: Callable[[], DatasetEvaluator]
    test_fingerprint: str
    category_ids: tuple[int, ...]

    @cached_property
    def train_fingerprint(self) -> str:
        """Twelve hex digits over the classes, and names, sizes and objects of the images to train on, not their pixels.

        The test split is no part of it, so a training stays the same if annotations are corrected there.
        """
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for record in self.train:
            objects = record["annotations"]
            # Rounded, so that the last bit of a sum, which depends on the machine, does not change the fingerprint.
            boxes = [[item["category_id"], *(round(float(edge), 2) for edge in item["bbox"])] for item in objects]
            name = Path(record["file_name"]).name
            digest.update(json.dumps([name, record["width"], record["height"], boxes]).encode())
            digest.update(b"".join(map(_crowd_and_mask, objects)))
        return digest.hexdigest()[:12]


def _crowd_and_mask(item: Record) -> bytes:
    """Returns an object's crowd flag and mask as bytes; nothing for objects of VOC, which have neither."""
    if "segmentation" not in item:
        return b""
    mask = item["segmentation"]
    if isinstance(mask, dict):
        counts = mask["counts"]
        outline = counts if isinstance(counts, bytes) else counts.encode()
    else:
        # As raw bytes, since to format 10^7 numbers takes long. The length of a polygon separates it from the next one.
        outline = b"".join(b"%d:" % len(polygon) + np.asarray(polygon, "<f8").tobytes() for polygon in mask)
    return b"%d:%d:" % (item["iscrowd"], len(outline)) + outline


def open_voc(root: Path, name: str = VOC) -> DetectionData:
    """Opens VOC07+12: trained on both trainvals, scored on the test of 2007.

    Args:
        root: `VOCdevkit`, or the folder that holds it.
        name: As results name the data set.

    Raises:
        UserError: The kit is not whole (see `repro.data.annotations.voc.check_layout`), or `name` is VOC's own and the
            classes are not.
    """
    kit = voc.check_layout(root)
    if name == VOC and set(kit.classes) != set(voc.CLASSES):
        raise UserError(
            f"{kit.folder}: its {len(kit.classes)} classes are not VOC's 20 (the first is '{kit.classes[0]}')",
            mend=OWN_DATA.format("VOC"),
        )
    (test,) = voc.TEST
    objects = (item for annotation in kit.annotations[test].values() for item in annotation.objects)
    warn_absent(kit.classes, (item.name for item in objects if not item.difficult), str(test))
    metadata = register(f"{kit.folder}/{test}", kit.classes)
    truth = VocGroundTruth(metadata, test, kit.classes, kit.annotations[test])
    return DetectionData(
        name=name,
        split=test.split,
        classes=kit.classes,
        train=with_objects([record for image_set in voc.TRAIN for record in voc_records(kit, image_set)]),
        test=voc_records(kit, test),
        mask_format="polygon",
        metadata=metadata,
        evaluator=truth.evaluator,
        test_fingerprint=truth.fingerprint(),
        category_ids=tuple(range(1, len(kit.classes) + 1)),
    )


def voc_records(kit: voc.Devkit, image_set: voc.ImageSet) -> list[Record]:
    """Returns the images of a set with all their objects, difficult ones included, as detectron2's own reader has them.

    Args:
        kit: As `check_layout` returns it.
        image_set: Which images.
    """
    folder = kit.folder / f"VOC{image_set.year}"
    labels = {name: label for label, name in enumerate(kit.classes)}
    records = []
    for name, annotation in kit.annotations[image_set].items():
        width, height = annotation.size
        objects = [
            {"category_id": labels[item.name], "bbox": list(item.box), "bbox_mode": BoxMode.XYXY_ABS}
            for item in annotation.objects
        ]
        path = str(folder / "JPEGImages" / f"{name}.jpg")
        records.append({"file_name": path, "image_id": name, "height": height, "width": width, "annotations": objects})
    return records


def open_coco(root: Path, name: str = "coco") -> DetectionData:
    """Opens COCO 2017: trained on train2017, scored on val2017, boxes and masks.

    Args:
        root: Holds `train2017`, `val2017` and `annotations`.
        name: As results name the data set.

    Raises:
        UserError: The folder is not whole (see `repro.data.annotations.coco.check_layout`), or `name` is COCO's own and
            the number of classes is not.
    """
    folder = coco.check_layout(root)
    if name == "coco" and len(folder.classes) != coco.CLASS_COUNT:
        raise UserError(
            f"{root}: has {len(folder.classes)} classes, COCO has {coco.CLASS_COUNT}",
            mend=OWN_DATA.format("COCO"),
        )
    train_split, test_split = coco.SPLITS
    scored = folder.instances[test_split]
    names = (scored.classes[entry.category_id] for entry in scored.objects if not entry.crowd)
    warn_absent(folder.classes, names, test_split)
    metadata = register(f"{root}/coco {test_split}", folder.classes)
    truth = CocoGroundTruth(metadata, folder.classes, scored)
    return DetectionData(
        name=name,
        split=test_split,
        classes=folder.classes,
        train=with_objects(coco_records(folder, train_split)),
        test=coco_records(folder, test_split),
        mask_format=folder.mask_format,
        metadata=metadata,
        evaluator=truth.evaluator,
        test_fingerprint=truth.fingerprint(),
        category_ids=tuple(scored.classes),
    )


def coco_records(folder: coco.CocoFolder, split: str) -> list[Record]:
    """Returns the images of a split in the order of their ids, as detectron2's own reader has them.

    Objects without a mask are left out, because detectron2's mask head would fail at them. detectron2 itself leaves out
    objects whose polygons have less than three points.

    Args:
        folder: As `check_layout` returns it.
        split: `train2017` or `val2017`.
    """
    instances = folder.instances[split]
    labels = {number: label for label, number in enumerate(instances.classes)}
    objects: dict[int, list[Record]] = {image.id: [] for image in instances.images}
    for entry in instances.objects:
        if entry.mask is not None:
            objects[entry.image_id].append(
                {
                    "iscrowd": int(entry.crowd),
                    "bbox": list(entry.bbox),
                    "category_id": labels[entry.category_id],
                    "segmentation": encoded_mask(entry.mask),
                    "bbox_mode": BoxMode.XYWH_ABS,
                }
            )
    return [
        {
            "file_name": str(folder.root / split / image.file_name),
            "height": image.size[1],
            "width": image.size[0],
            "image_id": image.id,
            "annotations": objects[image.id],
        }
        for image in sorted(instances.images)
    ]


def with_objects(records: list[Record]) -> list[Record]:
    """Returns the images that show an object other than a crowd; detectron2 trains on no others."""
    return [record for record in records if any(not item.get("iscrowd") for item in record["annotations"])]


def warn_absent(classes: Collection[str], scored: Iterable[str], split: str) -> None:
    """Logs a warning about classes that cannot be scored.

    Args:
        classes: Names of all classes.
        scored: The class of each object that counts when a detector is scored: none of a difficult one, nor of a crowd.
        split: Where the objects are.
    """
    present = set(scored)
    absent = [name for name in classes if name not in present]
    if absent:
        log.warning(
            "%d of %d classes have no object in %s that counts (%s): VOC's AP counts 0 for each, COCO's leaves them "
            "out",
            len(absent),
            len(classes),
            split,
            ", ".join(absent[:5]),
        )


_OF_IMAGES = (OSError, SyntaxError, SizeMismatchError, Image.DecompressionBombError)
"""Errors that only a faulty image causes."""


def map_record(mapper: DatasetMapper, record: Record) -> Record:
    """Reads a record's image, and augments it if `mapper` does.

    Raises:
        UserError: The image cannot be read, or has another size than its annotation says.
    """
    try:
        mapped: Record = mapper(record)
    except images.DAMAGE as error:
        # Decoders raise errors that a fault of the program could raise, too; a look at the image tells them apart.
        if not isinstance(error, _OF_IMAGES) and images.inspect(record["file_name"]).fault is None:
            raise
        reason = "its size is not what its annotation says" if isinstance(error, SizeMismatchError) else one_line(error)
        raise UserError(
            f"{record['file_name']}: cannot be read ({reason})",
            mend=f"{mend_of(error, 'replace it')} (`salmask data verify` lists every such file)",
        ) from error
    return mapped


class TrainingImages(Dataset[Record]):
    """Augmented training images; how one is augmented depends on (seed, step, index) only."""

    def __init__(self, records: list[Record], mapper: DatasetMapper, seed: int) -> None:
        """Augments the images of `records` with detectron2's `mapper`."""
        # detectron2's list keeps its items serialized, so that workers share one copy.
        self.records, self.mapper, self.seed = DatasetFromList(records), mapper, seed

    def __getitem__(self, item: tuple[int, int]) -> Record:
        step, index = item
        # detectron2's augmentations draw from NumPy's global generator, which takes seeds of 32 bits only.
        np.random.seed(stream_seed(self.seed, Purpose.view, step, index) % 2**32)
        return map_record(self.mapper, self.records[index])


class GroupedBatches(Sampler[list[tuple[int, int]]]):
    """Endless batches of (step, index) for this rank, from any step on, each of only wide or only tall images.

    The order is detectron2's: one permutation of the images after another, dealt out to the ranks; each rank puts its
    images aside until a batch of one orientation is full (data/common.py, AspectRatioGroupedDataset). Here the
    permutations depend on the seed alone, and grouping needs no pixels, so a resumed training gets the same batches.
    """

    def __init__(self, wide: NDArray[np.bool_], batch: int, seed: int, *, start: int = 0) -> None:
        """Plans the order.

        Args:
            wide: N, whether each image is wider than tall.
            batch: Images a step of this rank.
            seed: Of the order.
            start: The first step whose batch is given out.
        """
        self.wide, self.batch, self.seed, self.start = wide, batch, seed, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = 0
        waiting: dict[bool, list[int]] = {False: [], True: []}
        for index in islice(self._order(), rank(), None, world_size()):
            group = waiting[bool(self.wide[index])]
            group.append(index)
            if len(group) == self.batch:
                # Earlier batches are formed, too, but not given out: which images wait depends on all of them.
                if step >= self.start:
                    yield [(step, index) for index in group]
                group.clear()
                step += 1

    def _order(self) -> Iterator[int]:
        """Yields the images of all ranks without end, one permutation after another."""
        for epoch in count():
            yield from stream(self.seed, Purpose.order, epoch).permutation(len(self.wide)).tolist()


def make_train_loader(
    data: DetectionData, mapper: DatasetMapper, *, batch: int, seed: int, start: int, workers: int
) -> Loader:
    """Makes a loader of this rank's batches, which are lists of records, from a step on and without end.

    Args:
        data: Its `train` is trained on.
        mapper: detectron2's, for training.
        batch: Images a step over all ranks.
        seed: Of order and augmentation.
        start: The first step.
        workers: Decoding processes of this rank.
    """
    wide = np.array([record["width"] > record["height"] for record in data.train])
    return Loader(
        TrainingImages(data.train, mapper, seed),
        workers=workers,
        batch_sampler=GroupedBatches(wide, batch // world_size(), seed, start=start),
        collate_fn=list,  # images differ in size, and the detector pads them itself
        # Otherwise each new iterator would draw from the global generator: in a resumed training at another step than
        # in an uninterrupted one.
        generator=torch.Generator(),
    )
