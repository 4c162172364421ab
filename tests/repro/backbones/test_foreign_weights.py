"""Weights of other libraries: the right network of each layout is found, its features are equal, and no code runs."""

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_cases import ACCEPTED, AMBIGUOUS
from foreign_layouts import dino
from foreign_parts import features, network
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import get_model
from training_samples import salmask

from repro.backbones.foreign import read_foreign
from repro.backbones.resnet import resnet_of_width
from repro.errors import UserError


def saved(content: Any, path: Path, **settings: bool) -> Path:
    torch.save(content, path, **settings)
    return path


def own_features(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """What a task computes from adopted weights: the features of torchvision's network without its head."""
    resnet = get_model("resnet18", weights=None)
    resnet.fc = nn.Identity()
    resnet.load_state_dict(state)
    with torch.no_grad():
        return resnet.eval()(images)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layout", ACCEPTED)
def test_features_are_those_of_the_source_network(layout: str, images: Tensor, tmp_path: Path) -> None:
    sample = ACCEPTED[layout]()
    backbone = read_foreign(saved(sample.content, tmp_path / "x.pth"), "resnet18")
    with torch.no_grad():
        expected = features(sample.source.eval(), images)
    assert expected.std() > 0.1
    torch.testing.assert_close(own_features(backbone.state, images), expected, atol=1e-6, rtol=1e-6)
    assert backbone.prefix == sample.prefix
    assert backbone.input_filter == ("high_pass" if layout == "own_backbone" else "")


@pytest.mark.parametrize("layout", AMBIGUOUS)
def test_what_is_ambiguous_is_refused_with_a_mend_that_works(layout: str, images: Tensor, tmp_path: Path) -> None:
    make, prefixes = AMBIGUOUS[layout]
    path = saved(make(), tmp_path / "x.pth")
    with pytest.raises(UserError, match="holds several networks, behind") as refused:
        read_foreign(path, "resnet18")
    assert refused.value.mend == " or ".join(f"--prefix {prefix}" for prefix in prefixes)
    first, second = (own_features(read_foreign(path, "resnet18", prefix).state, images) for prefix in prefixes)
    assert (first - second).abs().max() > 0.1


def test_dinos_teacher_and_student_are_taken_when_they_are_named(images: Tensor, tmp_path: Path) -> None:
    path = saved(dino().content, tmp_path / "x.pth")
    for name in ("student", "teacher"):
        sample = dino(name)
        with torch.no_grad():
            expected = features(sample.source.eval(), images)
        backbone = read_foreign(path, "resnet18", f"{name}.module.backbone")
        torch.testing.assert_close(own_features(backbone.state, images), expected, atol=1e-6, rtol=1e-6)
    # The end of a prefix is enough if only one network has it.
    with pytest.raises(UserError, match="several networks"):
        read_foreign(path, "resnet18", "module.backbone.")
    moco = saved(ACCEPTED["moco_v2"]().content, tmp_path / "y.pth")
    assert read_foreign(moco, "resnet18", "module.encoder_k.").prefix == "state_dict.module.encoder_k."
    assert read_foreign(moco, "resnet18", "encoder_q").prefix == "state_dict.module.encoder_q."


def test_a_momentum_encoder_alone_is_taken(tmp_path: Path) -> None:
    state = {f"encoder_k.{name}": value for name, value in network(1).state_dict().items()}
    assert read_foreign(saved(state, tmp_path / "x.pth"), "resnet18").prefix == "encoder_k."


@pytest.mark.parametrize(
    ("layout", "parts"),
    [
        ("swav", "module.projection_head (9), module.prototypes (1)"),
        ("torchvision", "fc (2)"),
        ("without_counters", "fc (2)"),
        (
            "lightly_moco_v2",
            (
                "state_dict.projection_head (9), state_dict.key_backbone (120), state_dict.key_projection_head (9), "
                "state_dict.criterion (1), state_dict.online_classifier (2), callbacks (1), optimizer_states (0)"
            ),
        ),
        (
            "vissl",
            (
                "classy_state_dict.base_model.model.heads (9), classy_state_dict.optimizer (1), "
                "classy_state_dict.loss (130)"
            ),
        ),
    ],
)
def test_what_is_left_out_is_named_by_its_parts(layout: str, parts: str, tmp_path: Path) -> None:
    backbone = read_foreign(saved(ACCEPTED[layout]().content, tmp_path / "x.pth"), "resnet18")
    assert backbone.parts_left_out == parts.replace(", optimizer_states (0)", "")


def test_safetensors_are_read_with_what_their_metadata_say(images: Tensor, tmp_path: Path) -> None:
    resnet = network(0)
    path = tmp_path / "x.safetensors"
    save_file(resnet.state_dict(), path, metadata={"input_filter": "high_pass"})
    backbone = read_foreign(path, "resnet18")
    with torch.no_grad():
        torch.testing.assert_close(own_features(backbone.state, images), features(resnet, images))
    assert backbone.input_filter == "high_pass"
    (tmp_path / "y.safetensors").write_bytes(path.read_bytes()[:10_000])
    with pytest.raises(UserError, match=r"y\.safetensors cannot be read"):
        read_foreign(tmp_path / "y.safetensors", "resnet18")
    renamed = path.rename(tmp_path / "pytorch_model.bin")
    assert torch.equal(read_foreign(renamed, "resnet18").state["bn1.bias"], backbone.state["bn1.bias"])


def test_the_running_statistics_of_a_trainings_processes_are_joined(tmp_path: Path) -> None:
    """As in the backbone that such a training ends with; norms of other parts are equal on all processes."""
    state = resnet_of_width("resnet18", 4).state_dict()
    own = [value for name, value in state.items() if "running_" in name]
    ranks = [torch.cat(own), torch.cat(own) + 2]
    model = {"mask.norm.running_mean": torch.full((4,), 0.5)} | {f"encoder_q.{k}": v for k, v in state.items()}
    content = {"run_id": "a run", "world_size": 2, "model": model, "statistics": ranks}
    read = read_foreign(saved(content, tmp_path / "x.pth"), "resnet18", width=4).state
    for name in read:
        torch.testing.assert_close(read[name], state[name] + ("running_" in name), msg=name)
    for vectors in ([ranks[1], ranks[0]], [ranks[0], ranks[1][1:]], [row[1:] for row in ranks], [], ["text"]):
        path = saved({**content, "statistics": vectors}, tmp_path / "y.pth")
        with pytest.raises(UserError, match=r"y\.pth: the running statistics of its processes do not fit its weights"):
            read_foreign(path, "resnet18", width=4)


def test_half_precision_and_files_of_old_torch_are_read(images: Tensor, tmp_path: Path) -> None:
    state = network(0).state_dict()
    old = saved({"state_dict": state}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_foreign(old, "resnet18").state["conv1.weight"], state["conv1.weight"])
    halves = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    adopted = read_foreign(saved(halves, tmp_path / "y.pth"), "resnet18").state
    assert adopted["conv1.weight"].dtype == torch.float32
    torch.testing.assert_close(adopted["conv1.weight"], state["conv1.weight"], atol=1e-3, rtol=1e-3)


def test_what_does_not_fit_is_listed_with_the_network_that_does(tmp_path: Path) -> None:
    state = network(0).state_dict()
    path = saved({f"module.{name}": value for name, value in state.items()}, tmp_path / "x.pth")
    with pytest.raises(
        UserError,
        match=r"does not fit a resnet34: behind 'module\.' it lacks \d+ \(layer1\.2\.conv1.*; mend: --arch resnet18$",
    ):
        read_foreign(path, "resnet34")
    with pytest.raises(UserError, match=r"does not fit a resnet50: .* lacks .*; mend: --arch resnet18$"):
        read_foreign(path, "resnet50")
    narrow = saved(resnet_of_width("resnet34", 32).state_dict(), tmp_path / "n.pth")
    with pytest.raises(UserError, match=r"mend: --arch resnet34 encoder\.width=32$"):
        read_foreign(narrow, "resnet34")
    assert read_foreign(narrow, "resnet34", width=32).state["conv1.weight"].shape[0] == 32
    with pytest.raises(
        UserError, match=r"--arch resnet19 is not a ResNet of torchvision; mend: did you mean 'resnet18'"
    ):
        read_foreign(path, "resnet19")
    with pytest.raises(UserError, match=r"holds no ResNet behind 'middle\.', but behind 'module\.'; mend: name one"):
        read_foreign(path, "resnet18", "middle.")


@pytest.mark.parametrize("prefix", ["", "net."])
@pytest.mark.parametrize("stray", ["layer3.2.conv1.weight", "layer1.0.se.fc1.weight", "conv2.weight", "stem.bn1.bias"])
def test_another_network_is_not_taken_for_a_resnet(prefix: str, stray: str, tmp_path: Path) -> None:
    state = {prefix + name: value for name, value in {**network(0).state_dict(), stray: torch.zeros(1)}.items()}
    with pytest.raises(UserError, match=rf"it also holds 1 \({stray}\); mend: another --arch or --prefix; variations"):
        read_foreign(saved(state, tmp_path / "x.pth"), "resnet18")


def test_other_shapes_and_other_files_are_refused(tmp_path: Path) -> None:
    cifar = {**network(0).state_dict(), "conv1.weight": torch.zeros(64, 3, 3, 3)}
    with pytest.raises(UserError, match=r"has other shapes: 1 \(conv1\.weight \(64×3×3×3, not 64×3×7×7\)\)"):
        read_foreign(saved(cifar, tmp_path / "z.pth"), "resnet18")
    with pytest.raises(UserError, match=r"holds no ResNet with torchvision's keys .* its keys: 1 \(blocks\.0\.qkv\)"):
        read_foreign(saved({"blocks.0.qkv": torch.zeros(1)}, tmp_path / "v.pth"), "resnet18")
    with pytest.raises(UserError, match=r"holds no tensors by name; its entries: 1 \(epoch\)"):
        read_foreign(saved({"epoch": 1}, tmp_path / "e.pth"), "resnet18")
    with pytest.raises(UserError, match=r"two tensors under the name a\.b; mend: rename"):
        read_foreign(saved({"a": {"b": torch.zeros(1)}, "a.b": torch.zeros(1)}, tmp_path / "t.pth"), "resnet18")


@pytest.mark.parametrize(
    ("name", "value", "count", "said"),
    [
        ("layer1.0.conv1.weight", float("nan"), 3, "3 of 36864 values are NaN or infinite"),
        ("bn1.weight", float("inf"), 1, "1 of 64 values are NaN or infinite"),
        ("layer2.0.bn1.running_var", -0.5, 2, "2 of 128 values are negative"),
        ("conv1.weight", 1e300, 4, "4 of 9408 values are NaN or infinite"),  # in double precision it is finite
    ],
)
def test_values_that_no_training_leaves_are_refused(
    name: str, value: float, count: int, said: str, tmp_path: Path
) -> None:
    state = {f"module.{key}": tensor.double() for key, tensor in network(1).state_dict().items()}
    state[f"module.{name}"].view(-1)[:count] = value
    with pytest.raises(UserError, match=re.escape(f"module.{name}: {said}")) as refused:
        read_foreign(saved({"state_dict": state}, tmp_path / "x.pth"), "resnet18")
    assert "more tensor" not in str(refused.value)
    state["module.layer3.0.bn1.bias"][:] = float("nan")
    with pytest.raises(UserError, match="; likewise 1 more tensor; mend"):
        read_foreign(saved({"state_dict": state}, tmp_path / "x.pth"), "resnet18")


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: (100 * tensor).to(torch.int8),
        lambda tensor: tensor.to(torch.complex64),
        lambda tensor: tensor.to_sparse(),
        lambda tensor: tensor.to("meta"),
        lambda tensor: torch.nested.nested_tensor([tensor[0], tensor[1, :1]]),
    ],
    ids=["whole numbers", "complex", "sparse", "meta", "nested"],
)
@pytest.mark.filterwarnings("ignore:Validating sparse", "ignore:The PyTorch API of nested tensors")
def test_tensors_that_no_network_is_made_of_are_refused(change: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    """Some of these ended in a traceback; integers were adopted as a run that nothing could read afterwards."""
    state = network(1).state_dict()
    state["conv1.weight"] = change(state["conv1.weight"])
    told = r"holds weights that are not floating-point numbers: 1 \(conv1\.weight\); mend: save"
    with pytest.raises(UserError, match=told):
        read_foreign(saved(state, tmp_path / "x.pth"), "resnet18")
    # Nor are such tensors compared with those of the same network under another name.
    with pytest.raises(UserError, match=r"not floating-point numbers: 1 \(a\.conv1\.weight\)"):
        read_foreign(saved({"a": state, "b": state}, tmp_path / "x.pth"), "resnet18")


def test_weights_that_are_all_zero_are_not_adopted(tmp_path: Path) -> None:
    state = {f"module.{name}": torch.zeros_like(value) for name, value in network(1).state_dict().items()}
    with pytest.raises(UserError, match=r"\.conv1\.weight: its 9408 values are all zero; likewise 19 more tensors"):
        read_foreign(saved(state, tmp_path / "x.pth"), "resnet18")


def test_what_torch_saved_is_read_whatever_the_ending_of_its_name(tmp_path: Path) -> None:
    """A file named `.safetensors` was read as that format, and called torn."""
    state = network(1).state_dict()
    read = read_foreign(saved(state, tmp_path / "x.safetensors"), "resnet18").state
    assert all(torch.equal(value, state[name]) for name, value in read.items())


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_what_was_saved_in_a_checkpoints_place_is_told_by_its_beginning(name: str, tmp_path: Path) -> None:
    """The advice used to be to trust the file, and to load it without checks."""
    path = tmp_path / name
    for content, shown in (
        (b"<!DOCTYPE html>\n<html><title>404</title></html>", "'<!DOCTYPE html>'"),
        (b"version https://git-lfs.github.com/spec/v1\n", "'version https:/'"),
        (b"\x1f\x8b\x08\x00", "'\\x1f"),
        (bytes(100), "'\\x00"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=re.escape(f"{name} cannot be read: it begins with {shown}")) as refused:
            read_foreign(path, "resnet18")
        assert refused.value.mend.startswith("download it anew, or unpack it")
    path.unlink()
    with pytest.raises(UserError, match=f"{name} does not exist; mend: check the path"):
        read_foreign(path, "resnet18")
    path.mkdir()
    with pytest.raises(UserError, match=f"{name} is a folder; mend: name a file in it"):
        read_foreign(path, "resnet18")


@pytest.mark.parametrize("arch", ["resnet18", "tv_resnet18", "resnet18.a1_in1k", "our own", "gluon_resnet18_v1b"])
def test_a_network_that_a_file_names_is_taken_by_all_its_names(arch: str, tmp_path: Path) -> None:
    path = saved({"arch": arch, "state_dict": network(0).state_dict()}, tmp_path / "x.pth")
    assert read_foreign(path, "resnet18").prefix == "state_dict."


def test_a_network_of_equal_tensors_is_not_taken_for_a_resnet(tmp_path: Path) -> None:
    path = saved({"arch": "resnetblur18", "state_dict": network(0).state_dict()}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth says that it holds a resnetblur18, not a resnet18, "):
        read_foreign(path, "resnet18")


def test_what_torch_save_did_not_write_is_refused_by_its_own_name(tmp_path: Path) -> None:
    trained = network(0)
    whole = saved(trained, tmp_path / "whole.pth")
    with pytest.raises(UserError, match=r"holds a whole object \(.*ReLU.*\), whose code is not run") as refused:
        read_foreign(whole, "resnet18")
    assert refused.value.mend.endswith("torch.save(torch.load(FILE, weights_only=False).state_dict(), NEW)")
    script = tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), script)
    with pytest.raises(UserError, match=r"is a program of TorchScript.*torch\.jit\.load\(FILE\)\.state_dict\(\), NEW"):
        read_foreign(script, "resnet18")
    pickled = tmp_path / "model.pkl"
    pickled.write_bytes(pickle.dumps({"model": {"stem.conv1.weight": trained.conv1.weight.detach().numpy()}}))
    told = r"is a pickle \(as of detectron2\), not a file of torch\.save; .*mend: .*--to torchvision"
    with pytest.raises(UserError, match=told):
        read_foreign(pickled, "resnet18")


@pytest.mark.parametrize("kind", ["torch.save", "nested", "npz"])
def test_arrays_of_numpy_are_called_so_with_a_mend_that_works(kind: str, tmp_path: Path) -> None:
    path, state = tmp_path / "x.pth", resnet_of_width("resnet18", 4).state_dict()
    arrays = {name: value.numpy() for name, value in state.items()}
    if kind == "npz":
        with path.open("wb") as file:
            np.savez(file, **arrays)
    else:
        saved({"state_dict": arrays, "epoch": 3} if kind == "nested" else arrays, path)
    with pytest.raises(UserError, match=r"x\.pth (holds arrays of NumPy|is an archive of NumPy's arrays)") as refused:
        read_foreign(path, "resnet18", width=4)
    save, _, load = refused.value.mend.partition("save them as tensors: ")[2].partition(", where arrays is ")
    read = eval(load.partition(", or ")[0], {"torch": torch, "numpy": np, "FILE": path})
    new = tmp_path / "new.pth"
    exec(save, {"torch": torch, "arrays": read["state_dict"] if kind == "nested" else read, "NEW": new})
    assert torch.equal(read_foreign(new, "resnet18", width=4).state["conv1.weight"], state["conv1.weight"])


def test_a_head_that_is_left_out_may_hold_anything(tmp_path: Path) -> None:
    state = network(1).state_dict()
    state["fc.weight"] = torch.full_like(state["fc.weight"], float("nan"))
    assert torch.equal(read_foreign(saved(state, tmp_path / "x.pth"), "resnet18").state["bn1.bias"], state["bn1.bias"])


def test_dictionaries_in_circles_and_without_end_are_read(tmp_path: Path) -> None:
    circle: dict[str, Any] = {"state_dict": network(0).state_dict()}
    circle["self"] = circle
    assert read_foreign(saved(circle, tmp_path / "x.pth"), "resnet18").prefix == "state_dict."


# Nothing of a file runs


class Hostile:
    """An object that calls a function when it is unpickled."""

    def __init__(self, function: Any, argument: str) -> None:
        self.call = function, (argument,)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("function", [os.system, eval, exec, print])
def test_hostile_files_do_not_run(function: Any, old_format: bool, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    code = f"touch {sign}" if function is os.system else f"open({str(sign)!r}, 'w').close()"
    content = {"state_dict": network(0).state_dict(), "hyper_parameters": Hostile(function, code)}
    path = saved(content, tmp_path / "x.ckpt", _use_new_zipfile_serialization=not old_format)
    if function is os.system or old_format:
        with pytest.raises(UserError, match=r"holds more than tensors and plain values.*mend: if you trust it, save"):
            read_foreign(path, "resnet18")
    else:
        # The object beside the weights is not read; the weights are.
        assert read_foreign(path, "resnet18").prefix == "state_dict."
    assert not sign.exists()
    # The trap works if it is sprung.
    if function in (os.system, eval, exec):
        torch.load(path, weights_only=False)
        assert sign.exists()


def test_weights_that_an_unknown_function_would_make_are_not_taken(tmp_path: Path) -> None:
    content = {"state_dict": {**network(0).state_dict(), "conv1.weight": Hostile(print, "run")}}
    with pytest.raises(UserError, match=r"behind 'state_dict\.' it lacks 1 \(conv1\.weight\)"):
        read_foreign(saved(content, tmp_path / "x.ckpt"), "resnet18")


def test_nothing_stays_allowed_after_reading(tmp_path: Path) -> None:
    before = torch.serialization.get_safe_globals()
    read_foreign(saved(ACCEPTED["solo_learn"]().content, tmp_path / "x.ckpt"), "resnet18")
    assert set(torch.serialization.get_safe_globals()) == set(before)


def test_the_command_says_what_it_left_out(tmp_path: Path) -> None:
    path = saved(ACCEPTED["swav"]().content, tmp_path / "swav.pth.tar")
    scenes = ("data.dataset=scenes", "data.crop=32", "data.scenes.size=64", "data.scenes.train_count=20")
    counts = ("data.scenes.val_count=24", "knn.neighbours=[5]", "machine.workers=0", "machine.device=cpu")
    options = ("--checkpoint", str(path), "--arch", "resnet18", "--out", str(tmp_path / "runs"), "--task", "knn")
    ended = salmask("eval", *scenes, *counts, *options)
    assert ended.code == 0, ended.err
    assert "120 tensors behind 'module.'; left out: module.projection_head (9), module.prototypes (1)" in " ".join(
        ended.err.split()
    )
