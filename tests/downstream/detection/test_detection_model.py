"""The backbone in the detector: every weight is in its place, features are equal, and mismatches are refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from detection_samples import backbone_of, config
from torch import nn
from torchvision.models import get_model
from torchvision.transforms.v2 import functional as tvf

from downstream.adoption import adopt
from downstream.detection.config import build_config
from downstream.detection.model import (
    build_detector,
    build_network,
    check_detector,
    detector_key,
    is_pretrained,
    load_weights,
)
from repro.backbones.backbone import load_backbone
from repro.backbones.convert import to_detectron2
from repro.backbones.resnet import BASE_WIDTH, planned_resnet
from repro.data.images import IMAGENET_MEAN, IMAGENET_STD
from repro.errors import UserError
from repro.processes.distributed import seeded_weights
from repro.runs.folder import RunFolder
from repro.settings.detection import DetectionHead, DetectionSettings
from repro.settings.network_names import RESNETS
from repro.settings.run import Run


@pytest.mark.parametrize("head", list(DetectionHead))
@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_res5_of_the_detector_is_torchvisions(arch: str, head: DetectionHead) -> None:
    backbone = backbone_of(arch)
    cfg, _ = config(DetectionSettings(head=head), arch=arch, devices=1)
    model = build_detector(cfg, backbone, high_passed=False)
    assert check_detector(model, cfg, backbone, high_passed=False) <= 1e-4
    count = len([key for key in backbone.network.state_dict() if not key.startswith("fc.")])
    assert sum(is_pretrained(key) for key in model.state_dict()) == count
    assert (count, hasattr(model.roi_heads, "res5")) == ({"resnet18": 120, "resnet50": 318}[arch], head.value == "c4")
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_features_are_equal_through_detectron2s_own_forward_pass() -> None:
    """Tested on detectron2's own calls of backbone, pooled boxes and head, not on our walk over its blocks."""
    backbone = backbone_of("resnet50")
    cfg, _ = config(devices=1)
    model = build_detector(cfg, backbone, high_passed=False).eval()
    pixels = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        images = model.preprocess_image([{"image": pixels}]).tensor
        layers = backbone.network.eval()
        expected = layers.maxpool(layers.relu(layers.bn1(layers.conv1(images))))
        expected = layers.layer3(layers.layer2(layers.layer1(expected)))
        torch.testing.assert_close(model.backbone(images)["res4"], expected, atol=1e-4, rtol=1e-4)
        # In eval mode a new norm divides by sqrt(1 + eps).
        head = layers.layer4(expected) / math.sqrt(1 + 1e-5)
        torch.testing.assert_close(model.roi_heads.res5(expected), head, atol=1e-4, rtol=1e-4)


def test_the_extra_norm_is_new_and_trained() -> None:
    cfg, _ = config(arch="resnet18", devices=1)
    model = build_detector(cfg, backbone_of("resnet18"), high_passed=False)
    norm = model.roi_heads.res5[-1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert (norm.num_features, norm.weight.requires_grad) == (512, True)
    assert torch.equal(norm.weight, torch.ones(512))


def break_order(model: Any, cfg: Any) -> None:
    model.pixel_mean = model.pixel_mean.flip(0)


def break_std(model: Any, cfg: Any) -> None:
    model.pixel_std = torch.ones(3, 1, 1)


def break_freeze(model: Any, cfg: Any) -> None:
    model.backbone.stem.conv1.weight.requires_grad_(False)


def break_norm(model: Any, cfg: Any) -> None:
    model.backbone.res2[0].conv1.norm = nn.Identity()


def break_stride(model: Any, cfg: Any) -> None:
    block = model.backbone.res3[0]
    block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)


def break_one_weight(model: Any, cfg: Any) -> None:
    with torch.no_grad():
        model.roi_heads.res5[0].conv2.weight[0, 0, 0, 0] += 1


def break_format(model: Any, cfg: Any) -> None:
    cfg.defrost()
    cfg.INPUT.FORMAT = "BGR"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_order, "does not see the images"),
        (break_std, "does not see the images"),
        (break_format, "does not see the images"),
        (break_freeze, "backbone.stem.conv1.weight is frozen"),
        (break_norm, "res2.0.conv1.norm is a Identity"),
        (break_stride, "strides in its 1×1"),
        (break_one_weight, "res5 of the detector differs"),
    ],
)
def test_a_detector_that_is_not_the_backbone_is_caught(damage: Any, message: str) -> None:
    arch = "resnet50" if damage is break_stride else "resnet18"
    backbone = backbone_of(arch)
    cfg, _ = config(arch=arch, devices=1)
    model = build_detector(cfg, backbone, high_passed=False)
    cfg = cfg.clone()
    damage(model, cfg)
    with pytest.raises(RuntimeError, match=message):
        check_detector(model, cfg, backbone, high_passed=False)


