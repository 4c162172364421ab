"""The queue of keys that MoCo draws its negatives from."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Queue(nn.Module):
    """The last K keys, first in, first out."""

    keys: Tensor
    """dim×K."""
    position: Tensor
    """Of the oldest key; a scalar."""

    def __init__(self, dim: int, size: int) -> None:
        """Start with random unit vectors, as MoCo does (moco/builder.py)."""
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(dim, size), dim=0))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Replace the oldest keys by `keys`, N×C. The position stays on the device: nothing waits for the host."""
        slots = (self.position + torch.arange(len(keys), device=keys.device)) % self.keys.shape[1]
        self.keys.index_copy_(1, slots, keys.T.to(self.keys.dtype))
        self.position.add_(len(keys)).remainder_(self.keys.shape[1])
