import contextlib
import hashlib
import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scene_samples import CLASSES, scenes
from training_samples import files_below, refused, salmask

from repro.data.annotations.scenes_export import rle, write_coco, write_voc
from repro.errors import UserError
from repro.scenes.dataset import Scenes


def digests(root: Path) -> dict[str, str]:
    return {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in files_below(root)}


def slow_rle(mask: np.ndarray) -> list[int]:
    """COCO's definition, pixel by pixel."""
    counts, value = [0], False
    for column, row in itertools.product(range(mask.shape[1]), range(mask.shape[0])):
        if mask[row, column] != value:
            counts.append(0)
            value = not value
        counts[-1] += 1
    return counts


def test_the_run_lengths_are_cocos() -> None:
    rng = np.random.default_rng(0)
    masks = [rng.random((7, 5)) < share for share in (0.1, 0.5, 0.9)]
    for mask in (*masks, np.zeros((3, 4), bool), np.ones((3, 4), bool)):
        code = rle(mask)
        assert code["size"] == list(mask.shape)
        assert code["counts"] == slow_rle(mask)
        mask_api = pytest.importorskip("pycocotools.mask")
        decoded = mask_api.decode(mask_api.frPyObjects(code, *mask.shape))
        assert np.array_equal(decoded.astype(bool), mask)


# As detectron2 and pycocotools read them


def test_detectron2_reads_voc_with_the_exact_boxes_of_the_scenes(voc_kit: Path) -> None:
    reader = pytest.importorskip("detectron2.data.datasets.pascal_voc")
    train, test = scenes("train", 13), scenes("val", 6)
    names = [name.replace(" ", "-") for name in train.classes]
    parts = (
        ("VOC2007", "trainval", train, range(4)),
        ("VOC2012", "trainval", train, range(4, 13)),
        ("VOC2007", "test", test, range(6)),
    )
    for year, split, source, indices in parts:
        records = reader.load_voc_instances(str(voc_kit / year), split, names)
        assert len(records) == len(indices)
        for record, index in zip(records, indices, strict=True):
            scene = source.scene(index)
            assert (record["width"], record["height"]) == (64, 64)
            boxes = [(item["category_id"], *item["bbox"]) for item in record["annotations"]]
            assert boxes == [(instance.label, *instance.box) for instance in scene.instances]
            pixels = np.asarray(Image.open(record["file_name"]), dtype=int)
            assert np.abs(pixels - np.asarray(scene.image, dtype=int)).mean() < 5  # JPEG of sensor noise


def test_pycocotools_reads_coco_with_the_exact_masks_of_the_scenes(coco_folder: Path) -> None:
    api = pytest.importorskip("pycocotools.coco")
    earlier_ids: set[int] = set()
    for split, source in (("train2017", scenes("train", 8)), ("val2017", scenes("val", 5))):
        with contextlib.redirect_stdout(io.StringIO()):
            read = api.COCO(str(coco_folder / "annotations" / f"instances_{split}.json"))
        assert [category["name"] for category in read.loadCats(read.getCatIds())] == list(source.classes)
        assert read.getCatIds() == list(range(1, CLASSES + 1))
        for index, number in enumerate(read.getImgIds()):
            scene = source.scene(index)
            entries = read.loadAnns(read.getAnnIds(number))
            assert [entry["category_id"] - 1 for entry in entries] == [i.label for i in scene.instances]
            for entry, instance in zip(entries, scene.instances, strict=True):
                x0, y0, x1, y1 = instance.box
                assert entry["bbox"] == [x0, y0, x1 - x0, y1 - y0]
                assert entry["area"] == np.count_nonzero(instance.mask)
                assert entry["iscrowd"] == 0
                assert np.array_equal(read.annToMask(entry).astype(bool), instance.mask)
            (image,) = read.loadImgs(number)
            size = Image.open(coco_folder / split / image["file_name"]).size
            assert size == (image["width"], image["height"]) == (64, 64)
        ids = set(read.getAnnIds())
        assert not ids & earlier_ids
        earlier_ids |= ids


