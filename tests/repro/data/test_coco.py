import json
from pathlib import Path
from typing import Any

import pytest
from error_samples import message_of
from image_samples import bad_image
from PIL import Image
from scene_samples import copied, spoil_json

from repro.data.annotations import coco
from repro.data.annotations.coco_instances import is_trained_on, read_instances
from repro.data.annotations.findings import BrokenFileError
from repro.data.verification.checks import verify

TRAIN = "annotations/instances_train2017.json"
VAL = "annotations/instances_val2017.json"


@pytest.fixture
def root(coco_folder: Path, tmp_path: Path) -> Path:
    return copied(coco_folder, tmp_path / "coco")


def refusal(root: Path) -> str:
    return message_of(lambda: coco.check_layout(root))


def refusal_by_parts(root: Path) -> str:
    return message_of(lambda: coco.require_parts(root))


def test_a_whole_folder(root: Path) -> None:
    folder = coco.check_layout(root)
    assert {split: len(read.images) for split, read in folder.instances.items()} == {"train2017": 8, "val2017": 5}
    categories = json.loads((root / VAL).read_text())["categories"]
    assert folder.classes == tuple(category["name"] for category in categories)
    objects = len(json.loads((root / TRAIN).read_text())["annotations"])
    assert len(folder.instances["train2017"].objects) == objects
    assert folder.mask_format == "bitmask"


def test_polygons_need_no_bitmasks_and_crowds_do_not_count(root: Path) -> None:
    def polygons(content: dict[str, Any]) -> None:
        for entry in content["annotations"]:
            entry["segmentation"] = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]
        content["annotations"][0] |= {"iscrowd": 1, "segmentation": {"counts": [4096], "size": [64, 64]}}

    for split in (TRAIN, VAL):
        spoil_json(root / split, polygons)
    assert coco.check_layout(root).mask_format == "polygon"


def test_categories_are_in_the_order_of_their_ids(root: Path) -> None:
    names = coco.check_layout(root).classes
    for split in (TRAIN, VAL):
        spoil_json(root / split, lambda content: content["categories"].reverse())
    assert coco.check_layout(root).classes == names


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", r"broken JSON \(Expecting value: line 1"),
        ('{"images": [', r"broken JSON \(Expecting value: line 1 column 13"),
        ("[]", "has no list 'categories'"),
        ('{"categories": [], "images": [], "info": {}}', "has no list 'annotations'"),
    ],
)
def test_broken_files_say_what_is_wrong(root: Path, text: str, reason: str) -> None:
    (root / VAL).write_text(text)
    with pytest.raises(BrokenFileError, match=f"^{root / VAL}: {reason}"):
        read_instances(root / VAL)
    assert refusal(root).startswith(f"{root / VAL}: ")
    assert refusal(root).endswith(f"; mend: unpack annotations_trainval2017.zip into {root}, or correct your files")
    coco.require_parts(root)


def test_an_object_is_trained_on_that_is_no_crowd_and_has_a_mask_and_an_area(root: Path) -> None:
    def spoil(content: dict[str, Any]) -> None:
        first, second, *_ = content["annotations"]
        first |= {"area": 0, "bbox": [1, 1, 0.5, 1]}
        second["area"] = -1

    spoil_json(root / TRAIN, spoil)
    instances = read_instances(root / TRAIN)
    assert instances.faults == ["entry 1 of 'annotations': 'area' is -1, which is negative"]
    small = instances.objects[0]
    assert is_trained_on(small)
    for changes in ({"bbox": (1, 1, 0, 1)}, {"bbox": (1, 1, 1, 0)}, {"crowd": True}, {"mask": None}):
        assert not is_trained_on(small._replace(**changes))


