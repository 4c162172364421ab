"""The data that a detector is trained and scored on: records, batches, augmentation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detection_samples import data_of, planned, prepared, scenes
from detectron2.data.datasets.coco import load_coco_json
from detectron2.data.datasets.pascal_voc import load_voc_instances
from scene_samples import copied, spoil_json

from downstream.detection.data import (
    DetectionData,
    GroupedBatches,
    TrainingImages,
    coco_records,
    make_train_loader,
    map_record,
    voc_records,
    with_objects,
)
from downstream.detection.drawn import _checksums, _is_whole, open_scenes
from downstream.detection.ground_truth import area_of
from repro.data.annotations import coco, voc
from repro.data.annotations.coco_instances import ObjectEntry
from repro.errors import UserError
from repro.filesystem.files import write_json
from repro.settings.detection import COCO, VOC


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


@pytest.mark.parametrize("task", [VOC, COCO])
def test_scenes_in_the_cache_count_only_as_they_were_written(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files in a cache may be removed at any time; altered ones used to be trained on."""
    monkeypatch.setenv("SALMASK_CACHE", str(tmp_path))

    def opened() -> DetectionData:
        return open_scenes(task, scenes("train", 10), scenes("val", 6), "scenes", workers=1)

    first = opened()
    images = sorted(path for path in tmp_path.rglob("*.jpg"))
    content, stamp = images[0].read_bytes(), images[1].stat().st_mtime_ns
    assert opened().train_fingerprint == first.train_fingerprint
    assert images[1].stat().st_mtime_ns == stamp
    images[0].unlink()
    assert opened().train_fingerprint == first.train_fingerprint
    images[0].write_bytes(bytes(len(content)))
    assert opened().train_fingerprint == first.train_fingerprint
    assert images[0].read_bytes() == content
    assert images[1].stat().st_mtime_ns > stamp


def test_a_cache_that_cannot_be_written_to_is_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SALMASK_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"cannot write into the cache .*Not a directory; mend: SALMASK_CACHE=DIR"):
        open_scenes(VOC, scenes("train", 10), scenes("val", 6), "scenes", workers=1)


def test_records_of_voc_are_those_of_detectron2(voc_root: Path) -> None:
    kit = voc.check_layout(voc_root)
    for image_set in voc.IMAGE_SETS:
        folder = str(kit.folder / f"VOC{image_set.year}")
        assert voc_records(kit, image_set) == load_voc_instances(folder, image_set.split, kit.classes)


@pytest.mark.parametrize("polygons", [False, True])
def test_records_of_coco_are_those_of_detectron2(coco_root: Path, tmp_path: Path, polygons: bool) -> None:
    root = copied(coco_root, tmp_path / "coco")
    if polygons:
        for path in (root / "annotations").iterdir():
            spoil_json(path, as_polygons)
    folder = coco.check_layout(root)
    for split in coco.SPLITS:
        path = str(coco.annotation_file(root, split))
        assert coco_records(folder, split) == load_coco_json(path, str(root / split), f"coco {tmp_path} {split}")


def as_polygons(content: dict[str, Any]) -> None:
    """Turns masks into polygons, except a crowd's; puts the images into another order than that of their ids."""
    content["images"].reverse()
    for entry in content["annotations"]:
        entry["segmentation"] = [[1.0, 1.0, 9.0, 1.5, 9.0, 9.0], [20, 20, 30, 20, 30, 30, 20, 30], [3, 3, 4, 4]]
    content["annotations"][0] |= {"iscrowd": 1, "segmentation": {"counts": [0, 4096], "size": [64, 64]}}


def test_objects_without_a_mask_are_not_trained_on(coco_root: Path, tmp_path: Path) -> None:
    """detectron2's mask head would fail at them; the other objects of their image stay."""

    def without_first(content: dict[str, Any]) -> None:
        content["annotations"][0]["segmentation"] = []

    root = copied(coco_root, tmp_path / "coco")
    spoil_json(coco.annotation_file(root, "train2017"), without_first)
    whole, less = (coco_records(coco.check_layout(place), "train2017") for place in (coco_root, root))
    objects, left = ([item for record in records for item in record["annotations"]] for records in (whole, less))
    first = coco.check_layout(root).instances["train2017"].objects[0]
    assert [item for item in objects if item["bbox"] != list(first.bbox)] == left


