"""A detectron2 detector on a pretrained backbone, with proof that the backbone arrived in it."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import NaiveSyncBatchNorm, get_norm
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY, GeneralizedRCNN, build_model
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock, ResNet
from detectron2.modeling.roi_heads import Res5ROIHeads
from detectron2.structures import ImageList
from torch import Tensor, nn

from downstream.detection.config import NARROW
from repro.backbones.checkpoint import Backbone
from repro.backbones.convert import to_detectron2
from repro.data.images import IMAGENET_MEAN, IMAGENET_STD
from repro.errors import UserError, shortened
from repro.masking.filters import high_pass

log = logging.getLogger("salmask")
TOLERANCE = 1e-4
"""Largest difference of features, relative to the largest feature where that is above 1."""
_STAGES = ("res2", "res3", "res4", "res5")


@ROI_HEADS_REGISTRY.register()
class Res5HeadExtraNorm(Res5ROIHeads):
    """res5 as the head, with an extra norm behind it (MoCo detection/train_net.py:25-37), for basic blocks as well."""

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Sequential, int]:
        resnets = cfg.MODEL.RESNETS
        out_channels = resnets.RES2_OUT_CHANNELS * 8
        common = {"in_channels": out_channels // 2, "out_channels": out_channels, "norm": resnets.NORM}
        if resnets.DEPTH in NARROW:
            blocks = {18: 2, 34: 3}[resnets.DEPTH]
            block, special = BasicBlock, {}
        else:
            blocks, block = 3, BottleneckBlock
            special = {
                "bottleneck_channels": resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP * 8,
                "num_groups": resnets.NUM_GROUPS,
                "stride_in_1x1": resnets.STRIDE_IN_1X1,
            }
        strides = [2] + [1] * (blocks - 1)
        stage = nn.Sequential(*ResNet.make_stage(block, blocks, stride_per_block=strides, **common, **special))
        stage.add_module("norm", get_norm(resnets.NORM, out_channels))
        return stage, out_channels


@META_ARCH_REGISTRY.register()
class HighPassRCNN(GeneralizedRCNN):
    """A detector that sees what its backbone was pretrained on: high-passed images."""

    def preprocess_image(self, batched_inputs: list[dict[str, Tensor]]) -> ImageList:
        """Normalise, take away the blur of each image as it is before padding, and batch."""
        pixels = [self._move_to_current_device(item["image"]) for item in batched_inputs]
        images = [high_pass(((image - self.pixel_mean) / self.pixel_std).unsqueeze(0)).squeeze(0) for image in pixels]
        return ImageList.from_tensors(
            images, self.backbone.size_divisibility, padding_constraints=self.backbone.padding_constraints
        )


def build_detector(cfg: CfgNode, backbone: Backbone, *, high_passed: bool) -> GeneralizedRCNN:
    """A detector that starts from a backbone; the global generator draws what is new in it.

    Args:
        cfg: from `downstream.detection.config.build_config`.
        backbone: pretrained; left as it is.
        high_passed: feed it high-passed images.

    Raises:
        UserError: a weight found no place, or a place no weight; all are listed.
        RuntimeError: the detector would not compute what the backbone computes.
    """
    model = build_network(cfg, high_passed=high_passed)
    count = load_weights(model, backbone.network.state_dict())
    error = check_detector(model, cfg, backbone, high_passed=high_passed)
    log.info("detector: all %d tensors of the backbone loaded; res5 differs by at most %.1e", count, error)
    return model


def build_network(cfg: CfgNode, *, high_passed: bool = False) -> GeneralizedRCNN:
    """A detector with fresh weights."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = "HighPassRCNN" if high_passed else "GeneralizedRCNN"
    model = build_model(cfg)
    assert isinstance(model, GeneralizedRCNN)
    return model


def load_weights(model: GeneralizedRCNN, state: Mapping[str, Tensor]) -> int:
    """Put a torchvision ResNet's weights into a detector: every one of them, and every one that it needs.

    Args:
        model: a C4 or FPN detector.
        state: torchvision's keys, without `fc`.

    Returns:
        How many tensors were loaded.

    Raises:
        UserError: a weight found no place, a place no weight, or a shape differs; all are listed.
    """
    given = {place(key, model): value for key, value in to_detectron2(state).items()}
    own = model.state_dict()
    expected = {key for key in own if is_pretrained(key)}
    unmatched = [f"{key} (no place)" for key in given if key not in expected]
    unmatched += [f"{key} (no weight)" for key in own if key in expected and key not in given]
    if unmatched:
        raise UserError(
            f"{shortened(unmatched, len(unmatched))} of the backbone and the detector do not match",
            mend="a backbone of the depth that its encoder.arch says",
        )
    shapes = [
        f"{key} {tuple(v.shape)} for {tuple(own[key].shape)}" for key, v in given.items() if v.shape != own[key].shape
    ]
    if shapes:
        raise UserError(f"{shortened(shapes, len(shapes))}: shapes differ", mend="a backbone of another width or depth")
    with torch.no_grad():
        for key, value in given.items():
            own[key].copy_(value)
    return len(given)


