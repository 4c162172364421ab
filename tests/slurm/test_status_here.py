"""The state of a job whose process is, or was, on this machine."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from sweep_samples import GONE, HERE, NOW, Sweep, iso

from repro.runs.lock import STALE_SECONDS
from slurm.monitoring.states import State
from slurm.monitoring.status import is_under_way, rows
from slurm.sweep_folder.local_lock import local_lock

GIVEN_UP = (
    State.planned,
    "not started: what it builds on failed; mend: the cause of that first, then salmask retry",
)
WAITS = (State.queued, "waits for its turn on this machine")


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


@pytest.mark.parametrize(
    ("word", "is_killed", "is_given_up"),
    [
        ("failed", False, True),
        ("interrupted", False, True),
        ("running", True, True),
        ("running", False, False),  # a suspended process
    ],
)
def test_what_builds_on_a_failed_pretraining_does_not_wait_for_its_turn(
    sweep: Sweep, word: str, *, is_killed: bool, is_given_up: bool
) -> None:
    """Its launcher had given it up, and it was told as queued while that launcher went on with other runs."""
    killed = subprocess.Popen(["true"])
    killed.wait()
    pid = killed.pid if is_killed else os.getpid()
    sweep.submitted(executor="debug", job=str(killed.pid if is_given_up else pid))
    sweep.submitted("linear", "", executor="debug")
    sweep.says(word, age=600, host=HERE, pid=pid)
    assert _beside_a_launcher(sweep) == (GIVEN_UP if is_given_up else WAITS)
    if is_killed:
        sweep.folder.backbone.touch()  # at its very end
        assert _beside_a_launcher(sweep) == WAITS


def test_a_pretraining_that_is_begun_anew_keeps_what_builds_on_it_waiting(sweep: Sweep) -> None:
    """Until it wrote its first status, the end of an earlier attempt counted, of this launch or of another one."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    sweep.submitted(executor="debug", job=str(ended.pid))
    sweep.submitted("linear", "", executor="debug")
    sweep.says("interrupted", age=600, host=HERE, pid=1)
    assert _beside_a_launcher(sweep) == GIVEN_UP
    now = iso(NOW - 5)
    sweep.submitted(job="", executor="debug", time=now)  # it waits for its own turn
    assert _beside_a_launcher(sweep) == WAITS
    sweep.submitted(job=str(os.getpid()), executor="debug", time=now)  # it was started, and imports torch
    assert _beside_a_launcher(sweep) == WAITS


def _beside_a_launcher(sweep: Sweep) -> tuple[State, str]:
    """Returns what is told of the linear probe while a launcher is at work on the sweep."""
    with local_lock(sweep.place):
        probe = next(row for row in rows(sweep.ledger, GONE, NOW) if row.task == "linear")
    return probe.state, probe.note
