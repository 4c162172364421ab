"""What stands at a path: a question that a file system may leave unanswered."""

import errno
import os
import stat
from pathlib import Path

from repro.errors import UserError

_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""What a file system says where nothing stands: no such name, a file in a folder's place, links in a circle."""


def exists(path: Path) -> bool:
    """Returns whether anything stands at a path.

    `Path.exists` raises whatever the file system says beside that nothing is there: of a folder that is closed to this
    user, a name that is too long, or a server that has forgotten the file. Here that is one line.

    Raises:
        UserError: The file system does not tell.
    """
    return _mode(path) != 0


def is_file(path: Path) -> bool:
    """Returns whether a regular file stands at a path; raises as `exists` does."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Returns whether a folder stands at a path; raises as `exists` does."""
    return stat.S_ISDIR(_mode(path))


def is_filled(path: Path) -> bool:
    """Returns whether anything but an empty file stands at a path; raises as `exists` does.

    A disk that was full leaves a file empty that was to be begun with some lines.
    """
    status = _status(path)
    return status is not None and not (stat.S_ISREG(status.st_mode) and status.st_size == 0)


def is_special(path: Path) -> bool:
    """Returns whether a special file, such as a pipe or a device, stands at a path: opening it may wait for ever.

    Raises as `exists` does.
    """
    mode = _mode(path)
    return mode != 0 and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _mode(path: Path) -> int:
    """Returns the mode of what stands at a path, whose kind is never 0; 0 where nothing does. Raises as `exists`."""
    status = _status(path)
    return 0 if status is None else status.st_mode


def _status(path: Path) -> os.stat_result | None:
    """Returns what a file system says of what stands at a path; None where nothing does.

    Raises:
        UserError: The file system does not tell.
    """
    try:
        return path.stat()
    except ValueError:  # of a name that no file system can have
        return None
    except OSError as error:
        if error.errno in _NOTHING:
            return None
        what = f"{path} cannot be looked at ({error.strerror or type(error).__name__})"
        raise UserError(what, mend="check the name, and that its folders may be entered") from error