def test_unmatched_weights_end_it_with_the_list() -> None:
    backbone = backbone_of("resnet18")
    cfg, _ = config(arch="resnet18", devices=1)
    model = build_detector(cfg, backbone, high_passed=False)
    state = backbone.network.state_dict()
    with pytest.raises(UserError, match=r"roi_heads.res5.1.conv2.weight \(no weight\)"):
        load_weights(model, {key: value for key, value in state.items() if key != "layer4.1.conv2.weight"})
    with pytest.raises(UserError, match=r"'?layer4.1.convolution.weight'?.* not those of a torchvision ResNet"):
        load_weights(model, {**state, "layer4.1.convolution.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"roi_heads.res5.2.conv1.weight \(no place\)"):
        load_weights(model, {**state, "layer4.2.conv1.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"backbone.stem.conv1.weight \(64, 3, 3, 3\) for \(64, 3, 7, 7\)"):
        load_weights(model, {**state, "conv1.weight": torch.zeros(64, 3, 3, 3)})


def test_a_backbone_of_another_depth_is_refused() -> None:
    cfg, _ = config(arch="resnet50", devices=1)
    with pytest.raises(UserError, match=r"do not match; mend: a backbone of the depth"):
        build_detector(cfg, backbone_of("resnet18"), high_passed=False)
    with pytest.raises(UserError, match=r"no detector can be built on a vgg16"):
        config(arch="vgg16")


@pytest.mark.parametrize("arch", RESNETS)
def test_every_resnet_of_torchvisions_has_a_detector(arch: str) -> None:
    """By names and shapes, on the meta device; ResNeXts and wide ResNets used to be refused."""
    settings, unbuilt = DetectionSettings(), {"classes": 2, "mask_format": "polygon", "devices": 1, "device": "meta"}
    cfg, _ = build_config(settings, schedule="voc_24k", arch=arch, **unbuilt)
    state = planned_resnet(arch, BASE_WIDTH).state_dict()
    with torch.device("meta"):
        model = build_network(cfg)
    assert load_weights(model, state) == len([key for key in state if not key.startswith("fc.")])


def test_every_weight_has_its_place() -> None:
    cfg, _ = config(arch="resnet18", devices=1)
    c4 = build_detector(cfg, backbone_of("resnet18"), high_passed=False)
    keys = to_detectron2(backbone_of("resnet18").network.state_dict())
    assert {detector_key(key, c4) for key in keys} <= set(c4.state_dict())
    assert detector_key("res5.0.conv1.weight", c4) == "roi_heads.res5.0.conv1.weight"
    assert detector_key("res4.0.conv1.weight", c4) == "backbone.res4.0.conv1.weight"
    assert not is_pretrained("roi_heads.res5.norm.weight")


def test_high_passed_input_is_the_image_without_its_blur() -> None:
    """The blur is torchvision's with 11 taps, of each image before padding."""
    backbone = backbone_of("resnet18", "high_pass")
    cfg, _ = config(arch="resnet18", devices=1)
    model = build_detector(cfg, backbone, high_passed=True)
    sizes = ((40, 56), (48, 32))
    pixels = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    inputs = model.preprocess_image([{"image": image} for image in pixels]).tensor
    assert inputs.shape == (2, 3, 48, 56)
    for image, padded in zip(pixels, inputs, strict=True):
        normalised = tvf.normalize(image.float() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))
        expected = normalised - tvf.gaussian_blur(normalised, [11, 11], [5.0, 5.0])
        torch.testing.assert_close(padded[:, : image.shape[1], : image.shape[2]], expected, atol=1e-4, rtol=1e-4)
        assert padded[:, image.shape[1] :].abs().sum() == 0


def test_a_random_backbone_is_a_run_of_its_own(tmp_path: Path) -> None:
    """The row below all others: fresh weights, drawn from the run's seed."""

    def adopted(seed: int) -> tuple[Run, RunFolder]:
        settings = {"data.crop": 64, "seed": seed}
        options = {"arch": "resnet18", "name": "", "prefix": "", "input_filter": "none"}
        return adopt(Path("random"), **options, settings=settings, out=tmp_path)

    (run, folder), (run_of_seed_2, _) = adopted(1), adopted(2)
    assert (run.method, run.framework.name, run.imported.origin) == ("random", "external", "random")
    assert run.id != run_of_seed_2.id
    with seeded_weights(1):
        expected = get_model("resnet18", weights=None, num_classes=1).state_dict()
    state = load_backbone(folder.backbone).network.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in state.items())
    assert adopted(1)[0].id == run.id
