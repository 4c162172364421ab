"""Scenes are those of recorded runs: a change that draws other pictures must raise `dataset._RENDERING`.

The expected pictures are in `tests/golden/scenes.json`. After an intended change, write them anew:

    SALMASK_UPDATE_GOLDENS=1 python -m pytest tests/repro/scenes/test_recorded_pictures.py
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from places import EXAMPLES, GOLDEN

from repro.scenes.dataset import Scenes
from repro.settings.reading import load

RECORDED = EXAMPLES / "study" / "runs" / "mocov2" / "s1-6aa38cd410"
PICTURES = GOLDEN / "scenes.json"
STEP = 97
"""Every so many bytes of a picture one is recorded, from all of its parts and all colours."""
CHOICES: dict[str, Any] = {"grounds": 70, "context": 0.5, "members": 3, "objects": 4}


def cutouts(folder: Path) -> Path:
    """Eight discs with a stripe, each in colours of its own."""
    for number in range(8):
        image = Image.new("RGBA", (90, 70))
        draw = ImageDraw.Draw(image)
        draw.ellipse((5, 10 + number, 80, 60), fill=(30 * number, 200 - 20 * number, 40 + 25 * number, 255))
        draw.rectangle((30, 20, 40 + number, 50), fill=(250, 240 - 30 * number, 10, 255))
        image.save(folder / f"{number}.png")
    return folder


def drawn(name: str, folder: Path) -> Scenes:
    if name == "cut-outs":
        return Scenes("train", count=12, classes=8, objects=2, size=64, seed=4, cutouts=cutouts(folder))
    if name == "choices":
        return Scenes("train", count=60, classes=60, size=64, seed=9, **CHOICES)
    settings = load(RECORDED / "run.yaml").data.scenes
    if name == "coloured":
        settings = replace(settings, colour=0.5)
    return Scenes.by_settings("val" if name == "study, val" else "train", settings)


def samples(scenes: Scenes, index: int) -> bytes:
    # Another offset for each picture, so that all together cover more.
    return np.asarray(scenes[index][0]).ravel()[index % STEP :: STEP].tobytes()


@pytest.mark.parametrize("name", ["study, train", "study, val", "coloured", "choices", "cut-outs"])
def test_pictures_labels_and_objects_are_the_recorded_ones(name: str, tmp_path: Path) -> None:
    scenes, expected = drawn(name, tmp_path), json.loads(PICTURES.read_text())
    indices = range(min(len(scenes), 24))
    now = {
        "targets": scenes.targets[:24],
        "objects": [int(scenes.main_mask(index).sum()) for index in indices],
        "pixels": [samples(scenes, index).hex() for index in indices],
        # A cut-outs' fingerprint is that of their files, whose bytes depend on zlib.
        "fingerprint": "" if name == "cut-outs" else scenes.fingerprint(),
    }
    if os.environ.get("SALMASK_UPDATE_GOLDENS"):
        PICTURES.write_text(json.dumps(expected | {name: now}, indent=1) + "\n")
        expected[name] = now
    before = expected[name]
    assert (now["targets"], now["fingerprint"]) == (before["targets"], before["fingerprint"])
    # Rounding may move a pixel by a level, and an edge by a pixel.
    assert now["objects"] == pytest.approx(before["objects"], rel=0.01)
    for index in indices:
        one, other = (np.frombuffer(bytes.fromhex(each["pixels"][index]), np.uint8) for each in (now, before))
        assert np.mean(np.abs(one.astype(int) - other) > 1) < 0.02, index


def test_the_study_was_trained_on_these_scenes() -> None:
    (origin,) = json.loads((RECORDED / "provenance.json").read_text())
    assert json.loads(PICTURES.read_text())["study, train"]["fingerprint"] == origin["data"]["train"]
