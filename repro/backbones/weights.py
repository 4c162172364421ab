"""Weights by their names: their digest, and checks that a network can have them and a sound training leaves them."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repro.errors import UserError, shortened
from repro.quantities import counted


def not_finite(state: Mapping[str, Any]) -> list[str]:
    """Returns the names of the tensors that hold a number that is not finite; waits for the device.

    Args:
        state: A state dict; entries that are not tensors of floating-point numbers are passed over.
    """
    tensors = {
        name: value
        for name, value in state.items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel()
    }
    if not tensors:
        return []
    # Two numbers of each tensor, and one transfer for all. NaN and infinity survive min and max, which need no copy.
    extremes = torch.stack([extreme.float() for tensor in tensors.values() for extreme in tensor.detach().aminmax()])
    finite = extremes.isfinite().view(-1, 2).all(1).tolist()
    return [name for name, is_finite in zip(tensors, finite, strict=True) if not is_finite]


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 over names, types, shapes and bytes of weights, in the order of the names; 64 hex digits.

    The step counters of batch norms are left out: they change no output, and not every library keeps them.
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
    """Refuses tensors that no network is made of: of other numbers, quantised, sparse, nested, or empty (on meta).

    Args:
        state: Weights by the names that the file has for them; counters may stand among them.
        path: The file, for the message.

    Raises:
        UserError: There are such tensors; it counts them and names the first ones.
    """
    other = [name for name, tensor in state.items() if not _is_of_a_network(name, tensor)]
    if other:
        raise UserError(
            f"checkpoint {path} holds weights that are not floating-point numbers: {shortened(other, 3)}",
            mend="save them as plain floating-point tensors, or give another file",
        )


def _is_of_a_network(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is what networks are made of; step counters may be of any real numbers."""
    # A network that was saved before it had weights has its tensors on the meta device, without numbers.
    is_plain = tensor.layout is torch.strided and not (tensor.is_nested or tensor.is_meta)
    is_counter = name.endswith("num_batches_tracked") and not tensor.is_complex()
    return is_plain and (tensor.is_floating_point() or is_counter)


def require_sound(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuses weights that no sound training leaves behind; a network would compute meaningless numbers with them.

    Args:
        state: Tensors in single precision by the names that the file has for them; counters may stand among them.
        path: The file, for the message.

    Raises:
        UserError: Values are NaN or infinite, a running variance is negative, or a layer's weights are all zero; it
            names the first such tensor and counts the others.
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
    # Only layers that see the input: biases, and scales that some recipes start at zero, may be all zero.
    return f"its {values.numel()} values are all zero" if values.ndim > 1 and least == largest == 0 else ""
