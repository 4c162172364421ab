"""Where the channels of images and networks lie in memory; tensor cores want them last.

The layout changes strides alone, no shapes and no names. Results change by rounding, as with another choice of kernel.
"""

import torch
from torch import Tensor, nn


def lay_out_network(network: nn.Module, *, channels_last: bool) -> None:
    """Moves the weights of a network's convolutions to the layout that a setting asks for, in place.

    To be called before DDP wraps the network, as its buckets take over the strides that the weights have then.
    """
    if channels_last:
        network.to(memory_format=torch.channels_last)


def lay_out_images(images: Tensor, *, channels_last: bool) -> Tensor:
    """Returns images B×3×H×W in the layout that a setting asks for; a copy only where it differs."""
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images
