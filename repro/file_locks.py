"""A lock on an open file for the moment in which it is written."""

import fcntl
import logging
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TELL_SECONDS = 3.0
"""After which a person is told of a wait for a lock."""

log = logging.getLogger("salmask")


@contextmanager
def locked(descriptor: int, *, shared: bool = False) -> Iterator[None]:
    """Keeps other processes out of an open file within the block; not where the file system knows no locks.

    Args:
        descriptor: The file's; open for writing, and for a shared lock for reading, which NFS asks for.
        shared: Whether others may hold a shared lock too.
    """
    with suppress(OSError):
        _wait_for_lock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def _wait_for_lock(descriptor: int, kind: int) -> None:
    """Takes a lock, however long that takes; a wait that is long is told, with how it may be ended."""
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
    """Says that the lock of an open file is waited for: a network file system may keep that of a machine that died."""
    path = "a file"
    with suppress(OSError):  # no Linux
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
    old, new = map(shlex.quote, (path, f"{path}.new"))
    log.warning(
        "%s: another process has its lock, and is waited for; if the machine of that died: Ctrl-C, then %s",
        path,
        f"cp -p {old} {new} && mv {new} {old}",
    )
