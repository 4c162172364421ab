"""Checkpoints written in the background: of the moment when they were requested, one at a time, failures told."""

import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_samples import CPU, make_training, newest, tiny

from repro.errors import UserError
from repro.runs.folder import RunFolder
from repro.runs.step_files import checkpoints
from repro.training.checkpoints.writer import BackgroundWriter, copied_to_host
from repro.training.watching.hooks import MetricsFile


def test_a_snapshot_is_of_the_moment_it_was_asked_for() -> None:
    weights, gate, written = torch.zeros(3), threading.Event(), []

    def save(content: dict[str, Any]) -> None:
        gate.wait()
        written.append(content)

    writer = BackgroundWriter()
    writer.write({"model": {"w": weights}, "generators": [(1, weights)], "step": 1}, save)
    weights.add_(1)  # the next step, while the disk is still busy
    gate.set()
    writer.wait()
    (content,) = written
    assert content["step"] == 1
    assert torch.equal(content["model"]["w"], torch.zeros(3))
    assert torch.equal(content["generators"][0][1], torch.zeros(3))


def test_a_copy_keeps_what_a_state_dict_says_of_itself() -> None:
    state = nn.BatchNorm1d(2).state_dict()
    copy = copied_to_host({"model": state})["model"]
    assert type(copy) is OrderedDict
    assert copy._metadata == state._metadata  # type: ignore[attr-defined]
    assert all(torch.equal(copy[name], value) and copy[name] is not value for name, value in state.items())


def test_one_snapshot_waits_for_the_one_before() -> None:
    under_way, most, lock = 0, 0, threading.Lock()

    def save(_: dict[str, Any]) -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        threading.Event().wait(0.01)
        with lock:
            under_way -= 1

    writer = BackgroundWriter()
    for step in range(5):
        writer.write({"step": step}, save)
    writer.wait()
    assert (most, under_way) == (1, 0)


def test_a_failed_write_is_told_once() -> None:
    def fail(_: dict[str, Any]) -> None:
        raise UserError("the disk is full")

    writer = BackgroundWriter()
    writer.write({}, fail)
    with pytest.raises(UserError, match="the disk is full"):
        writer.write({}, fail)
    writer.wait()  # the second one was not started


def test_a_wait_that_is_broken_off_leaves_the_write_to_the_next() -> None:
    gate, written = threading.Event(), []

    def save(content: dict[str, Any]) -> None:
        gate.wait()
        written.append(content)

    writer = BackgroundWriter()
    writer.write({"step": 1}, save)
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(Future, "result", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            writer.wait()
    threading.Timer(0.1, gate.set).start()
    writer.wait()
    assert written == [{"step": 1}]


def test_a_writer_that_cannot_be_closed_does_not_leave_a_checkpoint_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(MetricsFile):
        """A writer of scalars whose service is away."""

        def close(self) -> None:
            raise OSError("the service is away")

    slow, save = threading.Event(), torch.save
    monkeypatch.setattr(torch, "save", lambda *arguments: (slow.wait(0.2), save(*arguments)))
    folder = RunFolder(tmp_path)
    training = make_training(tiny("mocov2", {"optimization.epochs": 1}), folder, device=CPU)
    with pytest.raises(OSError, match="the service is away"):
        replace(training, more_writers=[Broken(tmp_path / "w.jsonl")]).run()
    assert newest(folder.checkpoints)["step"] == 2


def test_a_training_ends_with_its_last_checkpoint_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = threading.Event()
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda *arguments: (slow.wait(0.2), save(*arguments)))
    folder = RunFolder(tmp_path)
    make_training(tiny("mocov2", {"optimization.epochs": 1}), folder, device=CPU).run()
    assert newest(folder.checkpoints)["step"] == 2


def test_a_disk_that_fills_up_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    save = torch.save

    def fill(content: dict[str, Any], file: Any) -> None:
        calls.append(content["step"])
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        save(content, file)

    monkeypatch.setattr(torch, "save", fill)
    folder = RunFolder(tmp_path)
    with pytest.raises(UserError, match="is full"):
        make_training(tiny("mocov2"), folder, device=CPU).run()
    assert [path.name for path in checkpoints(folder.checkpoints)] == ["step_00000002.pth", "step_00000001.pth"]
    assert set(calls) == {1, 2, 3}  # the third one twice, to find out how large it would have been