def test_ground_truth_as_predictions_scores_100_in_coco(coco_folder: Path) -> None:
    api, evaluation = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    path = coco_folder / "annotations" / "instances_val2017.json"
    entries = json.loads(path.read_text())["annotations"]
    keys = ("image_id", "category_id", "bbox", "segmentation")
    scores: dict[str, float] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = api.COCO(str(path))
        height = width = 64
        predicted = [{**{name: entry[name] for name in keys}, "score": 1.0} for entry in entries]
        mask_api = pytest.importorskip("pycocotools.mask")
        for entry in predicted:
            entry["segmentation"] = mask_api.frPyObjects(entry["segmentation"], height, width)
        for kind in ("bbox", "segm"):
            score = evaluation.COCOeval(truth, truth.loadRes([dict(entry) for entry in predicted]), kind)
            score.evaluate()
            score.accumulate()
            score.summarize()
            scores[kind] = 100 * score.stats[0]
        worse = [{**entry, "bbox": [entry["bbox"][0] + 9, *entry["bbox"][1:]]} for entry in predicted]
        shifted = evaluation.COCOeval(truth, truth.loadRes(worse), "bbox")
        shifted.evaluate()
        shifted.accumulate()
        shifted.summarize()
    assert scores == {"bbox": pytest.approx(100), "segm": pytest.approx(100)}
    assert 100 * shifted.stats[0] < 60


# The layouts


def test_voc_lists_its_classes_as_voc_does(voc_kit: Path) -> None:
    main = voc_kit / "VOC2007" / "ImageSets" / "Main"
    train = scenes("train", 13)
    names = [name.replace(" ", "-") for name in train.classes]
    assert {path.name for path in main.iterdir()} == {
        f"{name}{split}.txt" for split in ("trainval", "test") for name in ("", *(f"{name}_" for name in names))
    }
    assert (main / "trainval.txt").read_text().split() == ["000001", "000002", "000003", "000004"]
    assert (main / "test.txt").read_text().split() == [f"{number:06d}" for number in range(5, 11)]
    for label, name in enumerate(names):
        lines = [line.split() for line in (main / f"{name}_trainval.txt").read_text().splitlines()]
        showing = {index for index in range(4) if label in {i.label for i in train.scene(index).instances}}
        assert [value for _, value in lines] == ["1" if index in showing else "-1" for index in range(4)]


def test_the_same_scenes_are_the_same_files_with_any_number_of_workers(
    voc_kit: Path, coco_folder: Path, tmp_path: Path
) -> None:
    train, val = scenes("train", 20), scenes("val", 6)
    first = digests(write_voc(tmp_path / "one", train, val))
    assert first == digests(write_voc(tmp_path / "two", train, val, workers=2))
    assert digests(write_coco(tmp_path / "again", scenes("train", 8), scenes("val", 5))) == digests(coco_folder)
    assert first != digests(voc_kit)


