"""Variants of annotations as people have them: one change to a sound data set, and the message that refuses it.

An empty message means that the variant is used. `test_annotation_faults.py` checks that verification, opening, two
training steps and scoring agree on each variant; `python tests/support/annotation_kinds.py` writes docs/annotations.md.
No torch.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from places import DOCS
from scene_samples import spoil_json

TRAIN, VAL = (f"annotations/instances_{split}.json" for split in ("train2017", "val2017"))
PAGE = DOCS / "annotations.md"


def object_of_voc(old: str, new: str, where: str = "test") -> Callable[[Path], object]:
    """Replaces the first match of the pattern `old` in the first annotation file of VOC2007's test or trainval."""

    def change(root: Path) -> None:
        year = root / "VOC2007"
        first = (year / f"ImageSets/Main/{where}.txt").read_text().split()[0]
        path = year / "Annotations" / f"{first}.xml"
        text, count = re.subn(old, new, path.read_text(), count=1)
        assert count
        path.write_text(text)

    return change


def all_difficult(root: Path) -> None:
    for path in (root / "VOC2007/Annotations").iterdir():
        path.write_text(path.read_text().replace("<difficult>0", "<difficult>1"))


def list_of_voc(change: Callable[[list[str]], list[str]], where: str = "test") -> Callable[[Path], object]:
    def changed(root: Path) -> None:
        path = root / f"VOC2007/ImageSets/Main/{where}.txt"
        path.write_text("\n".join(change(path.read_text().split())))

    return changed


VOC_KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no pose": (object_of_voc("<pose>.*</pose>", ""), ""),
    "no truncated": (object_of_voc("<truncated>.*</truncated>", ""), ""),
    "no difficult": (object_of_voc("<difficult>.*</difficult>", ""), ""),
    "truncated Unspecified": (object_of_voc("<truncated>0", "<truncated>Unspecified"), ""),
    "difficult Unspecified": (object_of_voc("<difficult>0", "<difficult>Unspecified"), ""),
    "difficult yes": (object_of_voc("<difficult>0", "<difficult>yes"), "<difficult> is 'yes', neither 0 nor 1"),
    "a float in a test box": (object_of_voc(r"<xmax>(\d+)", r"<xmax>\1.4"), ""),
    "a float in a training box": (object_of_voc(r"<xmax>(\d+)", r"<xmax>\1.4", "trainval"), ""),
    "a corner that is a word": (object_of_voc("<xmin>", "<xmin>left"), "<bndbox><xmin> is 'left"),
    "a corner that is infinite": (object_of_voc("<xmax>", "<xmax>1e999"), "<bndbox><xmax> is '1e999"),
    "no box": (object_of_voc("<bndbox>(.|\n)*?</bndbox>", ""), "object 1: <bndbox><xmin> is missing; <bndbox><ymin>"),
    "a float for width": (object_of_voc("<width>64", "<width>64.0"), ""),
    "half a pixel of width": (
        object_of_voc("<width>64", "<width>64.5"),
        "<size><width> is '64.5', which is not a whole number",
    ),
    "another width": (object_of_voc("<width>64", "<width>66"), "64×64 pixels, where its annotation says 66×64"),
    "no size": (object_of_voc("<size>(.|\n)*?</size>", ""), "<size><width> is missing; <size><height> is missing"),
    "another encoding": (object_of_voc("^", '<?xml version="1.0" encoding="klingon"?>'), "broken XML"),
    "all difficult": (all_difficult, "every object of test is difficult"),
    "a list with a byte order mark and a blank line": (
        list_of_voc(lambda names: ["\ufeff" + names[0], "", *names[1:]]),
        "",
    ),
    "a name twice in a list": (list_of_voc(lambda names: [*names, names[0]]), "lists images more than once: 1 ("),
    "a name twice in a training list": (
        list_of_voc(lambda names: [*names, names[0]], "trainval"),
        "lists images more than once: 1 (",
    ),
}


def object_of_coco(split: str = VAL, every: bool = False, **fields: Any) -> Callable[[Path], object]:
    """A change of the first object of a split, or of all; fields that are `...` are removed."""

    def change(content: dict[str, Any]) -> None:
        for entry in content["annotations"][: None if every else 1]:
            entry.update(fields)
            for field in [field for field, value in fields.items() if value is ...]:
                del entry[field]

    return lambda root: spoil_json(root / split, change)


