"""The study's photographs: both sources give the same class folders, and the runs follow the study's regime."""

import hashlib
import json
import pickle
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from places import EXAMPLES
from torchvision.datasets import CIFAR10

from examples.study import cifar10_folders
from examples.study.cifar10_folders import CLASSES, write_folders
from examples.study.decide import PARTS, PHOTOGRAPHS
from examples.study.tables import of_questions
from repro.settings.comparison import difference
from results.collection.runs import find_runs

PHOTOGRAPHED = EXAMPLES / "study" / "photographs"

BATCHES = {
    "data_batch_1": [6, 9],
    "data_batch_2": [9, 4, 1],
    "data_batch_3": [1],
    "data_batch_4": [2],
    "data_batch_5": [7],
}
LABELS = {"train": [label for labels in BATCHES.values() for label in labels], "val": [3, 8, 8]}


def pixels() -> dict[str, NDArray[np.uint8]]:
    """The images of each batch, 32×32×3."""
    rng = np.random.default_rng(0)
    counts = {**{name: len(labels) for name, labels in BATCHES.items()}, "test_batch": len(LABELS["val"])}
    return {name: rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for name, count in counts.items()}


@pytest.fixture
def npm(tmp_path: Path) -> Path:
    """A package whose PNGs have one image a row."""
    folder = tmp_path / "package"
    folder.mkdir()
    for name, images in pixels().items():
        Image.fromarray(images.reshape(len(images), 1024, 3)).save(folder / f"{name}.png")
    (folder / "train_lables.json").write_text(json.dumps(LABELS["train"]))
    (folder / "test_lables.json").write_text(json.dumps(LABELS["val"]))
    return folder


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an archive, whose rows are planes of red, green and blue."""
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()

    def write(name: str, content: dict[str, Any]) -> str:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    listed = [
        [name, write(name, {"data": images.transpose(0, 3, 1, 2).reshape(len(images), -1), "labels": labels})]
        for (name, images), labels in zip(pixels().items(), [*BATCHES.values(), LABELS["val"]], strict=True)
    ]
    meta = write("batches.meta", {"label_names": list(CLASSES)})
    monkeypatch.setattr(CIFAR10, "train_list", listed[:5])
    monkeypatch.setattr(CIFAR10, "test_list", listed[5:])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": meta})
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_either_source_gives_the_same_folders(npm: Path, official: Path, tmp_path: Path) -> None:
    for number, source in enumerate((npm, official, official.parent)):
        write_folders(source, tmp_path / f"out{number}")
    first, second, third = (contents(tmp_path / f"out{number}") for number in range(3))
    assert first == second == third
    assert sorted(first) == sorted(
        f"{split}/{CLASSES[label]}/{number:05d}.png"
        for split, labels in LABELS.items()
        for number, label in enumerate(labels)
    )
    assert {path.name for path in (tmp_path / "out0" / "val").iterdir()} == set(CLASSES)
    kept = np.asarray(Image.open(tmp_path / "out0" / "train" / CLASSES[4] / "00003.png"))
    assert np.array_equal(kept, pixels()["data_batch_2"][1])


@pytest.mark.parametrize("damage", ["nowhere", "torn", "there", "a label less", "torn labels", "narrow"])
def test_what_cannot_be_used_is_refused_in_a_line_and_nothing_is_written(
    damage: str,
    npm: Path,
    official: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, out = official, tmp_path / "out"
    if damage == "nowhere":
        source = tmp_path / "other"
    elif damage == "torn":
        (official / "data_batch_3").write_bytes(b"torn")
    elif damage == "a label less":
        source = npm
        (npm / "test_lables.json").write_text(json.dumps(LABELS["val"][1:]))
    elif damage == "torn labels":
        source = npm
        (npm / "test_lables.json").write_text("[3, ")
    elif damage == "narrow":
        source = npm
        Image.new("RGB", (1000, 3)).save(npm / "test_batch.png")
    else:
        (out / "kept").mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", ["cifar10_folders", str(source), str(out)])
    assert cifar10_folders._main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "; mend: " in line
    assert [path.name for path in out.iterdir()] == ["kept"] if damage == "there" else not out.exists()


def test_the_page_has_the_tables_of_the_recorded_photographs() -> None:
    page = (EXAMPLES / "study" / "README.md").read_text(encoding="utf-8")
    tables = list(of_questions([PHOTOGRAPHED], PHOTOGRAPHS, PARTS))
    assert len(tables) == 2
    assert all(table in page for table in tables)


def test_photographs_are_the_studys_regime_on_other_images() -> None:
    drawn = {(run.method, run.run.seed): run.run for run in find_runs([EXAMPLES / "study" / "runs"]) if run.run}
    photographed = find_runs([PHOTOGRAPHED])
    assert Counter(record.method for record in photographed) == {
        "mocov2": 3,
        "mocov2+ours-hp-no-masks": 3,
        "mocov2+ours-hp": 3,
        "mocov2+ours-mean": 3,
        "simclr": 3,
        "simclr+ours-hp-no-masks": 3,
        "simclr+ours-hp": 3,
        "simclr+ours-blur": 3,
        "simclr+ours-mean": 3,
    }
    for record in photographed:
        assert record.run is not None
        assert record.state == "done"
        differing = difference(record.run, drawn[record.method, record.run.seed])
        assert set(differing) == {"data.dataset", "optimization.epochs"}
