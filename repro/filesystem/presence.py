"""What exists at a path; a file system that does not answer is one clear error."""

import errno
import os
import stat
from pathlib import Path

from repro.errors import UserError

_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""Errors by which a file system says that nothing exists: no such name, a file in a folder's place, circular links."""


def exists(path: Path) -> bool:
    """Returns whether anything exists at a path.

    `Path.exists` raises other errors of the file system: for a folder that is closed to this user, a name that is too
    long, or a file that an NFS server has forgotten. Here that is one line.

    Raises:
        UserError: The file system does not tell.
    """
    return _mode(path) != 0


def is_file(path: Path) -> bool:
    """Returns whether a regular file exists at a path; raises as `exists` does."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Returns whether a folder exists at a path; raises as `exists` does."""
    return stat.S_ISDIR(_mode(path))


def is_filled(path: Path) -> bool:
    """Returns whether anything but an empty file exists at a path; raises as `exists` does.

    A full disk may leave a file empty whose first lines were to be written.
    """
    status = _status(path)
    return status is not None and not (stat.S_ISREG(status.st_mode) and status.st_size == 0)


def is_special(path: Path) -> bool:
    """Returns whether a special file exists at a path, such as a pipe or a device: opening it may wait for ever.

    Raises as `exists` does.
    """
    mode = _mode(path)
    return mode != 0 and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _mode(path: Path) -> int:
    """Returns the mode of what exists at a path, which is never 0; 0 if nothing does. Raises as `exists`."""
    status = _status(path)
    return 0 if status is None else status.st_mode


def _status(path: Path) -> os.stat_result | None:
    """Returns the status of what exists at a path; None if nothing does.

    Raises:
        UserError: The file system does not tell.
    """
    try:
        return path.stat()
    except ValueError:  # a name that no file system can have
        return None
    except OSError as error:
        if error.errno in _NOTHING:
            return None
        what = f"{path} cannot be accessed ({error.strerror or type(error).__name__})"
        raise UserError(what, mend="check the name, and that its folders may be entered") from error
