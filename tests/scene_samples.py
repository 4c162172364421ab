"""Scenes written as PASCAL VOC and COCO, once for all tests of a session, and copies of them to spoil."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repro.data.annotations.scenes_export import write_coco, write_voc
from repro.scenes.dataset import Scenes

CLASSES = 5


def scenes(split: Any, count: int, **settings: Any) -> Scenes:
    return Scenes(split, **{"count": count, "classes": CLASSES, "size": 64, "objects": 3, **settings})


def voc_root(place: Path) -> Path:
    """13 scenes to train on (4 of 2007, 9 of 2012) and 6 to test on."""
    return place if place.exists() else write_voc(place, scenes("train", 13), scenes("val", 6))


def coco_root(place: Path) -> Path:
    """8 scenes to train on and 5 to test on."""
    return place if place.exists() else write_coco(place, scenes("train", 8), scenes("val", 5))


def copied(root: Path, place: Path) -> Path:
    return Path(shutil.copytree(root, place))


def spoil_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def spoil_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
