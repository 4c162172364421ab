"""Weights from elsewhere as a run, without the command line; tests/downstream/test_eval_cli.py has what it says."""

from pathlib import Path
from typing import Any

import pytest
import torch

from downstream.adoption import adopt, untrained
from repro.backbones.backbone import load_backbone, save_backbone
from repro.backbones.weights import weights_digest
from repro.errors import UserError
from repro.runs.choices import InputFilter

PLAIN: dict[str, Any] = {
    **{"arch": "resnet18", "name": "", "prefix": "", "input_filter": InputFilter.none},
    "settings": {"encoder": {"width": 8}},
}


def saved(path: Path) -> Path:
    torch.save(untrained("resnet18", 3, 8).state, path)
    return path


def test_fresh_weights_are_drawn_from_the_seed() -> None:
    first, again, other = (weights_digest(untrained("resnet18", seed, 8).state) for seed in (0, 0, 1))
    assert first == again != other


def test_a_file_called_random_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run, _ = adopt(saved(Path("random")), out=tmp_path / "runs", **PLAIN)
    assert run.imported.origin == str(tmp_path / "random")


def test_weights_that_were_taken_before_are_looked_at_and_not_taken_again(tmp_path: Path) -> None:
    path, out = saved(tmp_path / "a.pth"), tmp_path / "runs"
    run, folder = adopt(path, out=out, **PLAIN)
    before = folder.provenance.read_bytes()
    assert adopt(path, out=out, **PLAIN)[0] == run
    assert folder.provenance.read_bytes() == before
    state = load_backbone(folder.backbone).network.state_dict()
    state["bn1.bias"] += 1
    save_backbone(folder.backbone, state, arch="resnet18", width=8, input_filter="none", run_id=run.id)
    with pytest.raises(UserError, match=r"backbone\.pth holds other weights than .*a\.pth; mend: choose another --out"):
        adopt(path, out=out, **PLAIN)
