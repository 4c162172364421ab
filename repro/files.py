"""Files that are whole or not there."""

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import filelock

from repro.errors import UserError


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file so that a reader finds the old content or the new, whatever happens meanwhile.

    Raises:
        UserError: the folder cannot be written to, or the disk is full; the old file is untouched.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        _discard(temporary)
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        mend = "free some space" if full else "check that the folder exists and can be written to"
        raise UserError(f"cannot write {path}: {str(error).splitlines()[0]}; mend: {mend}") from error
    except BaseException:
        _discard(temporary)
        raise


def _discard(temporary: str) -> None:
    if temporary:
        Path(temporary).unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder as durable as the files' content."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def held(lock: Path, *, taken: str, unwritable: str) -> Iterator[None]:
    """Hold a lock file, or refuse; the lock goes with the process, however it ends.

    Args:
        lock: its folder is made.
        taken: the message where another process holds it.
        unwritable: the mend where the folder cannot be written to.

    Raises:
        UserError: another process holds it, or it cannot be made.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        holder = filelock.FileLock(lock, timeout=0)
        holder.acquire()
    except filelock.Timeout:
        raise UserError(taken) from None
    except OSError as error:
        raise UserError(f"cannot write to {lock.parent}: {error.strerror or error}; mend: {unwritable}") from error
    try:
        yield
    finally:
        holder.release()


def write_text(path: Path, text: str) -> None:
    """Write text atomically, as UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_atomically(path, lambda file: file.write((json.dumps(content, indent=1) + "\n").encode()))
