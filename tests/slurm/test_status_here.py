"""The state of a job whose process is, or was, on this machine."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from sweep_samples import GONE, HERE, NOW, Sweep

from repro.runs.lock import STALE_SECONDS
from slurm.monitoring.states import State
from slurm.monitoring.status import is_under_way
from slurm.sweep_folder.local_lock import local_lock


def test_a_process_that_is_gone_from_this_machine_is_dead_at_once(sweep: Sweep) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    sweep.says("running", age=1, host=HERE, pid=process.pid)
    assert sweep.row(GONE, entry=False).state is State.died
    sweep.says("running", age=1, host=HERE, pid=os.getpid())
    assert sweep.row(GONE, entry=False).state is State.running


@pytest.mark.parametrize("lock", [".lock", ".lock.1"])
def test_a_process_that_is_here_and_shows_no_life_has_not_died(lock: str, sweep: Sweep) -> None:
    """A suspended process may go on one day; it used to be told as died, and was submitted again."""
    sweep.says("running", age=STALE_SECONDS + 5, host=HERE, pid=os.getpid())
    (sweep.folder.path / ".lock").touch()
    with (sweep.folder.path / lock).open("w"):
        row = sweep.row(GONE, entry=False)
        assert is_under_way(sweep.place, (sweep.key, "pretrain"), None, GONE, NOW)
    what = f"no heartbeat for 2 min from process {os.getpid()}, which is here and holds its lock"
    mend = f"kill -CONT {os.getpid()} if it was suspended; else kill it, then salmask retry"
    assert (row.state, row.note) == (State.silent, f"{what}; mend: {mend}")
    # A process that does not hold the lock is another one, which has the same id by now.
    assert sweep.row(GONE, entry=False).state is State.died
    assert not is_under_way(sweep.place, (sweep.key, "pretrain"), None, GONE, NOW)


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="the kernel lists no locks")
def test_a_process_of_another_user_that_shows_no_life_has_not_died(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its open files are hidden, and it was told as died; but anybody may read who holds a lock."""

    def hidden(_: Path) -> NoReturn:
        raise PermissionError

    sweep.says("running", age=STALE_SECONDS + 5, host=HERE, pid=os.getpid())
    monkeypatch.setattr(Path, "iterdir", hidden)
    with (sweep.folder.path / ".lock").open("w") as lock:
        assert sweep.row(GONE, entry=False).state is State.died
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert sweep.row(GONE, entry=False).state is State.silent


def test_a_process_that_died_before_its_workers_has_died(sweep: Sweep) -> None:
    """They hold its lock until they end, too, and the kernel goes on to list it as the dead process's."""
    with (sweep.folder.path / ".lock").open("w") as lock:
        take = f"import fcntl; fcntl.flock({lock.fileno()}, fcntl.LOCK_EX)"
        process = subprocess.Popen([sys.executable, "-c", take], pass_fds=[lock.fileno()])
        process.wait()
        sweep.says("running", age=STALE_SECONDS + 5, host=HERE, pid=process.pid)
        assert sweep.row(GONE, entry=False).state is State.died


def test_of_a_job_whose_folder_is_gone_that_is_told(sweep: Sweep) -> None:
    """A person had renamed or removed it: the job was told as one that never wrote a heartbeat."""
    sweep.submitted(executor="local", job=str(os.getpid()))
    sweep.says("done")
    sweep.folder.path.rename(sweep.place / "kept")
    row = sweep.row(GONE)
    mend = "put it back if it was renamed; else the same salmask sweep again, which makes it anew"
    assert (row.state, row.note) == (State.died, f"its run's folder is gone; mend: {mend}")


def test_what_builds_on_a_failed_pretraining_does_not_wait_for_its_turn(sweep: Sweep) -> None:
    """Its launcher had given it up, and it was told as queued while that launcher went on with other runs."""
    given_up = "not started: what it builds on failed; mend: the cause of that first, then salmask retry"
    killed = subprocess.Popen(["true"])
    killed.wait()
    sweep.submitted("linear", "", executor="local")
    for word, age, pid, state, note in (
        ("failed", 60, 1, State.planned, given_up),
        ("interrupted", 60, 1, State.planned, given_up),
        ("running", 60, killed.pid, State.planned, given_up),
        ("running", 600, os.getpid(), State.queued, "waits for its turn on this machine"),  # a suspended process
        ("failed", 7200, 1, State.queued, "waits for its turn on this machine"),  # a retry: it is done again
    ):
        sweep.says(word, age=age, host=HERE, pid=pid)
        with local_lock(sweep.place):
            row = sweep.row(GONE, "linear")
        assert (row.state, row.note) == (state, note)
    sweep.says("running", age=60, host=HERE, pid=killed.pid)
    sweep.folder.backbone.touch()  # it was killed at its very end
    with local_lock(sweep.place):
        assert sweep.row(GONE, "linear").state is State.queued
