"""Encoders whose kernels `torch.compile` fuses, as `machine.compile` asks for it."""

from torch import nn
from torchvision.models import ResNet


def compile_encoders(model: nn.Module) -> None:
    """Lets every ResNet of a model be compiled at its first call, in place; names in its state dict stay as they are.

    A compiled network's results differ from the plain one's by rounding: what it fuses is not rounded to the training's
    precision in between. What surrounds the encoders is little work, and partly drawn from generators that the compiler
    does not know.

    Args:
        model: on its device and in its memory layout; before DDP wraps it.
    """
    for network in model.modules():
        if isinstance(network, ResNet):
            # Batches have one size. Left to itself, the compiler would make the second size that it meets (the
            # gallery's, an evaluation's) a variable, and compile slower kernels for it.
            network.compile(dynamic=False)
