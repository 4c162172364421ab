"""The backbone that a pretraining leaves and downstream tasks start from, as a network and as a file."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from repro.backbones.checkpoint import read_checkpoint, write_checkpoint
from repro.backbones.resnet import BASE_WIDTH, planned_resnet
from repro.backbones.weights import require_floats, require_sound, weights_digest
from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.runs.schemas import BACKBONE
from repro.settings.choices import InputFilter
from repro.settings.network_names import RESNETS
from repro.settings.run import Run

BACKBONE_FORMAT = 1
"""Version of the layout of `backbone.pth`."""
_MEND = BACKBONE.mend
_MEND_OR_ADOPT = f"{_MEND}; salmask eval --checkpoint FILE makes one of others' weights"


@dataclass(frozen=True)
class Backbone:
    """A trained encoder without its head."""

    network: nn.Module
    """A torchvision ResNet whose `fc` is the identity: B×3×H×W -> B×D, D the width of the last stage."""
    arch: str
    """torchvision's name of the network."""
    input_filter: InputFilter
    """The filter of the images that it was trained on; it must be given images with this filter ever after."""
    features: int
    """D, the number of features."""
    run_id: str
    """The run that trained it."""
    width: int = BASE_WIDTH
    """Base planes of the network."""


def save_backbone(
    path: Path, state: dict[str, Tensor], *, arch: str, input_filter: InputFilter, run_id: str, width: int = BASE_WIDTH
) -> None:
    """Writes a backbone in torchvision's keys, without `fc`.

    Args:
        path: File to write, atomically.
        state: State dict of a torchvision ResNet; entries of `fc` are left out.
        arch: torchvision's name of the network.
        input_filter: See `Backbone`.
        run_id: The run that trained it.
        width: Base planes of the network.

    Raises:
        UserError: The folder cannot be written to, or the disk is full.
    """
    content = {
        "format": BACKBONE_FORMAT,
        "arch": arch,
        "input_filter": str(input_filter),
        "run_id": run_id,
        # Left out at torchvision's own width, so that such files stay the same, byte for byte.
        **({} if width == BASE_WIDTH else {"width": width}),
        # Contiguous, so that a network trained in channels-last layout is saved like any other.
        "state_dict": {k: v.detach().cpu().contiguous() for k, v in state.items() if not k.startswith("fc.")},
    }
    write_checkpoint(path, content)


def require_backbone(state: Mapping[str, Tensor], arch: str, width: int) -> None:
    """Refuses, before training, an encoder whose `backbone.pth` could not be read again.

    Args:
        state: The encoder's state dict; entries of `fc` are left out.
        arch: torchvision's name of the network that it is to be.
        width: Base planes of that network.

    Raises:
        UserError: The encoder's weights have other names or shapes than that network's.
    """
    found, wanted = (
        {name: tuple(tensor.shape) for name, tensor in each.items() if not name.startswith("fc.")}
        for each in (state, planned_resnet(arch, width).state_dict())
    )
    for name in (*wanted, *found):
        if found.get(name) != wanted.get(name):
            of_it = f"{name} is {found[name]}" if name in found else f"there is no {name}"
            expected = f", not {wanted[name]}" if name in found and name in wanted else ""
            raise UserError(
                f"the encoder is not the {arch} of width {width} that encoder.arch and encoder.width name: "
                f"{of_it}{expected}",
                mend="the network that `build_encoder` (repro/contrastive/encoders.py) returns",
            )


def load_backbone(path: Path, *, arch: str | None = None) -> Backbone:
    """Reads a backbone written by `save_backbone`.

    Args:
        path: The `backbone.pth` to read.
        arch: The architecture that it must have; by default any.

    Raises:
        UserError: The file cannot be read, is not a backbone, is of another architecture, or holds weights that do not
            fit the network or that no sound training leaves.
    """
    content = read_checkpoint(path)
    if content.get("format") != BACKBONE_FORMAT or "state_dict" not in content:
        raise UserError(f"{path} is not a salmask backbone", mend=_MEND_OR_ADOPT)
    BACKBONE.verify(content, path)
    if arch and content["arch"] != arch:
        raise UserError(f"{path} holds a {content['arch']}, not a {arch}", mend=f"encoder.arch={content['arch']}")
    for name, tensor in content["state_dict"].items():
        if not isinstance(name, str):
            raise UserError(f"{path}: a name of its weights is {type(name).__name__}, not a text", mend=_MEND)
        if not isinstance(tensor, Tensor):
            raise UserError(f"{path}: '{name}' of its weights is {type(tensor).__name__}, not a tensor", mend=_MEND)
    # `load_state_dict` accepts whole numbers as weights, and drops the imaginary part of complex ones.
    require_floats(content["state_dict"], path)
    width, stem = content.get("width", BASE_WIDTH), content["state_dict"].get("conv1.weight")
    if stem is not None and stem.shape[:1] != (width,):  # before a network of that width, however large, is built
        misfit = f"size mismatch for conv1.weight, {[*stem.shape]} at width {width}"
        raise UserError(f"{path} does not fit a {content['arch']}: {misfit}", mend=_MEND)
    return backbone_from(
        content["state_dict"],
        path,
        arch=content["arch"],
        input_filter=InputFilter(content["input_filter"]),
        run_id=content["run_id"],
        width=width,
    )


def backbone_from(
    state: Mapping[str, Tensor], path: Path, *, arch: str, input_filter: InputFilter, run_id: str, width: int
) -> Backbone:
    """Builds a backbone from weights in torchvision's keys, without `fc`.

    Args:
        state: The weights.
        path: The file that they were read from, for errors.
        arch: torchvision's name of the network.
        input_filter: See `Backbone`.
        run_id: The run that they belong to.
        width: Base planes of the network.

    Raises:
        UserError: torchvision has no such ResNet, the weights do not fit it, or no sound training leaves such values.
    """
    if arch not in RESNETS:
        raise UserError(f"{path} holds a '{arch}', which is not a ResNet of torchvision", mend=_MEND)
    network = planned_resnet(arch, width)
    head = network.fc
    assert isinstance(head, nn.Linear)
    network.fc = nn.Identity()
    network.to_empty(device="cpu")  # not initialised: the weights are loaded next
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"{path} does not fit a {arch}: {str(error).splitlines()[1].strip()[:200]}", mend=_MEND
        ) from error
    require_sound(network.state_dict(), path)
    return Backbone(network, arch, input_filter, head.in_features, run_id, width)


def load_backbone_of(run: Run, folder: RunFolder) -> Backbone:
    """Reads the backbone of a finished run, and refuses another run's: its results would be recorded under this run.

    Args:
        run: The run, as read from its folder.
        folder: The run's folder, with its `backbone.pth`.

    Raises:
        UserError: The backbone is missing or damaged, or another run's.
    """
    path = folder.backbone
    backbone = load_backbone(path, arch=run.encoder.arch)
    if backbone.run_id != run.id:
        raise UserError(
            f"{path} is of run {backbone.run_id}, and {folder.run_yaml.name} describes run {run.id}",
            mend="put the file that was exchanged or edited back",
        )
    weights = run.imported.weights
    if weights and weights_digest(backbone.network.state_dict()) != weights:
        mend = f"salmask eval --checkpoint {shlex.quote(str(path))} adopts these as a run of their own"
        raise UserError(f"{path} holds other weights than those of run {run.id}", mend=mend)
    return backbone
