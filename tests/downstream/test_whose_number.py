"""Backbone, folder and settings must belong to one run, or nothing is measured."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from error_samples import message_of
from training_samples import files_below, refused, tiny, with_random_backbone

from baselines import resolve
from repro.backbones.backbone import load_backbone, load_backbone_of
from repro.backbones.checkpoint import read_checkpoint
from repro.errors import UserError
from repro.runs.folder import RunFolder

KNN = ("--task", "knn", "knn.neighbours=[5]", "machine.workers=0", "machine.device=cpu")


def edit(folder: RunFolder, old: str, new: str) -> None:
    text = folder.run_yaml.read_text()
    assert text.count(old) == 1
    folder.run_yaml.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"), [("\nseed: 0\n", "\nseed: 5\n"), ("\nframework: mocov2", "\nframework: simclr")]
)
def test_a_run_that_was_edited_is_not_read(folder: RunFolder, old: str, new: str) -> None:
    written = folder.load().id
    edit(folder, old, new)
    before = files_below(folder.path)
    line = refused("eval", str(folder.path), *KNN)
    assert f", but the folder is of run {written}: it was edited; mend: undo the edit" in line
    assert files_below(folder.path) == before


def test_the_folders_name_tells_of_an_edit_where_no_line_does(folder: RunFolder) -> None:
    """For runs that were recorded before that line was written."""
    run = folder.load()
    first, rest = folder.run_yaml.read_text().split("\n", 1)
    assert first == f"# run {run.id}"
    folder.run_yaml.write_text(rest)
    assert folder.load() == run
    edit(folder, "\nseed: 0\n", "\nseed: 5\n")
    assert f"the folder is of run {run.id}" in message_of(folder.load)


def test_a_folder_that_was_renamed_is_read_and_an_edit_is_seen_all_the_same(folder: RunFolder) -> None:
    run = folder.load()
    renamed = RunFolder(folder.path.rename(folder.path.parent / "a copy"))
    assert renamed.load() == run
    edit(renamed, "\nseed: 0\n", "\nseed: 5\n")
    assert f"the folder is of run {run.id}" in message_of(renamed.load)


def test_settings_outside_the_identity_may_be_edited(folder: RunFolder) -> None:
    edit(folder, "log_every: ", "log_every: 1")
    assert str(folder.load().machine.log_every).startswith("1")


def test_the_backbone_of_another_run_gives_no_number(folder: RunFolder, tmp_path: Path) -> None:
    other = with_random_backbone(tiny(changes={"seed": 5}), tmp_path / "runs")
    other.backbone.write_bytes(folder.backbone.read_bytes())
    before = files_below(other.path)
    line = refused("eval", str(other.path), *KNN)
    assert f"is of run {folder.load().id}, and run.yaml describes run {other.load().id}; mend: " in line
    assert files_below(other.path) == before
    assert load_backbone_of(folder.load(), folder).run_id == folder.load().id


@pytest.mark.parametrize("setting", ["method=simclr", "seed=3", "framework=simclr", "data.dataset=imagenet100"])
def test_an_evaluation_cannot_make_it_another_run(folder: RunFolder, setting: str) -> None:
    before = files_below(folder.path)
    assert "a backbone keeps the run that made it" in refused("eval", str(folder.path), *KNN, setting)
    assert files_below(folder.path) == before


@pytest.mark.parametrize(
    ("settings", "phrase"),
    [
        ({"framework": "simclr", "optimization.batch": 128}, "framework=simclr contradicts the row mocov2+ours-hp"),
        ({"method": "mocov2"}, "method=mocov2 contradicts the row mocov2+ours-hp"),
        ({"method": "../../evil"}, "method='../../evil' cannot name a folder"),
    ],
)
def test_settings_cannot_put_a_run_into_another_row(settings: dict[str, Any], phrase: str) -> None:
    assert phrase in message_of(lambda: resolve("mocov2+ours-hp", settings))
    assert resolve("mocov2+ours-hp", {"framework": "mocov2", "method": "mocov2+ours-hp"}).method == "mocov2+ours-hp"


def flipped(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_a_flipped_bit_is_seen_wherever_it_is(folder: RunFolder) -> None:
    """In every file of weights, old ones too: torch writes checksums, but does not check them on reading."""
    pristine = folder.backbone.read_bytes()
    want = load_backbone(folder.backbone).network.state_dict()
    refusals = 0
    for bit in range(12_345, 8 * len(pristine), 8 * len(pristine) // 24):
        flipped(folder.backbone, bit)
        try:
            state = load_backbone(folder.backbone).network.state_dict()
        except UserError:
            refusals += 1
        else:  # a bit between two parts of the archive, which no reader uses
            assert all(torch.equal(tensor, state[name]) for name, tensor in want.items())
        folder.backbone.write_bytes(pristine)
    assert refusals >= 23


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (lambda content: content.pop("run_id"), "has no field 'run_id'"),
        (lambda content: content.update(arch=3), "its field 'arch' is int, not str"),
        (lambda content: content.update(width="64"), "its field 'width' is str, not int"),
        (lambda content: content.update(input_filter="sepia"), "its field 'input_filter' is 'sepia'"),
        (lambda content: content["state_dict"].update(x=1), "'x' of its weights is int, not a tensor"),
        (lambda content: content["state_dict"]["conv1.weight"].zero_(), "conv1.weight: its 1176 values are all zero"),
        (lambda content: content["state_dict"]["conv1.weight"].view(-1)[7].fill_(torch.nan), "are NaN or infinite"),
        (
            lambda content: content["state_dict"].update({"conv1.weight": content["state_dict"]["conv1.weight"].int()}),
            "weights that are not floating-point numbers: 1 (conv1.weight)",
        ),
        (lambda content: content.update(arch="vgg11"), "holds a 'vgg11', which is not a ResNet of torchvision"),
        (lambda content: content["state_dict"].update({1: torch.ones(1)}), "a name of its weights is int, not a text"),
    ],
)
def test_a_backbone_of_another_content_is_refused_by_its_field(
    folder: RunFolder, change: Callable[[dict[str, Any]], object], phrase: str
) -> None:
    content = read_checkpoint(folder.backbone)
    change(content)
    torch.save(content, folder.backbone)
    message = message_of(lambda: load_backbone(folder.backbone))
    assert phrase in message
    assert str(folder.backbone) in message