def maskless_image(root: Path) -> None:
    """No object of the first image to train on has a mask."""

    def change(content: dict[str, Any]) -> None:
        for entry in content["annotations"]:
            if entry["image_id"] == content["images"][0]["id"]:
                entry["segmentation"] = []

    spoil_json(root / TRAIN, change)


def width(value: Any) -> Callable[[Path], object]:
    return lambda root: spoil_json(root / VAL, lambda content: content["images"][0].update(width=value))


def listed_twice(root: Path) -> None:
    """The first image to train on has a second entry, which has its objects."""

    def change(content: dict[str, Any]) -> None:
        first, other = content["images"][0], 10**6
        content["images"].append({**first, "id": other})
        for entry in content["annotations"]:
            if entry["image_id"] == first["id"]:
                entry["image_id"] = other

    spoil_json(root / TRAIN, change)


COCO_KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no area": (object_of_coco(area=...), ""),
    "an area of null": (object_of_coco(area=None), ""),
    "an area that is a word": (object_of_coco(area="big"), "'area' is 'big', which is not a number"),
    "no iscrowd": (object_of_coco(iscrowd=...), ""),
    "all crowds": (object_of_coco(every=True, iscrowd=1), "every object is a crowd"),
    "no mask to score on": (object_of_coco(segmentation=...), "'segmentation' is missing or empty"),
    "an empty mask to score on": (object_of_coco(segmentation=[]), "'segmentation' is missing or empty"),
    "polygons of two points": (object_of_coco(segmentation=[[1, 2, 3, 4]]), "'segmentation' is missing or empty"),
    "a mask without a pixel": (
        object_of_coco(segmentation={"counts": [4096], "size": [64, 64]}),
        "'segmentation' is missing or empty",
    ),
    "a mask of another size": (
        object_of_coco(TRAIN, segmentation={"counts": [0, 2048], "size": [64, 32]}),
        "an RLE of 32×64 pixels, where the image has 64×64",
    ),
    "no mask to train on": (object_of_coco(TRAIN, segmentation=...), ""),
    "an image without a mask": (maskless_image, ""),
    "no mask at all": (object_of_coco(TRAIN, every=True, segmentation=[]), "has a mask to train on"),
    "a box of texts": (object_of_coco(TRAIN, bbox=["1", "2", "30", "30.5"]), ""),
    "a box of corners": (object_of_coco(bbox=[[1, 2], [3, 4]]), "'bbox' is not a list of four numbers"),
    "an id that is a text": (object_of_coco(id="1"), ""),
    "the id 0": (object_of_coco(id=0), ""),
    "ignore": (object_of_coco(TRAIN, ignore=1), "'ignore' is set"),
    "what nobody reads": (object_of_coco(TRAIN, keypoints=[1, 2], score=None, attributes={}), ""),
    "a float for width": (width(64.0), ""),
    "half a pixel of width": (width(64.5), "'width' is 64.5, which is not a whole number"),
    "no width": (width(None), "'width' is missing"),
    "an image listed under two ids": (listed_twice, "lists images more than once: 1 ("),
}


def page() -> str:
    """docs/annotations.md: every kind of both data sets, and what becomes of it."""
    rows = [
        f"| {dataset} | {kind} | {f'refused: `{reason}`' if reason else 'used'} |"
        for dataset, kinds in (("VOC", VOC_KINDS), ("COCO", COCO_KINDS))
        for kind, (_, reason) in kinds.items()
    ]
    return f"""# Annotations as people have them

If `salmask data verify voc07+12` or `salmask data verify coco` accepts annotations, they can be trained on and scored.
All others are refused before that, by file and field; the table shows part of the message.

Each line below is a test (`pytest tests/repro/data/test_annotation_faults.py -k kinds`). The test makes this one change
to a sound data set of drawn scenes, verifies it, opens it as a training does, trains for two steps, and scores.
`python tests/support/annotation_kinds.py` writes this page.

| data set | variant | outcome |
| --- | --- | --- |
{chr(10).join(rows)}
"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
