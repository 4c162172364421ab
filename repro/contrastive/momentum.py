"""The momentum encoder, which follows a trained encoder slowly and embeds the keys."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MomentumEncoder(nn.Module):
    """A copy of an encoder whose parameters follow it slowly: `p = m * p + (1 - m) * q` (MoCo, equation 2).

    The queue holds keys of many steps, which are comparable only if the network that made them changes slowly.
    """

    def __init__(self, encoder: nn.Module, network: nn.Module, momentum: float) -> None:
        """Starts as a copy of the encoder.

        Args:
            encoder: The one to follow.
            network: Of the same architecture; takes over the encoder's parameters and buffers.
            momentum: The m of the equation, 0.999 in the paper.
        """
        super().__init__()
        network.load_state_dict(encoder.state_dict())
        self.network = network.requires_grad_(False)
        # torch's own average updates all tensors in a few fused calls instead of one for each.
        self._average = get_ema_multi_avg_fn(momentum)

    @torch.no_grad()
    def update(self, encoder: nn.Module) -> None:
        """Follows the encoder's parameters by one step.

        Buffers are not averaged: running statistics are those of the keys that this network has embedded
        (moco/builder.py `_momentum_update_key_encoder` averages parameters alone, too). They are never read, as it
        always runs in training mode, and the backbone is the query encoder.
        """
        self._average(list(self.network.parameters()), list(encoder.parameters()), None)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Returns embeddings N×dim of images N×3×H×W, without a gradient."""
        return self.network(images)
