"""Locks on folders, for processes on one machine or on many that share a file system.

Two guards work together. The first is `flock` on a lock file: it is released when the process ends, however that ends,
so that a restart is never locked out. But some network file systems keep the lock of a machine that died, and some do
not show one machine's locks to another. So whoever holds a lock for long also writes heartbeats (`Holder`, in a run's
`status.json`):

- A lock that flock grants counts as taken if another machine's holder had a heartbeat within `STALE_SECONDS`.
- If the last heartbeat of another machine's holder is old, or in the future, that proves nothing, for its clock may be
  wrong. What counts is whether another one follows, which is waited for by our own monotonic clock.
- A lock that flock refuses is taken over if its holder has been silent for longer, and its process does not run on this
  machine. A file of the next generation (`.lock.1`) takes its place; it is created exclusively, so that only one
  process succeeds. A holder that was only suspended notices this and ends (`RunFolder.attempt`).

An attempt at a Slurm job need not wait for the one before: Slurm ends that one first.
"""

import logging
import math
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import filelock

from repro.errors import UserError
from repro.filesystem.file_locks import TELL_SECONDS
from repro.filesystem.files import mend_of_place
from repro.filesystem.writability import why_unwritable
from repro.quantities import duration_text

STALE_SECONDS = 120.0
"""A holder without a heartbeat for so long is dead; heartbeats come every `repro.runs.folder.BEAT_SECONDS`."""
WATCHED_SECONDS = 75.0
"""How long another machine's holder is watched before it is taken for dead: one heartbeat, and the 60 s for which NFS
may show a file's old content."""
CLOCKS_SECONDS = 5.0
"""Largest difference between clocks of a cluster's machines: a status that is older than its job's submission by more
is of an earlier attempt. It is short, since a person may submit a job again a moment after it failed. `salmask doctor`
calls a larger difference wrong; NTP keeps machines far closer."""
RETRY_SECONDS = 1.0
"""Time between two tries at a lock that is waited for."""


log = logging.getLogger("salmask")


@dataclass(frozen=True)
class Holder:
    """The holder of a lock, as its files tell."""

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
        """Whether its process is certainly gone: it ran here and ended, or was an earlier attempt of this job."""
        return (self.here and not _runs(self.pid)) or (bool(self.job) and self.job == job_id() and not self._is_me)

    def __str__(self) -> str:
        """Who it is, for people: `process 12 on node3 (job 812), last heartbeat 5 s ago`."""
        job = f" (job {self.job})" if self.job else ""
        age = duration_text(max(0.0, time.time() - self.heartbeat))
        return f"process {self.pid} on {self.host}{job}, last heartbeat {age} ago"

    @property
    def _is_me(self) -> bool:
        return self.here and self.pid == os.getpid()


def job_id() -> str:
    """Returns the scheduler's id of the job that this process belongs to; empty without one."""
    # The shell of an interactive allocation has SLURM_JOB_ID without SLURM_PROCID. Two processes of such a job may run
    # at once; within a job step, Slurm ends one attempt before it begins the next.
    return os.environ.get("SLURM_JOB_ID", "") if "SLURM_PROCID" in os.environ else ""


