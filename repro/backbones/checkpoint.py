"""Reading checkpoints safely, and the backbone that downstream tasks start from."""

import hashlib
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from repro.backbones.resnet import BASE_WIDTH, planned_resnet
from repro.data.errors import reason_of
from repro.errors import UserError, shortened
from repro.files import write_atomically
from repro.presence import is_folder, is_odd
from repro.quantities import counted
from repro.runs.choices import InputFilter
from repro.runs.folder import RunFolder
from repro.runs.network_names import RESNETS
from repro.runs.run import Run
from repro.runs.schemas import BACKBONE

BACKBONE_FORMAT = 1
"""Version of the layout of `backbone.pth`."""
_GIVE = BACKBONE.mend
_BEGINNING = 64
"""Bytes of a file that are looked at before it is read."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a dictionary of tensors and plain values from a file of `torch.save`, never code.

    Raises:
        UserError: As of `load_safely`, or the file holds something else than a dictionary.
    """
    return require_dictionary(load_safely(path), path)


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a dictionary as `read_checkpoint` reads it, at once or not at all.

    Args:
        path: The file; its folder is made if it is not there.
        content: Tensors and plain values, nested in dictionaries, lists and tuples.

    Raises:
        UserError: The folder cannot be written to, or the disk is full; the old file is untouched.
    """
    write_atomically(path, lambda file: torch.save(content, _ArchiveFile(file)))  # type: ignore[arg-type]  # all it calls


class _ArchiveFile:
    """A file as torch's writer of archives needs it: one that may be written to after it was closed.

    Interrupted just before it writes its archive's end, the writer does so when it is freed. That is after the file was
    closed, and an error there ends the process at once (`terminate called after throwing`), without a word to anybody.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        """Writes a buffer, or drops it where the file is closed: by then it was given up. Returns its length."""
        return len(data) if self._file.closed else self._file.write(data)

    def flush(self) -> None:
        """Hands on what is buffered; torch calls it at the archive's end."""
        self._file.flush()


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
    beginning_of(path)
    _verify_bits(path)
    try:
        # Opened here: what torch opens itself it reads by the ending of its name, whatever it holds.
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn file surfaces as any of half a dozen types
        raise UserError(
            f"checkpoint {path} cannot be read ({type(error).__name__}): it is torn or no checkpoint",
            mend="copy it anew, or make it again",
        ) from error


def beginning_of(path: Path) -> bytes:
    """Returns the first bytes of a file, which tell its format.

    Raises:
        UserError: It is missing, may not be read, or is none: a folder, or a pipe or a device, which a reader would
            wait for.
    """
    if is_folder(path):
        raise UserError(f"checkpoint {path} is a folder", mend="name a file in it")
    if is_odd(path):
        raise UserError(f"checkpoint {path} is no regular file", mend="check the path")
    try:
        with path.open("rb") as file:
            return file.read(_BEGINNING)
    except FileNotFoundError:
        raise UserError(f"checkpoint {path} does not exist", mend="check the path") from None
    except (OSError, ValueError) as error:  # the latter of a name that no file system can have
        raise UserError(f"checkpoint {path} cannot be read: {reason_of(error)}", mend="check the path") from error


def _verify_bits(path: Path) -> None:
    """Refuses a file with bits that changed since it was written.

    torch writes an archive with a CRC-32 of each tensor's bytes, and does not look at it when it reads them. Files of
    older versions of torch are no archives and carry none.

    Raises:
        UserError: A part of the archive does not have its checksum.
    """
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


