"""Steps whose kernels `torch.compile` fuses, as `machine.compile` asks for it."""

from torch import nn
from torchvision.models import ResNet

from repro.training.preprocess import Augmenter


def compile_step(model: nn.Module) -> None:
    """Lets every ResNet of a model, and its augmentation, be compiled at the first call; nothing changes its name.

    Their results differ from the plain ones by rounding: what is fused is not rounded to the training's precision in
    between. The rest of a step is little work, and partly drawn from generators that the compiler does not know.

    Args:
        model: On its device and in its memory layout; before DDP wraps it.
    """
    for module in model.modules():
        if isinstance(module, ResNet):
            # Batches have one size. Left to itself, the compiler would make the second size that it meets (the
            # gallery's, an evaluation's) a variable, and compile slower kernels for it.
            module.compile(dynamic=False)
        elif isinstance(module, Augmenter):
            module.compiled = True
