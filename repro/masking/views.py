"""The network's inputs, which masking makes and contrastive models take."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Views:
    """The network's inputs for one batch, normalised, and high-passed where the strategy does so."""

    query: Tensor
    """B×3×H×W."""
    key: Tensor
    """B×3×H×W."""
    hard_negative: Tensor | None = None
    """B×3×H×W; in the released code's way one image for each group of `hard_negative_serves` queries."""
    hard_negative_serves: int = 1
    """How many queries, one after the other, each hard negative serves; it is made from the first one's key."""
