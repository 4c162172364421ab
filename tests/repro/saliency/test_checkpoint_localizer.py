"""A localizer that is a run's own backbone: it counts by its content, wherever the file lies."""

import hashlib
from pathlib import Path

import pytest
import torch
from torchvision.models import get_model

from baselines import resolve
from repro.backbones.backbone import save_backbone
from repro.errors import UserError
from repro.settings.reading import load
from repro.settings.run import Run
from repro.training.learner import build_view_maker


def backbone(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    state = get_model("resnet18", weights=None).state_dict()
    save_backbone(path, state, arch="resnet18", input_filter="none", run_id="x")
    return path


def of(path: Path | str, **changes: str) -> Run:
    settings = {"localizer.network": "checkpoint", "localizer.weights": str(path)}
    return resolve("mocov2+ours-hp", settings, {f"localizer.{name}": value for name, value in changes.items()})


def test_a_checkpoint_counts_by_its_content_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, same, different = (backbone(tmp_path / f"{n}.pth", seed) for n, seed in ((1, 0), (2, 0), (3, 1)))
    same.write_bytes(here.read_bytes())
    run = of(here)
    assert run.localizer.sha256 == hashlib.sha256(here.read_bytes()).hexdigest()
    assert run.id == of(same).id
    assert run.id != of(different).id
    assert run.id != resolve("mocov2+ours-hp").id
    monkeypatch.chdir(tmp_path)
    assert of("1.pth") == run
    (tmp_path / "run.yaml").write_text(run.to_yaml())
    here.unlink()  # a run is read without its localizer
    assert load(tmp_path / "run.yaml") == run


def test_another_file_in_the_place_of_the_checkpoint_is_refused(tmp_path: Path) -> None:
    path = backbone(tmp_path / "b.pth", 0)
    run = of(path, relax="0.5")
    build_view_maker(run, torch.device("cpu"))
    backbone(path, 1)
    with pytest.raises(UserError, match=r"is not the file that the run was made with: its content has another SHA-256"):
        build_view_maker(run, torch.device("cpu"))
    path.unlink()
    with pytest.raises(UserError, match=r"b\.pth is gone, .*; mend: put it back, or .*localizer\.weights=FILE"):
        build_view_maker(run, torch.device("cpu"))


def test_a_checkpoint_that_is_not_there_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"localizer\.weights=.*none\.pth cannot be read \(No such file or directory\)"):
        of(tmp_path / "none.pth")
    with pytest.raises(
        UserError, match=r"localizer\.sha256 is a checkpoint's, and localizer\.network=resnet50 is none"
    ):
        resolve("mocov2+ours-hp", {"localizer.sha256": "0" * 64})
    assert of("").localizer.sha256 == ""  # a row without its file can be listed, and is refused when it is built
