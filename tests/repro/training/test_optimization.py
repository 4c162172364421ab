"""LARS against solo-learn's update written out, and the learning rate's schedule against its closed form."""

import copy
from dataclasses import replace
from math import cos, pi
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from repro.settings.choices import Interval, Optimizer, Schedule
from repro.settings.sections import OptimizationSettings
from repro.training.steps.optimization import WARMUP_START, build_optimizer, build_schedulers

SHAPES = ((4, 3, 3, 3), (4,), (5, 7), (5,))
LARS = OptimizationSettings(optimizer=Optimizer.lars, lr=0.3, momentum=0.9, weight_decay=0.1, lars_eta=0.02)


def tensors(seed: int, scale: float) -> list[Tensor]:
    generator = Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator) for shape in SHAPES]


def slow_lars(parameters: list[Tensor], steps: list[list[Tensor]], settings: OptimizationSettings) -> list[Tensor]:
    """solo-learn solo/utils/lars.py with eta, clip_lars_lr and exclude_bias_n_norm_lars, in double precision."""
    weights = [p.double().clone() for p in parameters]
    velocities: list[Tensor | None] = [None] * len(parameters)
    for gradients in steps:
        for i, gradient in enumerate(gradients):
            p, g = weights[i], gradient.double()
            if p.ndim != 1 and p.norm() != 0 and g.norm() != 0:
                rate = settings.lars_eta * p.norm() / (g.norm() + p.norm() * settings.weight_decay + 1e-8)
                g = (g + settings.weight_decay * p) * min(float(rate) / settings.lr, 1.0)
            v = velocities[i]
            velocities[i] = v = g if v is None else settings.momentum * v + g
            weights[i] = p - settings.lr * v
    return weights


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0], ids=["clipped", "one", "small rate"])
@pytest.mark.parametrize("changes", [{}, {"weight_decay": 0.0}, {"momentum": 0.0}, {"lars_eta": 0.001}], ids=str)
def test_lars_is_solo_learns(scale: float, changes: dict[str, float]) -> None:
    settings = replace(LARS, **changes)
    start = tensors(0, 1.0)
    steps = [tensors(seed, scale) for seed in (1, 2, 3)]
    parameters = [nn.Parameter(p.clone()) for p in start]
    optimizer = build_optimizer(parameters, settings)
    for gradients in steps:
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient.clone()
        optimizer.step()
    for p, expected in zip(parameters, slow_lars(start, steps, settings), strict=True):
        torch.testing.assert_close(p.detach().double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("scale", "moved"), [(1e-3, None), (100.0, 0.02)], ids=["clipped", "not clipped"])
def test_the_layer_wise_rate_is_the_share_of_the_weights_unless_the_learning_rate_is_smaller(
    scale: float, moved: float | None
) -> None:
    settings = OptimizationSettings(optimizer=Optimizer.lars, lr=0.3, weight_decay=0.0)
    start, gradient = tensors(0, 1.0)[0], tensors(1, scale)[0]
    weights = nn.Parameter(start.clone())
    weights.grad = gradient.clone()
    build_optimizer([weights], settings).step()
    expected = 0.3 * gradient if moved is None else moved * start.norm() * gradient / gradient.norm()
    torch.testing.assert_close(start - weights.detach(), expected, rtol=1e-4, atol=1e-6)


def test_lars_momenta_go_round() -> None:
    def step(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], seed: int) -> None:
        for p, gradient in zip(parameters, tensors(seed, 1.0), strict=True):
            p.grad = gradient
        optimizer.step()

    parameters = [nn.Parameter(p) for p in tensors(0, 1.0)]
    optimizer = build_optimizer(parameters, LARS)
    step(optimizer, parameters, 1)
    copies = [nn.Parameter(p.detach().clone()) for p in parameters]
    resumed = build_optimizer(copies, LARS)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch shares tensors that need no conversion
    step(optimizer, parameters, 2)
    step(resumed, copies, 2)
    assert all(torch.equal(a, b) for a, b in zip(parameters, copies, strict=True))


def test_sgd_decays_every_parameter() -> None:
    (group,) = build_optimizer([nn.Parameter(p) for p in tensors(0, 1.0)], OptimizationSettings()).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"], len(group["params"])) == (0.015, 0.9, 1e-4, 4)


