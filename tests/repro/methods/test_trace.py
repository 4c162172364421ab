"""Traces of steps: a table of their kernels, and times that belong to the steps.

A profiler leaves threads in the process, and `test_drill.py` forks from it. Test files run in the order of their names,
so that the drill has ended before this file begins.
"""

import re
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from training_samples import CPU, tiny

from baselines import build_learner
from repro.bench.trace import write_trace
from repro.methods.cost import trace


@pytest.mark.slow
def test_a_trace_lists_where_the_time_goes(tmp_path: Path) -> None:
    run = tiny("mocov2")
    for _ in range(2):
        trace(run, build_learner, CPU, tmp_path / "trace.txt")
    first, second = (tmp_path / "trace.txt").read_text().strip().split("\n\n")
    for table in (first, second):
        title, head, *kernels = table.splitlines()
        assert title.startswith("mocov2: ")
        assert head.split() == ["ms", "share", "calls", "kernel"]
        times = [float(line.split()[0]) for line in kernels]
        assert times == sorted(times, reverse=True)
        assert any("convolution_backward" in line for line in kernels[:5])


def test_a_trace_without_kernels_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It told of 0.0 ms in 0 kernels where CUPTI had reported none."""
    nothing = nullcontext(SimpleNamespace(key_averages=list))
    monkeypatch.setattr("repro.bench.trace.profile", lambda **_: nothing)
    write_trace(lambda: None, "a step", tmp_path / "trace.txt", on_gpu=True)
    (line,) = (tmp_path / "trace.txt").read_text().strip().splitlines()
    assert re.match(r"a step: [\d.]+ ms a step while traced; the trace holds no kernels, as CUPTI", line)


def test_the_profilers_own_start_is_no_time_of_a_step(tmp_path: Path) -> None:
    calls: list[float] = []

    def step() -> None:
        # The profiler's setup runs in the first step.
        time.sleep(0.01 if calls else 1.0)
        calls.append(float(torch.ones(8).exp().sum()))

    write_trace(step, "a step", tmp_path / "trace.txt", on_gpu=False)
    title, _, *kernels = (tmp_path / "trace.txt").read_text().splitlines()
    assert 10 <= float(title.removeprefix("a step: ").split()[0]) < 300  # ms
    (exponential,) = (line for line in kernels if line.endswith(" aten::exp"))
    assert exponential.split()[2] == "1"  # calls in a step
