"""Files that are complete or absent, even after a crash or on a full disk."""

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
from repro.filesystem.file_locks import locked
from repro.filesystem.presence import is_file, is_special
from repro.filesystem.writability import check_file, refuse_special, why_unwritable
from repro.quantities import size_text


@contextlib.contextmanager
def reading(path: Path, mend: str) -> Iterator[None]:
    """Turns any error of reading a file within the block into one line: the file, what is wrong, the mend.

    Args:
        path: The file.
        mend: What a person can do about it.

    Raises:
        UserError: In place of any other error; and if the path is that of a pipe or a device.
    """
    if is_special(path):
        raise UserError(f"{path} is not a regular file", mend="put a file in its place, or remove it")
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
    except Exception as error:  # anybody may have written the file, and each parser has error classes of its own
        wrong = "it is empty" if _is_empty(path) else f"{type(error).__name__}: {one_line(error)[:200]}"
        raise UserError(f"{path} cannot be read ({wrong})", mend=mend) from error


def _is_empty(path: Path) -> bool:
    return is_file(path) and path.stat().st_size == 0


def read_regular(path: Path, most: int) -> bytes:
    """Reads a regular file; refuses anything whose reading might wait or never end.

    Args:
        path: The file.
        most: Most bytes that it may have.

    Raises:
        UserError: It is a pipe, a device or a folder, or larger.
        OSError: It cannot be read.
    """
    # Without O_NONBLOCK, merely opening a pipe waits for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is not a regular file", mend="put a file in its place, or remove it")
        if status.st_size > most:
            raise UserError(
                f"{path} has {status.st_size} bytes; at most {most} are allowed",
                mend="put the right file in its place, or remove it",
            )
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


TAIL_BYTES = 8192
"""Some hundred lines; logs of long trainings have many megabytes."""


def tail(path: Path) -> str:
    """Returns the end of a file, which may begin within a line; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace")  # the tail may begin within a character
    except OSError:
        return ""


LONGEST_NAME = 245
"""Most bytes in a file's name: file systems allow 255, of which its temporary name needs ten more."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file so that a reader finds either the old content or the new, whatever happens meanwhile.

    Args:
        path: The file; its folder is made if it is not there.
        write: Writes the content to the open file that it is given.

    Raises:
        UserError: The folder cannot be written to, or the disk is full; the old file is untouched. Or what stands there
            is a device, a pipe or a link to this process's own output.
    """
    refuse_special(path)
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        # Readable, too: into a file that is open for writing only, numpy writes with code of its own, whose error does
        # not name the reason, such as a full disk.
        with os.fdopen(descriptor, "w+b") as file:
            write(file)
            # Synced before it is renamed: a file system may make the new name durable first, and a power cut in between
            # would leave an empty file in place of the old one.
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp makes files that only their owner may read
        Path(temporary).replace(path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        _discard(temporary)
        if asked := interruption(error):
            # The process was asked to end in the middle of the file. torch then closes its archive, finds it incomplete
            # and raises that, which would read like a broken disk.
            raise asked from None
        if is_of_a_full_disk(error):
            raise _full_disk(path, write) from error
        # Not the error's own text, which names the temporary file.
        cause = machines_error(error) or error
        reason = why_unwritable(path.parent, cause) if isinstance(cause, OSError) else one_line(error)
        mend = system_mend(error, "check that its folder is really a folder, and can be written to")
        raise UserError(f"cannot write {path}: {reason}", mend=mend) from error
    except BaseException:  # an interruption too must leave no temporary file
        _discard(temporary)
        raise


def is_of_a_full_disk(error: BaseException) -> bool:
    """Returns whether an error, or one of its causes, says that a disk is full or a quota used up."""
    return any(each.errno in (errno.ENOSPC, errno.EDQUOT) for each in system_errors(error))


OF_A_SWEEP = "have it made writable, or launch with another --out"
"""The mend for a sweep's folder that cannot be written to. It names the launch: other commands have no `--out`."""


def mend_of_place(error: OSError, otherwise: str = OF_A_SWEEP) -> str:
    """Returns the mend for a folder that cannot be written to: on a full disk to free space, never to go elsewhere."""
    return "free some space there" if is_of_a_full_disk(error) else system_mend(error, otherwise)