def place(key: str, model: GeneralizedRCNN) -> str:
    """Where a detector holds a weight of a detectron2 ResNet: a C4 one keeps `res5` in its head."""
    if hasattr(model.backbone, "bottom_up"):
        return f"backbone.bottom_up.{key}"
    return f"roi_heads.{key}" if key.startswith("res5.") else f"backbone.{key}"


def is_pretrained(key: str) -> bool:
    """Whether a weight of a detector comes from the backbone, as everything of its ResNet does but the extra norm."""
    if key.startswith("roi_heads.res5."):
        return not key.startswith("roi_heads.res5.norm.")
    return key.startswith(("backbone.stem.", "backbone.res", "backbone.bottom_up."))


@torch.no_grad()
def check_detector(model: GeneralizedRCNN, cfg: CfgNode, backbone: Backbone, *, high_passed: bool) -> float:
    """Prove that a detector computes what its backbone computed.

    Asserted are: channel order, mean and standard deviation of the input (by feeding both the same pixels), strides,
    norms, that nothing is frozen, and the features of res5 on the same input.

    Args:
        model: with the weights loaded.
        cfg: what it was built from.
        backbone: what it was loaded from.
        high_passed: whether it is to see high-passed images.

    Returns:
        The largest difference of res5's features.

    Raises:
        RuntimeError: names what differs.
    """
    _check_layers(model, cfg)
    device = next(model.parameters()).device
    pixels = torch.randint(0, 256, (3, 96, 128), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = (
        pixels.to(device).float().div(255).sub(_channels(IMAGENET_MEAN, device)).div(_channels(IMAGENET_STD, device))
    )
    images = images.unsqueeze(0)
    images = high_pass(images) if high_passed else images
    seen = model.preprocess_image([{"image": pixels}]).tensor
    if cfg.INPUT.FORMAT != "RGB" or (seen - images).abs().max() > TOLERANCE:
        raise RuntimeError("the detector does not see the images that its backbone was trained on")
    network = backbone.network
    was_training = network.training, model.training, next(network.parameters()).device
    network.to(device).eval()
    model.eval()
    expected, found = _torchvision_res5(network, images), _detectron2_res5(model, images)
    model.train(was_training[1])
    network.train(was_training[0]).to(was_training[2])
    error = ((expected - found).abs().max() / expected.abs().max().clamp(min=1)).item()
    if not error <= TOLERANCE:
        raise RuntimeError(f"res5 of the detector differs from the backbone's by {error:.1e}: it is not that backbone")
    return error


def _channels(values: tuple[float, float, float], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(3, 1, 1)


def _check_layers(model: GeneralizedRCNN, cfg: CfgNode) -> None:
    if frozen := [name for name, parameter in model.named_parameters() if not parameter.requires_grad]:
        raise RuntimeError(f"the detector is to train whole, but {', '.join(frozen[:3])} is frozen")
    norm: Any = NaiveSyncBatchNorm if cfg.MODEL.RESNETS.NORM == "naiveSyncBN" else nn.BatchNorm2d
    for name, module in model.named_modules():
        if is_pretrained(f"{name}.") and name.endswith("norm") and not isinstance(module, norm):
            raise RuntimeError(f"{name} is a {type(module).__name__}, not a {norm.__name__}")
        if isinstance(module, BottleneckBlock) and module.conv1.stride != (1, 1):
            raise RuntimeError(f"{name} strides in its 1×1, torchvision's backbone in its 3×3")


def _torchvision_res5(network: nn.Module, images: Tensor) -> Tensor:
    """B×C×h×w of a torchvision ResNet's last stage."""
    stem: list[Any] = [network.conv1, network.bn1, network.relu, network.maxpool]
    stages: list[Any] = [network.layer1, network.layer2, network.layer3, network.layer4]
    for part in stem + stages:
        images = part(images)
    return images


def _detectron2_res5(model: GeneralizedRCNN, images: Tensor) -> Tensor:
    """The same from where a detector holds it, without the extra norm."""
    features: Tensor
    resnet = getattr(model.backbone, "bottom_up", model.backbone)
    features = resnet.stem(images)
    for name in _STAGES:
        stage = getattr(resnet, name, None)
        for block in stage if stage is not None else model.roi_heads.res5[:-1]:
            features = block(features)
    return features
