"""The backbone in somebody else's checkpoint: which of its networks, and under which names."""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torchvision
from torch import Tensor
from torchvision.models import list_models

from repro.backbones.facts import is_run_id, run_around
from repro.backbones.resnet import BASE_WIDTH, planned_resnet
from repro.backbones.tensors import CheckpointFile, plain_name, read_tensors
from repro.backbones.weights import require_floats, require_sound
from repro.errors import UserError, nearest, shortened
from repro.settings.network_names import RESNETS

State = dict[str, Tensor]

_COPY = re.compile(r"momentum|teacher|target|(?<![a-z])(?:k|key|ema|loss)(?![a-z])")
"""Words in the prefix of a network that follows the trained one (MoCo's `encoder_k`, lightly's `key_backbone`, BYOL's
target, a loss's own encoder in VISSL); it is not what is evaluated."""
USUAL_ARCH = "resnet50"
"""The network that is taken where neither a person nor a file names one."""
TOP = "."
"""As a prefix, it stands for no prefix: the network whose tensors are at the top of the file."""
_STUDENT = re.compile(r"student")
"""The word of self-distillation, whose authors evaluate the teacher: one of the two must be named by its prefix."""
_SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4", "9": "fc"}
"""Places of a torchvision ResNet's children in `nn.Sequential(*resnet.children())`; the others hold no weights."""
_BODY = re.compile(r"(?:conv|bn|norm|layer|stem|stage|block|res|downsample)s?\d*")
"""Names of the parts of a ResNet's body. A network that has more of these than expected is another network."""


@dataclass(frozen=True)
class ForeignBackbone:
    """A backbone out of somebody else's checkpoint.

    Attributes:
        state: Every entry of torchvision's state dict but `fc`, floating-point ones in single precision.
        prefix: What the full names of its tensors in the file began with.
        left_out: Full names of the tensors that are no part of the backbone: head, queue, momentum encoder, ...
        arch: torchvision's name of the network.
        width: Base planes of the network.
        input_filter: The input filter that the file names; empty if it names none.
        run_id: Id of the run that the file names; empty if it names none.
    """

    state: State
    prefix: str
    left_out: tuple[str, ...]
    arch: str
    width: int
    input_filter: str = ""
    run_id: str = ""

    @property
    def parts_left_out(self) -> str:
        """What was left out, by its parts with the number of their tensors: `module.fc (4), module.queue (1)`."""
        parts = Counter(_part(name, self.prefix) for name in self.left_out)
        return ", ".join(f"{part} ({count})" for part, count in parts.items()) or "nothing"


@dataclass(frozen=True)
class _Network:
    """A ResNet in a file.

    Attributes:
        prefix: What the full names of its tensors begin with.
        names: torchvision's name -> full name, of everything behind the prefix.
    """

    prefix: str
    names: Mapping[str, str] = field(repr=False)


def read_foreign(path: Path, arch: str = "", prefix: str = "", width: int | None = None) -> ForeignBackbone:
    """Reads the backbone out of a checkpoint of MoCo, solo-learn, lightly, VISSL, torchvision, timm, salmask, ...

    Behind some prefix (`state_dict.module.encoder_q.`, `backbone.`, ...) there must be the names of torchvision's
    ResNet, or the numbers of its children in an `nn.Sequential`: all of them, in the right shapes. Heads, prototypes,
    queues and whatever else lies beside is left out; what would make it another network is refused.

    Args:
        path: A file of `torch.save`, or `.safetensors`.
        arch: torchvision's name of the network. Empty: the one that the file names, or of a training of salmask its
            run's; else `USUAL_ARCH`.
        prefix: What the full names begin with, or the end of that; `TOP` for no prefix. Empty: the only ResNet, not
            counting momentum encoders. Of a student and its teacher, one must be named.
        width: Base planes of the network. None: of weights of salmask those that the file or the run names; else
            torchvision's.

    Raises:
        UserError: torchvision has no such ResNet; the file cannot be read, or names nothing but a run of salmask whose
            folder is not around it; it is not clear which network is meant; the network does not fit, or is one of
            timm's with the same tensors; or its values are not those of a trained network (whole numbers, NaN, a
            negative variance, only zeros). The error says which.
    """
    file = read_tensors(path)
    named_arch, named_width = _network_named_by(path, file)
    arch, width = arch or named_arch, width or named_width
    expected = _expected(arch, width)
    network = _choose(_networks(file.tensors), plain_name(prefix), file.tensors, path)
    # Not every library keeps the step counters of batch norms; zeros, as in a fresh network, stand in for them.
    counters = {
        name: torch.zeros_like(tensor, device="cpu")
        for name, tensor in expected.items()
        if name.endswith("num_batches_tracked")
    }
    given = {name: file.tensors[full] for name, full in network.names.items() if name in expected}
    backbone = {**counters, **given}
    if misfit := _misfit(network, backbone, expected):
        raise UserError(f"{path} does not fit a {arch}: {misfit}", mend=_other_arch(network, file.tensors))
    _require_arch(file.facts.get("arch", ""), arch, path)
    # Checkpoints in half precision are read as well; the counters stay the whole numbers that they are.
    given_values = {name: backbone[name] for name in expected}
    state = {name: value.float() if value.is_floating_point() else value for name, value in given_values.items()}
    # Checked in single precision, which values in double precision may overflow, and under the file's own names.
    require_sound({network.names[name]: state[name] for name in given}, path)
    used = {network.names[name] for name in given}
    return ForeignBackbone(
        state,
        network.prefix,
        tuple(name for name in file.tensors if name not in used),
        arch,
        width,
        file.facts.get("input_filter", ""),
        file.facts.get("run_id", ""),
    )


