"""Files that are whole or not there."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

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
        raise UserError(f"cannot write {path}: {str(error).splitlines()[0]}", mend=f"{mend}") from error
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


def append_lines(path: Path, payload: bytes) -> None:
    """Add whole lines to a file that several processes add to: all of them, or none.

    The lines go out in one write under a lock on the file, followed by fsync. Where an earlier write was cut off in the
    middle of a line, the new lines start on a line of their own, so that the torn one spoils nothing.

    Raises:
        OSError: the file cannot be written to, or the disk is full; it is as it was.
    """
    new = not path.exists()
    with path.open("a+b", buffering=0) as file:
        with contextlib.suppress(OSError):  # a file system without locks: appending alone is nearly as safe
            fcntl.flock(file, fcntl.LOCK_EX)
        before = file.seek(0, os.SEEK_END)
        if before:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                payload = b"\n" + payload
        try:
            written = file.write(payload)
            if written != len(payload):
                raise OSError(0, f"only {written} of {len(payload)} bytes were written, is the disk full?")
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise
    if new:
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write text atomically, as UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_atomically(path, lambda file: file.write((json.dumps(content, indent=1) + "\n").encode()))


@contextlib.contextmanager
def new_folder(target: Path, *, force: bool = False, mend: str = "name another folder, or remove it") -> Iterator[Path]:
    """A folder to fill, which takes the target's name once it is filled, and goes if it is not.

    Args:
        target: must not exist, or be an empty folder.
        force: replace the folder that is there, once the new one is whole.
        mend: what to do about a folder that is there.

    Yields:
        The folder to write to, beside the target.

    Raises:
        UserError: the target is there, or cannot be written to.
    """
    part = ""
    try:
        if target.exists() and not target.is_dir():
            raise UserError(f"{target} is a file", mend="name a folder")
        if not force and target.exists() and any(target.iterdir()):
            raise UserError(f"{target} exists already", mend=f"{mend}")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        Path(part).chmod(0o755)
        yield Path(part)
        os.sync()  # thousands of small files: one by one would take longer than writing them
        if force and target.exists():
            shutil.rmtree(target)
        Path(part).replace(target)  # over an empty folder too, as rename(2) allows
        sync_folder(target.parent)
    except OSError as error:
        mend = "free some space" if error.errno == errno.ENOSPC else "name a folder that can be written to"
        raise UserError(f"cannot write {target}: {error.strerror or error}", mend=f"{mend}") from error
    finally:
        if part:
            shutil.rmtree(part, ignore_errors=True)
