"""A GPU for machines that have none: tensors that know their device and shape, and hold no numbers.

Torch's fake tensors stand for tensors on the device, real ones for tensors on the host. Whatever would fail or wait on
a GPU is refused: an operation on tensors of two devices, and whatever makes the host wait for a number from the device,
such as `.item()`, an `if` on a tensor, `nonzero`, or a copy to the host; within a step, also a blocking copy to the
device. Autograd's engine asks the driver for its devices, so `backward` is imitated too: it gives each trained
parameter some gradient.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda", 0)


class WaitError(AssertionError):
    """The host would wait for the device."""


class ImitatedGenerator(torch.Generator):
    """A generator that names the device that it was made for; fake tensors ask it for no numbers."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.made_for = torch.device(device)

    def __new__(cls, device: torch.device | str = "cpu") -> "ImitatedGenerator":
        return super().__new__(cls)

    @property
    def device(self) -> torch.device:
        return self.made_for


class NoWaitingCopy(TorchDispatchMode):
    """Refuses operations that bring device data to the host; within a step, also blocking copies to the device."""

    def __init__(self, stepping: bool) -> None:
        super().__init__()
        self.stepping = stepping

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.stepping and func in UPLOADS and _on_gpu(out) and not _is_queued(func, args, kwargs or {}):
            raise WaitError(f"{func} waits until it has copied to the device")
        if any(map(_on_gpu, tree_leaves(args))) and any(
            isinstance(each, Tensor) and each.is_cpu for each in tree_leaves(out)
        ):
            raise WaitError(f"{func} copies to the host")
        return out


class TwoDevices(TorchFunctionMode):
    """Hands what concerns the GPU to fake tensors, and leaves the host's own work to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.capturing = self.stepping = False

    @contextmanager
    def step(self) -> Iterator[None]:
        """Within it, blocking copies to the device are refused too; they are allowed while a network is built."""
        self.stepping = True
        try:
            yield
        finally:
            self.stepping = False

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Within it, copies from the host are refused, as a replay of a captured CUDA graph would not repeat them."""
        self.capturing = True
        try:
            yield
        finally:
            self.capturing = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs or {}))
        if not any(map(_on_gpu, leaves)):
            return func(*args, **(kwargs or {}))
        if self.capturing and any(type(each) is Tensor and each.is_cpu and each.ndim for each in leaves):
            raise WaitError(f"{func} copies from the host, which a replay would not repeat")
        try:
            with self.fake, NoWaitingCopy(self.stepping):
                return func(*args, **(kwargs or {}))
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise WaitError(f"{func} waits for the device") from error


UPLOADS = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
"""Operations that copy to the device. `torch.full` and the like make their numbers there."""


def _is_queued(func: Any, args: Any, kwargs: Any) -> bool:
    """Returns whether a copy starts on the device itself, or is a non-blocking one."""
    source, *flags = args if func is UPLOADS[0] else args[1:]
    return not source.is_cpu or any(flags) or kwargs.get("non_blocking", False)


def _on_gpu(value: Any) -> bool:
    if isinstance(value, FakeTensor | ImitatedGenerator):
        return value.device.type == "cuda"
    return isinstance(value, torch.device) and value.type == "cuda"


def _apply(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Changes a module's tensors as `nn.Module._apply` does, which cannot turn real tensors into fake ones."""
    for child in module.children() if recurse else ():
        _apply(child, change)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            module._parameters[name] = nn.Parameter(change(parameter.detach()), parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = change(buffer)
    return module


def _backward(loss: Tensor, *_: Any, **__: Any) -> None:
    """Gives each parameter that a loss depends on a gradient."""
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        parameter = getattr(node, "variable", None)
        if parameter is not None:
            parameter.grad = torch.empty_like(parameter)
        nodes += [below for below, _ in node.next_functions]


@contextmanager
def imitated_gpu() -> Iterator[TwoDevices]:
    """Within it, `GPU` can be used as if there were one; the caller patches generators with `ImitatedGenerator`."""
    with (
        patch.object(nn.Module, "_apply", _apply),
        patch.object(Tensor, "backward", _backward),
        # Else autocast switches itself off where there is no driver.
        patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
        patch("torch.cuda.is_bf16_supported", return_value=True),
        TwoDevices() as devices,
    ):
        yield devices
