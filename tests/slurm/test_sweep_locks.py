"""Locks of a sweep's folder on file systems whose locks have rules of their own, or which have none."""

import errno
import fcntl
import os
import shlex
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console
from sweep_samples import GONE, HERE, Sweep
from waiting import wait_until

from repro.errors import UserError
from repro.jobs import PROGRAM
from slurm.jobs.calls import write_calls
from slurm.jobs.job import Call
from slurm.local import launch as local
from slurm.local.launch import launch_here
from slurm.monitoring.states import State
from slurm.planning.graph import Graph
from slurm.profiles.profile import Cluster
from slurm.sweep_folder.launch_lock import launch_lock
from slurm.sweep_folder.ledger import CANCELS, LOCAL_LOCK, LOCAL_START_LOCK, Ledger
from slurm.sweep_folder.local_lock import local_start_lock

FLOCK = fcntl.flock


def nfs4(descriptor: int, operation: int) -> None:
    """flock as Linux's NFSv4 client does it, by byte-range locks: a shared one needs a readable file, an exclusive one
    a writable one.

    See flock(2).
    """
    mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
    unfit = {fcntl.LOCK_SH: os.O_WRONLY, fcntl.LOCK_EX: os.O_RDONLY}
    if mode == unfit.get(operation & (fcntl.LOCK_SH | fcntl.LOCK_EX)):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    FLOCK(descriptor, operation)


def none_at_all(descriptor: int, operation: int) -> None:
    """flock on Lustre mounted without the option `flock`."""
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


@pytest.mark.parametrize("rule", [nfs4, none_at_all])
def test_a_launch_here_needs_no_more_than_the_file_system_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: Callable[[int, int], None]
) -> None:
    monkeypatch.setattr(fcntl, "flock", rule)
    nothing = Graph(tmp_path / "sweep", (), ())
    cluster = Cluster("local", executor="local")
    assert launch_here(nothing, cluster, PROGRAM, parallel=1, console=Console(quiet=True)).done == []
    with local_start_lock(nothing.sweep_folder), launch_lock(nothing.sweep_folder):
        pass


def test_a_lock_that_cannot_be_opened_is_told_in_a_line(tmp_path: Path) -> None:
    """For example a colleague's lock in a group's folder: `salmask cancel` ended in a traceback."""
    (tmp_path / ".sbatch.lock").mkdir()
    with pytest.raises(
        UserError, match=r"cannot write to .*: Is a directory; mend: have it made writable, or launch with"
    ):
        launch_lock(tmp_path).__enter__()


def test_a_launch_whose_folder_was_moved_says_so(tmp_path: Path) -> None:
    """A person was asked to make a folder writable that was not there any more."""
    with pytest.raises(UserError, match=r"sweep was moved or removed meanwhile; mend: if it was moved, name"):
        local_start_lock(tmp_path / "sweep").__enter__()


def test_on_a_full_disk_nobody_is_told_to_begin_anew_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("pathlib.Path.mkdir", "os.open", "slurm.sweep_folder.ledger.append_lines"):
        monkeypatch.setattr(name, refuse)
    for write in (
        local_start_lock(tmp_path).__enter__,
        launch_lock(tmp_path).__enter__,
        lambda: write_calls(tmp_path / "logs" / "s-1", {0: Call(tmp_path, "linear", "module:function")}),
        lambda: Ledger(tmp_path).request_cancel(""),
    ):
        with pytest.raises(UserError, match=": No space left on device; mend: free some space there"):
            write()


