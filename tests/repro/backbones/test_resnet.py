"""ResNets of other widths: their shapes, what they compute, and what refuses them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from detection_samples import prepared
from error_samples import message_of
from torch import nn
from torchvision.models import get_model, list_models
from training_samples import CPU, TINY, files_below, refused, salmask, tiny, with_random_backbone

from baselines import build_learner, resolve
from downstream.detection.task import DetectionTask
from downstream.measurement import Target
from repro.backbones.backbone import load_backbone
from repro.backbones.resnet import build_resnet, resnet_of_width
from repro.bench.throughput import kind_of
from repro.contrastive.encoders import build_encoder
from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.settings.comparison import departures, sizes_below_recipe
from repro.settings.detection import VOC
from repro.settings.network_names import RESNETS
from repro.training.pretraining import pretrain


def test_a_network_that_torchvision_does_not_have_is_refused_with_the_nearest() -> None:
    line = "encoder.arch=resnet51 is not a ResNet of torchvision; mend: did you mean 'resnet50'?"
    assert message_of(lambda: build_resnet("resnet51", 5)).startswith(line)


def embedded(narrow: nn.Module, arch: str) -> nn.Module:
    """torchvision's own network with the narrow network's weights in its first planes, and zeros in all others."""
    wide = get_model(arch, weights=None)
    for name, tensor in narrow.state_dict().items():
        place = wide.state_dict()[name]
        if tensor.ndim:
            place.zero_()
            place[tuple(slice(size) for size in tensor.shape)] = tensor
    return wide


@pytest.mark.parametrize(
    ("arch", "width"),
    [("resnet18", 4), ("resnet34", 4), ("resnet50", 4), ("wide_resnet50_2", 4), ("resnet18", 16), ("resnet50", 16)],
)
def test_a_narrow_network_is_torchvisions_with_its_other_planes_at_zero(arch: str, width: int) -> None:
    """In double precision and with batch statistics, so that every stride, padding and residual is compared."""
    torch.manual_seed(0)
    narrow = build_resnet(arch, 5, width)
    for module in narrow.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    wide = embedded(narrow, arch).double()
    narrow.fc, wide.fc = nn.Identity(), nn.Identity()
    images = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        features, among_zeros = narrow.double()(images), wide(images)
    torch.testing.assert_close(among_zeros[:, : features.shape[1]], features, rtol=1e-9, atol=1e-12)
    assert not among_zeros[:, features.shape[1] :].any()


def test_planes_and_names() -> None:
    network = resnet_of_width("resnet50", 16)
    assert network.state_dict().keys() == get_model("resnet50", weights=None).state_dict().keys()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert shapes["conv1.weight"] == (16, 3, 7, 7)
    assert shapes["layer1.0.conv3.weight"] == (64, 16, 1, 1)
    assert shapes["layer4.2.conv2.weight"] == (128, 128, 3, 3)
    assert shapes["fc.weight"] == (1000, 512)
    assert not any(tensor.is_meta for tensor in network.state_dict().values())
    projector = build_encoder("resnet18", 12, 16).fc
    assert [(layer.in_features, layer.out_features) for layer in (projector[0], projector[2])] == [
        (128, 128),
        (128, 12),
    ]


def test_fresh_weights_are_drawn_as_torchvisions() -> None:
    torch.manual_seed(0)
    own, theirs = resnet_of_width("resnet18", 128), get_model("resnet18", weights=None)
    for name in ("conv1.weight", "layer2.0.downsample.0.weight", "layer4.1.conv2.weight"):
        planes = theirs.state_dict()[name].shape[0]
        # Kaiming: the variance goes with 1 / outputs.
        ratio = own.state_dict()[name].std() / theirs.state_dict()[name].std()
        assert own.state_dict()[name].shape[0] == 2 * planes
        assert ratio == pytest.approx(0.5**0.5, rel=0.05)
    torch.manual_seed(3)
    reference = get_model("resnet18", weights=None, num_classes=7).state_dict()
    torch.manual_seed(3)
    assert all(
        torch.equal(reference[name], tensor) for name, tensor in build_resnet("resnet18", 7).state_dict().items()
    )


def test_groups_that_do_not_divide_the_planes_are_refused() -> None:
    assert build_resnet("resnext50_32x4d", 5, 16).layer1[0].conv2.weight.shape == (32, 1, 3, 3)
    with pytest.raises(
        UserError, match=r"encoder.width=8: the 32 groups of a resnext50_32x4d .* 16 planes; mend: a .*16"
    ):
        build_resnet("resnext50_32x4d", 5, 8)
    with pytest.raises(UserError, match=r"encoder.width=4: .* resnext101_32x8d .*; mend: a multiple of 8$"):
        build_resnet("resnext101_32x8d", 5, 4)


@pytest.mark.parametrize("width", [0, 3, 18])
def test_widths_that_make_no_network_are_refused(width: int) -> None:
    with pytest.raises(UserError, match=rf"encoder.width={width} is "):
        tiny("mocov2", {"encoder.width": width})


def test_torchvisions_own_width_keeps_the_ids() -> None:
    settings = {key: value for key, value in TINY.items() if key != "encoder.width"}
    usual = resolve("mocov2", settings)
    assert tiny("mocov2", {"encoder.width": 64}).id == usual.id
    narrow = tiny("mocov2", {"encoder.width": 16})
    assert narrow.id != usual.id
    assert {"resnet18", "width 16"} <= set(map(str, sizes_below_recipe(narrow)))
    wide = resolve("mocov2", {"encoder.width": 128})
    assert (sizes_below_recipe(wide), [str(d) for d in departures(wide, resolve("mocov2"))]) == ((), ["width 128"])
    assert kind_of(narrow) != kind_of(usual)


@pytest.mark.parametrize("method", ["mocov2", "simclr", "supervised", "mocov2+adios"])
def test_every_framework_trains_a_narrow_network(method: str, tmp_path: Path) -> None:
    run = tiny(method, {"encoder.width": 8, "optimization.epochs": 1, "data.scenes.train_count": 8})
    folder = RunFolder.of(run, tmp_path)
    pretrain(run, folder, CPU, build_learner)
    backbone = load_backbone(folder.backbone, arch="resnet18")
    assert (backbone.width, backbone.features) == (8, 64)


@pytest.mark.parametrize("library", ["torchvision", "timm", "detectron2", "huggingface"])
def test_no_library_is_given_a_network_that_it_cannot_build(library: str, tmp_path: Path) -> None:
    folder = with_random_backbone(tiny("mocov2", {"encoder.width": 16}), tmp_path)
    line = refused("export", str(folder.path), "--to", library)
    assert line == f"{library} builds no resnet18 of width 16; mend: a run with encoder.width=64"
    assert not (folder.path / "exports").exists()


def test_no_detector_is_built_on_a_narrow_network(tmp_path: Path) -> None:
    run, folder = prepared(tmp_path, {"encoder.width": 16})
    before = files_below(folder.path)
    with pytest.raises(UserError, match=r"no detector can be built on a resnet18 of width 16; mend: .*width=64"):
        DetectionTask(VOC).measure(run, folder, Target("scenes", None, run.data.scenes), CPU)
    assert files_below(folder.path) == before


def evaluated(out: Path, *words: Any) -> Any:
    scenes = ("data.crop=32", "data.scenes.size=64", "data.scenes.train_count=16", "data.scenes.val_count=8")
    small = ("data.dataset=scenes", "machine.workers=0", "machine.device=cpu", "knn.neighbours=[5]")
    return ("eval", *small, *scenes, "--arch", "resnet18", "--task", "knn", "--out", str(out), *map(str, words))


def test_narrow_weights_from_elsewhere_and_fresh_ones_are_measured(tmp_path: Path) -> None:
    folder = with_random_backbone(tiny("mocov2", {"encoder.width": 16}), tmp_path / "runs")
    ended = salmask(*evaluated(tmp_path / "fresh", "--checkpoint", "random", "encoder.width=16"))
    assert ended.code == 0, ended.err
    ended = salmask(*evaluated(tmp_path / "own", "--checkpoint", folder.backbone))
    assert ended.code == 0, ended.err  # the file names its width
    for place in ("fresh", "own"):
        (path,) = (tmp_path / place).rglob("backbone.pth")
        assert load_backbone(path).features == 128
    assert "encoder.width" in refused(
        *evaluated(tmp_path / "wide", "--checkpoint", folder.backbone, "encoder.width=64")
    )


def test_the_names_that_runs_may_have_are_torchvisions() -> None:
    """They are kept in a list, so that a mistyped name is refused when a sweep is planned, without torch."""
    assert sorted(RESNETS) == sorted(list_models(torchvision.models, include=["resnet*", "resnext*", "wide_resnet*"]))
