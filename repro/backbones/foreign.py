"""Reading the backbone out of somebody else's checkpoint."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

from torch import Tensor

from repro.backbones.checkpoint import read_checkpoint
from repro.backbones.resnet import BASE_WIDTH, resnet_of_width
from repro.errors import UserError, one_line, shortened

State = dict[str, Tensor]

TEACHERS = ("encoder_k", "momentum", "teacher", "target", "ema")
"""Words in the prefix of a copy that follows the trained encoder; it is not what is evaluated."""
HEADS = ("fc.", "head.", "classifier.", "projector.", "linear.")
"""Beginnings of the keys of what follows a backbone; they are left out."""


@dataclass(frozen=True)
class ForeignBackbone:
    """A backbone out of somebody else's checkpoint.

    Attributes:
        state: every entry of torchvision's state dict but `fc`, floating-point ones in single precision.
        prefix: what the keys began with.
        left_out: keys of the file that are no part of the backbone: head, queue, momentum encoder, ...
    """

    state: State
    prefix: str
    left_out: tuple[str, ...]


def read_foreign(path: Path, arch: str, prefix: str = "", width: int = BASE_WIDTH) -> ForeignBackbone:
    """Reads the backbone out of a checkpoint of MoCo, solo-learn, lightly, torchvision, timm or salmask.

    The keys must be torchvision's behind some prefix (`module.encoder_q.`, `backbone.`, ...): all of them, in the right
    shapes, and no other but a head's.

    Args:
        path: a file of `torch.save`, or `.safetensors`.
        arch: torchvision's name of the network.
        prefix: what the keys begin with; empty: the prefix that a trained ResNet stands behind is found.
        width: base planes of the network.

    Raises:
        UserError: the file cannot be read, or its keys do not fit; the error says which.
    """
    state = _state_dict(path)
    prefix = prefix or _find_prefix(state, path)
    behind_prefix = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    expected = _expected(arch, width)
    # Steps that batch norms have counted are not kept by every library; those of a fresh network, zeros, stand in.
    counters = {name: tensor for name, tensor in expected.items() if name.endswith("num_batches_tracked")}
    backbone = {**counters, **{name: tensor for name, tensor in behind_prefix.items() if name in expected}}
    unused = behind_prefix.keys() - backbone.keys()
    for misfit, names in (
        ("lacks", [name for name in expected if name not in backbone]),
        ("also holds", _out_of_place(unused, prefix)),
        ("has other shapes:", _misshapen(backbone, expected)),
    ):
        if names:
            raise UserError(
                f"{path} does not fit a {arch}: behind '{prefix}' it {misfit} {shortened(names)}",
                mend="another --arch, --prefix or encoder.width",
            )
    used_keys = {prefix + name for name in backbone}
    return ForeignBackbone(
        # Checkpoints in half precision are read as well; whole numbers, the counters, stay what they are.
        {name: backbone[name].float() if backbone[name].is_floating_point() else backbone[name] for name in expected},
        prefix,
        tuple(sorted(name for name in state if name not in used_keys)),
    )


def _expected(arch: str, width: int) -> State:
    """Returns torchvision's state dict of an architecture without `fc`, with fresh values.

    Raises:
        UserError: torchvision does not know the architecture.
    """
    try:
        state = resnet_of_width(arch, width).state_dict()
    except ValueError:
        raise UserError(f"--arch {arch}: this torchvision does not know it", mend="resnet50, for example") from None
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def _out_of_place(unused: Iterable[str], prefix: str) -> list[str]:
    """Returns those of the unused keys that tell of another network than the expected one."""
    if prefix:
        return sorted(name for name in unused if not name.startswith(HEADS))
    # Without a prefix everything lies beside the backbone; only a part of a ResNet can be out of place.
    return sorted(name for name in unused if name.startswith(("layer", "conv1", "bn1")))


def _misshapen(backbone: State, expected: State) -> list[str]:
    """Returns the names, each with its shape and the expected one, of entries whose shapes differ."""
    return [
        f"{name} ({'×'.join(map(str, backbone[name].shape))}, not {'×'.join(map(str, tensor.shape))})"
        for name, tensor in expected.items()
        if name in backbone and backbone[name].shape != tensor.shape
    ]


def _state_dict(path: Path) -> State:
    """Reads the tensors of a checkpoint by their names, wherever in it the usual libraries put them.

    Raises:
        UserError: the file cannot be read, holds more than tensors and plain values, or no tensors by name.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"checkpoint {path} cannot be read: {one_line(error)}",
                mend="check the path, or copy it anew",
            ) from error
    try:
        content = read_checkpoint(path)
    except UserError as error:
        # torch refuses with this error what could run code, and damaged files too. To load such a file nevertheless is
        # for a person to decide.
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
        raise UserError(
            f"checkpoint {path} holds no tensors by name; its entries: {entries}", mend="name a file with a state dict"
        )
    return state


def _find_prefix(state: Mapping[str, Tensor], path: Path) -> str:
    """Returns the prefix of the one trained ResNet in a checkpoint.

    Raises:
        UserError: there is no ResNet, or there are several.
    """
    # Every torchvision ResNet has this key, and no head or queue does.
    ending = "layer1.0.conv1.weight"
    prefixes = sorted({name.removesuffix(ending) for name in state if name.endswith(ending)})
    # A momentum encoder alone is taken: somebody has saved just that.
    candidates = [prefix for prefix in prefixes if not any(word in prefix for word in TEACHERS)] or prefixes
    if not candidates:
        raise UserError(
            f"{path} holds no ResNet with torchvision's keys (none ends with {ending}); its keys: "
            f"{shortened(sorted(state))}",
            mend="rename its keys to torchvision's, or name another file",
        )
    if len(candidates) > 1:
        quoted = ", ".join(f"'{prefix}'" for prefix in candidates)
        raise UserError(f"{path} holds several networks, behind {quoted}", mend="name one with --prefix")
    return candidates[0]