def test_class_names_that_no_file_name_should_have_are_changed(tmp_path: Path) -> None:
    cutouts = tmp_path / "cutouts"
    for name, colour in (("a/red disc", "red"), ("b", "blue")):
        image = Image.new("RGBA", (60, 60), (0, 0, 0, 0))
        image.paste(colour, (10, 10, 50, 50))
        (cutouts / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(cutouts / f"{name}.png")

    def drawn(split: Any) -> Scenes:
        return scenes(split, 4, classes=2, cutouts=cutouts)

    root = write_voc(tmp_path / "voc", drawn("train"), drawn("val"))
    assert (root / "VOC2007/ImageSets/Main/a-red-disc_trainval.txt").is_file()
    texts = [path.read_text() for path in (root / "VOC2007/Annotations").iterdir()]
    assert any("<name>a-red-disc</name>" in text for text in texts)
    (cutouts / "b.png").rename(cutouts / "a-red-disc.png")
    with pytest.raises(UserError, match="two classes would both be named 'a-red-disc'"):
        write_voc(tmp_path / "second", drawn("train"), drawn("val"))
    assert not (tmp_path / "second").exists()


# Whole or not there


def test_a_broken_off_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, val = scenes("train", 5), scenes("val", 3)
    draw = Scenes.scene

    def stopped(self: Scenes, index: int) -> Any:
        if index == 2:
            raise KeyboardInterrupt
        return draw(self, index)

    monkeypatch.setattr(Scenes, "scene", stopped)
    for write in (write_voc, write_coco):
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "out", train, val)
        assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    train, val = scenes("train", 3), scenes("val", 2)
    with pytest.raises(UserError, match="full exists already; mend: name another folder, or remove it"):
        write_coco(tmp_path / "full", train, val)
    with pytest.raises(UserError, match="note is a file; mend: name a folder"):
        write_coco(tmp_path / "full" / "note", train, val)
    assert files_below(tmp_path) == {"full/note"}
    (tmp_path / "empty").mkdir()
    assert write_coco(tmp_path / "empty", train, val) == tmp_path / "empty"
    assert (tmp_path / "empty" / "annotations" / "instances_val2017.json").is_file()


def test_scenes_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="different classes"):
        write_coco(tmp_path / "out", scenes("train", 3), scenes("val", 3, classes=4))
    with pytest.raises(UserError, match="2 at least"):
        write_voc(tmp_path / "out", scenes("train", 1), scenes("val", 3))


def test_the_command_writes_what_verify_finds_whole(tmp_path: Path) -> None:
    for layout, dataset in (("voc", "voc07+12"), ("coco", "coco")):
        out = tmp_path / layout
        sizes = ("--train", "9", "--test", "3", "--classes", "4", "--size", "64")
        outcome = salmask("data", "export-scenes", "--as", layout, "--out", str(out), *sizes)
        assert outcome.code == 0, outcome.err
        assert outcome.out == f"9 + 3 scenes of 4 classes in {out}\n"
        checked = salmask("data", "verify", dataset, "--root", str(out), "--workers", "1", "--json")
        report = json.loads(checked.out)
        assert (checked.code, report["problems"]) == (0, [])
        assert sum(report["images"].values()) == 12
        assert "exists already" in refused("data", "export-scenes", "--as", layout, "--out", str(out), *sizes)


def test_class_folders_hold_the_scenes_and_the_masks_of_their_objects(tmp_path: Path) -> None:
    # `--val` is another name of `--test`, as the folder is called.
    sizes = ("--train", "9", "--val", "4", "--classes", "4", "--size", "64", "--seed", "5", "--workers", "2")
    outcome = salmask("data", "export-scenes", "--as", "folder", "--out", str(tmp_path / "out"), *sizes)
    assert outcome.code == 0, outcome.err
    checked = salmask("data", "verify", "folder", "--root", str(tmp_path / "out"), "--workers", "1", "--json")
    assert (checked.code, json.loads(checked.out)["problems"]) == (0, [])
    for split, count in (("train", 9), ("val", 4)):
        drawn = Scenes(split, count=count, classes=4, size=64, seed=5)
        files = sorted((tmp_path / "out" / split).glob("*/*.png"), key=lambda file: file.name)
        assert [file.parent.name for file in files] == [
            drawn.classes[label].replace(" ", "-") for label in drawn.targets
        ]
        for number, file in enumerate(files):
            assert np.array_equal(Image.open(file), drawn[number][0])
            mask = tmp_path / "out" / "masks" / file.relative_to(tmp_path / "out" / split)
            assert mask.exists() == (split == "train")
            if split == "train":
                assert np.array_equal(Image.open(mask), drawn.main_mask(number))


def test_classes_without_a_scene_are_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    few = ("--train", "40", "--test", "10", "--classes", "20", "--size", "64")
    assert refused("data", "export-scenes", "--as", "folder", "--out", str(tmp_path / "out"), *few) == (
        "10 scenes show nothing of 10 of 20 classes; mend: --test 20 at least, or fewer classes"
    )
    assert not (tmp_path / "out").exists()
