"""Every tensor of somebody else's checkpoint by its full name, read without running any code of the file."""

import pickle
import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from repro.backbones.checkpoint import beginning_of, load_safely, require_dictionary
from repro.errors import UserError, one_line, shortened

_COMPILED = re.compile(r"(?<![^.])_orig_mod\.")
"""What torch.compile puts into the names of a network, or of a part of one."""

_PICKLE = b"\x80"
"""How a pickle begins, of any protocol that is in use."""
_ARCHIVE = b"PK"
"""How zip archives begin, which files of `torch.save` are."""
_SAFETENSORS = re.compile(rb".{8}\{", re.DOTALL)
"""How `.safetensors` files begin: the length of a header in JSON, and the header."""
_TORCH_BEFORE_1_6 = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)
"""How files of `torch.save` began before they were zip archives: with a pickle too."""
_OF_SCRIPTS = "constants.pkl"
"""A part of TorchScript's archives, by which torch itself recognises them."""
_OF_NUMPY = ".npy"
"""What the names of all parts of NumPy's archives end in."""
_ARRAYS_AS_TENSORS = (
    "if you trust it, save them as tensors: torch.save({{name: torch.as_tensor(array) for name, array in "
    "arrays.items()}}, NEW), where arrays is {}"
)
"""The mend for a file of NumPy's arrays; `{}` stands for the expression that reads them."""


@dataclass(frozen=True)
class CheckpointFile:
    """The content of a file in which a backbone is looked for.

    Attributes:
        tensors: Full name -> tensor: the names of nested dictionaries and of the tensor, with dots between, without
            what `torch.compile` puts into names.
        facts: The plain strings at the top: entries of a `torch.save` file, or the metadata of a `.safetensors` one.
        width: The whole number of this name at the top, such as the base planes in a `backbone.pth`; 0: there is none.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, str]
    width: int = 0


def read_tensors(path: Path) -> CheckpointFile:
    """Reads a file of `torch.save` or `.safetensors`.

    Objects of classes that torch does not know to be harmless (settings as `argparse.Namespace`, OmegaConf or NumPy
    values beside the weights) are read as empty stand-ins: their classes are neither imported nor called.

    Raises:
        UserError: The file cannot be read, names what could run code, or holds no tensors by name.
    """
    beginning = beginning_of(path)
    # By its content, and not by its name, since either kind of file is met under the endings of the other.
    if _SAFETENSORS.match(beginning):
        return _read_safetensors(path)
    _require_torch(path, beginning)
    content = _with_joint_statistics(_read_torch(path), path)
    tensors = flatten(content, path)
    if not tensors:
        entries = shortened(sorted(map(str, content)))
        # NumPy's arrays were read as stand-ins; only the function that the file names to make them shows them.
        if any(name.startswith("numpy.") and name.endswith("._reconstruct") for name in _unknown_classes(path)):
            raise UserError(
                f"checkpoint {path} holds arrays of NumPy, which are not read, and no tensors; its entries: {entries}",
                mend=_ARRAYS_AS_TENSORS.format("torch.load(FILE, weights_only=False), or the part of it that has them"),
            )
        raise UserError(
            f"checkpoint {path} holds no tensors by name; its entries: {entries}", mend="name a file with a state dict"
        )
    facts = {key: value for key, value in content.items() if isinstance(value, str)}
    width = content.get("width")
    return CheckpointFile(tensors, facts, width if isinstance(width, int) else 0)


def _with_joint_statistics(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Gives a training checkpoint of salmask the running statistics that its `backbone.pth` would have.

    Several processes keep statistics of their own (`repro.contrastive.batch_norm.own_statistics`). The model has rank
    0's, and `statistics` holds a vector for each rank; what is evaluated is their mean.

    Args:
        content: The content of any checkpoint.
        path: The file, for errors.

    Raises:
        UserError: There are such vectors, but of unequal lengths, or rank 0's does not fit the model.
    """
    model, of_ranks = content.get("model"), content.get("statistics")
    is_ours = {"run_id", "world_size"} <= content.keys()
    if not (is_ours and isinstance(model, Mapping) and isinstance(of_ranks, list)):
        return content
    joint, place, size = dict(model), 0, -1
    if of_ranks and all(isinstance(v, Tensor) and v.ndim == 1 and v.shape == of_ranks[0].shape for v in of_ranks):
        first, mean, size = of_ranks[0], torch.stack(of_ranks).mean(0), len(of_ranks[0])
        for name, own in model.items():
            # The vectors lack batch norms that span the processes; of the others, rank 0's has the model's numbers.
            if isinstance(own, Tensor) and name.endswith((".running_mean", ".running_var")):
                end = place + own.numel()
                if torch.equal(first[place:end], own):
                    joint[name], place = mean[place:end], end
    if place != size:
        raise UserError(
            f"checkpoint {path}: the running statistics of its processes do not fit its weights",
            mend="give another checkpoint of the training, or the run's backbone.pth",
        )
    return {**content, "model": joint}


def plain_name(name: str) -> str:
    """Returns a name without what `torch.compile` puts into it."""
    return _COMPILED.sub("", name)


