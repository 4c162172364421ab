"""What the doctor says of a node, as a job on it finds it: each finding has a mend of its own."""

import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from repro.doctor import node
from repro.doctor.machine import FREE_GIB


@pytest.fixture(autouse=True)
def little_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "WRITTEN_MIB", 1)


def test_a_disk_that_is_nearly_full_is_to_be_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**30))
    (finding,) = node._writing(tmp_path)
    assert finding.verdict == "wrong"
    assert finding.mend.startswith(f"free at least {FREE_GIB} GiB")


def test_a_slow_folder_wants_a_faster_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**40))
    monkeypatch.setattr(node, "SLOW_MIB_PER_SECOND", 1e9)
    (finding,) = node._writing(tmp_path)
    assert finding.verdict == "note"
    assert finding.found.endswith("which is slow")
    assert "faster" in finding.mend


def test_a_folder_without_locks_is_to_be_mounted_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**40))
    monkeypatch.setattr(node, "_locks", lambda _: False)
    *_, finding = node._writing(tmp_path)
    assert (finding.check, finding.verdict) == ("locks", "note")
    assert "mount" in finding.mend


def test_a_folder_that_cannot_be_written_to_is_another_scratch(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (finding,) = node._writing(tmp_path / "file")
    assert finding.verdict == "wrong"
    assert "you may write to" in finding.mend


@pytest.mark.parametrize(("seen", "verdict"), [(1, "wrong"), (2, ""), (4, "note")])
def test_a_job_sees_as_many_gpus_as_it_asked_for(seen: int, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    monkeypatch.setattr(node, "check_devices", lambda: [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    _, *findings = node._gpus_of_job(2)
    assert [finding.verdict for finding in findings] == ([verdict] if verdict else [])
    if seen == 1:
        assert findings[0].found == "1 of 2 that the job asked for are visible (0)"


@pytest.mark.parametrize(("ahead", "verdicts"), [(4.0, []), (7.0, ["wrong"])])
def test_a_clock_that_differs_from_the_file_servers_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: float, verdicts: list[str]
) -> None:
    """The states of jobs allow for clocks that differ by `CLOCKS_SECONDS`; a slow disk is not told as a slow clock."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**40))
    real_time, real_fsync = time.time, os.fsync
    monkeypatch.setattr(time, "time", lambda: real_time() + ahead)

    def slow_fsync(descriptor: int) -> None:
        real_fsync(descriptor)
        os.utime(descriptor, (real_time() - 60, real_time() - 60))  # as if it had been written a minute ago

    monkeypatch.setattr(os, "fsync", slow_fsync)
    assert [finding.verdict for finding in node._writing(tmp_path) if finding.check == "clock"] == verdicts