def _require_arch(said: str, arch: str, path: Path) -> None:
    """Refuses a file that names another architecture, even if its tensors fit.

    timm's `resnetblur18`, for example, has the tensors of a ResNet-18; what it does between its layers is in no file.

    Raises:
        UserError: The file names another architecture of torchvision or timm.
    """
    said = _torchvisions(said)
    if said in ("", arch):
        return
    import timm

    if said in timm.list_models() or said in list_models(torchvision.models):
        raise UserError(
            f"{path} says that it holds a {said}, not a {arch}, though their tensors are alike",
            mend="another file; variations of torchvision's ResNets are not evaluated",
        )


def _network_named_by(path: Path, file: CheckpointFile) -> tuple[str, int]:
    """Returns arch and base planes of the network in a file, as it or the folder of its run names them, or the usual.

    Raises:
        UserError: The file names a run of salmask and not its network, and lies in no folder of that run.
    """
    run_id, said = file.facts.get("run_id", ""), _torchvisions(file.facts.get("arch", ""))
    if not said and (run := run_around(path, run_id)):
        return run.encoder.arch, run.encoder.width
    is_ours = is_run_id(run_id) and file.width > 0  # what others mean by a width may be anything
    return said if said in RESNETS else USUAL_ARCH, file.width if is_ours else BASE_WIDTH


def _torchvisions(name: str) -> str:
    """Returns a network's name as torchvision has it: timm's `tv_resnet50` and `resnet50.a1_in1k` are `resnet50`."""
    return name.partition(".")[0].removeprefix("tv_")


@functools.cache
def _expected(arch: str, width: int) -> State:
    """Returns torchvision's state dict of an architecture without `fc`: names and shapes, on the meta device.

    Raises:
        UserError: torchvision has no ResNet of this name, or its groups do not divide its planes at this width.
    """
    if arch not in RESNETS:
        raise UserError(f"--arch {arch} is not a ResNet of torchvision", mend=nearest(arch, RESNETS))
    state = planned_resnet(arch, width).state_dict()
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def _networks(tensors: Mapping[str, Tensor]) -> list[_Network]:
    """Returns every ResNet in a file, in the order of the prefixes."""
    # Every torchvision ResNet has this name, and no head or queue does; in a Sequential layer1 is the fifth child.
    endings = {"layer1.0.conv1.weight": False, "4.0.conv1.weight": True}
    networks = []
    for name in tensors:
        for ending, sequential in endings.items():
            prefix = name.removesuffix(ending)
            if prefix != name and (not prefix or prefix.endswith(".")):
                network = _network(prefix, tensors, sequential=sequential)
                # The fifth child of any other Sequential may have such a name too, but not the first and the last ones.
                if not sequential or {"conv1.weight", "layer4.0.conv1.weight"} <= network.names.keys():
                    networks.append(network)
    return sorted(networks, key=lambda network: network.prefix)


def _network(prefix: str, names: Iterable[str], *, sequential: bool) -> _Network:
    """Gathers what lies behind a prefix, under torchvision's names."""
    behind = {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}
    if sequential:
        parts = ((short.partition("."), full) for short, full in behind.items())
        behind = {_SEQUENTIAL.get(child, child) + point + rest: full for (child, point, rest), full in parts}
    return _Network(prefix, behind)