def test_every_broken_entry_is_listed_with_its_fields(root: Path) -> None:
    content = {
        "categories": [{"id": 1}, {"id": 2, "name": "a"}, {"id": "2", "name": "b"}],
        "images": [{"id": 1.5, "file_name": "a", "width": 4}, 7],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3]},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [1, 2, -3, 4], "iscrowd": 2, "area": "big"},
            {"id": 3, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, float("nan")], "segmentation": [[1, 2, "x"]]},
        ],
    }
    (root / VAL).write_text(json.dumps(content))
    assert read_instances(root / VAL).faults == [
        "entry 0 of 'categories': 'name' is missing",
        "entry 0 of 'images': 'id' is 1.5, which is not a whole number; 'height' is missing",
        "entry 1 of 'images': is not a JSON object",
        "entry 0 of 'annotations': 'bbox' is not a list of four numbers",
        (
            "entry 1 of 'annotations': 'bbox' has a negative width or height (-3, 4); 'iscrowd' is 2, neither 0 nor 1; "
            "'area' is 'big', which is not a number"
        ),
        (
            "entry 2 of 'annotations': 'bbox' is nan, which is not a number; "
            "'segmentation' holds a polygon that is not a list of finite numbers"
        ),
        "entries of 'categories' that share the id of another: 1",
    ]
    text = refusal(root)
    assert text.startswith(
        f"{root / VAL}: entry 0 of 'categories': 'name' is missing (and 6 more: {root / VAL}: entry 0"
    )
    assert text.endswith("share the id of another: 1); mend: correct the entry")


def test_wrong_roots_and_missing_parts_are_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds neither annotations/ nor train2017/, val2017/; mend: name the folder that does" in refusal(
        tmp_path / "empty"
    )
    (root / "val2017").rename(root / "val")
    assert refusal(root) == (
        f"{root}/val2017: the folder of images is missing or empty; "
        f"mend: unpack val2017.zip into {root}, or correct your files"
    )
    assert refusal_by_parts(root) == refusal(root)
    (root / "val").rename(root / "val2017")
    (root / VAL).unlink()
    assert refusal(root).startswith(f"{root / VAL}: the file of annotations is missing; mend: unpack annotations")
    assert refusal_by_parts(root) == refusal(root)
    assert [problem.kind for problem in verify("coco", root, workers=1).problems] == ["missing-annotation"]
    (root / VAL).write_text("{")
    assert [problem.kind for problem in verify("coco", root, workers=1).problems] == ["broken-annotation"]


def test_annotations_of_another_split(root: Path) -> None:
    (root / VAL).write_bytes((root / TRAIN).read_bytes())
    another = f"{root / VAL}: none of its 8 images is in val2017; they are in train2017: "
    another += "these are annotations of another split"
    assert refusal(root).startswith(f"{another} (and 8 more: {root}/val2017/000000000001.jpg: is listed in train2017 ")
    assert refusal(root).endswith(f"; mend: unpack annotations_trainval2017.zip into {root}, or correct your files")


def test_an_image_of_another_size_than_is_listed_is_refused(root: Path) -> None:
    image = root / "train2017/000000000003.jpg"
    Image.new("RGB", (30, 64)).save(image)
    assert refusal(root).startswith(f"{image}: 30×64 pixels, where its annotation says 64×64; mend: correct the ann")


def test_missing_images_are_counted(root: Path) -> None:
    for number in (2, 7):
        (root / f"train2017/{number:012d}.jpg").unlink()
    assert refusal(root) == (
        f"{root}/train2017/000000000002.jpg: the image is missing (train2017) "
        f"(and 1 more: {root}/train2017/000000000007.jpg: the image is missing (train2017)); "
        f"mend: unpack train2017.zip into {root}, or correct your files"
    )


def test_empty_ground_truth_is_refused(root: Path) -> None:
    spoil_json(root / VAL, lambda content: content["annotations"].clear())
    assert refusal(root).startswith(f"{root / VAL}: no object in any image of val2017; mend: ")
    spoil_json(root / VAL, lambda content: content["images"].clear())
    assert refusal(root).startswith(f"{root / VAL}: lists no image; mend: ")


def test_images_that_share_an_id_are_refused(root: Path) -> None:
    """The objects of both would go to the last of them."""
    spoil_json(root / TRAIN, lambda content: content["images"][1].update(id=content["images"][0]["id"]))
    problems = [(problem.kind, problem.message) for problem in verify("coco", root, deep=False, workers=1).problems]
    mend = f"unpack annotations_trainval2017.zip into {root}, or correct your files"
    assert ("broken-annotation", f"images that share the id of another: 1; mend: {mend}") in problems
    assert "images that share the id of another: 1" in refusal(root)


