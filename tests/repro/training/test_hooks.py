"""Hooks of a training: what a failed status write does, and when the check for finite numbers is read."""

import errno
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from repro.errors import UserError
from repro.files import write_json
from repro.runs.folder import RunFolder
from repro.training.hooks import DivergenceError, FiniteGuard, Heartbeat, RuntimeInfo


def failing(code: int) -> Any:
    def write(path: Path, _: object) -> None:
        raise UserError(f"cannot write {path}", mend="") from OSError(code, os.strerror(code))

    return write


def test_a_status_that_cannot_be_written_is_no_reason_to_lose_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hook, runner = Heartbeat(RunFolder(tmp_path), "pretrain"), SimpleNamespace(rank=0, iter=3, max_iters=9)
    monkeypatch.setattr("repro.training.hooks.PROGRESS_SECONDS", 0)
    monkeypatch.setattr("repro.runs.folder.write_json", failing(errno.ESTALE))
    with caplog.at_level(logging.WARNING, "salmask"):
        hook.after_train_iter(runner, 0)
    assert caplog.messages == [f"cannot write {tmp_path}/status.json; the training goes on"]
    monkeypatch.setattr("repro.runs.folder.write_json", failing(errno.ENOSPC))
    with pytest.raises(UserError, match="cannot write"):
        hook.after_train_iter(runner, 0)
    monkeypatch.setattr("repro.runs.folder.write_json", write_json)
    hook.after_train_iter(runner, 0)
    status = RunFolder(tmp_path).status()
    assert status is not None
    assert (status.state, status.step, status.steps) == ("running", 4, 9)


@pytest.mark.parametrize("loss", [float("inf"), float("-inf"), float("nan")])
def test_a_loss_that_is_not_finite_ends_the_training(loss: float) -> None:
    guard, runner = FiniteGuard(1), SimpleNamespace(iter=6, train_dataloader=range(9))
    guard._first_bad = torch.tensor(-1)
    for step, value in ((6, 1.0), (7, loss)):
        runner.iter = step
        guard.before_train_iter(runner, step)
        outputs = {"loss": torch.tensor(value)}
        if step == 6:
            guard.after_train_iter(runner, step, outputs=outputs)
        else:
            with pytest.raises(DivergenceError, match="loss of step 8 is not finite"):
                guard.after_train_iter(runner, step, outputs=outputs)


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
