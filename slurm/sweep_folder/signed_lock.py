"""A lock on a sweep's folder that says who has it, to whoever waits for it.

A network file system may keep the lock of a machine that died. Other machines cannot see that it died, and never take
the lock over; but a person can look, and remove the file.
"""

import fcntl
import os
import shlex
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from repro.errors import UserError
from repro.filesystem.file_locks import TELL_SECONDS, log
from repro.filesystem.files import mend_of_place, read_regular
from repro.runs.provenance import now

LONGEST_NAME = 1000


@contextmanager
def signed_lock(path: Path, *, wait: float, every: float, taken: Callable[[], UserError]) -> Iterator[int]:
    """Holds a lock during the block; if the file system has no locks, the block runs without one.

    Args:
        path: Of the lock's file, in a folder that is there.
        wait: Seconds to wait for it.
        every: Seconds between two tries.
        taken: Returns the error to raise if another process holds it for all that time.

    Yields:
        The file's descriptor. Who inherits it holds the lock too, until the last of them ends.

    Raises:
        UserError: The lock was not free in time, or its file cannot be opened.
    """
    began, is_told = time.monotonic(), False
    # Opened anew at each try: a person may have removed the file, if the machine that held the lock died.
    while (descriptor := _open_locked(path)) is None:
        waited = time.monotonic() - began
        if waited > wait:
            raise taken()
        if waited > TELL_SECONDS and not is_told:
            log.warning("%s", taken())
            is_told = True
        time.sleep(every)
    try:
        _sign(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def until_free(lock: Path, *files: Path) -> str:
    """Returns what to do about a lock that somebody has: `wait for process 12 on login1, at work since …`.

    Args:
        lock: The file that was signed.
        files: Others that are held along with it.
    """
    holder = ""
    with suppress(OSError, UserError):
        holder = read_regular(lock, LONGEST_NAME).decode(errors="replace").strip()
    return f"wait for {holder or 'it'}; if that machine died: rm {shlex.join(map(str, (lock, *files)))}"


def _open_locked(path: Path) -> int | None:
    """Returns the open file of a lock that is ours now; None if another has it, or it was removed before we had it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except FileNotFoundError as error:
        mend = "if it was moved, name the folder where it is now; else the same command makes it anew"
        raise UserError(f"{path.parent} was moved or removed meanwhile", mend=mend) from error
    except OSError as error:  # of a colleague, in a folder that a group shares
        raise UserError(f"cannot write to {path.parent}: {error.strerror}", mend=mend_of_place(error)) from error
    if try_lock(descriptor) and _is_there(path, descriptor):
        return descriptor
    os.close(descriptor)
    return None


def _is_there(path: Path, descriptor: int) -> bool:
    """Returns whether an open file is still the one of its name: a lock on one that was removed keeps nobody out."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def try_lock(descriptor: int) -> bool:
    """Takes the lock on a file if it is free, and returns whether it is ours; True if the file system has no locks.

    The lock lasts until the descriptor, and all that were inherited from it, are closed.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _sign(descriptor: int) -> None:
    """Writes into a lock's file who has it, unless it says so already; on a full disk, the lock is held unsigned."""
    name = f"process {os.getpid()} on {socket.gethostname()}, at work since ".encode()
    with suppress(OSError):
        if not os.pread(descriptor, LONGEST_NAME, 0).startswith(name):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, name + now().encode() + b"\n", 0)
            os.fsync(descriptor)  # NFS shows others only what was sent