def course(settings: OptimizationSettings, steps_per_epoch: int) -> list[float]:
    """The learning rate of every step, as mmengine's hook steps the schedulers."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], settings.lr)
    schedulers = build_schedulers(optimizer, settings, steps_per_epoch)
    rates = []
    for _ in range(settings.epochs):
        for _ in range(steps_per_epoch):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            _advance(schedulers, by_epoch=False)
        _advance(schedulers, by_epoch=True)
    return rates


def _advance(schedulers: list[Any], *, by_epoch: bool) -> None:
    for scheduler in schedulers:
        if scheduler.by_epoch == by_epoch:
            scheduler.step()


@pytest.mark.parametrize(("interval", "units"), [(Interval.step, 100), (Interval.epoch, 20)])
def test_warm_up_and_cosine_are_solo_learns(interval: Interval, units: int) -> None:
    settings = OptimizationSettings(epochs=20, lr=0.3, warmup_share=0.2, interval=interval)
    warmup = units // 5
    start = WARMUP_START * 0.3
    expected = [start + (0.3 - start) * t / (warmup - 1) for t in range(warmup)]
    expected += [0.15 * (1 + cos(pi * t / (units - warmup))) for t in range(units - warmup)]
    each = 100 // units  # an epoch has five steps
    assert course(settings, 5) == pytest.approx([rate for rate in expected for _ in range(each)], rel=1e-6)


def test_the_supervised_rate_falls_tenfold_at_30_60_and_90() -> None:
    rates = course(OptimizationSettings(epochs=100, lr=0.1, schedule=Schedule.steps), 1)
    assert rates == pytest.approx([0.1] * 30 + [0.01] * 30 + [0.001] * 30 + [0.0001] * 10)
    short = course(OptimizationSettings(epochs=10, lr=0.1, schedule=Schedule.steps), 2)
    assert short == pytest.approx([0.1] * 6 + [0.01] * 6 + [0.001] * 6 + [0.0001] * 2)  # steps scale with the epochs
    within = OptimizationSettings(epochs=5, lr=0.1, schedule=Schedule.steps, interval=Interval.step)
    assert course(within, 4) == pytest.approx(short)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_the_shortest_trainings_have_a_schedule_too(epochs: int, share: float) -> None:
    for interval in Interval:
        rates = course(OptimizationSettings(epochs=epochs, lr=0.3, warmup_share=share, interval=interval), 2)
        assert max(rates) == pytest.approx(0.3)
        assert min(rates) > 0


@pytest.mark.parametrize("interval", Interval)
@pytest.mark.parametrize("share", [0.0, 0.35, 0.5])
@pytest.mark.parametrize("epochs", [1, 2, 3, 10])
@pytest.mark.parametrize("step_share", [0.1, 0.3, 1.0])
def test_no_step_falls_before_the_peak(interval: Interval, share: float, epochs: int, step_share: float) -> None:
    settings = OptimizationSettings(
        epochs=epochs,
        lr=0.3,
        schedule=Schedule.steps,
        step_share=step_share,
        warmup_share=share,
        interval=interval,
    )
    rates = course(settings, 3)
    peak = rates.index(max(rates))
    assert rates[peak] == pytest.approx(0.3)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_a_single_supervised_epoch_trains_at_the_whole_rate() -> None:
    assert course(OptimizationSettings(epochs=1, lr=0.1, schedule=Schedule.steps), 4) == [0.1] * 4
    warm = OptimizationSettings(epochs=10, lr=0.1, schedule=Schedule.steps, warmup_share=0.4)
    rises = [0.1 * (WARMUP_START + (1 - WARMUP_START) * epoch / 3) for epoch in range(4)]
    assert course(warm, 1) == pytest.approx([*rises, *[0.01] * 2, *[0.001] * 3, 0.0001])


def test_momentum_and_warm_up_start_from_the_peak_rate() -> None:
    rates = course(OptimizationSettings(epochs=200, lr=0.3, warmup_share=0.05, interval=Interval.step), 4)
    assert rates[0] == pytest.approx(3e-5)  # solo-learn's warmup_start_lr
    assert rates.index(max(rates)) in (39, 40)  # ten epochs of four steps


def test_a_warm_up_of_two_steps_is_one_and_of_a_single_step_is_none() -> None:
    one, two = (course(OptimizationSettings(epochs=10, lr=0.1, warmup_share=share), 1) for share in (0.1, 0.2))
    assert one[:2] == pytest.approx([0.1, 0.05 * (1 + cos(pi / 10))])
    assert two[:3] == pytest.approx([WARMUP_START * 0.1, 0.1, 0.1])
    # Whatever the share, there is a step at the peak after the warm-up.
    nearly_all = OptimizationSettings(epochs=3, lr=0.1, warmup_share=0.99)
    assert course(nearly_all, 1) == pytest.approx([WARMUP_START * 0.1, 0.1, 0.1])


@pytest.mark.parametrize("share", [0.4, 0.49, 0.21])
def test_every_step_within_the_training_is_taken(share: float) -> None:
    rates = course(OptimizationSettings(epochs=100, lr=0.1, schedule=Schedule.steps, step_share=share), 1)
    falls = [epoch for epoch in range(1, 100) if rates[epoch] < rates[epoch - 1]]
    assert falls == [round(share * 100 * n) for n in range(1, 5) if share * n < 1]
