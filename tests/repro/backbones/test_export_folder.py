"""Where an export goes, what it replaces, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from export_samples import exported
from run_samples import begun
from training_samples import files_below, refused, salmask, tiny

from repro.backbones.convert import DETECTRON2_RESNETS
from repro.runs.folder import RunFolder


def test_force_replaces_no_folder_but_an_export(plain: RunFolder) -> None:
    before = files_below(plain.path)
    line = refused("export", str(plain.path), "--to", "timm", "--out", str(plain.path), "--force")
    assert (
        line == f"{plain.path} is not an export, so --force does not replace it; mend: name another folder with --out"
    )
    assert files_below(plain.path) == before


@pytest.fixture
def existing(plain: RunFolder, tmp_path: Path) -> Path:
    place = exported(plain, "timm", tmp_path / "out")
    (place / "note").write_text("mine")
    return place


def test_an_export_that_is_there_is_replaced_only_by_force(plain: RunFolder, existing: Path) -> None:
    before = files_below(existing)
    line = refused("export", str(plain.path), "--to", "timm", "--out", str(existing))
    assert line == f"{existing} exists already; mend: name another with --out, or add --force to replace it"
    assert files_below(existing) == before
    exported(plain, "torchvision", existing, "--force")
    assert files_below(existing) == {"README.md", "run.yaml", "salmask.json", "resnet18.pth"}
    assert {path.name for path in existing.parent.iterdir()} == {"out"}


def test_a_failed_export_leaves_nothing_and_takes_nothing(
    plain: RunFolder, existing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("repro.backbones.export.render", full)
    before = files_below(existing)
    line = refused("export", str(plain.path), "--to", "timm", "--out", str(existing), "--force")
    assert line.startswith(f"cannot write {existing}: the disk of {existing.parent} is full, or its quota (")
    assert re.search(r" [kMGT]?B are free\); mend: free some space there$", line)
    assert files_below(existing) == before
    assert {path.name for path in existing.parent.iterdir()} == {"out"}
    refused("export", str(plain.path), "--to", "timm", "--out", str(existing.parent / "new"))
    assert {path.name for path in existing.parent.iterdir()} == {"out"}


def test_the_default_place_is_in_the_runs_folder(evaluated: RunFolder) -> None:
    ended = salmask("export", str(evaluated.path), "--to", "torchvision", "--json")
    place = evaluated.path / "exports" / "torchvision"
    assert json.loads(ended.out) == {"weights": str(place / "resnet18.pth"), "card": str(place / "README.md")}
    assert (place / "resnet18.pth").is_file()


def test_bad_input_is_one_clear_line(plain: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unfinished = begun(tmp_path / "unfinished", tiny("mocov2", {"seed": 9}))
    assert "has no backbone.pth: its pretraining is not finished" in refused(
        "export", str(unfinished.path), "--to", "timm"
    )
    assert "has no run.yaml" in refused("export", str(tmp_path), "--to", "timm")
    assert "is not a name of a licence" in refused(
        "export", str(plain.path), "--to", "timm", "--licence", "mit\ntags: [x]", "--out", str(tmp_path / "out")
    )
    unfinished.backbone.write_bytes(plain.backbone.read_bytes())
    line = refused("export", str(unfinished.path), "--to", "timm")
    assert f"is of run {plain.load().id}, and run.yaml describes run {unfinished.load().id}" in line
    monkeypatch.delitem(DETECTRON2_RESNETS, "resnet18")
    line = refused("export", str(plain.path), "--to", "detectron2", "--out", str(tmp_path / "out"))
    assert line == "detectron2 builds no 'resnet18'; mend: --to torchvision, which made it"
    assert not (tmp_path / "out").exists()