@pytest.mark.parametrize(
    ("lock", "signed", "what"),
    [
        (".launch.lock", ".sbatch.lock", "another launch of {} is still submitting"),
        (".sbatch.lock", ".sbatch.lock", "an sbatch of an earlier launch of {} is still at work"),
        (".local-start.lock", ".local-start.lock", "a launch of {} here is still starting jobs"),
    ],
)
def test_a_lock_that_a_dead_machine_left_is_told_and_can_be_removed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    lock: str,
    signed: str,
    what: str,
) -> None:
    place = tmp_path / "a sweep"
    place.mkdir()
    for module in ("repro.runs.lock", "slurm.sweep_folder.signed_lock"):
        monkeypatch.setattr(f"{module}.TELL_SECONDS", 0.0)
    monkeypatch.setattr("repro.runs.lock.RETRY_SECONDS", 0.01)
    take = local_start_lock if signed == ".local-start.lock" else launch_lock
    monkeypatch.setattr(socket, "gethostname", lambda: "login1")
    with take(place):
        pass
    monkeypatch.setattr(socket, "gethostname", lambda: "login2")
    left = os.open(place / lock, os.O_RDWR)
    FLOCK(left, fcntl.LOCK_EX)  # never released
    held_by = f"process {os.getpid()} on login1, at work since 20"

    def remove() -> None:
        wait_until(lambda: bool(caplog.messages), "a word on who has it", every=0.01)
        assert caplog.messages[0].startswith(f"{what.format(place)}; mend: wait for {held_by}")
        for path in shlex.split(caplog.messages[0].rpartition("if that machine died: rm ")[2]):
            Path(path).unlink()

    with ThreadPoolExecutor(1) as pool:
        removed = pool.submit(remove)
        with take(place, 20.0):
            assert (place / signed).read_text().startswith(f"process {os.getpid()} on login2, ")
        removed.result()
    os.close(left)


def test_a_wait_for_the_ledgers_lock_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("repro.filesystem.file_locks.TELL_SECONDS", 0.0)
    ledger = Ledger(tmp_path)
    ledger.request_cancel("")
    left = os.open(tmp_path / CANCELS, os.O_RDWR)
    FLOCK(left, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(ledger.request_cancel, "a")
        try:
            wait_until(lambda: bool(caplog.messages), "a word on the lock", every=0.01)
        finally:
            os.close(left)
        written.result()
    assert caplog.messages[0].startswith(f"{tmp_path / CANCELS}: waiting for another process, which has its lock; if")
    assert ledger.cancel_requests() == ["", "a"]


def test_on_nfs_what_waits_for_a_launcher_is_queued(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", nfs4)
    sweep.submitted(job="", executor="local", host=HERE)
    with local._under_way(sweep.place):
        assert sweep.row(GONE).state is State.queued
    assert sweep.row(GONE).state is State.planned


def test_who_may_not_write_sees_what_waits_too(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions cannot be taken away by chmod: whoever runs the tests may be root."""
    opened = Path.open

    def read_only(path: Path, mode: str = "r", *rest: object, **options: object) -> object:
        if mode == "r+b":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, mode, *rest, **options)  # type: ignore[call-overload]

    sweep.submitted(job="", executor="local", host=HERE)
    with local._under_way(sweep.place):
        monkeypatch.setattr(Path, "open", read_only)
        assert sweep.row(GONE).state is State.queued
    assert sweep.row(GONE).state is State.planned


def test_one_who_looks_is_not_taken_for_a_launcher_by_another(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two `salmask status` at once, each of which holds the lock that it tests for a moment."""
    sweep.submitted(job="", executor="local", host=HERE)
    (sweep.place / LOCAL_LOCK).touch()
    both = threading.Barrier(2)

    def slow(descriptor: int, operation: int) -> None:
        FLOCK(descriptor, operation)
        if operation & fcntl.LOCK_NB:
            time.sleep(0.05)

    def look(_: int) -> set[State]:
        both.wait()
        return {sweep.row(GONE).state for _ in range(4)}

    monkeypatch.setattr(fcntl, "flock", slow)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(look, range(2))) == [{State.planned}, {State.planned}]
        with local._under_way(sweep.place), local._under_way(sweep.place):  # several launchers share the lock
            assert list(pool.map(look, range(2))) == [{State.queued}, {State.queued}]


def test_a_lock_that_is_removed_while_it_is_taken_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person who was told to remove it does so in the moment in which its holder releases it."""
    lock = tmp_path / LOCAL_START_LOCK
    removals = iter([True])

    def removed_before(descriptor: int, operation: int) -> None:
        if next(removals, False):
            lock.unlink()
        FLOCK(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removed_before)
    starting_too = local_start_lock(tmp_path, 0.0)
    with local_start_lock(tmp_path, 20.0), pytest.raises(UserError, match="is still starting jobs"):
        starting_too.__enter__()


def test_a_wait_for_a_lock_leaves_no_file_open(tmp_path: Path) -> None:
    """A process that tries many times a second, for minutes, would run out of file descriptors."""
    with local_start_lock(tmp_path):
        before = len([*Path("/proc/self/fd").iterdir()])
        with pytest.raises(UserError, match="is still starting jobs"):
            local_start_lock(tmp_path, wait=0.2).__enter__()
        assert len([*Path("/proc/self/fd").iterdir()]) == before
