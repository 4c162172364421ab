"""Files that are whole or not there, also after a crash or where the disk is full."""

import contextlib
import errno
import glob
import io
import json
import os
import re
import shutil
import stat
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from repro.errors import UserError, interruption, machines_error, one_line, system_errors, system_mend
from repro.file_locks import locked
from repro.presence import is_file, is_special
from repro.quantities import size_text
from repro.writability import check_file, refuse_special, why_unwritable


@contextlib.contextmanager
def reading(path: Path, mend: str) -> Iterator[None]:
    """Turns whatever reading a file of ours raises within the block into one line: the file, what is wrong, the mend.

    Args:
        path: The file.
        mend: What a person can do about it.

    Raises:
        UserError: In the place of any error but this one; and where a pipe or a device stands in the file's place.
    """
    if is_special(path):
        raise UserError(f"{path} is no regular file", mend="put a file in its place, or remove it")
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist", mend=mend) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or one_line(error)})", mend=mend) from error
    except RecursionError as error:
        raise UserError(f"{path} cannot be read: it is nested too deeply", mend=mend) from error
    except MemoryError as error:
        raise UserError(f"{path} cannot be read: it takes more memory than there is", mend=mend) from error
    except Exception as error:  # whoever wrote the file, each parser has errors of its own for what it cannot read
        wrong = "it is empty" if _is_empty(path) else f"{type(error).__name__}: {one_line(error)[:200]}"
        raise UserError(f"{path} cannot be read ({wrong})", mend=mend) from error


def _is_empty(path: Path) -> bool:
    return is_file(path) and path.stat().st_size == 0


def read_regular(path: Path, most: int) -> bytes:
    """Reads a regular file, and nothing that one would wait for, or that never ends.

    Args:
        path: The file.
        most: The bytes that it may have.

    Raises:
        UserError: It is a pipe, a device or a folder, or larger.
        OSError: It cannot be read.
    """
    # Without O_NONBLOCK the opening of a pipe alone waits for whoever writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is no regular file", mend="put a file in its place, or remove it")
        if status.st_size > most:
            raise UserError(
                f"{path} has {status.st_size} bytes, where {most} are the most",
                mend="put the right file in its place, or remove it",
            )
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


