"""A backbone out of somebody else's checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

from torch import Tensor
from torchvision.models import get_model

from repro.backbones.checkpoint import read_checkpoint
from repro.errors import UserError, shortened

TEACHERS = ("encoder_k", "momentum", "teacher", "target", "ema")
"""Words in the prefix of a copy that follows the trained encoder; it is not what is evaluated."""


HEADS = ("fc.", "head.", "classifier.", "projector.", "linear.")
"""Beginnings of keys behind the backbone; they are left out."""


@dataclass(frozen=True)
class ForeignBackbone:
    """A backbone out of somebody else's checkpoint.

    Attributes:
        state: every entry of torchvision's state dict but `fc`.
        prefix: what its keys began with.
        left_out: keys that are no part of the backbone: head, queue, momentum encoder, ...
    """

    state: dict[str, Tensor]
    prefix: str
    left_out: tuple[str, ...]


def read_foreign(path: Path, arch: str, prefix: str = "") -> ForeignBackbone:
    """Take the backbone out of a checkpoint of MoCo, solo-learn, lightly, torchvision, timm or salmask.

    The keys must be torchvision's behind some prefix (`module.encoder_q.`, `backbone.`, ...): all of them, in the right
    shapes, and no other but a head's.

    Args:
        path: a file of `torch.save`, or `.safetensors`.
        arch: torchvision's name of the network.
        prefix: of the keys; empty: the one that a trained ResNet stands behind.

    Raises:
        UserError: the file cannot be read, or its keys do not fit; says which.
    """
    state = _state_dict(path)
    prefix = prefix or _find_prefix(state, path)
    inside = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    try:
        expected = get_model(arch, weights=None).state_dict()
    except ValueError:
        raise UserError(f"--arch {arch}: this torchvision does not know it", mend="resnet50, for example") from None
    expected = {name: tensor for name, tensor in expected.items() if not name.startswith("fc.")}
    counts = {name: tensor for name, tensor in expected.items() if name.endswith("num_batches_tracked")}
    found = {**counts, **{name: tensor for name, tensor in inside.items() if name in expected}}
    others = inside.keys() - found.keys()
    strange = sorted(name for name in others if prefix and not name.startswith(HEADS))
    # Without a prefix everything lies beside the backbone; only a part of a ResNet can be out of place.
    strange += sorted(name for name in others if not prefix and name.startswith(("layer", "conv1", "bn1")))
    missing = [name for name in expected if name not in found]
    misshapen = [
        f"{name} ({'×'.join(map(str, found[name].shape))}, not {'×'.join(map(str, tensor.shape))})"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    for what, names in (("lacks", missing), ("also holds", strange), ("has other shapes:", misshapen)):
        if names:
            raise UserError(
                f"{path} does not fit a {arch}: behind '{prefix}' it {what} {shortened(names)}",
                mend="another --arch or --prefix",
            )
    taken = {prefix + name for name in found}
    return ForeignBackbone(
        {name: found[name].float() if found[name].is_floating_point() else found[name] for name in expected},
        prefix,
        tuple(sorted(name for name in state if name not in taken)),
    )


def _state_dict(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"checkpoint {path} cannot be read: {' '.join(str(error).split())}") from error
    try:
        content = read_checkpoint(path)
    except UserError as error:
        if not isinstance(error.__cause__, UnpicklingError):
            raise
        raise UserError(
            (
                f"checkpoint {path} holds more than tensors and plain values, or is torn; it is not read, as it could "
                "run code"
            ),
            mend=(
                "if you trust it, keep its tensors alone: torch.save(torch.load(FILE, "
                "weights_only=False)['state_dict'], NEW)"
            ),
        ) from error
    for name in ("state_dict", "model", "model_state_dict"):
        if isinstance(content.get(name), dict):
            content = content[name]
            break
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        entries = shortened(sorted(map(str, content)))
        raise UserError(f"checkpoint {path} holds no tensors by name; its entries: {entries}")
    return state


def _find_prefix(state: Mapping[str, Tensor], path: Path) -> str:
    ending = "layer1.0.conv1.weight"
    prefixes = sorted({name.removesuffix(ending) for name in state if name.endswith(ending)})
    trained = [prefix for prefix in prefixes if not any(word in prefix for word in TEACHERS)] or prefixes
    if not trained:
        raise UserError(
            f"{path} holds no ResNet with torchvision's keys (none ends with {ending}); its keys: "
            f"{shortened(sorted(state))}"
        )
    if len(trained) > 1:
        quoted = ", ".join(f"'{prefix}'" for prefix in trained)
        raise UserError(f"{path} holds several networks, behind {quoted}", mend="name one with --prefix")
    return trained[0]
