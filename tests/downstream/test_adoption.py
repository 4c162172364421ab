"""Weights from elsewhere as a run, without the command line; tests/downstream/test_eval_cli.py has what it says."""

from pathlib import Path
from typing import Any

import pytest
import torch
from error_samples import message_of
from training_samples import OURS, tiny, with_random_backbone

from downstream.adoption import adopt, untrained
from repro.backbones.backbone import load_backbone, load_backbone_of, save_backbone
from repro.backbones.weights import weights_digest
from repro.errors import UserError
from repro.settings.choices import InputFilter

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
    path, out = saved(tmp_path / "a.pth"), tmp_path / "my runs"
    run, folder = adopt(path, out=out, **PLAIN)
    assert load_backbone_of(run, folder).run_id == run.id
    before = folder.provenance.read_bytes()
    assert adopt(path, out=out, **PLAIN)[0] == run
    assert folder.provenance.read_bytes() == before
    state = load_backbone(folder.backbone).network.state_dict()
    state["bn1.bias"] += 1
    save_backbone(folder.backbone, state, arch="resnet18", width=8, input_filter="none", run_id=run.id)
    with pytest.raises(UserError, match=r"backbone\.pth holds other weights than .*a\.pth; mend: choose another --out"):
        adopt(path, out=out, **PLAIN)
    other = f"{folder.backbone} holds other weights than those of run {run.id}"
    mend = f"salmask eval --checkpoint '{folder.backbone}' adopts these as a run of their own"
    assert message_of(lambda: load_backbone_of(run, folder)) == f"{other}; mend: {mend}"


NOT_NAMED: dict[str, Any] = {**PLAIN, "arch": "", "settings": {}}


@pytest.mark.end_to_end
def test_own_weights_need_no_option_for_their_network(tmp_path: Path) -> None:
    """The backbone of a narrow run, or of another depth, was refused until its own network was named by hand."""
    folder = with_random_backbone(tiny(OURS), tmp_path / "own", "high_pass")
    own, state = folder.load(), load_backbone(folder.backbone).network.state_dict()
    step = folder.path / "checkpoints/step_00000001.pth"  # this names its run alone
    step.parent.mkdir()
    torch.save({"run_id": own.id, "model": {f"encoder.{name}": value for name, value in state.items()}}, step)
    for path in (folder.backbone, step):
        run, adopted = adopt(path, out=tmp_path / "runs" / path.stem, **NOT_NAMED)
        assert (run.encoder.arch, run.encoder.width) == (own.encoder.arch, own.encoder.width) == ("resnet18", 8)
        assert load_backbone(adopted.backbone).input_filter == InputFilter.high_pass
        with pytest.raises(UserError, match=r"does not fit a resnet18: .*; mend: --arch resnet18 encoder\.width=8$"):
            adopt(path, out=tmp_path / "no", **{**NOT_NAMED, "settings": {"encoder": {"width": 64}}})
    with pytest.raises(UserError, match=rf"is a checkpoint of run {own.id}, but not in its folder"):
        adopt(step.rename(tmp_path / "moved.pth"), out=tmp_path / "no", **NOT_NAMED)
    assert not (tmp_path / "no").exists()


def test_what_others_files_say_of_their_network_counts_but_for_a_width(tmp_path: Path) -> None:
    """What they mean by a width may be anything."""
    whole = {"arch": "tv_resnet18", "width": 2, "state_dict": untrained("resnet18", 0, 64).state}
    torch.save(whole, tmp_path / "others.pth")
    run, _ = adopt(tmp_path / "others.pth", out=tmp_path / "runs", **NOT_NAMED)
    assert (run.encoder.arch, run.encoder.width) == ("resnet18", 64)
    torch.save(whole["state_dict"], tmp_path / "silent.pth")
    with pytest.raises(UserError, match=r"does not fit a resnet50: .*; mend: --arch resnet18$"):
        adopt(tmp_path / "silent.pth", out=tmp_path / "no", **NOT_NAMED)
    assert not (tmp_path / "no").exists()