def test_fingerprints_follow_the_annotations_of_their_split(voc_root: Path) -> None:
    original, same, other_test, other_train = (data_of(VOC, voc_root) for _ in range(4))
    other_test.test[0]["annotations"][0]["bbox"][0] += 1
    other_train.train[0]["annotations"][0]["bbox"][0] += 1
    assert original.train_fingerprint == same.train_fingerprint == other_test.train_fingerprint
    assert original.train_fingerprint != other_train.train_fingerprint
    assert original.test_fingerprint == same.test_fingerprint


def test_masks_and_crowds_count_among_what_is_trained_on(coco_root: Path, tmp_path: Path) -> None:
    root = copied(coco_root, tmp_path / "coco")
    spoil_json(coco.annotation_file(root, "train2017"), as_polygons)
    original, same, other_mask, other_crowd, other_split = (data_of(COCO, root) for _ in range(5))
    mask = other_mask.train[0]["annotations"][-1]["segmentation"]
    mask[0][0] += 1
    other_crowd.train[0]["annotations"][-1]["iscrowd"] = 1
    polygons = other_split.train[0]["annotations"][-1]["segmentation"]
    polygons[:2] = [polygons[0] + polygons[1]]
    assert original.train_fingerprint == same.train_fingerprint
    assert len({data.train_fingerprint for data in (original, other_mask, other_crowd, other_split)}) == 4


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


def test_images_of_crowds_alone_are_not_trained_on_and_square_ones_are_as_tall_ones(voc_root: Path) -> None:
    """As in detectron2's filter of images without objects, and its batches of one orientation."""
    crowd, thing = {"iscrowd": 1}, {"iscrowd": 0}
    records = [{"annotations": objects} for objects in ([], [crowd], [crowd, thing], [thing], [{}])]
    assert with_objects(records) == records[2:]
    sizes = [{"width": width, "height": height} for width, height in ((5, 4), (4, 5), (4, 4))]
    loader = make_train_loader(
        replace(data_of(VOC, voc_root), train=sizes), lambda _: _, batch=1, seed=0, start=0, workers=0
    )
    assert loader.batch_sampler.wide.tolist() == [True, False, False]


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
    assert len(pictures) == 2  # flipped or not; there is only one size


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (PermissionError(13, "Permission denied"), "make it readable"),
        (OSError(5, "torn"), "replace it"),
        # Such could be a fault of the program too: a look at the image, which is not there, tells.
        *((kind("torn"), "replace it") for kind in (ValueError, TypeError, KeyError, RuntimeError)),
    ],
)
def test_an_image_that_cannot_be_read_is_named_with_what_mends_it(error: Exception, mend: str) -> None:
    def mapper(_: Any) -> Any:
        raise error  # root could read any file

    with pytest.raises(UserError, match=rf"^a\.jpg: cannot be read \(.*\); mend: {mend} \(`salmask data verify`"):
        map_record(mapper, {"file_name": "a.jpg"})


def test_an_objects_area_is_the_files_or_that_of_its_mask_or_of_its_box() -> None:
    square = [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0, 1.0, 5.0]]
    entry = ObjectEntry(1, 1, 1, (0.0, 0.0, 6.0, 7.0), crowd=False, area=3.5, mask=square)
    without = entry._replace(area=None)
    assert [area_of(each, (8, 9)) for each in (entry, without, without._replace(mask=None))] == [3.5, 16, 42]


def test_scenes_that_were_written_in_part_are_written_again(tmp_path: Path) -> None:
    root, sums = tmp_path / "scenes", tmp_path / "sums.json"
    root.mkdir()
    (root / "a.txt").write_text("whole")
    assert not _is_whole(root, sums)
    write_json(sums, _checksums(root))
    assert _is_whole(root, sums)
    sums.write_text(sums.read_text()[:-3])
    assert not _is_whole(root, sums)
    write_json(sums, _checksums(root))
    (root / "a.txt").write_text("half")
    assert not _is_whole(root, sums)
