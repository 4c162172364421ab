"""What a detector is trained and scored on: VOC and COCO as they are downloaded, built-in scenes written as either."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from detectron2.data import DatasetFromList, DatasetMapper, MetadataCatalog
from detectron2.data.datasets.coco import load_coco_json
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, PascalVOCDetectionEvaluator
from detectron2.structures import BoxMode
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from repro.data.annotations import coco, voc
from repro.data.annotations.scenes_export import write_coco, write_voc
from repro.distributed import rank, world_size
from repro.errors import UserError
from repro.randomness import Purpose, stream, stream_seed
from repro.runs.detection import VOC
from repro.scenes.cache import scenes_cache
from repro.scenes.dataset import Scenes

log = logging.getLogger("salmask")
Record = dict[str, Any]
"""An image and its objects, in detectron2's dataset format."""


@dataclass(frozen=True)
class DetectionData:
    """A data set of detection.

    Attributes:
        name: As results name it.
        split: That it is scored on.
        classes: Names in the order of their labels.
        train: Images with at least one object.
        test: All images of the split.
        mask_format: detectron2's `INPUT.MASK_FORMAT`.
        metadata: Name in detectron2's `MetadataCatalog`.
        evaluator: Makes what scores the split.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    train: list[Record]
    test: list[Record]
    mask_format: str
    metadata: str
    evaluator: Callable[[], DatasetEvaluator]

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits over the names, sizes and objects of all images; the pixels are not read."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for record in (*self.train, *self.test):
            objects = record["annotations"]
            boxes = [[item["category_id"], *(round(float(edge), 2) for edge in item["bbox"])] for item in objects]
            name = Path(record["file_name"]).name
            digest.update(json.dumps([name, record["width"], record["height"], boxes]).encode())
        return digest.hexdigest()[:12]


def open_voc(root: Path, name: str = VOC) -> DetectionData:
    """VOC07+12: trained on both trainvals, scored on the test of 2007.

    Args:
        root: `VOCdevkit`, or the folder that holds it.
        name: as results name the data set.

    Raises:
        UserError: the kit is not whole; see `repro.data.annotations.voc.check_layout`. Or it is to be VOC itself and
            has other classes.
    """
    kit = voc.check_layout(root)
    if name == VOC and set(kit.classes) != set(voc.CLASSES):
        raise UserError(
            f"{kit.folder}: its {len(kit.classes)} classes are not VOC's 20 (the first is '{kit.classes[0]}')",
            mend="the VOC that is downloaded, or --data scenes for built-in scenes",
        )
    (test,) = voc.TEST
    warn_absent(kit.objects[test], str(test))
    metadata = _register(f"{kit.folder}/{test}", kit.classes)
    metadata.set(dirname=str(kit.folder / f"VOC{test.year}"), year=test.year, split=test.split)
    return DetectionData(
        name=name,
        split=test.split,
        classes=kit.classes,
        train=with_objects([record for image_set in voc.TRAIN for record in voc_records(kit, image_set)]),
        test=voc_records(kit, test),
        mask_format="polygon",
        metadata=metadata.name,
        evaluator=lambda: PascalVOCDetectionEvaluator(metadata.name),
    )


def voc_records(kit: voc.Devkit, image_set: voc.ImageSet) -> list[Record]:
    """The images of a set with all their objects, difficult ones included, as detectron2's own reader has them."""
    folder = kit.folder / f"VOC{image_set.year}"
    labels = {name: label for label, name in enumerate(kit.classes)}
    records = []
    for name in kit.ids[image_set]:
        annotation = voc.read_annotation(folder / "Annotations" / f"{name}.xml")
        width, height = annotation.size
        objects = [
            {"category_id": labels[thing.name], "bbox": list(thing.box), "bbox_mode": BoxMode.XYXY_ABS}
            for thing in annotation.objects
        ]
        path = str(folder / "JPEGImages" / f"{name}.jpg")
        records.append({"file_name": path, "image_id": name, "height": height, "width": width, "annotations": objects})
    return records


def open_coco(root: Path, name: str = "coco") -> DetectionData:
    """COCO 2017: trained on train2017, scored on val2017, boxes and masks.

    Args:
        root: Holds `train2017`, `val2017` and `annotations`.
        name: as results name the data set.

    Raises:
        UserError: the folder is not whole; see `repro.data.annotations.coco.check_layout`. Or it is to be COCO itself
            and has others.
    """
    folder = coco.check_layout(root)
    if name == "coco" and len(folder.classes) != coco.CLASS_COUNT:
        raise UserError(
            f"{root}: has {len(folder.classes)} classes, COCO has {coco.CLASS_COUNT}",
            mend="the COCO that is downloaded, or --data scenes for built-in scenes",
        )
    train_split, test_split = coco.SPLITS
    warn_absent(folder.objects[test_split], test_split)
    metadata = _register(f"{root}/coco {test_split}", folder.classes)
    records = {}
    for split in coco.SPLITS:
        path = str(coco.annotation_file(root, split))
        registered = metadata.name if split == test_split else _register(f"{root}/coco {split}", folder.classes).name
        records[split] = load_coco_json(path, str(root / split), registered)
    metadata.set(json_file=str(coco.annotation_file(root, test_split)), image_root=str(root / test_split))
    return DetectionData(
        name=name,
        split=test_split,
        classes=folder.classes,
        train=with_objects(records[train_split]),
        test=records[test_split],
        mask_format=folder.mask_format,
        metadata=metadata.name,
        evaluator=lambda: COCOEvaluator(metadata.name, ("bbox", "segm")),
    )


