"""The benchmark of split batch norm: four groups, by ours and by MoCo's one-GPU demo, beside one group."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from repro.backbones.resnet import build_resnet
from repro.bench.timing import best_device, seconds_in_turn
from repro.contrastive.batch_norm import SplitBatchNorm, split_batch_norm

GROUPS = 4
"""Number of batch-norm groups: the paper's number of GPUs, and the default of `moco.bn_splits`."""


class DealtOut(SplitBatchNorm):
    """Batch norm whose groups take the images in turn, by the reshaping of MoCo's one-GPU demo.

    Image i belongs to group i modulo the number of groups. This class keeps no running statistics, whose cost is
    negligible.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Normalises N×C×H×W; N is a multiple of `splits`."""
        N, C, H, W = images.shape
        # The images of a group become one image with more channels. In the channels-last layout this is not a view: the
        # whole batch is copied there and back. That is what the benchmark shows.
        groups = images.reshape(N // self.splits, self.splits * C, H, W)
        weight, bias = self.weight.repeat(self.splits), self.bias.repeat(self.splits)
        return F.batch_norm(groups, None, None, weight, bias, True, self.momentum, self.eps).reshape(N, C, H, W)


KINDS: dict[str, type[SplitBatchNorm] | None] = {"one group": None, "ours": SplitBatchNorm, "dealt out": DealtOut}
"""The rivals; None stands for torch's own batch norm."""


def batch_norm(batch: int, size: int) -> list[dict[str, Any]]:
    """Times a ResNet-18's forward and backward pass in bf16 with four batch-norm groups, both ways, beside one group.

    Args:
        batch: Images, a multiple of 4.
        size: Pixels a side.

    Returns:
        A row for each memory layout: the milliseconds with one group, and how many times as long each way of splitting
        takes.
    """
    rows = []
    for name, layout in (("channels last", torch.channels_last), ("contiguous", torch.contiguous_format)):
        taken = seconds_in_turn({kind: _step(layout, norm, batch, size) for kind, norm in KINDS.items()})
        one_group = taken["one group"].wall
        ratios = {f"{kind} ×": round(taken[kind].wall / one_group, 2) for kind in ("ours", "dealt out")}
        rows.append({"layout": name, "one group ms": round(1000 * one_group, 1), **ratios})
    return rows


def _step(
    layout: torch.memory_format, norm: type[SplitBatchNorm] | None, batch: int, size: int
) -> Callable[[], object]:
    """Returns a function that runs a network with this batch norm forward and backward, on the GPU if there is one."""
    device = best_device()
    network = build_resnet("resnet18", 128)
    if norm is not None:
        split_batch_norm(network, GROUPS)
        for module in network.modules():
            if isinstance(module, SplitBatchNorm):
                module.__class__ = norm  # parameters and buffers stay; `DealtOut` overrides `forward` alone
    network.to(device).to(memory_format=layout)
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=layout)

    def run() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = network(images).square().mean()
        loss.backward()

    return run
