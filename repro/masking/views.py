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
    """B×3×H×W; as in the released code, one image for each group of `hard_negative_serves` queries."""
    hard_negative_serves: int = 1
    """How many consecutive queries share a hard negative, which is made from the key of the first one."""
