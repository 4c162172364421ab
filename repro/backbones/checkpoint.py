"""Reading checkpoints safely, and the backbone that downstream tasks start from."""

import hashlib
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repro.backbones.resnet import BASE_WIDTH, planned_resnet
from repro.errors import UserError, shortened
from repro.files import write_atomically
from repro.presence import is_file, is_odd
from repro.runs.choices import InputFilter
from repro.runs.folder import RunFolder
from repro.runs.run import Run
from repro.runs.schemas import BACKBONE

BACKBONE_FORMAT = 1
"""Version of the layout of `backbone.pth`."""
_GIVE = BACKBONE.mend


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a dictionary of tensors and plain values from a file of `torch.save`, never code.

    Raises:
        UserError: As of `load_safely`, or the file holds something else than a dictionary.
    """
    return require_dictionary(load_safely(path), path)


def require_dictionary(content: Any, path: Path) -> dict[str, Any]:
    """Returns the content of a checkpoint, or raises a UserError where it is no dictionary; `path` is for errors."""
    if not isinstance(content, dict):
        raise UserError(
            f"checkpoint {path} holds a {type(content).__name__}, not a checkpoint",
            mend="name a file that holds a dictionary",
        )
    return content


def load_safely(path: Path) -> Any:
    """Reads whatever a file of `torch.save` holds, but never code (`weights_only`).

    Raises:
        UserError: The file is missing, torn, has a bit that changed since it was written, or holds what could run code.
    """
    require_file(path)
    _verify_bits(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"checkpoint {path} does not exist", mend="check the path") from None
    except Exception as error:  # a torn file surfaces as any of half a dozen types
        raise UserError(
            f"checkpoint {path} cannot be read ({type(error).__name__}): it is torn or no checkpoint",
            mend="copy it anew, or make it again",
        ) from error


def require_file(path: Path) -> None:
    """Refuses a pipe or a device in a file's place, which a reader would wait for.

    Raises:
        UserError: It is neither a file nor a folder, of which reading says more, nor missing.
    """
    if is_odd(path):
        raise UserError(f"checkpoint {path} is no regular file", mend="check the path")


def _verify_bits(path: Path) -> None:
    """Refuses a file with bits that changed since it was written.

    torch writes an archive with a CRC-32 of each tensor's bytes, and does not look at it when it reads them. Files of
    older versions of torch are no archives and carry none.

    Raises:
        UserError: A part of the archive does not have its checksum.
    """
    if not is_file(path):
        return
    try:
        if not zipfile.is_zipfile(path):  # which raises where the archive's last bytes are damaged
            return
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip() or ""
    except (OSError, ValueError, NotImplementedError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        damaged = f"its table of contents, {type(error).__name__}"
    if damaged:
        raise UserError(
            f"checkpoint {path} is not as it was written ({damaged} fails its checksum)",
            mend="copy it anew, or make it again",
        )


def not_finite(state: Mapping[str, Any]) -> list[str]:
    """Returns the names of the tensors that hold a number that is not finite; waits for the device.

    Args:
        state: A state dict; what is no tensor of floating-point numbers in it is passed over.
    """
    tensors = {
        name: value
        for name, value in state.items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel()
    }
    if not tensors:
        return []
    # Of each tensor one number, and one transfer for all. NaN and infinity survive min and max, which need no copy.
    extremes = torch.stack([extreme.float() for tensor in tensors.values() for extreme in tensor.detach().aminmax()])
    finite = extremes.isfinite().view(-1, 2).all(1).tolist()
    return [name for name, is_finite in zip(tensors, finite, strict=True) if not is_finite]


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
        state: Floating-point tensors by the names that the file has for them; counters may stand among them.
        path: Of the file, for the message.

    Raises:
        UserError: Values are NaN or infinite, or a running variance is negative; it names the first tensor, and counts.
    """
    unsound = []
    for name, tensor in state.items():
        values = tensor.detach()
        # One pass decides, and NaN survives it; only what is unsound is looked at again, to count.
        if values.is_floating_point() and values.numel():
            least, largest = (extreme.item() for extreme in values.aminmax())
            if math.isfinite(least) and math.isfinite(largest) and not (name.endswith("running_var") and least < 0):
                continue
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
    input_filter: InputFilter
    """What the network was trained on, and must see ever after."""
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
    """
    content = {
        "format": BACKBONE_FORMAT,
        "arch": arch,
        "input_filter": str(input_filter),
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
        path: The `backbone.pth` to read.
        arch: The architecture that it must have; by default any.

    Raises:
        UserError: The file is torn, no backbone, of another architecture, or holds values that are not finite.
    """
    content = read_checkpoint(path)
    if content.get("format") != BACKBONE_FORMAT or "state_dict" not in content:
        raise UserError(f"{path} is no salmask backbone", mend=_GIVE)
    BACKBONE.verify(content, path)
    if arch and content["arch"] != arch:
        raise UserError(f"{path} holds a {content['arch']}, not a {arch}", mend=f"encoder.arch={content['arch']}")
    width = content.get("width", BASE_WIDTH)
    network, features = _headless(content["arch"], width, path)
    for name, tensor in content["state_dict"].items():
        if not isinstance(tensor, Tensor):
            raise UserError(f"{path}: '{name}' of its weights is {type(tensor).__name__}, not a tensor", mend=_GIVE)
    try:
        network.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        raise UserError(
            f"{path} does not fit a {content['arch']}: {str(error).splitlines()[1].strip()[:200]}", mend=_GIVE
        ) from error
    # After the names and shapes, of which `load_state_dict` says more; it takes whole numbers for weights.
    _require_trained(content["state_dict"], path)
    require_sound(content["state_dict"], path)
    return Backbone(network, content["arch"], InputFilter(content["input_filter"]), features, content["run_id"], width)


def load_backbone_of(run: Run, folder: RunFolder) -> Backbone:
    """Reads the backbone of a finished run, which must be this run's: a number that it is worth goes by its name.

    Args:
        run: As its folder has it.
        folder: Of the run, with its `backbone.pth`.

    Raises:
        UserError: The backbone is damaged, or another run's.
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
        raise UserError(f"{path} holds other weights than those of run {run.id}", mend="adopt these by --checkpoint")
    return backbone


def _headless(arch: str, width: int, path: Path) -> tuple[nn.Module, int]:
    """Builds a network without its head, and with whatever the memory holds for weights, which are to be loaded.

    Returns:
        The network, and the number of its features. `path` is for errors.
    """
    try:
        network = planned_resnet(arch, width)
    except ValueError:
        raise UserError(
            f"{path} holds a '{arch}', which this torchvision does not know",
            mend="use the torchvision that it was trained with",
        ) from None
    head = network.fc
    assert isinstance(head, nn.Linear)
    features = head.in_features
    network.fc = nn.Identity()
    return network.to_empty(device="cpu"), features


def _require_trained(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuses weights that no training ends with: all zero, or whole numbers.

    Raises:
        UserError: Names the file and the tensors.
    """
    weights = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    if whole := [name for name, tensor in weights.items() if not tensor.is_floating_point()]:
        raise UserError(f"{path}: weights of whole numbers: {shortened(whole, 3)}", mend=_GIVE)
    # Of a layer that sees something; biases, and the scales that some recipes begin at zero, may be nothing but zeros.
    if dead := [name for name, tensor in weights.items() if tensor.ndim > 1 and not any(tensor.aminmax())]:
        raise UserError(f"{path}: weights that are all zero: {shortened(dead, 3)}", mend=_GIVE)