LONGEST_NAME = 245
"""Bytes that the name of a file may have: file systems take 255, of which its temporary name needs ten more."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file so that a reader finds the old content or the new, whatever happens meanwhile.

    Args:
        path: The file; its folder is made if it is not there.
        write: Writes the content to the open file that it is given.

    Raises:
        UserError: The folder cannot be written to, or the disk is full; the old file is untouched. Or what stands there
            is a device, a pipe or a way to this process's own output.
    """
    refuse_special(path)
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        # To be read as well: into a file that can be written to alone numpy writes by itself, and where that fails it
        # tells neither that the disk is full nor any other reason.
        with os.fdopen(descriptor, "w+b") as file:
            write(file)
            # Content before name: a file system may make the new name durable first, and a power cut between the two
            # would leave an empty file in the place of the old one.
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp's own files are for their owner alone
        Path(temporary).replace(path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        _discard(temporary)
        if asked := interruption(error):
            # The process was asked to end in the middle of the file. torch closes its archive all the same, finds it
            # incomplete, and raises that, which would tell of a broken disk where there was only an interruption.
            raise asked from None
        if is_of_a_full_disk(error):
            raise _full_disk(path, write) from error
        # The error's own text names the temporary file, with a number in front.
        cause = machines_error(error) or error
        reason = why_unwritable(path.parent, cause) if isinstance(cause, OSError) else one_line(error)
        mend = system_mend(error, "check that its folder is one, and can be written to")
        raise UserError(f"cannot write {path}: {reason}", mend=mend) from error
    except BaseException:  # an interruption too must leave no temporary file
        _discard(temporary)
        raise


def is_of_a_full_disk(error: BaseException) -> bool:
    """Returns whether an error, or one from which it arose, says that no space is left, or none of a quota."""
    return any(each.errno in (errno.ENOSPC, errno.EDQUOT) for each in system_errors(error))


OF_A_SWEEP = "have it made writable, or launch with another --out"
"""What to do about a sweep's folder that cannot be written to: not every command that writes there has an `--out`."""


def mend_of_place(error: OSError, otherwise: str = OF_A_SWEEP) -> str:
    """Returns what to do where a folder cannot be written to: for want of room nobody is to begin anew elsewhere."""
    return "free some space there" if is_of_a_full_disk(error) else system_mend(error, otherwise)


def write_over(path: Path, content: bytes) -> None:
    """Writes a small file in place, where a full disk has no room for a new one beside it.

    The bytes go into the blocks that the file has, in one write; behind them stand blanks up to the old end.

    Args:
        path: The file, which exists.
        content: Text, with its newline; within a block of the old file's length.

    Raises:
        OSError: It does not fit, or the file system writes nothing in place.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        # Blocks of 512 bytes, by POSIX, whatever the file system's own.
        if len(content) > max(status.st_size, 512 * status.st_blocks):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_at(descriptor, content.rstrip(b"\n").ljust(status.st_size - 1) + b"\n", 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Counter(io.RawIOBase):
    """A file that only counts what is written to it."""

    count = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.count += size
        return size


def _full_disk(path: Path, write: Callable[[IO[bytes]], object]) -> UserError:
    """Returns the error of a file that did not fit, with what it takes, what is free, and what is missing."""
    counter, free = _Counter(), _free_space(path.parent)
    # Whatever fails here, the disk is full all the same, which is what is to be said.
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        write(cast(IO[bytes], counter))
    missing = f"free {size_text(counter.count - free)} there" if counter.count > free else "free some space there"
    reason = full_disk_reason(path.parent, f"{size_text(counter.count)} are to be written")
    return UserError(f"cannot write {path}: {reason}", mend=missing)


def full_disk_reason(folder: Path, size: str) -> str:
    """Returns that the disk of a folder is full, with the size of what is or was written there, and what is free."""
    return f"the disk of {folder} is full, or its quota ({size}, {size_text(_free_space(folder))} are free)"


def _free_space(folder: Path) -> int:
    """Returns the bytes that are free where a folder is, or was to be made: that may be what failed."""
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


_TEMPORARY = re.compile(r"\..+\.\w+\.[a-z0-9_]{8}")
"""A name of a file of ours, all of which have a suffix, and what mkstemp adds. Without the suffix a person's own hidden
file, `.notes.markdown`, would have such a name, and be removed."""


def is_temporary(path: Path) -> bool:
    """Returns whether a file has a name that `write_atomically` gives to what it has not finished."""
    return _TEMPORARY.fullmatch(path.name) is not None  # mkstemp adds eight such characters to the prefix


TORN_SECONDS = 3600.0
"""A temporary file that is older belongs to a process that was killed; one that is still being written is younger."""


def is_torn(path: Path) -> bool:
    """Returns whether a process that was killed left a file half written.

    Raises:
        FileNotFoundError: Whoever was writing it has given it its name meanwhile.
    """
    if not is_temporary(path):
        return False
    status = path.stat()
    return stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime > TORN_SECONDS


def make_way(path: Path) -> None:
    """Prepares for a file that takes its time: refuses its place, and removes what killed processes left beside it.

    Args:
        path: Of the file, which `write_atomically` is to write.

    Raises:
        UserError: As of `check_file`.
    """
    check_file(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with contextlib.suppress(OSError):
            if is_torn(left):
                left.unlink()


def _discard(temporary: str) -> None:
    if temporary:
        with contextlib.suppress(OSError):  # what went wrong before is to be told
            Path(temporary).unlink()


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder as durable as the files' content, which their own fsync does not do."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_lines(path: Path, payload: bytes) -> None:
    """Adds whole lines to a file that several processes add to: all of them, or none.

    The lines go out in one write under a lock on the file, followed by fsync. Where an earlier write was cut off in the
    middle of a line, the new lines start on a line of their own, so that the torn one spoils nothing.

    Args:
        path: The file; made if it is not there. Its folder must exist.
        payload: The lines, each with its newline.

    Raises:
        OSError: The file cannot be written to, or the disk is full, which its text tells with sizes; nothing of the
            lines is in the file, unless another process, which no lock keeps out, has added to it meanwhile.
    """
    is_new = not path.exists()
    # Where the file system knows no locks, appending alone is nearly as safe.
    with path.open("a+b", buffering=0) as file, locked(file.fileno()):
        # Only under the lock: what another process is writing must be whole before its end is looked at.
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                payload = b"\n" + payload
        count = 0
        try:
            # Unbuffered, so this is one write(2), which may be cut short without an error.
            count = file.write(payload)
            if count != len(payload):
                raise OSError(0, f"only {count} of {len(payload)} bytes were written, is the disk full?")
            os.fsync(file.fileno())
        except OSError as error:
            _take_back(file.fileno(), payload[:count])
            if is_of_a_full_disk(error):
                reason = full_disk_reason(path.parent, f"{size_text(len(payload))} are to be written")
                raise OSError(error.errno, reason) from error
            raise
    if is_new:
        sync_folder(path.parent)


def _take_back(descriptor: int, written: bytes) -> None:
    """Cuts off the bytes that were added to a file, if they are its end still and nobody's lines stand behind them."""
    place = os.fstat(descriptor).st_size - len(written)
    if place >= 0 and os.pread(descriptor, len(written), place) == written:
        os.ftruncate(descriptor, place)


def write_at(descriptor: int, content: bytes | memoryview, place: int) -> None:
    """Writes all of some bytes at a place of an open file.

    Args:
        descriptor: The file's.
        content: The bytes.
        place: Where the first one goes, from the file's beginning.

    Raises:
        OSError: The file cannot be written to, or the disk is full; a part may have been written.
    """
    rest = memoryview(content)
    while rest:  # a write(2) may be cut short without an error
        count = os.pwrite(descriptor, rest, place)
        rest, place = rest[count:], place + count


def folder_size(folder: Path) -> int:
    """Returns the bytes of a folder's files, with those of its folders; what goes while it is looked at counts nothing.

    Args:
        folder: The folder, in which others may be writing.
    """
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                status = Path(place, name).stat()
                total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


CHECKSUM_BYTES = 4
"""Length of a `checksum`."""


def checksum(content: bytes) -> bytes:
    """Returns the CRC-32 of some bytes, to be written beside them.

    A place never written to reads as zeros. The checksum of zeros is not 0, so that such a place fails it.
    """
    return zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "little")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes bytes atomically; raises as `write_atomically`."""
    write_atomically(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """Writes text atomically, as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Writes JSON atomically."""
    write_text(path, json.dumps(content, indent=1) + "\n")
