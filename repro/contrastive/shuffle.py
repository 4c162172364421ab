"""The orders of ShuffleBN, in which keys are embedded (MoCo section 3.3)."""

import torch
from torch import Generator, Tensor

from repro.randomness import Purpose, stream_seed


def is_capturing() -> bool:
    """Returns whether a CUDA graph is being captured: what is computed now only runs when the graph is replayed."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


class Shuffles:
    """Random orders of a global batch, each a function of the seed, the step and a number within the step.

    So they are the same on every rank without a broadcast, and in a resumed run. They are drawn on the host, as a GPU
    would draw other permutations.
    """

    def __init__(self, seed: int) -> None:
        """Takes the seed of the run, the same on every rank."""
        self.seed = seed
        self._newest: dict[int, Tensor] = {}
        self._captured: dict[int, Tensor] = {}

    def order_and_inverse(self, step: int, stream: int, count: int, device: torch.device) -> Tensor:
        """Returns the order of a step's shuffle, and its inverse.

        While a CUDA graph is captured, it returns the memory that holds the previous step's orders. The graph reads
        this memory at each replay, and `refresh` writes a step's orders into it before. Memory allocated within the
        capture would not do: earlier kernels of the graph may write other things there.

        Args:
            step: Number of the step, from 0.
            stream: Number of the shuffle within the step.
            count: Images to shuffle.
            device: Where the orders are wanted.

        Returns:
            2×count, whole numbers: the order, then its inverse.
        """
        if is_capturing():
            # Kept for good, so that a later step without the graph does not free memory that the graph reads.
            self._captured[stream] = self._newest[stream]
            return self._captured[stream]
        self._newest[stream] = self._drawn(step, stream, count).to(device, non_blocking=True)
        return self._newest[stream]

    def refresh(self, step: int) -> None:
        """Copies the orders of a step to where the captured graph reads them."""
        for stream, memory in self._captured.items():
            # Pinned, so that the host does not wait for the copy; torch keeps pinned memory until the copy is done.
            memory.copy_(self._drawn(step, stream, memory.shape[1]).pin_memory(), non_blocking=True)

    def _drawn(self, step: int, stream: int, count: int) -> Tensor:
        generator = Generator().manual_seed(stream_seed(self.seed, Purpose.shuffle, step, stream))
        order = torch.randperm(count, generator=generator)
        return torch.stack([order, order.argsort()])
