"""Reading checkpoints safely, and the backbone that downstream tasks start from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repro.backbones.resnet import BASE_WIDTH, resnet_of_width
from repro.errors import UserError
from repro.files import write_atomically

BACKBONE_FORMAT = 1
"""Version of the layout of `backbone.pth`."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads tensors and plain values from a file of `torch.save`, never code (`weights_only`).

    Raises:
        UserError: the file is missing, torn, or holds something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"checkpoint {path} does not exist", mend="check the path") from None
    except Exception as error:  # a torn file surfaces as any of half a dozen types
        raise UserError(
            f"checkpoint {path} cannot be read ({type(error).__name__}): it is torn or no checkpoint",
            mend="copy it anew, or make it again",
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"checkpoint {path} holds a {type(content).__name__}, not a checkpoint",
            mend="name a file that holds a dictionary",
        )
    return content


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 over names, types, shapes and bytes of weights, in the order of the names; 64 hex digits.

    Steps that batch norms have counted are left out: they change no output, and not every library keeps them.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if name.endswith("num_batches_tracked"):
            continue
        flat = tensor.detach().cpu().contiguous().flatten()
        # Names and shapes as well: bytes alone would not tell two tensors from the same bytes cut elsewhere.
        digest.update(f"{name} {flat.dtype} {tuple(tensor.shape)}\0".encode())
        # As bytes, since numpy has no bfloat16.
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def require_sound(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuses weights that no training leaves behind: such a network computes numbers, but nobody's.

    Args:
        state: floating-point tensors by the names that the file has for them; counters may stand among them.
        path: of the file, for the message.

    Raises:
        UserError: values are NaN or infinite, or a running variance is negative; it names the first tensor, and counts.
    """
    unsound = []
    for name, tensor in state.items():
        values = tensor.detach()
        faults = (("NaN or infinite", ~torch.isfinite(values)), ("negative", values < 0))
        for fault, where in faults if name.endswith("running_var") else faults[:1]:
            if count := int(where.sum()):
                unsound.append(f"{name}: {count} of {values.numel()} values are {fault}")
    if unsound:
        more = f", and {len(unsound) - 1} more tensors are like it" if len(unsound) > 1 else ""
        raise UserError(
            f"checkpoint {path} holds weights that cannot be used: {unsound[0]}{more}",
            mend="take an earlier checkpoint of that training, or copy the file anew",
        )


@dataclass(frozen=True)
class Backbone:
    """A trained encoder without its head."""

    network: nn.Module
    """A torchvision ResNet whose `fc` is the identity: B×3×H×W -> B×D, D the width of the last stage."""
    arch: str
    """torchvision's name of the network."""
    input_filter: str
    """`high_pass` where the network was trained on high-passed images and must see such ever after, else `none`."""
    features: int
    """D, the number of features."""
    run_id: str
    """The run that trained it."""
    width: int = BASE_WIDTH
    """Base planes of the network."""


def save_backbone(
    path: Path, state: dict[str, Tensor], *, arch: str, input_filter: str, run_id: str, width: int = BASE_WIDTH
) -> None:
    """Writes a backbone in torchvision's keys, without `fc`.

    Args:
        path: file to write, atomically.
        state: state dict of a torchvision ResNet; entries of `fc` are left out.
        arch: torchvision's name of the network.
        input_filter: see `Backbone`.
        run_id: the run that trained it.
        width: base planes of the network.
    """
    content = {
        "format": BACKBONE_FORMAT,
        "arch": arch,
        "input_filter": input_filter,
        "run_id": run_id,
        # Only of other networks than torchvision's own: what a run writes stays the same, byte for byte.
        **({} if width == BASE_WIDTH else {"width": width}),
        # Contiguous: a network that was trained with its channels last is saved like any other.
        "state_dict": {k: v.detach().cpu().contiguous() for k, v in state.items() if not k.startswith("fc.")},
    }
    write_atomically(path, lambda file: torch.save(content, file))


def load_backbone(path: Path, *, arch: str | None = None) -> Backbone:
    """Reads a backbone written by `save_backbone`.

    Args:
        path: the `backbone.pth` to read.
        arch: the architecture that it must have; by default any.

    Raises:
        UserError: the file is torn, no backbone, of another architecture, or holds values that are not finite.
    """
    content = read_checkpoint(path)
    if content.get("format") != BACKBONE_FORMAT or "state_dict" not in content:
        raise UserError(f"{path} is no salmask backbone", mend="give the backbone.pth of a finished run")
    if arch and content["arch"] != arch:
        raise UserError(f"{path} holds a {content['arch']}, not a {arch}", mend=f"encoder.arch={content['arch']}")
    try:
        width = content.get("width", BASE_WIDTH)
        network = resnet_of_width(content["arch"], width)
    except ValueError:
        raise UserError(
            f"{path} holds a '{content['arch']}', which this torchvision does not know",
            mend="use the torchvision that it was trained with",
        ) from None
    head = network.fc
    assert isinstance(head, nn.Linear)
    features = head.in_features
    network.fc = nn.Identity()
    try:
        network.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        raise UserError(
            f"{path} does not fit a {content['arch']}: {str(error).splitlines()[1].strip()[:200]}",
            mend="give the backbone.pth of a finished run",
        ) from error
    require_sound(content["state_dict"], path)
    return Backbone(network, content["arch"], content["input_filter"], features, content["run_id"], width)
