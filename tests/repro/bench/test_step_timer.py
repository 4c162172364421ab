"""The steps of `salmask bench step`, by a clock that only training and loading move."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from repro.bench.step import StepTimer, _EnoughError

LOADING, TRAINING = 3.0, 1.0
"""Seconds of a step."""


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_what_loading_costs_is_told_beside_the_step(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    now = 0.0
    monkeypatch.setattr("repro.bench.step.time.perf_counter", lambda: now)
    trained: list[Any] = []

    def make_step(batch: Any) -> None:
        nonlocal now
        now += TRAINING
        trained.append(batch)

    network = nn.Linear(3, 4)
    optimizer = torch.optim.SGD(network.parameters())
    runner = SimpleNamespace(model=network, optim_wrapper=optimizer, make_step=make_step)
    timer = StepTimer(2, steps)

    def train() -> None:
        nonlocal now
        for number in range(100):
            now += LOADING
            make_step(number)
            runner.iter = number
            timer.after_train_iter(runner, number, number)

    with pytest.raises(_EnoughError):
        train()
    assert trained == [*range(2 + steps), *[1 + steps] * max(1, steps // 2)]  # the last batch again
    assert (timer.seconds, timer.seconds_repeated) == (LOADING + TRAINING, TRAINING)
    assert timer.state_bytes == 4 * (3 * 4 + 4)
