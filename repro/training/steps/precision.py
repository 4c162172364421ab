"""The arithmetic of the forward and backward pass: fp32, bf16 or fp16, as mmengine's optimizer wrappers."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from torch import nn

from repro.errors import with_mend
from repro.settings.choices import Precision


def arithmetic(device: torch.device) -> dict[str, Any]:
    """Returns the switches of torch on which, beside the settings, results on a GPU depend; empty for a CPU.

    They have torch's defaults unless code in the process changed them: convolutions in TF32, by any algorithm and with
    sums in any order; matrix products in full single precision. Only without TF32 and with deterministic algorithms do
    two trainings of one run agree bit for bit.
    """
    if device.type != "cuda":
        return {}
    return {
        "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def bf16_is_slow() -> bool:
    """Returns whether a CPU's convolutions take much longer in bf16 than in fp32.

    On x86, oneDNN has fast kernels for bf16 only with AVX-512; on others, it falls back to its reference code. There, a
    training step of the study's ResNet-18 (width 16, 64 px, batch 64) took 1.1 CPU seconds in place of 0.24.
    """
    # What torch itself asks before it hands bf16 tensors to oneDNN; public functions do not tell.
    return torch.backends.mkldnn.is_available() and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def precision_caution(precision: Precision, device: torch.device) -> str:
    """Returns a warning about arithmetic for which a device has no instructions; empty if it has.

    Args:
        precision: Of the forward and backward pass.
        device: That computes them.
    """
    if precision is not Precision.bf16 or device.type != "cpu" or not bf16_is_slow():
        return ""
    what = "optimization.precision=bf16 on a CPU without instructions for it: steps may take five times as long"
    return with_mend(what, "optimization.precision=fp32")


class Bf16OptimWrapper(OptimWrapper):
    """bf16 on any device, without the loss scaler of mmengine's own wrapper.

    bf16 has the range of fp32 and needs no scaler. mmengine's would wait for the device at each step, and drop a step
    that is not finite before `FiniteGuard` can see it.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        """Wraps the optimizer of a model on this device."""
        super().__init__(optimizer)
        self._device = device.type

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocasts forward passes within the context to bf16."""
        with super().optim_context(model), torch.autocast(self._device, dtype=torch.bfloat16):
            yield


def wrap_optimizer(optimizer: torch.optim.Optimizer, precision: Precision, device: torch.device) -> OptimWrapper:
    """Returns the optimizer in mmengine's wrapper for this precision; fp16 comes with a loss scaler.

    Args:
        optimizer: Its weights are in single precision, whatever the passes are in.
        precision: Of the forward and backward pass.
        device: Of the model.
    """
    if precision is Precision.fp32:
        return OptimWrapper(optimizer)
    if precision is Precision.bf16:
        return Bf16OptimWrapper(optimizer, device)
    return AmpOptimWrapper(optimizer=optimizer, dtype="float16", loss_scale="dynamic")


def wrap_optimizers(
    optimizers: Mapping[str, torch.optim.Optimizer], precision: Precision, device: torch.device
) -> OptimWrapper:
    """Returns what a model's `train_step` is given: one optimizer's wrapper, or an `OptimWrapperDict` of several.

    Args:
        optimizers: By name; each has a loss scaler of its own where there is one.
        precision: Of all forward and backward passes.
        device: Of the model.
    """
    wrappers = {name: wrap_optimizer(optimizer, precision, device) for name, optimizer in optimizers.items()}
    return OptimWrapperDict(**wrappers) if len(wrappers) > 1 else next(iter(wrappers.values()))
