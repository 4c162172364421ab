"""Scenes with several objects, and copies of data sets for tests to spoil."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repro.scenes.dataset import Scenes

CLASSES = 5


def scenes(split: Any, count: int, **settings: Any) -> Scenes:
    return Scenes(split, **{"count": count, "classes": CLASSES, "size": 64, "objects": 3, **settings})


def copied(root: Path, folder: Path) -> Path:
    return Path(shutil.copytree(root, folder))


def spoil_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def spoil_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
