"""The queue of keys that MoCo draws its negatives from."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Queue(nn.Module):
    """The last K keys of all processes, first in, first out (moco/builder.py `_dequeue_and_enqueue`).

    A ring buffer, so that no key is ever moved. Part of every checkpoint: with a fresh queue, the negatives would be
    noise for K / batch steps, and a resumed run would give another result.
    """

    keys: Tensor
    """dim×K, a key in each column."""
    position: Tensor
    """Column of the oldest key; a scalar."""

    def __init__(self, dim: int, size: int) -> None:
        """Starts with `size` random unit vectors of `dim` dimensions, as MoCo does (moco/builder.py)."""
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(dim, size), dim=0))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Replaces the oldest N keys by `keys`, N×dim, unit length, N at most K.

        Every process must enqueue the same keys: all queues must be equal, and nothing compares or synchronises them.
        """
        # The position stays on the device. To read it as a number, for a slice, would wait for the device at each step.
        slots = (self.position + torch.arange(len(keys), device=keys.device)) % self.keys.shape[1]
        self.keys.index_copy_(1, slots, keys.T.to(self.keys.dtype))
        self.position.add_(len(keys)).remainder_(self.keys.shape[1])
