"""What a detector is trained and scored on: records, batches, augmentation."""

from pathlib import Path

import numpy as np
import torch
from detection_samples import data_of, planned, prepared, scenes
from detectron2.data.datasets.pascal_voc import load_voc_instances

from downstream.detection.data import GroupedBatches, TrainingImages, make_train_loader, voc_records
from repro.data.annotations import voc
from repro.runs.detection import VOC


def test_boxes_of_voc_are_those_of_the_scenes(voc_root: Path) -> None:
    data = data_of(VOC, voc_root)
    expected = scenes("val", 6)
    names = [name.replace(" ", "-") for name in expected.classes]
    assert (data.name, data.split, data.classes, len(data.train), len(data.test)) == (
        "scenes",
        "test",
        tuple(sorted(names)),
        10,
        6,
    )
    for index, record in enumerate(data.test):
        boxes = [(*item["bbox"], data.classes[item["category_id"]]) for item in record["annotations"]]
        instances = expected.scene(index).instances
        assert boxes == [(*instance.box, names[instance.label]) for instance in instances]


def test_records_of_voc_are_those_of_detectron2(voc_root: Path) -> None:
    kit = voc.check_layout(voc_root)
    for image_set in voc.IMAGE_SETS:
        folder = str(kit.folder / f"VOC{image_set.year}")
        assert voc_records(kit, image_set) == load_voc_instances(folder, image_set.split, kit.classes)


def test_a_fingerprint_follows_the_annotations(voc_root: Path) -> None:
    original, same, changed = (data_of(VOC, voc_root) for _ in range(3))
    changed.test[0]["annotations"][0]["bbox"][0] += 1
    assert original.fingerprint == same.fingerprint != changed.fingerprint


def written_out(wide: list[bool], batch: int, order: list[int]) -> list[list[int]]:
    batches: list[list[int]] = []
    waiting_tall: list[int] = []
    waiting_wide: list[int] = []
    for index in order:
        group = waiting_wide if wide[index] else waiting_tall
        group.append(index)
        if len(group) == batch:
            batches.append(list(group))
            group.clear()
    return batches


def test_batches_are_of_one_orientation_and_go_on_anywhere() -> None:
    wide = np.array([True, False, True, True, False, True, False])

    def first(start: int, number: int, seed: int = 0) -> list[list[tuple[int, int]]]:
        stream = iter(GroupedBatches(wide, 2, seed, start=start))
        return [next(stream) for _ in range(number)]

    batches = first(0, 30)
    assert [{step for step, _ in batch} for batch in batches] == [{step} for step in range(30)]
    assert all(len({bool(wide[index]) for _, index in batch}) == 1 for batch in batches)
    assert first(13, 17) == batches[13:]
    assert first(0, 30, seed=1) != batches
    counts = np.bincount([index for batch in batches for _, index in batch])
    assert counts.max() - counts.min() <= 2


def test_grouping_is_that_of_a_plain_loop() -> None:
    wide = [True, False, True, True, False]
    batches = GroupedBatches(np.array(wide), 2, 3)
    order = [index for index, _ in zip(batches._order(), range(40), strict=False)]
    assert sorted(order[:5]) == [0, 1, 2, 3, 4]
    expected = written_out(wide, 2, order)
    assert [[index for _, index in batch] for batch, _ in zip(batches, expected, strict=False)] == expected


def test_augmentation_is_a_function_of_seed_step_and_index(voc_root: Path, tmp_path: Path) -> None:
    run, folder = prepared(tmp_path)
    data = data_of(VOC, voc_root)
    trial, _ = planned(run, folder, data)
    from detectron2.data import DatasetMapper

    mapper = DatasetMapper(trial.cfg, is_train=True)
    loaders = [make_train_loader(data, mapper, batch=2, seed=5, start=start, workers=0) for start in (0, 2)]
    first, resumed = [iter(loader) for loader in loaders]
    batches = [next(first) for _ in range(4)]
    for batch in batches[2:]:
        for record, same in zip(batch, next(resumed), strict=True):
            assert torch.equal(record["image"], same["image"])
            assert torch.equal(record["instances"].gt_boxes.tensor, same["instances"].gt_boxes.tensor)
    images = TrainingImages(data.train, mapper, 5)
    pictures = {images[step, 0]["image"].numpy().tobytes() for step in range(8)}
    assert len(pictures) == 2  # flipped or not; there is one size only
