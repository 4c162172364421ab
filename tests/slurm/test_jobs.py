"""What jobs carry out: each name given to the launcher is that of a function which accepts a job's arguments."""

import inspect
import os
import pkgutil
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from run_samples import finished
from stand_in_slurm import StandInSlurm

from repro.filesystem.paths import CODE_ROOT
from repro.jobs import PROGRAM
from repro.runs.folder import RunFolder
from repro.runs.stopping import SIGNALS, STOP
from slurm.jobs.job import Call, go_back, preempted
from slurm.jobs.program import Program
from slurm.sweep_folder.ledger import REPORT

CALLS = {
    "task": (("run", "path", "task"), {"wait": 1.0}),
    "report": (("place", "tables"), {}),
    "examine": (("place",), {"gpus": 0, "cpus": 1, "needs": None}),
    "measure": (("run",), {"warm_up": 1, "steps": 2}),
}


def test_every_name_has_a_call() -> None:
    assert set(CALLS) == {field.name for field in fields(Program)}


@pytest.mark.parametrize("name", CALLS)
def test_a_name_is_that_of_a_function_that_takes_what_a_job_hands_it(name: str) -> None:
    positional, keywords = CALLS[name]
    signature = inspect.signature(pkgutil.resolve_name(getattr(PROGRAM, name)))
    bound = signature.bind(*positional, **keywords)  # raises TypeError if the arguments do not fit
    assert tuple(bound.arguments)[: len(positional)] == positional


@pytest.mark.slow
def test_a_pretraining_does_not_wait_for_what_evaluations_import() -> None:
    # Importing scikit-learn alone takes seconds on a busy machine, for each of a sweep's jobs.
    unused = {"sklearn", "scipy", "pandas", "matplotlib", "timm", "detectron2"}
    code = f"import sys, baselines, repro.jobs, repro.training.pretraining; print({unused} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "set()\n"


def test_the_call_of_a_report_renders_the_sweeps_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = tmp_path / "sweep"
    for seed in (0, 1):
        finished(sweep, "mocov2", seed, {("imagenet100", "top1"): 70.0 + seed})
    Call(sweep, REPORT, PROGRAM.report, tables=("table1",))()
    assert "70.50 ± 0.71 (2)" in capsys.readouterr().out
    assert "70.50 ± 0.71 (2)" in (sweep / "tables" / "table1.md").read_text()
    status = RunFolder(sweep).status(REPORT)
    assert status is not None
    assert status.state == "done"


STRUCK = """
import os, signal, sys

class Strike:
    def find_spec(self, name, path=None, target=None):
        if name == "slurm.jobs":
            for number in {numbers}:
                os.kill(os.getpid(), number)

sys.meta_path.insert(0, Strike())
"""


@pytest.mark.parametrize(
    ("numbers", "requeued"), [((signal.SIGUSR2,), True), ((signal.SIGTERM, signal.SIGUSR2), True), ((), False)]
)
def test_a_job_that_is_asked_to_stop_while_it_imports_what_answers_goes_back_to_the_queue(
    stand_in: StandInSlurm, tmp_path: Path, numbers: tuple[signal.Signals, ...], requeued: bool
) -> None:
    """A preemption in a job's first moments, or in its first minute on a busy file system, used to end it for good."""
    (tmp_path / "sitecustomize.py").write_text(STRUCK.format(numbers=[*map(int, numbers)]))
    variables = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(CODE_ROOT)]), "SLURM_JOB_ID": "812"}
    ended = subprocess.run(
        [sys.executable, "-u", "-m", "slurm.start", str(tmp_path / "gone")],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == (0 if requeued else 2), ended.stderr
    assert stand_in.calls("scontrol") == ["scontrol requeue 812"] * requeued


def test_nothing_interrupts_the_question_whether_a_signal_announces_a_preemption(
    stand_in: StandInSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "kill -TERM $PPID; kill -USR2 $PPID; sleep 0.2; echo JobState=RUNNING PreemptTime=2026-11-27T08:00:00"
    (stand_in.place / "scontrol").write_text(f"#!/bin/sh\n{words}\n")
    monkeypatch.setenv("SLURM_JOB_ID", "812")
    monkeypatch.setattr(STOP, "signal", 0)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        STOP.install()
        assert preempted()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_one_process_of_several_sends_their_job_back(stand_in: StandInSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other processes exit with 0: if one failed, srun would end the one that still talks to Slurm."""
    monkeypatch.setenv("SLURM_JOB_ID", "812")
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for process in ("0", "1"):
            monkeypatch.setenv("SLURM_PROCID", process)
            with pytest.raises(SystemExit) as end:
                go_back()
            assert end.value.code == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert stand_in.calls("scontrol") == ["scontrol requeue 812"]
