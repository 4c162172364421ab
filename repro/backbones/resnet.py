"""torchvision's ResNets, also narrower and wider ones than torchvision builds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.models import get_model

from repro.errors import UserError, nearest
from repro.settings.network_names import RESNETS

BASE_WIDTH = 64
"""Base planes of torchvision's own networks."""


def build_resnet(arch: str, outputs: int, width: int = BASE_WIDTH) -> nn.Module:
    """Builds a torchvision ResNet with fresh weights.

    Args:
        arch: torchvision's name of the network.
        outputs: Number of outputs of its last layer.
        width: Base planes, see `resnet_of_width`.

    Raises:
        UserError: torchvision has no ResNet of this name, or its groups do not divide its planes at this width.
    """
    if arch not in RESNETS:
        raise UserError(f"encoder.arch={arch} is not a ResNet of torchvision", mend=nearest(arch, RESNETS))
    return resnet_of_width(arch, width, outputs)


def resnet_of_width(arch: str, width: int, outputs: int = 1000) -> nn.Module:
    """Builds a torchvision ResNet in which every number of planes is `width / 64` of the original's.

    The stem and the four stages have `width`, `width`, `2 width`, `4 width` and `8 width` base planes. torchvision
    scales the inner planes of bottlenecks alone (`width_per_group`), and nothing in basic blocks. Names, strides and
    the distributions of fresh weights are torchvision's.

    Args:
        arch: torchvision's name of the network.
        width: Base planes; 64 builds torchvision's own network, the same weights from the same random state.
        outputs: Number of outputs of the last layer.

    Raises:
        ValueError: torchvision does not know the name.
        UserError: The groups of a ResNeXt do not divide its planes at this width.
    """
    if width == BASE_WIDTH:
        return get_model(arch, weights=None, num_classes=outputs)
    with _planning():
        network = get_model(arch, weights=None, num_classes=outputs)
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Conv2d):
            network.set_submodule(name, _scaled_convolution(layer, arch, width))
        elif isinstance(layer, nn.BatchNorm2d):
            network.set_submodule(name, nn.BatchNorm2d(_scaled(layer.num_features, width)))
        elif isinstance(layer, nn.Linear):
            network.set_submodule(name, nn.Linear(_scaled(layer.in_features, width), layer.out_features))
    return network


def planned_resnet(arch: str, width: int) -> nn.Module:
    """Returns a ResNet of `resnet_of_width` on the meta device, without weights, for callers that load weights into it.

    Fresh weights would only be replaced. Drawing them takes half a second for a ResNet-50, most of reading a backbone.

    Args:
        arch: torchvision's name of the network.
        width: Base planes.

    Raises:
        ValueError: torchvision does not know the name.
        UserError: The groups of a ResNeXt do not divide its planes at this width.
    """
    with _planning():
        return resnet_of_width(arch, width)


@contextmanager
def _planning() -> Iterator[None]:
    """Networks that are built inside are plans alone: on the meta device they take no memory and no random numbers."""
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """Leaves tensors as they are where initial values would be filled in.

    Tensors of the meta device have no values. Filling them does nothing all the same, by Python code of torch that
    works out the shape of the result, which takes longer than all else of building a plan.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # whatever the function returns
        return args[0] if func in _FILLING else func(*args, **(kwargs or {}))


_FILLING = frozenset([Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_])


def _scaled(planes: int, width: int) -> int:
    return planes * width // BASE_WIDTH


def _scaled_convolution(layer: nn.Conv2d, arch: str, width: int) -> nn.Conv2d:
    """Returns a fresh convolution like a layer of the original, between fewer or more planes.

    Raises:
        UserError: The layer's groups do not divide so few planes.
    """
    # The stem's inputs are the three channels of an image at any width.
    inputs = layer.in_channels if layer.in_channels == 3 else _scaled(layer.in_channels, width)
    outputs = _scaled(layer.out_channels, width)
    if outputs % layer.groups:
        raise UserError(
            f"encoder.width={width}: the {layer.groups} groups of a {arch} do not divide {outputs} planes",
            mend=f"a multiple of {BASE_WIDTH * layer.groups // layer.out_channels}",
        )
    convolution = nn.Conv2d(
        inputs,
        outputs,
        kernel_size=layer.kernel_size,  # type: ignore[arg-type]  # a pair, as any convolution keeps it
        stride=layer.stride,  # type: ignore[arg-type]  # likewise
        padding=layer.padding,  # type: ignore[arg-type]  # likewise
        groups=layer.groups,
        bias=False,
    )
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution
