"""Locks an open file while it is written or read."""

import fcntl
import logging
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TELL_SECONDS = 3.0
"""Seconds after which a wait for a lock is reported."""

log = logging.getLogger("salmask")


@contextmanager
def locked(descriptor: int, *, shared: bool = False) -> Iterator[None]:
    """Keeps other processes out of an open file within the block; does nothing if the file system has no locks.

    Args:
        descriptor: The file's. NFS wants it open for writing, or for reading if the lock is shared.
        shared: Whether others may hold a shared lock at the same time.
    """
    with suppress(OSError):
        _wait_for_lock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def _wait_for_lock(descriptor: int, kind: int) -> None:
    """Takes a lock, however long that takes; a long wait is reported, with how to end it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        telling = threading.Timer(TELL_SECONDS, _tell_of_lock, [descriptor])
        telling.daemon = True
        telling.start()
        try:
            fcntl.flock(descriptor, kind)
        finally:
            telling.cancel()


def _tell_of_lock(descriptor: int) -> None:
    """Reports that the lock of an open file is waited for: a network file system may keep that of a dead machine."""
    path = "a file"
    with suppress(OSError):  # not on Linux
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
    old, new = map(shlex.quote, (path, f"{path}.new"))
    log.warning(
        "%s: waiting for another process, which has its lock; if the machine of that process died: Ctrl-C, then %s",
        path,
        f"cp -p {old} {new} && mv {new} {old}",
    )
