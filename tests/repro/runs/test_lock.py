import contextlib
import multiprocessing
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

from repro.errors import UserError
from repro.runs.lock import RETRY_SECONDS, STALE_SECONDS, WATCHED_SECONDS, Holder, held, take_over

HERE = socket.gethostname()
OLD = STALE_SECONDS + 60


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / ".lock"


class Clock:
    """A clock that only sleeping advances, at once, so that tests need not wait."""

    time = staticmethod(time.time)  # files and heartbeats use the machine's time

    def __init__(self) -> None:
        self.slept = 0.0

    def monotonic(self) -> float:
        return 86_400 + self.slept  # as if the machine started a day ago

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("repro.runs.lock.time", clock)
    return clock


def hold(lock: Path, holder: Callable[[], Holder | None] = lambda: None, wait: float = 0.0) -> list[str]:
    """The lock files that are there while we hold it."""
    with held(lock, taken=lambda: UserError("it is taken"), unwritable="elsewhere", holder=holder, wait=wait):
        return sorted(path.name for path in lock.parent.iterdir())


def holder(*, host: str = "elsewhere", pid: int = 1, ago: float = 0.0, job: str = "") -> Callable[[], Holder]:
    unchanging = Holder(host, pid, time.time() - ago, job)
    return lambda: unchanging


def aged(lock: Path) -> None:
    lock.touch()
    os.utime(lock, (time.time() - 10 * OLD,) * 2)


def ended_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_flock_decides_between_processes_of_one_machine(lock: Path) -> None:
    with filelock.FileLock(lock), pytest.raises(UserError, match="it is taken"):
        hold(lock)
    assert hold(lock, holder(host=HERE, pid=ended_process())) == [".lock"]  # its last heartbeat was a moment ago
    assert hold(lock, holder(host=HERE, pid=os.getpid())) == [".lock"]


@pytest.mark.parametrize(("ago", "free"), [(0.0, False), (STALE_SECONDS - 5, False), (OLD, True)])
def test_where_flock_does_not_reach_other_machines_their_signs_of_life_count(
    lock: Path, ago: float, free: bool
) -> None:
    aged(lock)
    if free:
        assert hold(lock, holder(ago=ago)) == [".lock"]
    else:
        with pytest.raises(UserError, match="it is taken"):
            hold(lock, holder(ago=ago))


@pytest.mark.parametrize("flocked", [True, False])
@pytest.mark.parametrize("ago", [5 * OLD, -5 * OLD])
def test_a_live_holder_whose_clock_is_wrong_keeps_its_lock(lock: Path, flocked: bool, ago: float) -> None:
    aged(lock)
    beats = iter(range(1000))
    beating = lambda: Holder("elsewhere", 1, time.time() - ago + next(beats))  # noqa: E731
    with filelock.FileLock(lock) if flocked else contextlib.nullcontext():
        for wait in (0.0, WATCHED_SECONDS + 5):
            with pytest.raises(UserError, match="it is taken"):
                hold(lock, beating, wait)


def test_a_lock_that_a_dead_machine_left_is_taken_over(lock: Path) -> None:
    with filelock.FileLock(lock):
        aged(lock)
        with pytest.raises(UserError, match="it is taken"):
            hold(lock, holder(ago=STALE_SECONDS - 5))
        assert hold(lock, holder(ago=OLD)) == [".lock", ".lock.1"]
        # From now on that file is the lock, and the old one counts no more.
        with filelock.FileLock(lock.with_name(".lock.1")), pytest.raises(UserError, match="it is taken"):
            hold(lock, holder(ago=OLD))
        os.utime(lock.with_name(".lock.1"), (time.time() - 10 * OLD,) * 2)
        with filelock.FileLock(lock.with_name(".lock.1")):
            assert hold(lock, holder(ago=OLD)) == [".lock", ".lock.1", ".lock.2"]


def test_a_silent_holder_whose_process_is_here_keeps_its_lock(lock: Path) -> None:
    with filelock.FileLock(lock):
        aged(lock)
        with pytest.raises(UserError, match="it is taken"):
            hold(lock, holder(host=HERE, pid=os.getppid(), ago=OLD))
        assert hold(lock, holder(host=HERE, pid=ended_process(), ago=OLD)) == [".lock", ".lock.1"]