@contextmanager
def held(
    lock: Path,
    *,
    taken: Callable[[], UserError],
    unwritable: str,
    holder: Callable[[], Holder | None] = lambda: None,
    wait: float = 0.0,
    watch: bool = True,
    waiting: Callable[[], object] = lambda: None,
) -> Iterator[None]:
    """Holds a lock file during the block, or refuses; the lock ends with the process, however that ends.

    Args:
        lock: Path of the lock file; its folder is made if it is not there.
        taken: Returns what is raised where another process holds the lock.
        unwritable: The mend where the folder cannot be written to.
        holder: Returns the lock's holder according to its files, asked at each try; None: no file names one.
        wait: Seconds to wait for the lock.
        watch: Whether to wait until it is clear that a silent holder on another machine is dead; otherwise it counts as
            alive.
        waiting: Called once, after `TELL_SECONDS` of a wait.

    Raises:
        UserError: Another process holds the lock (as `taken` returns it), or the lock file cannot be made.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file_lock = _acquire(lock, holder, wait, watch=watch, waiting=waiting)
    except OSError as error:
        mend = mend_of_place(error, unwritable)
        raise UserError(f"cannot write to {lock.parent}: {why_unwritable(lock.parent, error)}", mend=mend) from error
    if file_lock is None:
        raise taken()
    try:
        yield
    finally:
        file_lock.release()


def _acquire(
    lock: Path, holder: Callable[[], Holder | None], wait: float, *, watch: bool, waiting: Callable[[], object]
) -> filelock.FileLock | None:
    """Acquires and returns the lock on the newest generation's file; None if another process held it to the deadline.

    Args:
        lock: Path of the first generation's file.
        holder: As for `held`.
        wait: As for `held`; there is at least one try.
        watch: As for `held`.
        waiting: As for `held`.
    """
    deadline = time.monotonic() + wait
    told_at = time.monotonic() + TELL_SECONDS
    made_here = -1  # the generation whose file this process made by taking over; -1: none
    signs = _SignsOfLife()
    while True:
        # Looked up anew at each try: another process may have taken over meanwhile, and from then on a lock on an older
        # generation's file is worth nothing.
        path, generation = _newest(lock)
        file_lock = filelock.FileLock(path)
        try:
            file_lock.acquire(timeout=0)
        except filelock.Timeout:
            if _dead(holder(), path, signs):
                # Whoever loses this race goes on with the winner's file, which `_newest` finds.
                if take_over(lock, generation):
                    made_here = generation + 1
                    # Others may hold the new file for an instant, only to see that it is not theirs.
                    deadline = max(deadline, time.monotonic() + 3 * RETRY_SECONDS)
                continue
        else:
            # Asked again under the lock: another process may have made the next generation between the look-up and
            # flock. And flock alone is not enough: where it does not reach other machines, a process there may hold
            # this very file, and only its heartbeats tell. The process that made the file skips that question: the
            # status still names the dead holder, which the new file's age would make look alive.
            is_newest = _newest(lock)[1] == generation
            if is_newest and (generation == made_here or _may_have(holder(), path, signs)):
                return file_lock
            file_lock.release()
        if time.monotonic() >= deadline and not (watch and signs.awaited):
            return None
        if time.monotonic() >= told_at:
            told_at = math.inf
            waiting()
        time.sleep(RETRY_SECONDS)


def _may_have(holder: Holder | None, lock: Path, signs: "_SignsOfLife") -> bool:
    """Returns whether a lock that flock granted may be kept: no holder on another machine is alive.

    A holder on this machine has released it: otherwise flock would have refused.
    """
    return holder is None or holder.here or holder.ended or signs.missed(holder, lock)


def _dead(holder: Holder | None, lock: Path, signs: "_SignsOfLife") -> bool:
    """Returns whether the holder of a lock that flock refused is dead nevertheless.

    A silent process of this machine may merely be suspended: it must be gone, too.
    """
    return holder is not None and (holder.ended or not holder.here) and signs.missed(holder, lock)


class _SignsOfLife:
    """The heartbeats of a lock's holder, as they are seen from one try to the next."""

    def __init__(self) -> None:
        self._latest = 0.0
        self._since = 0.0  # when the latest heartbeat was first seen, on the monotonic clock
        self._moved = False  # whether a heartbeat was seen before the latest
        self.awaited = False
        """Whether the last heartbeat is stale by our clock, and it is not known yet whether another one follows."""

    def missed(self, holder: Holder, lock: Path) -> bool:
        """Returns whether a holder is dead: silent for `STALE_SECONDS` and, on another machine, while watched.

        This machine's clock can tell how old a heartbeat from here is; of one from elsewhere, only that it is fresh.
        """
        # A lock that was just taken over counts as a heartbeat: its holder has had no time to write one.
        sign = max(holder.heartbeat, lock.stat().st_mtime)
        silence = time.time() - sign
        now = time.monotonic()
        if sign != self._latest:
            self._moved = bool(self._latest)
            self._latest, self._since = sign, now
        if abs(silence) <= STALE_SECONDS or (holder.here and silence > 0):
            self.awaited = False
            return silence > STALE_SECONDS
        missed = now - self._since > WATCHED_SECONDS
        was_awaited, self.awaited = self.awaited, not (missed or self._moved)
        if self.awaited and not was_awaited:
            age = (
                f"{silence:.0f} s old by this machine's clock"
                if silence > 0
                else "in the future, so a clock has jumped"
            )
            log.warning(
                "%s: the last heartbeat from %s is %s; waiting for the next one, %.0f s at most",
                lock.parent,
                holder.host,
                age,
                WATCHED_SECONDS,
            )
        return missed


def _newest(lock: Path) -> tuple[Path, int]:
    """Returns the file of the newest generation, and its number; the first one, 0, has no number in its name."""
    suffixes = [path.name.removeprefix(f"{lock.name}.") for path in lock.parent.glob(f"{lock.name}.*")]
    generation = max((int(suffix) for suffix in suffixes if suffix.isdecimal()), default=0)
    return (lock.with_name(f"{lock.name}.{generation}") if generation else lock), generation


def take_over(lock: Path, generation: int) -> bool:
    """Makes the file of a lock's next generation; from then on, whoever holds that file has the lock.

    Args:
        lock: Path of the first generation's file.
        generation: The generation that a dead process holds.

    Returns:
        Whether this process made it, and not a faster one.
    """
    # The file server decides on O_EXCL, also between machines and where it knows no flock: only one process succeeds.
    try:
        os.close(os.open(lock.with_name(f"{lock.name}.{generation + 1}"), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        return False
    return True


def is_open_in(process: int, lock: Path) -> bool:
    """Returns whether a process of this machine holds a lock, or has its newest file open; False if that is hidden.

    The process id alone proves nothing: by now it may be another process's, or belong to another container. Nor does a
    lock alone: the kernel lists one by who took it, also when that process has died and its loader's workers have not.

    Args:
        process: The process id.
        lock: Path of the first generation's file.
    """
    if not _runs(process):
        return False
    newest, _ = _newest(lock)
    descriptors: list[Path] = []
    with suppress(OSError):  # another user's, or no Linux
        descriptors = [*Path(f"/proc/{process}/fd").iterdir()]
    for descriptor in descriptors:
        with suppress(OSError):  # closed meanwhile
            # Names first: looking at another file may hang if its file system cannot be reached.
            if descriptor.readlink().name == newest.name and descriptor.samefile(newest):
                return True
    return _is_locked_by(process, newest)


def _is_locked_by(process: int, path: Path) -> bool:
    """Returns whether the kernel's list of locks, which anybody may read, has a process's lock on a file.

    The list names a file by device and inode. The device is left out: some file systems show programs another one.
    """
    try:
        inode, locks = path.stat().st_ino, Path("/proc/locks").read_text(encoding="utf-8")
    except OSError:
        return False
    # 1: FLOCK  ADVISORY  WRITE 27801 fe:00:2146736 0 EOF
    return re.search(rf"^\d+: FLOCK +\w+ +WRITE {process} \S+:{inode} ", locks, re.MULTILINE) is not None


def _runs(pid: int) -> bool:
    """Returns whether a process with this id runs on this machine."""
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, as another user
        return True
    return True
