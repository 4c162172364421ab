"""The network's inputs, which masking makes and contrastive models take."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Views:
    """The network's inputs for one batch, each B×3×H×W."""

    query: Tensor
    key: Tensor
    hard_negative: Tensor | None = None
    """B×3×H×W, or 1×3×H×W where one image serves every query (the released code)."""
