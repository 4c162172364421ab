"""Steps whose kernels `torch.compile` fuses, as `machine.compile` asks for it."""

import torch
from torch import nn
from torchvision.models import ResNet

from repro.errors import UserError
from repro.training.steps.preprocess import Augmenter


def require_compiler(device: torch.device) -> None:
    """Refuses to compile where `torch.compile` makes no kernels for a device.

    It has them compiled in C++ on a CPU, and Triton, on a GPU, needs a C compiler: many nodes and slim images have
    none, or not Python's headers. This is tried on a single number, since what is needed depends on torch's version.
    The trial takes seconds, most of them for what a compiled training imports anyway.

    Raises:
        UserError: The trial failed.
    """
    try:
        torch.compile(lambda number: number.sin() + 1, dynamic=False)(torch.zeros(1, device=device))
    except Exception as error:  # errors of torch's compilers and of Triton have no class in common
        what = str(error).partition("\n")[0] or type(error).__name__  # the other lines tell how to debug torch
        raise UserError(
            f"machine.compile=true, but torch.compile does not work here: {what}",
            mend="machine.compile=false, or give it what it lacks: mostly g++, or Python's headers (python3-dev)",
        ) from error


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
