"""The global random generators of a process, whose states a checkpoint keeps."""

import random
from typing import Any

import numpy as np
import torch


def generators() -> dict[str, Any]:
    """Returns the states of this process's global random generators, in types that load without running code."""
    version, words, gauss = random.getstate()
    return {
        "python": [version, list(words), gauss],
        "numpy": _plain(np.random.get_state(legacy=False)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_generators(state: dict[str, Any]) -> None:
    """Restores the states that `generators` returned in this process's global random generators."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"])


def _plain(value: Any) -> Any:
    """Returns the value with numpy's arrays as lists; loading with `weights_only` refuses the arrays."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value
