"""A training says so where other processes have the cores that its threads need; what is idle is told by the kernel."""

import itertools
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_samples import make_training, tiny

from repro import cores
from repro.cores import busy_seconds, idle_cores
from repro.runs.folder import RunFolder
from repro.training import crowding
from repro.training.crowding import caution

CPU_LINES = "\n".join(
    [
        "cpu  99 99 99 99 99 99 99 99 99 99",
        "cpu0 100 200 300 10000 5000 10 20 30 77 0",
        "cpu1 1 2 3 10000 5000 4 5 6 0 0",
        "cpu12 1000000 0 0 0 0 0 0 0 0 0",
        "intr 5 0",
    ]
)


def test_the_kernels_ticks_of_the_own_cores_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stat").write_text(CPU_LINES)
    monkeypatch.setattr(cores, "LOADS", tmp_path / "stat")
    monkeypatch.setattr(cores, "_own_cores", lambda: {0, 1})
    assert busy_seconds() == (660 + 21) / os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(cores, "LOADS", tmp_path / "none")
    assert busy_seconds() == 0
    assert idle_cores() == 2


def test_a_busy_core_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is bound to a core keeps that one busy, whatever the machine does beside it."""
    core = min(cores._own_cores())
    monkeypatch.setattr(cores, "_own_cores", lambda: {core})
    code = f"import os; os.sched_setaffinity(0, [{core}]); print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as busy:
        assert busy.stdout is not None
        busy.stdout.readline()
        before = busy_seconds()
        assert idle_cores() == 1  # never none
        assert busy_seconds() - before > 0.8 * cores.LOOK_SECONDS
        busy.kill()


@pytest.mark.parametrize(("busy", "idle"), [(0.0, 8), (0.4, 8), (0.6, 7), (3.1, 5), (7.9, 1), (64.0, 1)], ids=str)
def test_what_is_left_is_rounded(busy: float, idle: int, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([0.0, busy * 0.3])
    clock = iter([10.0, 10.3])
    monkeypatch.setattr(cores, "busy_seconds", lambda: next(looks))
    monkeypatch.setattr(cores, "usable_cores", lambda: 8)
    monkeypatch.setattr(
        "repro.cores.time", type("Clock", (), {"sleep": lambda _: None, "monotonic": lambda: next(clock)})
    )
    assert idle_cores() == idle


@pytest.mark.parametrize(
    ("threads", "number", "others", "fewer"),
    [
        (2, 2, 1.0, 1),
        (2, 2, 0.31, 1),
        (2, 2, 0.29, None),
        (1, 2, 2.0, None),  # waits for nobody
        (8, 16, 8.2, None),
        (16, 16, 3.2, 12),
        (8, 16, 15.9, 1),
        (4, 2, 0.1, 1),  # more threads than cores
    ],
)
def test_threads_without_a_core_of_their_own_are_too_many(
    threads: int, number: int, others: float, fewer: int | None
) -> None:
    line = caution(threads, number, others)
    if fewer is None:
        assert line == ""
    else:
        assert line == (
            f"{threads} threads wait for each other, as other processes keep {others:.1f} of {number} cores busy; "
            f"mend: OMP_NUM_THREADS={fewer} before the command"
        )


@pytest.mark.parametrize("crowded", [True, False])
def test_a_training_says_it_once(crowded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # set for real, they would wait on a busy machine
    said: list[str] = []
    monkeypatch.setattr(logging.getLogger("salmask"), "warning", lambda line, *words: said.append(line % words))
    growing = itertools.count(step=1000)
    monkeypatch.setattr(crowding, "busy_seconds", lambda: float(next(growing)) if crowded else 0.0)
    monkeypatch.setattr(crowding, "LOOK_SECONDS", 0.0)
    make_training(tiny(changes={"optimization.epochs": 2}), RunFolder(tmp_path / "run")).run()
    assert len([line for line in said if line.startswith("2 threads wait for each other")]) == crowded
