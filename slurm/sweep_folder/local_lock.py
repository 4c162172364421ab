"""The locks of launchers that run a sweep's jobs on this machine: any number at once, but one at a time starts jobs."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from repro.errors import UserError
from repro.filesystem.file_locks import locked
from repro.runs.sweep_names import LEDGER
from slurm.sweep_folder.ledger import LOCAL_LOCK, LOCAL_START_LOCK
from slurm.sweep_folder.signed_lock import signed_lock, try_lock, until_free

POLL_SECONDS = 0.05


@contextmanager
def local_lock(sweep_folder: Path) -> Iterator[None]:
    """Holds the lock during the block; several launchers may do so at once.

    If the file system has no locks, the block runs without one, and waiting jobs look as if their launcher had ended.

    Args:
        sweep_folder: The sweep's folder, which is there.

    Raises:
        OSError: The lock's file cannot be written.
    """
    with (sweep_folder / LOCAL_LOCK).open("a+b") as file, locked(file.fileno(), shared=True):
        yield


def has_local_launcher(sweep_folder: Path) -> bool:
    """Returns whether a launcher holds `local_lock`; two processes that ask at once do not take each other for one.

    Args:
        sweep_folder: The sweep's folder.
    """
    try:
        # Whoever asks takes the lock for a moment, and would look like a launcher to another one who asks. So they take
        # turns by a lock on the ledger, which nobody holds for long, and which exists if there are any jobs.
        with (
            _opened(sweep_folder / LEDGER) as ledger,
            locked(ledger.fileno()),
            _opened(sweep_folder / LOCAL_LOCK) as file,
        ):
            return not try_lock(file.fileno())
    except OSError:
        return False


@contextmanager
def local_start_lock(sweep_folder: Path, wait: float = math.inf) -> Iterator[None]:
    """Keeps other launchers of the sweep on this machine, and `salmask cancel`, out during the block.

    So a launcher finds what another one has started, and `salmask cancel` finds each job either running or not begun.

    Args:
        sweep_folder: The sweep's folder, which is there.
        wait: Seconds to wait for the lock, which a launcher holds for a moment only.

    Raises:
        UserError: The lock was not free in that time, or its file cannot be written.
    """
    lock = sweep_folder / LOCAL_START_LOCK

    def taken() -> UserError:
        return UserError(f"a launch of {sweep_folder} here is still starting jobs", mend=until_free(lock))

    with signed_lock(lock, wait=wait, every=POLL_SECONDS, taken=taken):
        yield


def _opened(path: Path) -> BinaryIO:
    """Returns a file to be locked, open for writing too if that is allowed: only NFS needs this."""
    try:
        return path.open("r+b")
    except PermissionError:
        return path.open("rb")
