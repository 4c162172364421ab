"""Whether a place can be written to: checked before the work whose outcome goes there, or explained after a failure."""

import errno
import os
from pathlib import Path

from repro.errors import UserError, one_line
from repro.filesystem.presence import exists, is_file, is_folder, is_special


def check_place(path: Path, mend: str) -> None:
    """Refuses a place that cannot be written to, before the work whose outcome goes there; creates nothing.

    It does not check for free space.

    Args:
        path: A folder to write into, or a file to append to; neither need exist.
        mend: What to do about it.

    Raises:
        UserError: The place, or the nearest folder above it that exists, is closed to this user, read-only or a file.
    """
    place = _nearest(path)
    if not is_folder(place) and (place != path or not exists(place)):
        raise UserError(f"cannot write {path}: {_no_folder(place)}", mend=mend)
    if not os.access(place, os.W_OK | os.X_OK if is_folder(place) else os.W_OK):
        raise UserError(f"cannot write {path}: {place} is closed to this user, or read-only", mend=mend)


def check_file(path: Path) -> None:
    """Refuses a file that `write_atomically` could not write, before the work whose outcome it is to hold.

    Args:
        path: The file, which need not exist.

    Raises:
        UserError: A device or a pipe stands there, or its folder is refused by `check_place`.
    """
    refuse_special(path)
    mend = "choose another --out"
    if is_file(path.parent):  # `check_place` would accept it, as a file to append to
        raise UserError(f"cannot write {path}: {_no_folder(path.parent)}", mend=mend)
    check_place(path.parent, mend=mend)


def refuse_special(path: Path) -> None:
    """Refuses to replace a special file: with root's `--out /dev/null` the device would be lost.

    `/dev/stdout` is a link to what this process has open, perhaps a regular file; the link would be lost.

    Args:
        path: Where the file is to be.

    Raises:
        UserError: A special file is there.
    """
    try:
        special = is_special(path) or (path.is_symlink() and path.readlink().is_relative_to("/proc"))
    except (OSError, UserError):  # the write itself will report the reason
        return
    if special:
        raise UserError(f"cannot write {path}: it is not a regular file", mend="name a file")


def why_unwritable(folder: Path, error: OSError) -> str:
    """Returns why a folder cannot be written to: what is in a folder's place, or what the system says.

    Args:
        folder: The folder that was to be made, or to be written into.
        error: The error. Its "File exists" alone would let a person look for another file.
    """
    place = _nearest(folder)
    if error.errno in (errno.EEXIST, errno.ENOTDIR) and not is_folder(place):
        return _no_folder(place)
    return error.strerror or one_line(error)


def _nearest(path: Path) -> Path:
    """Returns the path itself or the nearest one above it at which anything exists, even a broken link."""
    return next(place for place in (path, *path.absolute().parents) if place.is_symlink() or exists(place))


def _no_folder(place: Path) -> str:
    """Says what is in the place of a folder."""
    return f"{place} is {'not a folder' if exists(place) else 'a link to nothing'}"
