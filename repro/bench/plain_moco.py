"""The benchmark of a MoCo v2 step: ours, with and without split batch norm, beside plainly written code."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.bench.timing import ROUNDS, seconds_in_turn
from repro.contrastive.encoders import build_encoder
from repro.contrastive.moco import MoCo
from repro.masking.views import Views
from repro.processes.distributed import device_name
from repro.settings.run import Run
from repro.training.steps.memory_layout import lay_out_images, lay_out_network
from repro.training.steps.optimization import build_optimizer


class PlainMoCo(nn.Module):
    """MoCo v2 on one device as its authors wrote it (facebookresearch/moco, moco/builder.py), without hard negatives.

    Its batch norm has one group, so that shuffling the keys changes nothing; it is kept, as they have it.
    """

    queue: Tensor
    queue_ptr: Tensor

    def __init__(self, arch: str, dim: int, *, width: int, queue: int, momentum: float, temperature: float) -> None:
        super().__init__()
        self.K, self.m, self.T = queue, momentum, temperature
        self.encoder_q = build_encoder(arch, dim, width)
        self.encoder_k = deepcopy(self.encoder_q).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(dim, queue), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Returns the loss of views B×3×H×W, and puts the keys into the queue, whose length is a multiple of B."""
        q = F.normalize(self.encoder_q(query), dim=1)
        with torch.no_grad():
            for param_q, param_k in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
                param_k.data = param_k.data * self.m + param_q.data * (1.0 - self.m)
            shuffled = torch.randperm(len(key), device=key.device)
            k = F.normalize(self.encoder_k(key[shuffled]), dim=1)[torch.argsort(shuffled)]
        positive = torch.einsum("nc,nc->n", [q, k]).unsqueeze(-1)
        negative = torch.einsum("nc,ck->nk", [q, self.queue.clone().detach()])
        logits = torch.cat([positive, negative], dim=1) / self.T
        labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        start = int(self.queue_ptr)
        self.queue[:, start : start + len(k)] = k.T
        self.queue_ptr[0] = (start + len(k)) % self.K
        return F.cross_entropy(logits, labels)


def compare_with_plain_moco(run: Run, device: torch.device, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Times training steps of MoCo v2 on views of noise: forward, backward, optimizer, momentum encoder and queue.

    Args:
        run: Encoder, queue, batch-norm groups, size of the views, batch and optimizer are used.
        device: Where to train.
        rounds: Timed steps of each rival.

    Returns:
        A row for each rival: its milliseconds of wall-clock and CPU time, and both as a share of the plain code's.
    """
    moco, encoder, batch, crop = run.moco, run.encoder, run.optimization.batch, run.data.crop
    query, key = torch.randn(2, batch, 3, crop, crop, device=device)
    same: dict[str, Any] = {
        "width": encoder.width,
        "queue": moco.queue,
        "momentum": moco.momentum,
        "temperature": moco.temperature,
    }
    plain = PlainMoCo(encoder.arch, encoder.dim, **same).to(device)
    steps = {"plain": _step(plain, lambda: plain(query, key), run)}
    for channels_last in (False, True):
        views = Views(
            lay_out_images(query, channels_last=channels_last), lay_out_images(key, channels_last=channels_last)
        )
        for groups in sorted({1, moco.bn_splits}):
            ours = MoCo(encoder.arch, encoder.dim, bn_splits=groups, **same).to(device)
            lay_out_network(ours, channels_last=channels_last)
            name = f"ours, batch-norm groups: {groups}{', channels last' if channels_last else ''}"
            steps[name] = _step(ours, _loss_of(ours, views), run)
    seconds = seconds_in_turn(steps, rounds)
    return [
        {
            "step": name,
            "ms": round(1000 * taken.wall, 1),
            "cpu ms": round(1000 * taken.cpu, 1),
            "of plain": round(taken.wall / seconds["plain"].wall, 3),
            "of plain, cpu": round(taken.cpu / seconds["plain"].cpu, 3),
            "device": device_name(device),
        }
        for name, taken in seconds.items()
    ]


def _loss_of(model: MoCo, views: Views) -> Callable[[], Tensor]:
    return lambda: model.losses(views)["loss"]


def _step(model: nn.Module, loss: Callable[[], Tensor], run: Run) -> Callable[[], None]:
    """Returns a function that makes one training step of a model."""
    optimizer = build_optimizer([p for p in model.parameters() if p.requires_grad], run.optimization)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step
