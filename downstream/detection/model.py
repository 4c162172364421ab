"""A detectron2 detector on a pretrained backbone, with a check that it computes the backbone's features."""

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
from repro.augmentation.normalization import Normalization
from repro.backbones.backbone import Backbone
from repro.backbones.convert import to_detectron2
from repro.errors import UserError, shortened
from repro.masking.filters import high_pass

log = logging.getLogger("salmask")
TOLERANCE = 1e-4
"""Largest difference of features that rounding explains, relative to the largest feature if that is above 1."""
_STAGES = ("res2", "res3", "res4", "res5")
"""detectron2's names of a ResNet's stages."""


@ROI_HEADS_REGISTRY.register()
class Res5HeadExtraNorm(Res5ROIHeads):
    """res5 as the head, with an extra norm after it (MoCo detection/train_net.py:25-37), for basic blocks as well."""

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Sequential, int]:
        """Builds the stage like detectron2's own head, which knows only bottleneck blocks, and appends the norm.

        Returns:
            The stage, and the number of its output channels.
        """
        resnets = cfg.MODEL.RESNETS
        out_channels = resnets.RES2_OUT_CHANNELS * 8
        common = {"in_channels": out_channels // 2, "out_channels": out_channels, "norm": resnets.NORM}
        if resnets.DEPTH in NARROW:
            blocks = {18: 2, 34: 3}[resnets.DEPTH]
            block, of_bottlenecks = BasicBlock, {}
        else:
            blocks, block = 3, BottleneckBlock
            of_bottlenecks = {
                "bottleneck_channels": resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP * 8,
                "num_groups": resnets.NUM_GROUPS,
                "stride_in_1x1": resnets.STRIDE_IN_1X1,
            }
        strides = [2] + [1] * (blocks - 1)  # only the first block of a stage strides
        stage = nn.Sequential(*ResNet.make_stage(block, blocks, stride_per_block=strides, **common, **of_bottlenecks))
        # `is_pretrained` tells it from the backbone's norms by this name.
        stage.add_module("norm", get_norm(resnets.NORM, out_channels))
        return stage, out_channels


@META_ARCH_REGISTRY.register()
class HighPassRCNN(GeneralizedRCNN):
    """A detector that sees what its backbone was pretrained on: high-passed images."""

    def preprocess_image(self, batched_inputs: list[dict[str, Tensor]]) -> ImageList:
        """Normalises and high-passes the images, then pads them to one size.

        The order matters: if an image were padded first, its border would be an edge, which no pretraining had.

        Args:
            batched_inputs: Records with an `image` 3×H×W, each of its own size.

        Returns:
            The images as one batch, with their sizes.
        """
        pixels = [self._move_to_current_device(item["image"]) for item in batched_inputs]
        images = [high_pass(((image - self.pixel_mean) / self.pixel_std).unsqueeze(0)).squeeze(0) for image in pixels]
        return ImageList.from_tensors(
            images, self.backbone.size_divisibility, padding_constraints=self.backbone.padding_constraints
        )


def build_detector(cfg: CfgNode, backbone: Backbone, *, high_passed: bool) -> GeneralizedRCNN:
    """Builds a detector that starts from a backbone; torch's global generator draws its other weights.

    Args:
        cfg: From `downstream.detection.config.build_config`.
        backbone: Pretrained; left as it is.
        high_passed: Whether the detector sees high-passed images.

    Raises:
        UserError: The backbone's weights and the detector's do not match one to one; lists all that do not.
        RuntimeError: The detector would not compute what the backbone computes.
    """
    model = build_network(cfg, high_passed=high_passed)
    count = load_weights(model, backbone.network.state_dict())
    error = check_detector(model, cfg, backbone, high_passed=high_passed)
    log.info("detector: all %d tensors of the backbone loaded; res5 differs by at most %.1e", count, error)
    return model


def build_network(cfg: CfgNode, *, high_passed: bool = False) -> GeneralizedRCNN:
    """Builds a detector with fresh weights.

    Args:
        cfg: detectron2's config; left as it is.
        high_passed: Whether the detector sees high-passed images.
    """
    cfg = cfg.clone()
    cfg.defrost()
    # detectron2 finds the class by the name that it is registered under.
    cfg.MODEL.META_ARCHITECTURE = "HighPassRCNN" if high_passed else "GeneralizedRCNN"
    model = build_model(cfg)
    assert isinstance(model, GeneralizedRCNN)
    return model


def load_weights(model: GeneralizedRCNN, state: Mapping[str, Tensor]) -> int:
    """Loads a torchvision ResNet's weights into a detector; every weight must have its place, and every place a weight.

    Args:
        model: A C4 or FPN detector.
        state: torchvision's keys, without `fc`.

    Returns:
        How many tensors were loaded.

    Raises:
        UserError: A weight has no place in the detector, a place no weight, or a shape differs; all are listed.
    """
    weights = {detector_key(key, model): value for key, value in to_detectron2(state).items()}
    parameters = model.state_dict()
    expected = {key for key in parameters if is_pretrained(key)}
    unmatched = [f"{key} (no place)" for key in weights if key not in expected]
    unmatched += [f"{key} (no weight)" for key in parameters if key in expected and key not in weights]
    if unmatched:
        raise UserError(
            f"{shortened(unmatched, len(unmatched))} of the backbone and the detector do not match",
            mend="a backbone of the depth that its encoder.arch says",
        )
    shapes = [
        f"{key} {tuple(weight.shape)} for {tuple(parameters[key].shape)}"
        for key, weight in weights.items()
        if weight.shape != parameters[key].shape
    ]
    if shapes:
        raise UserError(f"{shortened(shapes, len(shapes))}: shapes differ", mend="a backbone of another width or depth")
    # Not by detectron2's checkpointer: it matches names by their endings, and only warns about weights that it skips.
    with torch.no_grad():
        for key, weight in weights.items():
            parameters[key].copy_(weight)
    return len(weights)


def detector_key(key: str, model: GeneralizedRCNN) -> str:
    """Returns the name under which a detector holds a weight of a detectron2 ResNet.

    An FPN detector has the ResNet below its pyramid; a C4 one keeps `res5` in its head.

    Args:
        key: As `repro.backbones.convert.to_detectron2` has it, `res5.0.conv1.weight`.
        model: A C4 or FPN detector.
    """
    if hasattr(model.backbone, "bottom_up"):
        return f"backbone.bottom_up.{key}"
    return f"roi_heads.{key}" if key.startswith("res5.") else f"backbone.{key}"


def is_pretrained(key: str) -> bool:
    """Returns whether a weight of a detector comes from the backbone: all of its ResNet do, except the extra norm's."""
    if key.startswith("roi_heads.res5."):
        return not key.startswith("roi_heads.res5.norm.")
    return key.startswith(("backbone.stem.", "backbone.res", "backbone.bottom_up."))


@torch.no_grad()
def check_detector(model: GeneralizedRCNN, cfg: CfgNode, backbone: Backbone, *, high_passed: bool) -> float:
    """Checks that a detector computes what its backbone computed.

    It checks channel order, mean and standard deviation of the input (by feeding both the same pixels), strides, norms,
    that nothing is frozen, and the features of res5 on the same input.

    Args:
        model: With the weights loaded.
        cfg: What the detector was built from.
        backbone: Where the weights are from.
        high_passed: Whether the detector is to see high-passed images.

    Returns:
        The largest difference of res5's features.

    Raises:
        RuntimeError: Names what differs.
    """
    _check_layers(model, cfg)
    device = next(model.parameters()).device
    # A generator of its own: the check must not change what the training draws. Both sides are multiples of 32, so that
    # detectron2 pads nothing.
    pixels = torch.randint(0, 256, (3, 96, 128), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = Normalization().to(device)(pixels.to(device).unsqueeze(0).float() / 255)
    images = high_pass(images) if high_passed else images
    detector_input = model.preprocess_image([{"image": pixels}]).tensor
    if cfg.INPUT.FORMAT != "RGB" or (detector_input - images).abs().max() > TOLERANCE:
        raise RuntimeError("the detector does not see the images that its backbone was trained on")
    network = backbone.network
    network_mode, model_mode, network_device = network.training, model.training, next(network.parameters()).device
    # In eval mode, so that the running statistics are compared, and not those of a batch of one image.
    network.to(device).eval()
    model.eval()
    expected, features = _torchvision_res5(network, images), _detectron2_res5(model, images)
    model.train(model_mode)
    network.train(network_mode).to(network_device)
    error = ((expected - features).abs().max() / expected.abs().max().clamp(min=1)).item()
    if not error <= TOLERANCE:  # so that NaN fails too
        raise RuntimeError(f"res5 of the detector differs from the backbone's by {error:.1e}: it is not that backbone")
    return error


def _check_layers(model: GeneralizedRCNN, cfg: CfgNode) -> None:
    """Raises a RuntimeError if a layer is frozen, has another norm than `cfg` says, or strides elsewhere."""
    if frozen := [name for name, parameter in model.named_parameters() if not parameter.requires_grad]:
        raise RuntimeError(f"the detector is to train whole, but {', '.join(frozen[:3])} is frozen")
    norm: Any = NaiveSyncBatchNorm if cfg.MODEL.RESNETS.NORM == "naiveSyncBN" else nn.BatchNorm2d
    for name, module in model.named_modules():
        if is_pretrained(f"{name}.") and name.endswith("norm") and not isinstance(module, norm):
            raise RuntimeError(f"{name} is a {type(module).__name__}, not a {norm.__name__}")
        if isinstance(module, BottleneckBlock) and module.conv1.stride != (1, 1):
            raise RuntimeError(f"{name} strides in its 1×1, torchvision's backbone in its 3×3")


def _torchvision_res5(network: nn.Module, images: Tensor) -> Tensor:
    """Computes the output B×C×h×w of a torchvision ResNet's last stage."""
    stem: list[Any] = [network.conv1, network.bn1, network.relu, network.maxpool]
    stages: list[Any] = [network.layer1, network.layer2, network.layer3, network.layer4]
    features = images
    for layer in stem + stages:
        features = layer(features)
    return features


def _detectron2_res5(model: GeneralizedRCNN, images: Tensor) -> Tensor:
    """Computes the same output of a detector's stages, without the extra norm."""
    features: Tensor
    resnet = getattr(model.backbone, "bottom_up", model.backbone)
    features = resnet.stem(images)
    for name in _STAGES:
        stage = getattr(resnet, name, None)  # a C4 detector's ResNet has no res5
        for block in stage if stage is not None else model.roi_heads.res5[:-1]:
            features = block(features)
    return features