def require_floats(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuses tensors that no network is made of: of whole or complex numbers, quantised, sparse, nested, or empty.

    Args:
        state: Weights by the names that the file has for them; counters may stand among them.
        path: Of the file, for the message.

    Raises:
        UserError: Counts those tensors, and names the first ones.
    """
    other = [name for name, tensor in state.items() if not _is_of_a_network(name, tensor)]
    if other:
        raise UserError(
            f"checkpoint {path} holds weights that are no floating-point numbers: {shortened(other, 3)}",
            mend="save them as plain tensors of such, or give another file",
        )


def _is_of_a_network(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is what networks are made of, counters of steps included, which may be of any real numbers."""
    # Without numbers (on the meta device) are tensors of a network that was saved before it had any.
    is_plain = tensor.layout is torch.strided and not (tensor.is_nested or tensor.is_meta)
    is_counter = name.endswith("num_batches_tracked") and not tensor.is_complex()
    return is_plain and (tensor.is_floating_point() or is_counter)


def require_sound(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuses weights that no training leaves behind: such a network computes numbers, but nobody's.

    Args:
        state: Tensors in single precision by the names that the file has for them; counters may stand among them.
        path: Of the file, for the message.

    Raises:
        UserError: Values are NaN or infinite, a running variance is negative, or a layer's weights are all zero; it
            names the first tensor, and counts.
    """
    faults = ((name, _fault(name, tensor.detach())) for name, tensor in state.items())
    unsound = [f"{name}: {fault}" for name, fault in faults if fault]
    if unsound:
        more = f"; likewise {counted(len(unsound) - 1, 'more tensor')}" if len(unsound) > 1 else ""
        raise UserError(
            f"checkpoint {path} holds weights that cannot be used: {unsound[0]}{more}",
            mend="take an earlier checkpoint of that training, or copy the file anew",
        )


def _fault(name: str, values: Tensor) -> str:
    """Returns what is wrong with a tensor of weights; empty where nothing is, and of counters."""
    if not (values.is_floating_point() and values.numel()):
        return ""
    # One pass decides, and NaN survives it; only what is unsound is looked at again, to count.
    least, largest = (extreme.item() for extreme in values.aminmax())
    if not (math.isfinite(least) and math.isfinite(largest)):
        return f"{int((~values.isfinite()).sum())} of {values.numel()} values are NaN or infinite"
    if name.endswith("running_var") and least < 0:
        return f"{int((values < 0).sum())} of {values.numel()} values are negative"
    # Of a layer that sees something; biases, and the scales that some recipes begin at zero, may be nothing but zeros.
    return f"its {values.numel()} values are all zero" if values.ndim > 1 and least == largest == 0 else ""


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
    write_checkpoint(path, content)


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
    for name, tensor in content["state_dict"].items():
        if not isinstance(name, str):
            raise UserError(f"{path}: a name of its weights is {type(name).__name__}, not a text", mend=_GIVE)
        if not isinstance(tensor, Tensor):
            raise UserError(f"{path}: '{name}' of its weights is {type(tensor).__name__}, not a tensor", mend=_GIVE)
    # `load_state_dict` takes whole numbers for weights, and drops the imaginary part of complex ones.
    require_floats(content["state_dict"], path)
    width, stem = content.get("width", BASE_WIDTH), content["state_dict"].get("conv1.weight")
    if stem is not None and stem.shape[:1] != (width,):  # before a network of whatever width is built
        misfit = f"size mismatch for conv1.weight, {[*stem.shape]} at width {width}"
        raise UserError(f"{path} does not fit a {content['arch']}: {misfit}", mend=_GIVE)
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
    """Builds a backbone of weights in torchvision's keys, without `fc`.

    Args:
        state: The weights.
        path: Of the file that they were read from, for errors.
        arch: torchvision's name of the network.
        input_filter: See `Backbone`.
        run_id: The run that they are of.
        width: Base planes of the network.

    Raises:
        UserError: The weights do not fit the network, or no training leaves such values.
    """
    network, features = _headless(arch, width, path)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"{path} does not fit a {arch}: {str(error).splitlines()[1].strip()[:200]}", mend=_GIVE
        ) from error
    require_sound(network.state_dict(), path)
    return Backbone(network, arch, input_filter, features, run_id, width)


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
    if arch not in RESNETS:
        raise UserError(f"{path} holds a '{arch}', which is no ResNet of torchvision's", mend=_GIVE)
    network = planned_resnet(arch, width)
    head = network.fc
    assert isinstance(head, nn.Linear)
    features = head.in_features
    network.fc = nn.Identity()
    return network.to_empty(device="cpu"), features
