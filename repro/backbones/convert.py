"""A torchvision ResNet as detectron2 builds it, and its weights under the names that detectron2 has for them.

torchvision's ResNet with 3×3 strides (`STRIDE_IN_1X1: False`) and detectron2's are one network under two sets of names.
The rules are those of MoCo's detection/convert-pretrain-to-detectron2.py:21-37, but unknown keys are refused here.
No torch: values of any type are carried over as they are.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from repro.errors import UserError, shortened

Value = TypeVar("Value")

_BOTTLENECK = {"RES2_OUT_CHANNELS": 256, "STRIDE_IN_1X1": False}
DETECTRON2_RESNETS: dict[str, Mapping[str, Any]] = {
    "resnet18": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64},
    "resnet34": {"DEPTH": 34, "RES2_OUT_CHANNELS": 64},
    "resnet50": {"DEPTH": 50, **_BOTTLENECK},
    "resnet101": {"DEPTH": 101, **_BOTTLENECK},
    "resnet152": {"DEPTH": 152, **_BOTTLENECK},
    "resnext50_32x4d": {"DEPTH": 50, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 4, **_BOTTLENECK},
    "resnext101_32x8d": {"DEPTH": 101, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 8, **_BOTTLENECK},
    "resnext101_64x4d": {"DEPTH": 101, "NUM_GROUPS": 64, "WIDTH_PER_GROUP": 4, **_BOTTLENECK},
    "wide_resnet50_2": {"DEPTH": 50, "WIDTH_PER_GROUP": 128, **_BOTTLENECK},
    "wide_resnet101_2": {"DEPTH": 101, "WIDTH_PER_GROUP": 128, **_BOTTLENECK},
}
"""What `MODEL.RESNETS` must say for detectron2 to build a network, by torchvision's name of the network."""

_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_RULES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(pattern), rename)
    for pattern, rename in (
        (r"conv1\.weight", lambda m: "stem.conv1.weight"),
        (rf"bn1\.{_NORM}", lambda m: f"stem.conv1.norm.{m[1]}"),
        (r"layer([1-4])\.(\d+)\.conv([1-3])\.weight", lambda m: f"res{int(m[1]) + 1}.{m[2]}.conv{m[3]}.weight"),
        (rf"layer([1-4])\.(\d+)\.bn([1-3])\.{_NORM}", lambda m: f"res{int(m[1]) + 1}.{m[2]}.conv{m[3]}.norm.{m[4]}"),
        (r"layer([1-4])\.(\d+)\.downsample\.0\.weight", lambda m: f"res{int(m[1]) + 1}.{m[2]}.shortcut.weight"),
        (rf"layer([1-4])\.(\d+)\.downsample\.1\.{_NORM}", lambda m: f"res{int(m[1]) + 1}.{m[2]}.shortcut.norm.{m[3]}"),
    )
)
"""Patterns of whole keys, each with the function that makes the new key from a match."""


def to_detectron2(state: Mapping[str, Value]) -> dict[str, Value]:
    """Renames the weights of a torchvision ResNet (basic or bottleneck blocks) for detectron2.

    `conv1` becomes `stem.conv1`, `layer1..4` `res2..5`, `bnK` `convK.norm`, `downsample` `shortcut`. A detectron2 model
    holds these names below `backbone.` (and, of a C4 model, `res5` below `roi_heads.`); its checkpointer finds them
    there by their endings where the file says `matching_heuristics`.

    Args:
        state: Weights under torchvision's keys, without any prefix; `fc.*` is left out.

    Returns:
        The same values under detectron2's keys, in the order of `state`; `num_batches_tracked` is kept, which only
        trainable norms (`BN`, `SyncBN`) hold.

    Raises:
        UserError: Keys belong to no such ResNet (all of them are listed), or there are no weights but `fc`.
    """
    # All keys that fit no rule are named at once: they show what kind of file it is.
    converted, unmatched = {}, []
    for key, value in state.items():
        if key.startswith("fc."):
            continue
        name = next((rename(match) for pattern, rename in _RULES if (match := pattern.fullmatch(key))), None)
        if name is None:
            unmatched.append(key)
        else:
            converted[name] = value
    if unmatched:
        raise UserError(
            f"{shortened(unmatched, len(unmatched))} keys of the weights are not those of a torchvision ResNet",
            mend="give its backbone alone, without prefixes such as 'module.encoder_q.'",
        )
    if not converted:
        raise UserError("there are no weights of a torchvision ResNet to convert", mend="give a backbone's state dict")
    return converted
