"""The momentum encoder, which follows a trained encoder slowly."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MomentumEncoder(nn.Module):
    """A copy of an encoder whose parameters follow it slowly: `p = m * p + (1 - m) * q`."""

    def __init__(self, encoder: nn.Module, network: nn.Module, momentum: float) -> None:
        """Start as a copy.

        Args:
            encoder: what to follow.
            network: of the same shape; takes over the encoder's parameters and buffers.
            momentum: m, 0.999 in the paper.
        """
        super().__init__()
        network.load_state_dict(encoder.state_dict())
        self.network = network.requires_grad_(False)
        self._average = get_ema_multi_avg_fn(momentum)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def update(self, encoder: nn.Module) -> None:
        """Follow the encoder's parameters by one step, all tensors in one call; buffers are this network's own."""
        self._average(list(self.network.parameters()), list(encoder.parameters()), None)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Embeddings N×dim of N×3×H×W."""
        return self.network(images)