def write_over(path: Path, content: bytes) -> None:
    """Writes a small file in place, for when a full disk has no room for a new one beside it.

    The bytes go into the blocks that the file has, in one write; behind them stand blanks up to the old end.

    Args:
        path: The file, which exists.
        content: Text, with its newline; it must fit into the blocks that the file has.

    Raises:
        OSError: It does not fit, or the file system writes nothing in place.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        # st_blocks counts blocks of 512 bytes, whatever the file system's own size.
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
    """Returns the error of a file that did not fit, with the size it takes, what is free, and what is missing."""
    counter, free = _Counter(), _free_space(path.parent)
    # If this fails, the message is still that the disk is full.
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        write(cast(IO[bytes], counter))
    missing = f"free {size_text(counter.count - free)} there" if counter.count > free else "free some space there"
    reason = full_disk_reason(path.parent, f"{size_text(counter.count)} are to be written")
    return UserError(f"cannot write {path}: {reason}", mend=missing)


def full_disk_reason(folder: Path, size: str) -> str:
    """Returns the words that a folder's disk is full, with the size of what is or was written, and what is free."""
    return f"the disk of {folder} is full, or its quota ({size}, {size_text(_free_space(folder))} are free)"


def _free_space(folder: Path) -> int:
    """Returns the free bytes where a folder is or would be: making it may be what failed."""
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


_TEMPORARY = re.compile(r"\..+\.\w+\.[a-z0-9_]{8}")
"""The name of a file with its suffix, and what mkstemp adds. All our files have a suffix: if none were required, a
person's own hidden file `.notes.markdown` would match, and be removed."""


def is_temporary(path: Path) -> bool:
    """Returns whether a file has a name that `write_atomically` gives to an unfinished one."""
    return _TEMPORARY.fullmatch(path.name) is not None  # mkstemp adds eight such characters to the prefix


TORN_SECONDS = 3600.0
"""A temporary file that is older than this is taken for one of a killed process, and not for one being written."""


def is_torn(path: Path) -> bool:
    """Returns whether a file was left half written by a process that was killed.

    Raises:
        FileNotFoundError: Whoever was writing it has given it its name meanwhile.
    """
    if not is_temporary(path):
        return False
    status = path.stat()
    return stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime > TORN_SECONDS


def make_way(path: Path) -> None:
    """Prepares for a file whose making takes long: refuses its place, and removes what killed processes left beside it.

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
        with contextlib.suppress(OSError):  # the earlier error is the one to report
            Path(temporary).unlink()


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable; fsync of a file covers its content only."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_lines(path: Path, payload: bytes) -> None:
    """Appends whole lines to a file to which several processes append: all of them, or none.

    The lines go out in one write under a lock on the file, followed by fsync. If an earlier write was cut off in the
    middle of a line, the new lines start on a line of their own.

    Args:
        path: The file; made if it is not there. Its folder must exist.
        payload: The lines, each with its newline.

    Raises:
        OSError: The file cannot be written to, or the disk is full (then its text tells sizes). None of the lines is in
            the file, unless another process, in spite of the lock, has appended to it meanwhile.
    """
    is_new = not path.exists()
    # If the file system has no locks, appending alone is nearly as safe.
    with path.open("a+b", buffering=0) as file, locked(file.fileno()):
        # Under the lock, so that no other process is in the middle of a line.
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
    """Cuts off bytes that were appended to a file, unless another process has appended more since."""
    place = os.fstat(descriptor).st_size - len(written)
    if place >= 0 and os.pread(descriptor, len(written), place) == written:
        os.ftruncate(descriptor, place)


def write_at(descriptor: int, content: bytes | memoryview, place: int) -> None:
    """Writes all of some bytes at a place of an open file.

    Args:
        descriptor: The file's.
        content: The bytes.
        place: Offset of the first byte from the file's beginning.

    Raises:
        OSError: The file cannot be written to, or the disk is full; a part may have been written.
    """
    rest = memoryview(content)
    while rest:  # a write(2) may be cut short without an error
        count = os.pwrite(descriptor, rest, place)
        rest, place = rest[count:], place + count


def folder_size(folder: Path) -> int:
    """Returns the bytes of all files in a folder and its subfolders; a file that vanishes meanwhile does not count.

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

    A place that was never written reads as zeros. It fails the check, as the checksum of zeros is not 0.
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
