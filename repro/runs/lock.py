"""Locks on folders, for processes of one machine or of many that share a file system.

Two guards work together. The first is `flock` on a lock file: it goes with the process, however that ends, and a
restart meets nothing. But some network file systems keep the lock of a machine that died, and some keep each machine's
locks to itself. So whoever holds a lock for long also leaves signs of life (`Holder`, in a run's `status.json`):

- a lock that can be had, while another machine's holder showed life within `STALE_SECONDS`, counts as taken;
- a lock that cannot be had, whose holder is silent for longer and whose process is not here either, is taken over: a
  file of the next generation (`.lock.1`) takes its place, made exclusively, so that only one process succeeds. A holder
  who was only suspended sees it and ends (`RunFolder.attempt`).

Between the attempts of one Slurm job nobody waits: Slurm ends an attempt before it begins the next.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock

from repro.errors import UserError

STALE_SECONDS = 120.0
"""A holder that gave no sign of life for so long is dead; signs come every `repro.runs.folder.BEAT_SECONDS`."""
RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as its files tell."""

    host: str
    pid: int
    heartbeat: float
    """Seconds since the epoch."""
    job: str = ""
    """The scheduler's id of the job; empty without a scheduler."""

    @property
    def here(self) -> bool:
        """Whether it runs on this machine, where flock can be trusted."""
        return self.host == socket.gethostname()

    @property
    def ended(self) -> bool:
        """Whether its process is surely gone: it ran here and does no more, or was an earlier attempt of this job."""
        return (self.here and not _runs(self.pid)) or (bool(self.job) and self.job == job_id() and not self._is_me)

    @property
    def _is_me(self) -> bool:
        return self.here and self.pid == os.getpid()


def job_id() -> str:
    """The scheduler's id of the job that this process belongs to; empty without one."""
    return os.environ.get("SLURM_JOB_ID", "") if "SLURM_PROCID" in os.environ else ""


@contextmanager
def held(
    lock: Path,
    *,
    taken: UserError,
    unwritable: str,
    holder: Callable[[], Holder | None] = lambda: None,
    wait: float = 0.0,
) -> Iterator[None]:
    """Hold a lock file, or refuse; the lock goes with the process, however it ends.

    Args:
        lock: its folder is made.
        taken: what is raised where another process holds it.
        unwritable: the mend where the folder cannot be written to.
        holder: who holds it according to its files, asked at each try; None: nobody says so.
        wait: seconds to wait for it.

    Raises:
        UserError: another process holds it, or it cannot be made.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        mine = _acquire(lock, holder, time.monotonic() + wait)
    except OSError as error:
        raise UserError(f"cannot write to {lock.parent}: {error.strerror or error}", mend=f"{unwritable}") from error
    if mine is None:
        raise taken
    try:
        yield
    finally:
        mine.release()


def _acquire(lock: Path, holder: Callable[[], Holder | None], end: float) -> filelock.FileLock | None:
    own = -1
    while True:
        newest, generation = _newest(lock)
        mine = filelock.FileLock(newest)
        try:
            mine.acquire(timeout=0)
        except filelock.Timeout:
            if _dead(holder(), newest):
                if _take_over(lock, generation):
                    own = generation + 1
                    # Others may hold the new file for an instant, only to see that it is not theirs.
                    end = max(end, time.monotonic() + 3 * RETRY_SECONDS)
                continue
        else:
            # Asked again under the lock: it may have changed hands since.
            if _newest(lock)[1] == generation and (generation == own or _may_have(holder(), newest)):
                return mine
            mine.release()
        if time.monotonic() >= end:
            return None
        time.sleep(RETRY_SECONDS)


def _may_have(holder: Holder | None, lock: Path) -> bool:
    """Whether a lock that flock gave us is ours: no other machine's holder is alive."""
    return holder is None or holder.here or holder.ended or _silent(holder, lock)


def _dead(holder: Holder | None, lock: Path) -> bool:
    """Whether the holder of a lock that flock refused is gone nevertheless."""
    if holder is None or not _silent(holder, lock):
        return False
    return holder.ended or not holder.here


def _silent(holder: Holder, lock: Path) -> bool:
    # A lock that was just taken over is as good as a sign of life: its holder has had no time to give any.
    return time.time() - max(holder.heartbeat, lock.stat().st_mtime) > STALE_SECONDS


def _newest(lock: Path) -> tuple[Path, int]:
    """The file of the newest generation, and its number; the first one has none in its name."""
    numbers = [path.name.removeprefix(f"{lock.name}.") for path in lock.parent.glob(f"{lock.name}.*")]
    generation = max((int(number) for number in numbers if number.isdigit()), default=0)
    return (lock.with_name(f"{lock.name}.{generation}") if generation else lock), generation


def _take_over(lock: Path, generation: int) -> bool:
    """Make the file of the next generation; whether this process did, and not a faster one."""
    try:
        os.close(os.open(lock.with_name(f"{lock.name}.{generation + 1}"), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        return False
    return True


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
