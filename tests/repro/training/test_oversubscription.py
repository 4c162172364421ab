"""A training says so if its threads outnumber the cores they have."""

import itertools
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from training_samples import make_training, tiny

from repro.runs.folder import RunFolder
from repro.training.watching import oversubscription
from repro.training.watching.oversubscription import OversubscribedCores, caution


@pytest.mark.parametrize(
    ("threads", "number", "fewer"),
    [
        (2, 1.0, 1),
        (2, 1.69, 1),
        (2, 1.71, None),
        (1, 0.0, None),  # a single thread waits for no other
        (8, 7.8, None),
        (16, 12.8, 12),
        (8, 0.1, 1),
        (4, 2.0, 2),  # more threads than cores
        (2, -3.0, 1),
    ],
)
def test_threads_without_a_core_of_their_own_are_too_many(threads: int, number: float, fewer: int | None) -> None:
    line = caution(threads, number)
    if fewer is None:
        assert line == ""
    else:
        assert line == (
            f"{threads} threads wait for each other: other processes, or a limit, leave {max(number, 0):.1f} cores to "
            f"them; mend: OMP_NUM_THREADS={fewer} before the command"
        )


@pytest.mark.parametrize("rank", [0, 1])
def test_it_looks_for_twenty_seconds_at_a_time_on_the_first_process(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, hook, looks = [0.0], OversubscribedCores(), []
    seconds = SimpleNamespace(monotonic=lambda: clock[0], process_time=lambda: clock[0])
    monkeypatch.setattr(oversubscription, "time", seconds)
    monkeypatch.setattr(oversubscription, "busy_seconds", lambda: 3 * clock[0])  # two by other processes
    monkeypatch.setattr(oversubscription, "cores_beside", lambda others: looks.append((clock[0], others)) or 64.0)
    hook.before_train(SimpleNamespace(rank=rank))
    for clock[0] in (5.0, 6.0, 24.0, 25.0, 26.0, 44.0, 46.0):
        hook.after_train_iter(None, 0)
    assert looks == ([] if rank else [(25.0, 2.0), (46.0, 2.0)])


@pytest.mark.parametrize("busy", [True, False])
def test_a_training_says_it_once(busy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # a real setting would make threads wait on a busy machine
    said: list[str] = []
    monkeypatch.setattr(logging.getLogger("salmask"), "warning", lambda line, *words: said.append(line % words))
    growing = itertools.count(step=1000)
    monkeypatch.setattr(oversubscription, "cores_beside", lambda busy: 2 - max(0.0, busy))
    monkeypatch.setattr(oversubscription, "busy_seconds", lambda: float(next(growing)) if busy else 0.0)
    monkeypatch.setattr(oversubscription, "LOOK_SECONDS", 0.0)
    make_training(tiny(changes={"optimization.epochs": 2}), RunFolder(tmp_path / "run")).run()
    assert len([line for line in said if line.startswith("2 threads wait for each other: ")]) == busy
