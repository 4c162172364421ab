"""The optimizer that `OptimizationSettings` describe, and the schedule of its learning rate."""

from collections.abc import Iterable
from typing import Any

import torch
from mmengine.optim import CosineAnnealingLR, LinearLR, MultiStepLR, _ParamScheduler
from torch import nn

from repro.settings.choices import Interval, Optimizer, Schedule
from repro.settings.sections import OptimizationSettings

WARMUP_START = 1e-4
"""Share of the learning rate with which a warm-up begins (solo-learn: 3e-5 of 0.3)."""


def build_optimizer(parameters: Iterable[nn.Parameter], settings: OptimizationSettings) -> torch.optim.Optimizer:
    """Builds the optimizer that the settings name.

    SGD is as in MoCo: weight decay on all parameters, and a learning rate that does not scale with the batch (released
    main_moco.py). For LARS see `build_lars`.

    Args:
        parameters: What to train.
        settings: Optimizer, rate, momentum, weight decay.
    """
    if settings.optimizer is Optimizer.lars:
        return build_lars(parameters, settings.lr, settings.momentum, settings.weight_decay, settings.lars_eta)
    return torch.optim.SGD(parameters, settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)


def build_lars(
    parameters: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float, eta: float
) -> torch.optim.Optimizer:
    """Builds LARS as SimCLR's reimplementations use it (solo-learn solo/utils/lars.py, ADIOS src/utils/lars.py).

    A matrix or kernel p with gradient g moves by `lr * min(eta |p| / (|g| + wd |p| + 1e-8) / lr, 1) * (g + wd p)`,
    under momentum. Biases and the scales of norms, all of one dimension, follow plain SGD without weight decay.

    Args:
        parameters: What to train.
        lr: Learning rate, which is also the upper limit of the layer-wise rate (their `clip_lr`).
        momentum: Of SGD.
        weight_decay: wd.
        eta: Trust coefficient.

    Returns:
        The optimizer, with one group of matrices and kernels and one of one-dimensional parameters, unless it is empty.
    """
    from timm.optim import Lars  # imported here, as it takes a quarter of a second

    trainable = list(parameters)  # read twice
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if p.ndim != 1], "weight_decay": weight_decay, "always_adapt": True},
        {"params": [p for p in trainable if p.ndim == 1], "weight_decay": 0.0, "always_adapt": False},
    ]
    # In timm, `trust_clip` is the `min(..., 1)`, and a group without weight decay has a layer-wise rate only with
    # `always_adapt`.
    return Lars(
        [group for group in groups if group["params"]], lr=lr, momentum=momentum, trust_coeff=eta, trust_clip=True
    )


def build_schedulers(
    optimizer: torch.optim.Optimizer, settings: OptimizationSettings, steps_per_epoch: int
) -> list[_ParamScheduler]:
    """Builds an optimizer's learning-rate schedule: a linear warm-up, if any, then a cosine to 0 or drops to a tenth.

    Args:
        optimizer: Its learning rate is the peak of the schedule.
        settings: Epochs, warm-up, schedule, and whether the rate changes with each epoch or each step.
        steps_per_epoch: Number of batches that the loader gives.

    Returns:
        The schedulers, to be stepped together.
    """
    by_epoch = settings.interval is Interval.epoch
    # By epochs the cosine is MoCo's staircase, `lr * (1 + cos(pi * epoch / epochs)) / 2`: it would reach 0 one epoch
    # after the last.
    total, warmup = _lengths(settings, steps_per_epoch)
    schedulers: list[_ParamScheduler] = []
    if warmup:
        schedulers.append(LinearLR(optimizer, start_factor=WARMUP_START, end=warmup, by_epoch=by_epoch))
    if settings.schedule is Schedule.cosine:
        schedulers.append(
            CosineAnnealingLR(optimizer, T_max=total - warmup, eta_min=0.0, begin=warmup, by_epoch=by_epoch)
        )
    else:
        width = settings.step_share * total
        # Rounded one by one, as multiples of a rounded width would drift away from the shares. None comes before the
        # end of the warm-up, whose peak it would lower, nor at 0, to which the first of a single epoch may be rounded.
        rounded = (max(round(width * n), warmup, 1) for n in range(1, int(1 / settings.step_share) + 1))
        milestones = [milestone for milestone in rounded if milestone < total]
        schedulers.append(MultiStepLR(optimizer, milestones, gamma=0.1, by_epoch=by_epoch))
    return schedulers


def warmup_steps(settings: OptimizationSettings, steps_per_epoch: int) -> int:
    """Returns the steps during which the learning rate rises; arguments as of `build_schedulers`."""
    _, warmup = _lengths(settings, steps_per_epoch)
    return warmup * (steps_per_epoch if settings.interval is Interval.epoch else 1)


def _lengths(settings: OptimizationSettings, steps_per_epoch: int) -> tuple[int, int]:
    """Returns the lengths of the whole schedule and of its warm-up, in the unit of the settings' interval."""
    total = settings.epochs * (1 if settings.interval is Interval.epoch else steps_per_epoch)
    # At least one step of the total is left after the warm-up.
    warmup = min(round(settings.warmup_share * total), total - 1)
    return total, warmup if warmup > 1 else 0  # a rise needs two points
