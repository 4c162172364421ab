"""Files of `torch.save`: written at once or not at all, and read safely, whoever made them."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from repro.data.errors import reason_of
from repro.errors import UserError, memory_shortage
from repro.filesystem.files import write_atomically
from repro.filesystem.presence import is_folder, is_special

_BEGINNING = 64
"""Bytes of a file that are looked at before it is read."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a dictionary of tensors and plain values from a file of `torch.save`, never code.

    Raises:
        UserError: As in `load_safely`, or the file holds something other than a dictionary.
    """
    return require_dictionary(load_safely(path), path)


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a dictionary as `read_checkpoint` reads it, at once or not at all.

    Args:
        path: The file; its folder is made if it is not there.
        content: Tensors and plain values, nested in dictionaries, lists and tuples.

    Raises:
        UserError: The folder cannot be written to, or the disk is full; the old file is untouched.
    """
    write_atomically(path, lambda file: torch.save(content, _ArchiveFile(file)))  # type: ignore[arg-type]  # all it calls


class _ArchiveFile:
    """A file as torch's writer of archives needs it: one that may be written to after it was closed.

    If the writer is interrupted before it has written the archive's end, it writes that end when it is freed, after the
    file was closed. An error there would end the process at once (`terminate called after throwing`), with no message.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        """Writes a buffer and returns its length; drops it if the file is closed, which then was given up."""
        return len(data) if self._file.closed else self._file.write(data)

    def flush(self) -> None:
        """Flushes the file; torch calls it at the archive's end."""
        self._file.flush()


def require_dictionary(content: Any, path: Path) -> dict[str, Any]:
    """Returns the content of a checkpoint, or raises a UserError where it is not a dictionary; `path` is for errors."""
    if not isinstance(content, dict):
        raise UserError(
            f"checkpoint {path} holds a {type(content).__name__}, not a checkpoint",
            mend="name a file that holds a dictionary",
        )
    return content


def load_safely(path: Path) -> Any:
    """Reads whatever a file of `torch.save` holds, but never code (`weights_only`).

    Raises:
        UserError: The file is missing, torn, has a bit that changed since it was written, or holds what could run code.
        MemoryError, RuntimeError: Main memory is full.
    """
    beginning_of(path)
    _verify_bits(path)
    try:
        # Opened here: given a path, torch would choose the format by the ending of its name, whatever the file holds.
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn file surfaces as any of half a dozen types
        if memory_shortage(error):  # not the file's fault: a UserError could make callers take an older file
            raise
        raise UserError(
            f"checkpoint {path} cannot be read ({type(error).__name__}): it is torn, or not a checkpoint",
            mend="copy it anew, or make it again",
        ) from error


def beginning_of(path: Path) -> bytes:
    """Returns the first bytes of a file, which tell its format.

    Raises:
        UserError: It is missing, cannot be read, or is not a regular file: a folder, or a pipe or a device, which a
            reader would wait for.
    """
    if is_folder(path):
        raise UserError(f"checkpoint {path} is a folder", mend="name a file in it")
    if is_special(path):
        raise UserError(f"checkpoint {path} is not a regular file", mend="check the path")
    try:
        with path.open("rb") as file:
            return file.read(_BEGINNING)
    except FileNotFoundError:
        raise UserError(f"checkpoint {path} does not exist", mend="check the path") from None
    except (OSError, ValueError) as error:  # the latter for a name that no file system can have
        raise UserError(f"checkpoint {path} cannot be read: {reason_of(error)}", mend="check the path") from error


def _verify_bits(path: Path) -> None:
    """Refuses a file with bits that changed since it was written.

    torch writes an archive with a CRC-32 of each tensor's bytes, but does not check it on reading. Files of older
    versions of torch are not archives, and have no checksums.

    Raises:
        UserError: A part of the archive does not match its checksum.
    """
    try:
        if not zipfile.is_zipfile(path):  # which raises where the archive's last bytes are damaged
            return
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip() or ""
    except (OSError, ValueError, NotImplementedError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        damaged = f"its table of contents ({type(error).__name__})"
    if damaged:
        raise UserError(
            f"checkpoint {path} was changed since it was written: {damaged} fails its checksum",
            mend="copy it anew, or make it again",
        )
