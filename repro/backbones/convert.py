"""The keys of a ResNet's weights as detectron2 names them: a pure function from state dict to state dict.

torchvision's ResNet with 3×3 strides (`STRIDE_IN_1X1: False`) and detectron2's are one network under two sets of names.
Same rules as MoCo's detection/convert-pretrain-to-detectron2.py:21-37, which lets what it does not know pass silently.
No torch: values of any type are carried over as they are.
"""

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from repro.errors import UserError, shortened

Value = TypeVar("Value")

_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_HEAD = "fc."
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
"""Patterns of whole keys, each with what makes the new key of a match."""


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
        UserError: A key belongs to no such ResNet (all are listed), or there is none.
    """
    # All keys that fit no rule are told at once: which they are shows what kind of file it is.
    converted, unmatched = {}, []
    for key, value in state.items():
        if key.startswith(_HEAD):
            continue
        name = _renamed(key)
        if name is None:
            unmatched.append(key)
        else:
            converted[name] = value
    if unmatched:
        raise UserError(
            f"{shortened(unmatched, len(unmatched))} keys of the weights are none of a torchvision ResNet",
            mend="give its backbone alone, without prefixes such as 'module.encoder_q.'",
        )
    if not converted:
        raise UserError("there are no weights of a torchvision ResNet to convert", mend="give a backbone's state dict")
    return converted


def _renamed(key: str) -> str | None:
    """Returns the new name of a key by the only rule that matches it, or nothing where none does."""
    for pattern, rename in _RULES:
        if match := pattern.fullmatch(key):
            return rename(match)
    return None
