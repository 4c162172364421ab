"""The cores that a process may use, and how many of them are idle, by the kernel's counters."""

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from repro.processes import control_groups, cores
from repro.processes.cores import busy_seconds, cores_beside, idle_cores, usable_cores

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
    monkeypatch.setattr(cores, "_allotted_cores", lambda: math.inf)
    assert busy_seconds() == (660 + 21) / os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(cores, "LOADS", tmp_path / "none")
    assert busy_seconds() == 0
    assert idle_cores() == 2


def test_cores_are_idle_that_are_not_busy_now_whatever_they_did_before(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [7.0]
    monkeypatch.setattr(
        cores, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=lambda s: clock.append(clock.pop() + s))
    )
    monkeypatch.setattr(cores, "busy_seconds", lambda: 5000.0 + 3 * clock[0])
    monkeypatch.setattr(cores, "_own_cores", lambda: set(range(8)))
    monkeypatch.setattr(cores, "_allotted_cores", lambda: math.inf)
    assert idle_cores() == 5


def test_a_busy_core_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is bound to a core keeps that core busy, whatever else runs on the machine."""
    core = min(cores._own_cores())
    monkeypatch.setattr(cores, "_own_cores", lambda: {core})
    code = f"import os; os.sched_setaffinity(0, [{core}]); print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as busy:
        assert busy.stdout is not None
        busy.stdout.readline()
        before = busy_seconds()
        assert idle_cores() == 1  # at least one
        assert busy_seconds() - before > 0.8 * cores.LOOK_SECONDS
        busy.kill()


@pytest.mark.parametrize(
    ("groups", "files", "usable"),
    [
        ("0::/\n", {}, 8),
        ("0::/pod/a\n", {"pod/a/cpu.max": "max 100000", "pod/cpu.max": "250000 100000", "cpu.max": "max 100000"}, 2),
        ("0::/pod\n", {"pod/cpu.max": "50000 100000"}, 1),  # half a core is one thread
        ("0::/pod\n", {"pod/cpu.max": "1600000 100000"}, 8),
        ("0::/p\udcf6d\n", {"p\udcf6d/cpu.max": "300000 100000"}, 3),  # a name encoded in Latin-1
        (
            "3:cpu,cpuacct:/a\n2:cpuset:/\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
            3,
        ),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_a_container_has_the_cores_whose_time_it_may_take(
    groups: str, files: dict[str, str], usable: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "groups").write_bytes(os.fsencode(groups))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(control_groups, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(control_groups, "HIERARCHIES", tmp_path)
    monkeypatch.setattr(cores, "_own_cores", lambda: set(range(8)))
    assert usable_cores() == usable
    assert cores_beside(6.5) == pytest.approx(min(1.5, cores._allotted_cores()))
    assert cores_beside(2.0) == min(6, cores._allotted_cores())


@pytest.mark.parametrize(("busy", "idle"), [(0.0, 8), (0.4, 8), (0.6, 7), (3.1, 5), (7.9, 1), (64.0, 1)], ids=str)
def test_what_is_left_is_rounded(busy: float, idle: int, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([0.0, busy * 0.3])
    clock = iter([10.0, 10.3])
    monkeypatch.setattr(cores, "busy_seconds", lambda: next(looks))
    monkeypatch.setattr(cores, "_own_cores", lambda: set(range(8)))
    monkeypatch.setattr(cores, "_allotted_cores", lambda: math.inf)
    monkeypatch.setattr(cores, "time", SimpleNamespace(sleep=lambda _: None, monotonic=lambda: next(clock)))
    assert idle_cores() == idle