def flatten(content: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """Returns the tensors of nested dictionaries under their full names, in the order of the file.

    Args:
        content: The content of a checkpoint.
        path: The file, for errors.

    Raises:
        UserError: Two tensors have one name.
    """
    tensors: list[tuple[str, Tensor]] = []
    # A stack, not recursion, and each dictionary once: files can nest deeper than Python can recurse, and in circles.
    waiting: list[tuple[str, Any]] = [("", content)]
    seen: set[int] = set()
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Tensor):
            tensors.append((name, value))
        elif isinstance(value, Mapping) and id(value) not in seen:
            seen.add(id(value))
            separator = "." if name else ""
            entries = [(plain_name(f"{name}{separator}{key}"), entry) for key, entry in value.items()]
            waiting += reversed(entries)
    return _by_name(tensors, path)


def _by_name(named: Sequence[tuple[str, Tensor]], path: Path) -> dict[str, Tensor]:
    """Returns tensors by their names, or raises a UserError if two have the same; `path` is for the error."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in named:
        if name in tensors:
            raise UserError(f"checkpoint {path} holds two tensors under the name {name}", mend="rename one of them")
        tensors[name] = tensor
    return tensors


def _read_safetensors(path: Path) -> CheckpointFile:
    """Reads a `.safetensors` file, or raises a UserError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            named = [(plain_name(name), file.get_tensor(name)) for name in file.keys()]  # noqa: SIM118  # no mapping
            return CheckpointFile(_by_name(named, path), dict(file.metadata() or {}))
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"checkpoint {path} cannot be read: {one_line(error)}", mend="check the path, or copy it anew"
        ) from error


class _StandIn:
    """Stands in for an object of an unknown class; whatever the file would make it from is thrown away."""

    def __new__(cls, *_: object) -> "_StandIn":
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


class _StandInDict:
    """Stands in for a `defaultdict`, as a plain dictionary, which torch's reader fills afterwards."""

    def __new__(cls, *_: object) -> dict[Any, Any]:  # type: ignore[misc]  # not an instance, on purpose
        return {}


def _read_torch(path: Path) -> dict[str, Any]:
    """Reads a file of `torch.save` with stand-ins for objects of unknown classes, or raises a UserError."""
    unknown = _unknown_classes(path)
    stand_ins = [(_StandInDict if name == "collections.defaultdict" else _StandIn, name) for name in unknown]
    try:
        # Under these names torch's reader now finds the stand-ins, and never imports what the file names. Of modules
        # that it blocks in any case (os, sys, posix, nt) it refuses everything.
        with torch.serialization.safe_globals(list(stand_ins)):
            content = load_safely(path)
    except UserError as error:
        # torch raises this error for what could run code, and for damaged files too. Only a person can decide to load
        # such a file nevertheless.
        if not isinstance(error.__cause__, UnpicklingError):
            raise
        names = f" ({shortened(unknown)})" if unknown else ""
        raise UserError(
            (
                f"checkpoint {path} holds more than tensors and plain values{names}, or is torn; it is not read, as it "
                "could run code"
            ),
            mend="if you trust it, save it anew: torch.save(torch.load(FILE, weights_only=False), NEW)",
        ) from error
    if isinstance(content, _StandIn):
        raise UserError(
            f"checkpoint {path} holds a whole object ({shortened(unknown)}), whose code is not run",
            mend="if you trust it and it is a network, save its weights alone: "
            "torch.save(torch.load(FILE, weights_only=False).state_dict(), NEW)",
        )
    return require_dictionary(content, path)


def _require_torch(path: Path, beginning: bytes) -> None:
    """Raises a UserError for files that `torch.save` did not write, but that often have the same endings."""
    if beginning and not beginning.startswith((_ARCHIVE, _PICKLE)):
        text = beginning[:15].decode("ascii", "replace")
        raise UserError(
            f"checkpoint {path} cannot be read: it begins with {text!r}, as no file of torch.save or safetensors does",
            mend="download it anew, or unpack it: it may be a web page, a pointer of Git LFS or an archive",
        )
    if beginning.startswith(_PICKLE) and not beginning.startswith(_TORCH_BEFORE_1_6):
        raise UserError(
            f"checkpoint {path} is a pickle (as of detectron2), not a file of torch.save; it is not read, as it could "
            "run code",
            mend="give the file that it was converted from, or save it as tensors under torchvision's names; of a run "
            "of ours, `salmask export RUN --to torchvision`",
        )
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile):
        return  # not an archive, or a damaged one: reading it gives a better error
    if names and all(name.endswith(_OF_NUMPY) for name in names):
        raise UserError(
            f"checkpoint {path} is an archive of NumPy's arrays (.npz), which are not read",
            mend=_ARRAYS_AS_TENSORS.format("numpy.load(FILE)"),
        )
    if any(PurePosixPath(name).name == _OF_SCRIPTS for name in names):
        raise UserError(
            f"checkpoint {path} is a program of TorchScript, which is not run",
            mend="if you trust it, save its weights alone: torch.save(torch.jit.load(FILE).state_dict(), NEW)",
        )


def _unknown_classes(path: Path) -> list[str]:
    """Returns the full names of the classes and functions in a file that torch does not know to be harmless.

    Nothing is loaded. The result is empty for files from before torch 1.6, which are not zip archives, and for files
    that `torch.save` did not write: `load_safely` says what is wrong with those.
    """
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (OSError, ValueError, RuntimeError, UnpicklingError, EOFError, struct.error):
        return []
