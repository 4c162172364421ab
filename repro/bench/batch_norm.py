"""Four batch-norm groups, ours and those of MoCo's one-GPU demo, beside one group."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.bench.timing import timed_in_turn
from repro.contrastive.batch_norm import SplitBatchNorm, split_batch_norm
from repro.contrastive.encoders import build_resnet


class DealtOut(SplitBatchNorm):
    """Groups dealt out in turn, by the reshaping of MoCo's one-GPU demo; no running statistics, which cost nothing."""

    def forward(self, images: Tensor) -> Tensor:
        """Normalise N×C×H×W."""
        N, C, H, W = images.shape
        groups = images.reshape(N // self.splits, self.splits * C, H, W)
        weight, bias = self.weight.repeat(self.splits), self.bias.repeat(self.splits)
        return F.batch_norm(groups, None, None, weight, bias, True, self.momentum, self.eps).reshape(N, C, H, W)


def batch_norm(batch: int, size: int) -> list[dict[str, Any]]:
    """A ResNet-18's forward and backward pass in bf16 with four batch-norm groups, ours and dealt out, beside one.

    Args:
        batch: images, a multiple of 4.
        size: pixels a side.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def step(layout: torch.memory_format, norm: Any) -> Callable[[], object]:
        network = build_resnet("resnet18", 128)
        if norm is not nn.BatchNorm2d:
            split_batch_norm(network, 4)
            for part in network.modules():
                if isinstance(part, SplitBatchNorm):
                    part.__class__ = norm  # the same weights
        network.to(device, memory_format=layout)  # type: ignore[call-overload]
        images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=layout)

        def run() -> None:
            with torch.autocast(device.type, torch.bfloat16):
                loss = network(images).square().mean()
            loss.backward()

        return run

    rows = []
    for name, layout in (("channels last", torch.channels_last), ("contiguous", torch.contiguous_format)):
        kinds = {"one group": nn.BatchNorm2d, "ours": SplitBatchNorm, "dealt out": DealtOut}
        seconds = timed_in_turn({kind: step(layout, norm) for kind, norm in kinds.items()})
        ratios = {f"{kind} ×": round(seconds[kind] / seconds["one group"], 2) for kind in ("ours", "dealt out")}
        rows.append({"layout": name, "one group ms": round(1000 * seconds["one group"], 1), **ratios})
    return rows
