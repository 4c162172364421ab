"""Parts of other libraries' checkpoints: real modules, to be put under the names that each library uses.

The networks are small ones of torchvision. Their batch norms have statistics other than the defaults, so that a
statistic in the wrong place shows.
"""

import copy
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import ResNet, get_model


@dataclass
class Layout:
    """A file's content, the network in it that is to be evaluated, and the prefix of that network's keys."""

    content: dict[str, Any]
    source: nn.Module
    prefix: str


def network(seed: int, arch: str = "resnet18") -> ResNet:
    """A ResNet with random weights and statistics."""
    return copy.deepcopy(_drawn(seed, arch))


@functools.cache
def _drawn(seed: int, arch: str) -> ResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        resnet = get_model(arch, weights=None)
        for module in resnet.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.5)
    return resnet.eval()


def module(**children: nn.Module | Tensor) -> nn.Module:
    """A module with these children and buffers."""
    parent = nn.Module()
    for name, child in children.items():
        if isinstance(child, nn.Module):
            parent.add_module(name, child)
        else:
            parent.register_buffer(name, child)
    return parent


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(512, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))


def headless(seed: int) -> ResNet:
    resnet = network(seed)
    resnet.fc = nn.Identity()
    return resnet


def with_head(seed: int) -> ResNet:
    resnet = network(seed)
    resnet.fc = mlp()
    return resnet


def ddp(wrapped: nn.Module) -> dict[str, Tensor]:
    """The state of a module in DistributedDataParallel, or DataParallel."""
    return module(module=wrapped).state_dict()


def sequential(seed: int) -> nn.Sequential:
    return nn.Sequential(*list(network(seed).children())[:-1])


def momentum_buffers() -> dict[str, Any]:
    return {"state": {0: {"momentum_buffer": torch.zeros(64, 3, 7, 7)}}, "param_groups": [{"lr": 0.03}]}


def features(source: nn.Module, images: Tensor) -> Tensor:
    """What the source network computes: B×3×H×W -> B×512, the mean over the last stage."""
    stages: dict[str, nn.Module] = dict(source.named_children())
    if isinstance(source, nn.Sequential):
        maps = source[:8](images)
    else:
        first = stages.get("act1") or stages["relu"]  # timm's name of the first ReLU
        maps = stages["maxpool"](first(stages["bn1"](stages["conv1"](images))))
        for number in range(1, 5):
            maps = stages[f"layer{number}"](maps)
    return maps.mean((2, 3))