def test_splits_of_different_classes_are_refused(root: Path) -> None:
    spoil_json(root / VAL, lambda content: content["categories"][1].update(name="unicorn"))
    assert "the splits have different classes: 2 (" in refusal(root)
    assert "unicorn" in refusal(root)


def test_verify_finds_everything(root: Path) -> None:
    train, val = root / "train2017", root / "val2017"

    def spoil(content: dict[str, Any]) -> None:
        objects = content["annotations"]
        objects[0]["category_id"] = 77
        objects[1]["image_id"] = 4711
        objects[2]["bbox"] = [60, 60, 9, 2]
        objects[3]["bbox"] = [60.2, 0, 4.7, 64.9]  # within a pixel of the edge, as some of COCO's own boxes
        objects[4]["bbox"] = [3, 3, 0, 5]
        objects[5]["id"] = objects[6]["id"]

    spoil_json(root / TRAIN, spoil)
    (train / "000000000001.jpg").unlink()
    bad_image(train, "truncated").rename(train / "000000000002.jpg")
    Image.new("RGB", (64, 32)).save(train / "000000000003.jpg")
    (val / "000000000009.jpg").write_bytes((train / "000000000004.jpg").read_bytes())
    report = verify("coco", root, workers=1)
    assert sorted((problem.kind, problem.path) for problem in report.problems) == sorted(
        [
            ("unknown-class", str(root / TRAIN)),
            ("other-split", str(root / TRAIN)),
            ("outside-image", str(root / TRAIN)),
            ("broken-annotation", str(root / TRAIN)),
            ("missing-image", str(train / "000000000001.jpg")),
            ("unreadable", str(train / "000000000002.jpg")),
            ("wrong-size", str(train / "000000000003.jpg")),
            ("overlap", str(val / "000000000009.jpg")),
        ]
    )
    (outside,) = (problem.message for problem in report.problems if problem.kind == "outside-image")
    assert "a box (60, 60, 69, 62) reaches out of the image of 64×64 pixels; mend: correct the box" in outside
    assert "train2017: 1 object left out by detectron2: the box has no area" in report.warnings


def test_objects_of_classes_with_one_name_are_counted_together(root: Path) -> None:
    """Those of the last such class alone were counted."""
    counts = coco.survey_root(root).objects["train2017"]
    first, second, *others = counts
    for path in (root / TRAIN, root / VAL):
        spoil_json(path, lambda content: content["categories"][0].update(name=second))
    merged = {second: counts[first] + counts[second], **{name: counts[name] for name in others}}
    assert coco.survey_root(root).objects["train2017"] == merged
    assert f"names that several classes have: 1 ({second})" in verify("coco", root, workers=1).warnings


def test_images_in_both_splits_are_found(root: Path) -> None:
    entry = json.loads((root / VAL).read_text())["images"][0]
    spoil_json(root / TRAIN, lambda content: content["images"].append({**entry, "id": 999}))
    (root / "train2017" / entry["file_name"]).write_bytes((root / "val2017" / entry["file_name"]).read_bytes())
    found = [(p.kind, p.path, p.message) for p in verify("coco", root, deep=False, workers=1).problems]
    listed, copied_file = found
    path = str(root / "val2017" / entry["file_name"])
    assert listed == ("overlap", path, "is listed in train2017 and in val2017; mend: unpack the lists again")
    assert copied_file[:2] == ("overlap", path)


def test_verify_tells_what_is_unusual(root: Path) -> None:
    report = verify("coco", root, workers=1)
    assert report.ok
    assert report.warnings == [
        "5 classes, where COCO has 80",
        "train2017: 8 images, where COCO 2017 has 118287",
        "val2017: 5 images, where COCO 2017 has 5000",
    ]
    assert (report.total("train2017"), report.total("val2017")) == (8, 5)
