"""The keys of a ResNet's weights in torchvision and in detectron2: pure functions from state dict to state dict.

torchvision's ResNet with 3×3 strides (`STRIDE_IN_1X1: False`) and detectron2's are one network under two sets of names.
Same rules as MoCo's detection/convert-pretrain-to-detectron2.py:21-37, which has the one direction and lets what it
does not know pass silently. No torch: values of any type are carried over as they are.
"""

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from repro.errors import UserError, shortened

Value = TypeVar("Value")

_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_TORCHVISION_HEAD = re.compile(r"fc\.")
_DETECTRON2_HEAD = re.compile(r"(linear|stem\.fc)\.")  # its own classifier, or torchvision's as MoCo's script leaves it

_Rules = tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]
"""Patterns of whole keys, each with what makes the new key of a match."""


def _rules(*rules: tuple[str, Callable[[re.Match[str]], str]]) -> _Rules:
    return tuple((re.compile(pattern), rename) for pattern, rename in rules)


# Each direction is written out. Inverting patterns by program would be harder to read than twelve lines, and the tests
# hold the two against each other.
_TO_DETECTRON2 = _rules(
    (r"conv1\.weight", lambda m: "stem.conv1.weight"),
    (rf"bn1\.{_NORM}", lambda m: f"stem.conv1.norm.{m[1]}"),
    (r"layer([1-4])\.(\d+)\.conv([1-3])\.weight", lambda m: f"res{int(m[1]) + 1}.{m[2]}.conv{m[3]}.weight"),
    (rf"layer([1-4])\.(\d+)\.bn([1-3])\.{_NORM}", lambda m: f"res{int(m[1]) + 1}.{m[2]}.conv{m[3]}.norm.{m[4]}"),
    (r"layer([1-4])\.(\d+)\.downsample\.0\.weight", lambda m: f"res{int(m[1]) + 1}.{m[2]}.shortcut.weight"),
    (rf"layer([1-4])\.(\d+)\.downsample\.1\.{_NORM}", lambda m: f"res{int(m[1]) + 1}.{m[2]}.shortcut.norm.{m[3]}"),
)

_FROM_DETECTRON2 = _rules(
    (r"stem\.conv1\.weight", lambda m: "conv1.weight"),
    (rf"stem\.conv1\.norm\.{_NORM}", lambda m: f"bn1.{m[1]}"),
    (r"res([2-5])\.(\d+)\.conv([1-3])\.weight", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.conv{m[3]}.weight"),
    (rf"res([2-5])\.(\d+)\.conv([1-3])\.norm\.{_NORM}", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.bn{m[3]}.{m[4]}"),
    (r"res([2-5])\.(\d+)\.shortcut\.weight", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.downsample.0.weight"),
    (rf"res([2-5])\.(\d+)\.shortcut\.norm\.{_NORM}", lambda m: f"layer{int(m[1]) - 1}.{m[2]}.downsample.1.{m[3]}"),
)


def to_detectron2(state: Mapping[str, Value]) -> dict[str, Value]:
    """Renames the weights of a torchvision ResNet (basic or bottleneck blocks) for detectron2.

    `conv1` becomes `stem.conv1`, `layer1..4` `res2..5`, `bnK` `convK.norm`, `downsample` `shortcut`. A detectron2 model
    holds these names below `backbone.` (and, of a C4 model, `res5` below `roi_heads.`); its checkpointer finds them
    there by their endings where the file says `matching_heuristics`.

    Args:
        state: weights under torchvision's keys, without any prefix; `fc.*` is left out.

    Returns:
        The same values under detectron2's keys, in the order of `state`; `num_batches_tracked` is kept, which only
        trainable norms (`BN`, `SyncBN`) hold.

    Raises:
        UserError: a key belongs to no such ResNet (all are listed), or there is none.
    """
    return _renamed(state, _TO_DETECTRON2, _TORCHVISION_HEAD, "torchvision")


def from_detectron2(state: Mapping[str, Value]) -> dict[str, Value]:
    """Renames the weights of a detectron2 ResNet for torchvision; the inverse of `to_detectron2`.

    Args:
        state: weights under the backbone's keys, `stem.*` and `res2..5.*`, without any prefix; a classifier (`linear.*`
            or `stem.fc.*`) is left out.

    Returns:
        The same values under torchvision's keys, in the order of `state`. From frozen norms it lacks
        `num_batches_tracked`; torchvision's `load_state_dict` does without.

    Raises:
        UserError: a key belongs to no such ResNet (all are listed), or there is none.
    """
    return _renamed(state, _FROM_DETECTRON2, _DETECTRON2_HEAD, "detectron2")


def _renamed(state: Mapping[str, Value], rules: _Rules, head: re.Pattern[str], library: str) -> dict[str, Value]:
    """Renames all keys but those that begin as a head's do; `library` names the source in errors."""
    # All keys that fit no rule are told at once: which they are shows what kind of file it is.
    converted, unmatched = {}, []
    for key, value in state.items():
        if head.match(key):
            continue
        name = _renamed_key(key, rules)
        if name is None:
            unmatched.append(key)
        else:
            converted[name] = value
    if unmatched:
        raise UserError(
            f"{shortened(unmatched, len(unmatched))} keys of the weights are none of a {library} ResNet",
            mend="give its backbone alone, without prefixes such as 'module.encoder_q.'",
        )
    if not converted:
        raise UserError(f"there are no weights of a {library} ResNet to convert", mend="give a backbone's state dict")
    return converted


def _renamed_key(key: str, rules: _Rules) -> str | None:
    """Returns the new name of a key by the only rule that matches it, or nothing where none does."""
    for pattern, rename in rules:
        if match := pattern.fullmatch(key):
            return rename(match)
    return None
