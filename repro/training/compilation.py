"""Steps whose kernels `torch.compile` fuses, as `machine.compile` asks for it."""

from torch import nn
from torchvision.models import ResNet

from repro.training.preprocess import Augmenter


def compile_step(model: nn.Module) -> None:
    """Marks a model's ResNets and its augmentation for compilation at their first call; names of weights stay the same.

    Results differ from uncompiled ones by rounding, as fused operations do not round to the training's precision in
    between. The rest of a step stays uncompiled: it is little work, and partly draws from generators that the compiler
    does not support.

    Args:
        model: On its device and in its memory layout; before DDP wraps it.
    """
    for module in model.modules():
        if isinstance(module, ResNet):
            # All batches have the same size. By default, the compiler would treat the second size that it meets (the
            # gallery's, an evaluation's) as variable, and compile slower kernels.
            module.compile(dynamic=False)
        elif isinstance(module, Augmenter):
            module.compiled = True
