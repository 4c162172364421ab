"""How a launcher sees the ranks of a job on this machine end, and how it ends them."""

import pdb
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import pytest
from waiting import wait_until

from repro.command_line.terminal import Console
from repro.errors import UserError
from repro.runs.stopping import GRACE_SECONDS
from slurm.jobs.job import Call
from slurm.local import processes
from slurm.local.processes import LocalJob, call_and_look, ended_on_exit

WAITS = "sleep 60"
DEAF = "trap '' TERM; echo deaf; while true; do sleep 0.05; done"


@contextmanager
def job_of(*scripts: str) -> Iterator[LocalJob]:
    """A job whose ranks are shells. It is yielded once those that end have ended, and the deaf ones ignore signals."""
    ranks: list[subprocess.Popen[bytes]] = []
    for script in scripts:
        group = ranks[0].pid if ranks else 0
        ranks.append(subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, process_group=group))
    job = LocalJob(Path("logs"), ranks)
    try:
        for script, rank in zip(scripts, ranks, strict=True):
            if script == DEAF:
                assert rank.stdout is not None
                rank.stdout.readline()
            elif script != WAITS:
                rank.wait()
        yield job
    finally:
        job.kill()
        for rank in ranks:
            rank.communicate()


@pytest.mark.parametrize(
    ("scripts", "failure", "killed"),
    [
        (("exit 0", "exit 0"), "", False),
        (("exit 3",), "the process ended with status 3", False),
        (("exit 3", "exit 4"), "rank 0 ended with status 3", False),
        (("exit 0", "exit 4"), "rank 1 ended with status 4", False),
        (("kill -9 $$",), "the process was killed by SIGKILL", True),
        (("exit 1", "kill -9 $$"), "rank 1 was killed by SIGKILL", True),  # rank 0 only lost rank 1
    ],
)
def test_which_rank_failed_and_how(scripts: tuple[str, ...], failure: str, *, killed: bool) -> None:
    with job_of(*scripts) as job:
        assert job.ended()
        assert (job.failure, job.killed) == (failure, killed)


def test_where_one_rank_fails_the_others_are_asked_to_end_and_it_remains_the_first() -> None:
    with job_of("exit 3", WAITS) as job:
        assert not job.ended()
        wait_until(job.ended, "the other one ends")
        assert [rank.returncode for rank in job.ranks] == [3, -signal.SIGTERM]
        assert (job.failure, job.killed) == ("rank 0 ended with status 3", False)


def test_a_job_that_is_asked_to_end_did_not_fail() -> None:
    with job_of(WAITS) as job:
        assert not job.ended()
        job.stop()
        wait_until(job.ended, "it ends")
        assert (job.ranks[0].returncode, job.failure, job.killed) == (-signal.SIGTERM, "", False)


def test_a_job_is_asked_once_and_killed_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    with job_of(DEAF) as job:
        end = job._signal
        monkeypatch.setattr(job, "_signal", lambda number: (sent.append(number), end(number)))
        job.stop()
        job.stop()
        assert not job.ended()
        assert sent == [signal.SIGTERM]
        monkeypatch.setattr(processes, "KILL_SECONDS", 0.0)
        wait_until(job.ended, "it is killed")
        assert job.ranks[0].returncode == -signal.SIGKILL


def test_what_is_asked_to_end_has_the_time_that_a_training_takes_for_its_checkpoint() -> None:
    assert processes.KILL_SECONDS > GRACE_SECONDS


def test_a_job_that_ended_meanwhile_is_no_fault() -> None:
    with job_of("exit 0") as job:
        job.stop()
        job.kill()


def test_the_block_ends_what_runs_and_waits_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    with job_of(WAITS) as job, job_of("exit 0") as over:
        with pytest.raises(RuntimeError, match="torn"), ended_on_exit(lambda: [job, over], Console(stderr=True)):
            raise RuntimeError("torn")
        assert job.ranks[0].returncode == -signal.SIGTERM
    assert capsys.readouterr().err.startswith("ending 1 job; trainings save a checkpoint first")


def test_the_block_leaves_jobs_alone_where_nothing_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    with job_of(WAITS) as job:
        with ended_on_exit(lambda: [job], Console(stderr=True)):
            pass
        assert job.ranks[0].poll() is None
    with pytest.raises(KeyboardInterrupt), ended_on_exit(list, Console(stderr=True)):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("cut", ["by a second Ctrl-C", "by the time"])
def test_what_does_not_end_is_killed_where_the_wait_is_cut_short(cut: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: float) -> NoReturn:
        raise KeyboardInterrupt

    with job_of(DEAF) as job:
        if cut == "by the time":
            monkeypatch.setattr(LocalJob, "ended", lambda job: job.ranks[0].poll() is not None)
            monkeypatch.setattr(processes, "KILL_SECONDS", -processes.POLL_SECONDS)
        else:
            monkeypatch.setattr(time, "sleep", interrupted)
        begun = time.monotonic()
        with suppress(KeyboardInterrupt), ended_on_exit(lambda: [job], Console(quiet=True)):
            raise KeyboardInterrupt
        assert job.ranks[0].wait() == -signal.SIGKILL
        assert time.monotonic() - begun < 20


@pytest.mark.parametrize("at_a_terminal", [False, True])
def test_a_call_here_that_fails_is_looked_at_where_somebody_can(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, at_a_terminal: bool
) -> None:
    looked_at: list[object] = []
    errors = iter((UserError("no root", mend="set it"), ValueError("a bug")))

    def fail(_: Call) -> NoReturn:
        raise next(errors)

    monkeypatch.setattr(Call, "__call__", fail)
    monkeypatch.setattr(pdb, "post_mortem", looked_at.append)
    monkeypatch.setattr("sys.stdin.isatty", lambda: at_a_terminal, raising=False)
    call = Call(Path("s0"), "pretrain", "a:b")
    call_and_look(call)
    assert (capsys.readouterr().err, looked_at) == ("Error: no root; mend: set it\n", [])
    call_and_look(call)
    assert "ValueError: a bug" in capsys.readouterr().err
    assert len(looked_at) == at_a_terminal