def open_scenes(task: str, train: Scenes, test: Scenes, name: str, *, workers: int) -> DetectionData:
    """Built-in scenes in the layout of a task's data set, written once into the user's cache folder.

    Args:
        task: `voc07+12` or `coco`.
        train: scenes to train on.
        test: scenes to score on.
        name: as results name the data set.
        workers: drawing processes.
    """
    key = hashlib.sha256(f"{train.fingerprint()} {test.fingerprint()}".encode()).hexdigest()[:12]
    layout, write, open_ = ("voc", write_voc, open_voc) if task == VOC else ("coco", write_coco, open_coco)
    cache = scenes_cache()
    root = cache / f"{layout}-{key}"
    cache.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(cache / f".{root.name}.lock"):
        if not root.exists():
            log.info("writing %d scenes in the layout of %s into %s", len(train) + len(test), task, root)
            write(root, train, test, workers=max(1, workers))
    return open_(root, name)


def _register(name: str, classes: tuple[str, ...]) -> Any:
    """Fresh metadata: detectron2 refuses to change what a name once said."""
    if name in MetadataCatalog.list():
        MetadataCatalog.remove(name)
    return MetadataCatalog.get(name).set(thing_classes=list(classes))


def with_objects(records: list[Record]) -> list[Record]:
    """The images that show an object, crowds apart; detectron2 trains on no others."""
    return [record for record in records if any(not item.get("iscrowd") for item in record["annotations"])]


def warn_absent(objects: Mapping[str, int], split: str) -> None:
    """Say which classes cannot be scored."""
    absent = [name for name, number in objects.items() if not number]
    if absent:
        log.warning(
            "%d of %d classes have no object in %s (%s): VOC's AP counts 0 for each, COCO's leaves them out",
            len(absent),
            len(objects),
            split,
            ", ".join(absent[:5]),
        )


class TrainingImages(Dataset[Record]):
    """Augmented training images; what is drawn for one is a function of (seed, step, index) alone."""

    def __init__(self, records: list[Record], mapper: DatasetMapper, seed: int) -> None:
        # detectron2's list keeps its items serialized, so that workers share one copy.
        self.records, self.mapper, self.seed = DatasetFromList(records), mapper, seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, item: tuple[int, int]) -> Record:
        step, index = item
        # detectron2's augmentations draw from NumPy's global generator.
        np.random.seed(stream_seed(self.seed, Purpose.view, step, index) % 2**32)
        mapped: Record = self.mapper(self.records[index])
        return mapped


class GroupedBatches(Sampler[list[tuple[int, int]]]):
    """Endless batches of (step, index) for this rank, each of wide images or of tall ones, from any step on.

    The order is detectron2's: one permutation of the images after another, dealt out to the ranks; each rank puts its
    images aside until a batch of one orientation is full (data/common.py, AspectRatioGroupedDataset). Here orders are
    a function of the seed, and grouping needs no pixels, so a resumed training meets the same batches.
    """

    def __init__(self, wide: NDArray[np.bool_], batch: int, seed: int, *, start: int = 0) -> None:
        """Plan the order.

        Args:
            wide: N, whether each image is wider than tall.
            batch: of this rank.
            seed: of the order.
            start: the first step to give out.
        """
        self.wide, self.batch, self.seed, self.start = wide, batch, seed, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = 0
        waiting: dict[bool, list[int]] = {False: [], True: []}
        for index in islice(self._order(), rank(), None, world_size()):
            group = waiting[bool(self.wide[index])]
            group.append(index)
            if len(group) == self.batch:
                if step >= self.start:
                    yield [(step, index) for index in group]
                group.clear()
                step += 1

    def _order(self) -> Iterator[int]:
        for epoch in count():
            yield from stream(self.seed, Purpose.order, epoch).permutation(len(self.wide)).tolist()


def make_train_loader(
    data: DetectionData, mapper: DatasetMapper, *, batch: int, seed: int, start: int, workers: int
) -> DataLoader[Any]:
    """Batches of this rank as lists of records, from a step on.

    Args:
        data: what is trained on.
        mapper: detectron2's, for training.
        batch: over all ranks.
        seed: of order and augmentation.
        start: the first step.
        workers: decoding processes.
    """
    wide = np.array([record["width"] > record["height"] for record in data.train])
    return DataLoader(
        TrainingImages(data.train, mapper, seed),
        batch_sampler=GroupedBatches(wide, batch // world_size(), seed, start=start),
        num_workers=workers,
        collate_fn=list,
        generator=torch.Generator(),  # else a fresh iterator draws from the global one, in a resumed step and no other
    )