def _choose(networks: Sequence[_Network], prefix: str, tensors: Mapping[str, Tensor], path: Path) -> _Network:
    """Returns the network that is to be evaluated.

    Raises:
        UserError: There is no ResNet, none behind the prefix, or several, or it is not made of floating-point numbers.
    """
    if not networks:
        raise UserError(
            f"{path} holds no ResNet with torchvision's keys (none ends with layer1.0.conv1.weight); its keys: "
            f"{shortened(sorted(tensors))}",
            mend="rename its keys to torchvision's, or name another file",
        )
    candidates = _named(networks, prefix) if prefix else _trained(networks)
    if not candidates:
        prefixes = ", ".join(f"'{network.prefix}'" for network in networks)
        raise UserError(
            f"{path} holds no ResNet behind '{prefix}', but behind {prefixes}", mend="name one of these with --prefix"
        )
    for network in candidates:  # first, since tensors of other kinds cannot be compared
        require_floats({full: tensors[full] for name, full in network.names.items() if _body(name)}, path)
    # Some libraries save a network under two names (OpenSelfSup's `backbone.` is its `encoder_q.0.`).
    different = [
        network
        for number, network in enumerate(candidates)
        if not any(_same(network, other, tensors) for other in candidates[:number])
    ]
    if len(different) > 1:
        raise UserError(
            f"{path} holds several networks, behind {', '.join(repr(network.prefix) for network in different)}",
            mend=" or ".join(f"--prefix {network.prefix or TOP}" for network in different),
        )
    return different[0]


def _named(networks: Sequence[_Network], prefix: str) -> list[_Network]:
    """Returns the network with exactly this prefix, or else those whose prefixes end in it."""
    ending = "" if prefix == TOP else f"{prefix.removesuffix('.')}."
    exact = [network for network in networks if network.prefix == ending]
    return exact or [network for network in networks if ending and network.prefix.endswith(f".{ending}")]


def _trained(networks: Sequence[_Network]) -> list[_Network]:
    """Returns the networks that are not momentum encoders; all, if one is a student or all are momentum encoders."""
    if any(_STUDENT.search(network.prefix) for network in networks):
        return list(networks)
    # A momentum encoder alone is taken: somebody has saved just that.
    return [network for network in networks if not _COPY.search(network.prefix)] or list(networks)


def _same(network: _Network, other: _Network, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the backbones of two networks are equal, tensor by tensor."""
    names, others = ({name for name in each.names if _body(name)} for each in (network, other))
    return names == others and all(
        torch.equal(tensors[network.names[name]], tensors[other.names[name]]) for name in names
    )


def _body(name: str) -> bool:
    """Whether a name, behind the prefix, is one of a ResNet's body."""
    return _BODY.fullmatch(name.partition(".")[0]) is not None


def _misfit(network: _Network, backbone: State, expected: State) -> str:
    """Returns how a network departs from the expected one; empty if it fits."""
    for misfit, names in (
        ("lacks", [name for name in expected if name not in backbone]),
        ("also holds", sorted(name for name in network.names if _body(name) and name not in expected)),
        ("has other shapes:", _misshapen(backbone, expected)),
    ):
        if names:
            return f"behind '{network.prefix}' it {misfit} {shortened(names)}"
    return ""


def _other_arch(network: _Network, tensors: Mapping[str, Tensor]) -> str:
    """Returns the mend for a network that does not fit: the options for the ResNets that it does fit, if any."""
    given = {name: tensors[full] for name, full in network.names.items() if _body(name)}
    stem = given["conv1.weight"].shape if "conv1.weight" in given else ()
    width = stem[0] if stem and stem[0] else BASE_WIDTH
    fitting = []
    for arch in RESNETS:
        try:
            expected = _expected(arch, width)
        except UserError:  # the groups of a ResNeXt do not divide its planes at this width
            continue
        weights = {name for name in expected if not name.endswith("num_batches_tracked")}
        if weights <= given.keys() <= expected.keys() and not _misshapen(given, expected):
            fitting.append(f"--arch {arch}" + ("" if width == BASE_WIDTH else f" encoder.width={width}"))
    return " or ".join(fitting) or "another --arch or --prefix; variations of torchvision's ResNets are not evaluated"


def _misshapen(backbone: State, expected: State) -> list[str]:
    """Returns the names, each with its shape and the expected one, of entries whose shapes differ."""
    return [
        f"{name} ({'×'.join(map(str, backbone[name].shape))}, not {'×'.join(map(str, tensor.shape))})"
        for name, tensor in expected.items()
        if name in backbone and backbone[name].shape != tensor.shape
    ]


def _part(name: str, prefix: str) -> str:
    """Returns a name up to its first segment that departs from a prefix: the part of the file that it belongs to."""
    part = []
    for number, segment in enumerate(name.split(".")[:-1] or [name]):
        part.append(segment)
        if prefix.split(".")[number : number + 1] != [segment]:
            break
    return ".".join(part)
