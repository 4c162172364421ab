"""A launch executes nothing that somebody else could have written."""

import os
import pickle
import stat
from pathlib import Path
from typing import Any

import pytest
from error_samples import message_of
from launch_samples import graph_for, launch
from local_samples import launched
from stand_in_slurm import StandInSlurm

from repro.errors import UserError
from repro.jobs import PROGRAM
from slurm import start
from slurm.jobs.calls import CALLS, read_call, write_calls
from slurm.jobs.job import Call
from slurm.retry import graph_of
from slurm.sweep_folder.ledger import Ledger


class Evil:
    """A pickle that runs a command when it is loaded."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("evil-was-here",)


def test_a_job_runs_nothing_that_somebody_else_could_have_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "logs" / "s-pretrain-1"
    call = Call(tmp_path / "m/s0-ab", "pretrain", PROGRAM.task, 3, ("table1",))
    write_calls(folder, {3: call})
    assert folder.stat().st_mode & 0o777 == 0o700
    assert read_call(folder, 3) == call
    with pytest.raises(UserError, match="has no job 2"):
        read_call(folder, 2)
    gone = f"cannot read {tmp_path / 'gone'}: No such file or directory; mend: salmask retry"
    assert message_of(lambda: read_call(tmp_path / "gone", 3)) == gone
    for path in (folder, folder / CALLS):
        mode = path.stat().st_mode
        path.chmod(mode | 0o020)
        with pytest.raises(UserError, match="may have been written by somebody else"):
            read_call(folder, 3)
        assert start.main(folder) == 2
        assert "Traceback" not in capsys.readouterr().err
        path.chmod(mode)
        if os.geteuid() == 0:
            os.chown(path, 12345, -1)
            with pytest.raises(UserError, match="may have been written by somebody else"):
                read_call(folder, 3)
            os.chown(path, 0, -1)


def test_each_job_finds_its_own_call_by_its_number(stand_in: StandInSlurm, tmp_path: Path) -> None:
    """For a single job, an array, and a part of an array, which has the indices of its parents."""
    graph = graph_for(tmp_path, seeds=3)
    stand_in.tell("room", "4")
    launch(graph)
    stand_in.tell("room", "100")
    launch(graph)
    ledger = Ledger(graph.sweep_folder)
    numbers = set()
    for entry in ledger.newest().values():
        number = entry.job.partition("_")[2]
        call = read_call(ledger.logs / entry.submission, int(number or 0))
        assert isinstance(call, Call)
        assert (call.folder, call.task) == ((graph.sweep_folder / entry.folder).resolve(), entry.task)
        numbers.add(number)
    assert numbers >= {"", "0", "1", "2"}


def test_a_sweep_from_elsewhere_is_not_executed(
    stand_in: StandInSlurm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = graph_for(tmp_path, seeds=1)
    launch(graph)
    monkeypatch.chdir(tmp_path)
    ledger = Ledger(graph.sweep_folder)
    report = ledger.newest()[graph.report]
    for name in (f"{report.job}_submitted.pkl", "calls.pkl"):
        (ledger.logs / report.submission / name).write_bytes(pickle.dumps(Evil()))
    assert graph_of(ledger, [graph.key(graph.jobs[0])])[0].tables == graph.tables
    launch(graph)
    assert not (tmp_path / "evil-was-here").exists()
    graph.sweep_folder.chmod(0o777)
    with pytest.raises(UserError, match="anybody may write to"):
        launch(graph)
    graph.sweep_folder.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(graph.sweep_folder, 12345, -1)
        with pytest.raises(UserError, match="is the sweep of another user"):
            launch(graph)


def test_what_a_launch_makes_is_closed_to_others_whatever_the_umask(
    stand_in: StandInSlurm, programs: Path, tmp_path: Path
) -> None:
    """By a umask of 000, as some containers have it, a launch used to refuse the folder that it had made itself."""
    umask = os.umask(0)
    try:
        launch(graph_for(tmp_path / "there", seeds=1))
        os.umask(0)
        launched(graph_for(tmp_path / "here", seeds=1), "record")
    finally:
        os.umask(umask)
    made = [*tmp_path.glob("*here/**/*")]
    assert {"submission.sh", "seen-pretrain-0.json"} <= {path.name for path in made}
    assert not [path for path in made if path.stat().st_mode & stat.S_IWOTH]
