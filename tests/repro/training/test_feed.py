"""Batches arrive as the loader makes them; the time that steps wait for them is logged, and long waits are told."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from json_rows import read_rows
from training_samples import CPU, make_training, tiny

from repro.runs.folder import RunFolder
from repro.training import runner
from repro.training.batches.feed import Feed
from repro.training.batches.loading import TwoViews

WAIT, STEP = 3.0, 20.0
"""Seconds on the test's clock; whole numbers, which add up exactly."""


class Clock:
    """Moves only when a test moves it, so that nothing depends on this machine's speed."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def perf_counter(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def slow_loader(clock: Clock) -> Iterator[dict[str, Any]]:
    for number in range(3):
        clock.sleep(WAIT)
        yield {"query": torch.full((2, 3, 4, 4), number), "epoch": torch.tensor([0, 0])}
    clock.sleep(WAIT)  # after the last batch, for which no step waits


def test_waits_are_added_up_and_steps_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    feed, clock = Feed(CPU), Clock()
    monkeypatch.setattr("repro.training.batches.feed.time", clock)
    for number, batch in enumerate(feed.batches(slow_loader(clock))):
        assert (batch["query"] == number).all()
        clock.sleep(STEP)
        if number == 1:
            assert feed.waited() == 2 * WAIT
            assert feed.waited() == 0
    assert feed.waited() == WAIT


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The log's warnings."""
    lines: list[str] = []
    monkeypatch.setattr(logging.getLogger("salmask"), "warning", lambda line, *words: lines.append(line % words))
    return lines


def trained(tmp_path: Path) -> list[dict[str, float]]:
    run = tiny(changes={"optimization.epochs": 2})
    folder = RunFolder(tmp_path / "run")
    make_training(run, folder).run()
    return read_rows(folder.metrics)


def test_each_line_of_the_log_has_the_share_that_was_waited(tmp_path: Path, said: list[str]) -> None:
    rows = trained(tmp_path)
    assert len(rows) == 4
    assert all(0 < row["data_wait"] < 1 for row in rows)


def test_long_waits_are_said_once_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    read = TwoViews.__getitem__

    def slowly(self: TwoViews, item: tuple[int, int]) -> dict[str, Any]:
        time.sleep(0.03)
        return read(self, item)

    monkeypatch.setattr(TwoViews, "__getitem__", slowly)
    monkeypatch.setattr("repro.training.runner.usable_cores", lambda: 7)
    rows = trained(tmp_path)
    assert all(row["data_wait"] > 0.1 for row in rows)
    (line,) = [line for line in said if "wait" in line]
    assert line.startswith(
        f"steps wait for data {rows[1]['data_wait']:.0%} of the time; mend: more machine.workers (0 "
    )
    assert "now, 7 cores), " in line
    assert line.endswith("augmentation.resizer=torch, `salmask data cache` with data.cached_side")


def test_short_waits_are_not_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setattr(Feed, "waited", lambda self: 1e-6)
    rows = trained(tmp_path)
    assert all(row["data_wait"] < 0.1 for row in rows)
    assert said == []


def test_the_first_line_warns_of_nothing(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    waits = iter([0.0, 1e6] + 100 * [0.0])  # waits before the epoch, in its first step, and later
    monkeypatch.setattr(Feed, "waited", lambda self: next(waits))
    rows = trained(tmp_path)
    assert rows[0]["data_wait"] == 1
    assert said == []


def test_where_steps_wait_for_data_each_mend_that_applies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "usable_cores", lambda: 8)

    def mend(task: str, device: str, workers: int, decoder: object = None, *, resident: bool = False) -> str:
        monkeypatch.setattr(runner, "libjpeg_turbo", lambda: decoder)
        machine = SimpleNamespace(workers=workers, resident=resident)
        training = SimpleNamespace(machine=machine, device=torch.device(device), task=task)
        return runner.Training._data_mend(training)

    more, resized = "more machine.workers (2 now, 8 cores)", "augmentation.resizer=torch, `salmask data cache` with"
    resident = "machine.resident=true where the data fits into the GPU's memory"
    every = f"{more}, install simplejpeg, {resized} data.cached_side, {resident}"
    assert mend("pretrain", "cuda", 2) == every
    assert mend("pretrain", "cuda", 8, object(), resident=True) == f"{resized} data.cached_side"
    assert mend("linear", "cpu", 2, object()) == more
    assert mend("linear", "cpu", 8, object()) == "more processor cores"
