"""The lock by which a sweep's folder shows that a launcher minds its jobs on this machine, and the look at it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from repro.files import locked
from slurm.ledger import LEDGER, LOCAL_LOCK


@contextmanager
def minding(sweep_folder: Path) -> Iterator[None]:
    """Holds the lock during the block; several launchers may do so at once.

    Where the file system knows no locks the block runs without, and what waits in it looks as if nobody minded it.

    Args:
        sweep_folder: the sweep's folder, which is there.

    Raises:
        OSError: the lock's file cannot be written.
    """
    with (sweep_folder / LOCAL_LOCK).open("a+b") as file, locked(file.fileno(), shared=True):
        yield


def is_minded(sweep_folder: Path) -> bool:
    """Returns whether a launcher holds the lock; of two that look at once neither takes the other for one.

    Args:
        sweep_folder: the sweep's folder.
    """
    try:
        # A look has the lock for a moment, in which another one would be refused. They take turns by the lock on the
        # ledger, which everybody gives back at once, and which is there where anything is asked about.
        with (
            _opened(sweep_folder / LEDGER) as ledger,
            locked(ledger.fileno()),
            _opened(sweep_folder / LOCAL_LOCK) as file,
        ):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _opened(path: Path) -> BinaryIO:
    """Returns a file to be locked, open for writing too where that is allowed: NFS asks for it, others do not."""
    try:
        return path.open("r+b")
    except PermissionError:
        return path.open("rb")
