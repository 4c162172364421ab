"""The plain MoCo v2 that ours is timed against computes the same as ours."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from repro.bench.plain_moco import PlainMoCo, compare_with_plain_moco
from repro.contrastive.moco import MoCo
from repro.masking.views import Views
from repro.settings.run import Run
from repro.settings.sections import DataSettings, EncoderSettings, MocoSettings, OptimizationSettings
from repro.training.steps.optimization import build_optimizer


def trained_losses(model: PlainMoCo | MoCo, views: list[tuple[Tensor, Tensor]]) -> list[float]:
    optimizer = build_optimizer([p for p in model.parameters() if p.requires_grad], OptimizationSettings())
    losses = []
    for query, key in views:
        loss = model(query, key) if isinstance(model, PlainMoCo) else model.losses(Views(query, key))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_the_plain_step_is_ours_with_one_batch_norm_group() -> None:
    torch.manual_seed(0)
    # The momentum is low, and the queue two batches long: the fourth step reads what all others have written.
    plain = PlainMoCo("resnet18", 16, width=8, queue=16, momentum=0.5, temperature=0.2)
    ours = MoCo("resnet18", 16, width=8, queue=16, momentum=0.5, temperature=0.2, bn_splits=1)
    ours.encoder_q.load_state_dict(plain.encoder_q.state_dict())
    ours.encoder_k.network.load_state_dict(plain.encoder_k.state_dict())
    ours.queue.keys.copy_(plain.queue)
    views = [(torch.randn(8, 3, 32, 32), torch.randn(8, 3, 32, 32)) for _ in range(4)]
    assert trained_losses(ours, views) == pytest.approx(trained_losses(plain, views), rel=1e-4)


def test_every_rival_gets_a_row() -> None:
    run = replace(
        Run(),
        data=DataSettings(crop=32),
        encoder=EncoderSettings(arch="resnet18", width=8),
        moco=MocoSettings(queue=16, bn_splits=2),
        optimization=OptimizationSettings(batch=4),
    )
    rows = compare_with_plain_moco(run, torch.device("cpu"))
    groups = ["ours, batch-norm groups: 1", "ours, batch-norm groups: 2"]
    assert [row["step"] for row in rows] == ["plain", *groups, *(f"{name}, channels last" for name in groups)]
    assert rows[0]["of plain"] == 1
    assert min(row["cpu ms"] for row in rows) > 0
