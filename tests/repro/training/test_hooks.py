"""Hooks of a training: what they write, how often, and when the check for finite numbers is read."""

import errno
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.logging import MessageHub

from repro.errors import UserError
from repro.filesystem.files import write_json
from repro.runs.folder import PROGRESS_SECONDS, RunFolder
from repro.training.watching.hooks import (
    DivergenceError,
    FiniteGuard,
    Heartbeat,
    RuntimeInfo,
    Throughput,
    restore_window,
)


def failing(code: int) -> Any:
    def write(path: Path, _: object) -> None:
        raise UserError(f"cannot write {path}", mend="") from OSError(code, os.strerror(code))

    return write


def test_a_status_that_cannot_be_written_is_no_reason_to_lose_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hook, runner = Heartbeat(RunFolder(tmp_path), "pretrain"), SimpleNamespace(rank=0, iter=3, max_iters=9)
    monkeypatch.setattr("repro.training.watching.hooks.PROGRESS_SECONDS", 0)
    monkeypatch.setattr("repro.runs.status.write_json", failing(errno.ESTALE))
    with caplog.at_level(logging.WARNING, "salmask"):
        hook.after_train_iter(runner, 0)
    assert caplog.messages == [f"cannot write {tmp_path}/status.json; the training goes on"]
    monkeypatch.setattr("repro.runs.status.write_json", failing(errno.ENOSPC))
    with pytest.raises(UserError, match="cannot write"):
        hook.after_train_iter(runner, 0)
    monkeypatch.setattr("repro.runs.status.write_json", write_json)
    hook.after_train_iter(runner, 0)
    status = RunFolder(tmp_path).status()
    assert status is not None
    assert (status.state, status.step, status.steps) == ("running", 4, 9)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_process_writes_where_a_training_begins_how_far_it_is_and_its_end(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, told = [100.0], []

    def tell(task: str, step: int, steps: int, unit: str, **more: int) -> None:
        told.append((step, more))

    monkeypatch.setattr("repro.training.watching.hooks.time", SimpleNamespace(monotonic=lambda: clock[0]))
    hook = Heartbeat(SimpleNamespace(tell_progress=tell), "pretrain")  # type: ignore[arg-type]
    runner = SimpleNamespace(rank=rank, iter=4, max_iters=9)
    hook.before_train(runner)
    for seconds in (PROGRESS_SECONDS, 1.0, PROGRESS_SECONDS, 0.0):
        clock[0] += seconds
        hook.after_train_iter(runner, 0)
        runner.iter += 1
    hook.after_train(runner)
    # The second step ended more than so many seconds after the first line, the fourth one too soon after the second.
    assert told == ([] if rank else [(4, {"resumed_at": 4}), (6, {}), (8, {})])


@pytest.mark.parametrize("rank", [0, 1])
def test_rates_and_waits_are_of_the_steps_since_the_last_line_and_not_of_the_time_between_epochs(
    rank: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock, waits, told = [0.0], iter([9.0, 0.5, 0.1, 0.3, 9.0, 0.1, 0.1, 2.0]), []
    monkeypatch.setattr("repro.training.watching.hooks.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    feed, hub = (
        SimpleNamespace(waited=lambda: next(waits)),
        SimpleNamespace(update_scalar=lambda *pair: told.append(pair)),
    )
    runner = SimpleNamespace(iter=0, rank=rank, train_dataloader=range(5), message_hub=hub)
    hook = Throughput(feed, batch=32, every=2, mend="more workers")  # type: ignore[arg-type]
    for seconds in (0.5, 0.25):
        clock[0] += 100.0
        hook.before_train_epoch(runner)
        for batch in range(5):
            clock[0] += seconds
            hook.after_train_iter(runner, batch)
            runner.iter += 1
    values = {name: [value for each, value in told if each == name] for name in dict(told)}
    assert values["train/images_per_second"] == pytest.approx([64.0, 64.0, 64.0, 128.0, 128.0, 128.0])
    assert values["train/data_wait"] == pytest.approx([0.5, 0.1, 0.6, 0.2, 0.2, 1.0])
    # A process's first line is of the start of the workers, and the second is no larger than is tolerated.
    assert caplog.messages == ([] if rank else ["steps wait for data 60% of the time; mend: more workers"])


@pytest.mark.parametrize("loss", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("bad", [0, 7])
def test_a_loss_that_is_not_finite_ends_the_training(bad: int, loss: float) -> None:
    guard, runner = FiniteGuard(1), SimpleNamespace(iter=0, train_dataloader=range(9))
    for runner.iter in range(bad):
        guard.before_train_iter(runner, runner.iter)
        guard.after_train_iter(runner, runner.iter, outputs={"loss": torch.tensor(1.0)})
    runner.iter = bad
    guard.before_train_iter(runner, bad)
    with pytest.raises(DivergenceError, match=f"loss of step {bad + 1} is not finite"):
        guard.after_train_iter(runner, bad, outputs={"loss": torch.tensor(loss)})


def test_the_first_bad_step_is_named_though_later_ones_are_as_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    # So that the verdict is read at a log line.
    monkeypatch.setattr("repro.training.watching.hooks.world_size", lambda: 2)
    guard, runner = FiniteGuard(4), SimpleNamespace(iter=0, train_dataloader=range(9))
    for runner.iter, loss in enumerate((float("nan"), 1.0, float("inf"))):
        guard.before_train_iter(runner, runner.iter)
        guard.after_train_iter(runner, runner.iter, outputs={"loss": torch.tensor(loss)})
    with pytest.raises(DivergenceError, match="loss of step 1 is not finite"):
        guard.after_train_iter(runner, 3, outputs={"loss": torch.tensor(1.0)})


def test_a_checkpoint_has_the_numbers_of_steps_that_no_line_has_told_yet() -> None:
    def told(runner: Any) -> list[float]:
        values: list[float] = runner.message_hub.log_scalars["train/loss"].data[0].tolist()
        return values

    runner, resumed = (SimpleNamespace(train_dataloader=range(9), message_hub=MessageHub(name)) for name in "ab")
    info = RuntimeInfo(4)
    for step in range(6):
        info.after_train_iter(runner, step, outputs={"loss": torch.tensor(float(step))})
    assert told(runner) == [0.0, 1.0, 2.0, 3.0]
    window = info.window(runner)
    assert window == {"train/loss": [2.0, 3.0, 4.0, 5.0]}
    restore_window(resumed, window)
    assert told(resumed) == [2.0, 3.0, 4.0, 5.0]
    info.after_train_iter(runner, 7, outputs={"loss": torch.tensor(7.0)})
    assert told(runner) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0]  # none of them twice


def test_the_verdict_is_read_where_the_host_waits_for_a_line_of_the_log_anyway() -> None:
    """In epochs of 5 steps: after every second step and the last one, as the logger does."""
    verdicts: list[int] = []
    guard, info = FiniteGuard(2), RuntimeInfo(2)
    guard.verify = lambda: verdicts.append(step)  # type: ignore[method-assign]
    guard._first_bad = SimpleNamespace(is_cuda=True)  # type: ignore[assignment]
    lines: list[int] = []
    info._hand_on = lambda _: lines.append(step)  # type: ignore[method-assign]
    for step in range(10):
        runner = SimpleNamespace(iter=step, train_dataloader=range(5))
        for hook in (info, guard):
            hook.after_train_iter(runner, step % 5)
    assert verdicts == lines == [1, 3, 4, 6, 8, 9]
