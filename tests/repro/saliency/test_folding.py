"""Folded batch norms: nothing but rounding changes, and nothing is folded that something else reads."""

import copy

import pytest
import timm
import torch
from torch import Generator, Tensor, nn
from torchvision.models import get_model

from repro.saliency.folding import fold_batch_norm


def used(network: nn.Module) -> nn.Module:
    """The network with statistics, scales and offsets other than those of a fresh one."""
    generator = Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                assert tensor is not None
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "tf_efficientnet_lite0"])
@torch.no_grad()
def test_the_folded_network_is_the_same_function(name: str) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name) if name.startswith("tf_") else get_model(name)
    plain = used(network).double()
    folded = fold_batch_norm(copy.deepcopy(plain))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected = plain(images)
    assert expected.std() > 0
    torch.testing.assert_close(folded(images), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    assert (norms(plain) > 0, norms(folded)) == (True, 0)


class _Shared(nn.Module):
    """What must not be folded.

    A convolution that two modules read, one that is used twice, a norm used twice, and a layer between convolution and
    norm.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read_twice, self.used_twice, self.plain, self.parted = (nn.Conv2d(3, 3, 1) for _ in range(4))
        self.first, self.second, self.third, self.fourth = (nn.BatchNorm2d(3) for _ in range(4))
        self.between = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        mapped = self.read_twice(images)
        mapped = mapped + self.first(mapped)
        mapped = self.used_twice(self.second(self.used_twice(mapped)))
        mapped = self.third(self.third(self.plain(mapped)))
        return self.fourth(self.between(self.parted(mapped)))


@torch.no_grad()
def test_what_something_else_reads_is_left_alone() -> None:
    torch.manual_seed(0)
    network = used(_Shared())
    images = torch.randn(2, 3, 4, 4)
    expected = network(images)
    assert torch.equal(fold_batch_norm(network)(images), expected)
    assert norms(network) == 4