def test_the_next_attempt_of_a_slurm_job_waits_for_nobody(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "812")
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert hold(lock, holder(job="812")) == [".lock"]
    assert str(holder(job="812")()).startswith("process 1 on elsewhere (job 812), last heartbeat 0 s ago")
    with pytest.raises(UserError, match="it is taken"):
        hold(lock, holder(job="813"))


def test_a_lock_is_waited_for(lock: Path) -> None:
    first_holder = filelock.FileLock(lock)
    first_holder.acquire()
    tries = 0

    def released_before_the_third() -> None:
        nonlocal tries
        tries += 1
        if tries == 2:
            first_holder.release()

    assert hold(lock, released_before_the_third, wait=20) == [".lock"]  # type: ignore[arg-type]
    assert tries == 3


def test_only_one_process_makes_the_file_of_a_generation_also_without_flock(lock: Path) -> None:
    assert [take_over(lock, 4), take_over(lock, 4), take_over(lock, 5)] == [True, False, True]


def test_who_took_over_waits_for_one_who_only_looks(lock: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    looker = filelock.FileLock(lock.with_name(".lock.1"))

    def made_and_looked_at(lock: Path, generation: int) -> bool:
        succeeded = take_over(lock, generation)
        looker.acquire()
        monkeypatch.setattr(clock, "sleep", lambda _: looker.release())
        return succeeded

    monkeypatch.setattr("repro.runs.lock.take_over", made_and_looked_at)
    with filelock.FileLock(lock):
        aged(lock)
        assert hold(lock, holder(ago=OLD)) == [".lock", ".lock.1"]


def take(
    lock: Path,
    results: "multiprocessing.Queue[str]",
    go: "multiprocessing.synchronize.Event",
    told: "multiprocessing.synchronize.Event",
) -> None:
    go.wait()
    try:
        with held(lock, taken=lambda: UserError("taken"), unwritable="", holder=holder(ago=OLD)):
            results.put("had it")
            told.wait(60)
    except UserError:
        results.put("taken")


def test_of_several_that_take_over_at_once_one_succeeds(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.runs.lock.time", time)  # the one that took over waits for the others
    monkeypatch.setattr("repro.runs.lock.WATCHED_SECONDS", 0.5)
    context = multiprocessing.get_context("fork")
    results, go, told = context.Queue(), context.Event(), context.Event()
    with filelock.FileLock(lock):
        aged(lock)
        processes = [context.Process(target=take, args=(lock, results, go, told)) for _ in range(6)]
        for process in processes:
            process.start()
        go.set()
        outcomes = sorted(results.get(timeout=60) for _ in processes)
        told.set()
        for process in processes:
            process.join()
    assert outcomes == ["had it", *["taken"] * 5]


def test_who_only_asks_whether_a_lock_is_free_watches_nobody(lock: Path, clock: Clock) -> None:
    aged(lock)
    with (
        pytest.raises(UserError, match="it is taken"),
        held(lock, taken=lambda: UserError("it is taken"), unwritable="", holder=holder(ago=OLD), watch=False),
    ):
        pytest.fail("nobody knows whether it is dead")
    assert clock.slept == 0


def test_a_heartbeat_of_the_future_is_judged_by_whether_it_moves(
    lock: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """If a clock jumped, its heartbeat would keep the folder locked for a year."""
    year = 365 * 86_400.0
    aged(lock)
    assert hold(lock, holder(ago=-year)) == [".lock"]  # where flock does not reach
    with filelock.FileLock(lock):
        clock.slept = 0
        assert hold(lock, holder(ago=-year)) == [".lock", ".lock.1"]
        assert clock.slept > WATCHED_SECONDS
    assert "is in the future, so a clock has jumped" in caplog.text

    beats = iter(range(1000))
    beating = lambda: Holder("elsewhere", 1, time.time() + year + next(beats))  # noqa: E731
    clock.slept = 0
    with pytest.raises(UserError, match="it is taken"):
        hold(lock, beating)
    assert clock.slept == RETRY_SECONDS
