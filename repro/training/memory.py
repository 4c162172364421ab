"""The least memory that a run takes: what surely does not fit is refused before it is built, with the figures."""

import torch

from repro.distributed import world_size
from repro.errors import UserError
from repro.quantities import memory_text
from repro.runs.run import Run
from repro.runs.sections import Framework
from repro.training.device_memory import total_bytes

_BYTES = 4
"""Of a number in single precision."""
_COPIES = 3
"""Of each weight that is learned: itself, its gradient and its momentum."""
_BASIC = ("resnet18", "resnet34")
"""Networks whose last stage is eight times as wide as their first; the others' is thirty-two times as wide."""


def least_bytes(run: Run) -> dict[tuple[str, ...], int]:
    """Returns the bytes that parts of a pretraining take at least on each device, by what makes them large."""
    encoder, crop = run.encoder, run.data.crop
    views = 2 * (run.optimization.batch // world_size())  # of this process's share of a batch
    features = encoder.width * (8 if encoder.arch in _BASIC else 32)
    parts: dict[tuple[str, ...], int] = {
        ("encoder.dim", "encoder.width"): _COPIES * _BYTES * features * encoder.dim,
        ("optimization.batch", "data.crop"): _BYTES * 3 * crop * crop * views,
    }
    if run.framework is Framework.mocov2:
        parts["moco.queue", "encoder.dim"] = _BYTES * run.moco.queue * encoder.dim
    return parts


def require_memory(run: Run, device: torch.device) -> None:
    """Refuses a run that surely takes more memory than its device has.

    Args:
        run: To be trained.
        device: where.

    Raises:
        UserError: Names the settings that take the most, what they take, and what there is.
    """
    parts = least_bytes(run)
    needed, available = sum(parts.values()), total_bytes(device)
    if needed <= available:
        return
    largest = max(parts, key=lambda keys: parts[keys])
    raise UserError(
        f"the run takes {memory_text(needed)} of memory at least, most of it for {', '.join(largest)}, and there are "
        f"{memory_text(available)}",
        mend=f"a smaller {largest[0]}",
    )
