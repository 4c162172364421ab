"""Errors about one file or folder of a data set."""

import errno
import os
from pathlib import Path

from repro.errors import UserError, one_line


class PathError(UserError):
    """A file or folder of a data set that cannot be used.

    `salmask data verify` shows the path and the reason in columns of their own, so both are kept apart here.

    Attributes:
        path: The file or folder.
        reason: What is wrong with it, without the path.
    """

    def __init__(self, path: Path | str, reason: str, *, mend: str = "") -> None:
        super().__init__(f"{path}: {reason}", mend=mend)
        # An exception that comes out of another process is made anew from its `args`, which are those of this
        # constructor and not of `UserError`'s.
        self.args = (path, reason)
        self.path, self.reason = Path(path), reason


LINK_TO_NOTHING = "a link to nothing"
"""Why a broken link cannot be used, which a folder lists as it does a file."""


def is_broken_link(path: Path | str) -> bool:
    """Whether a link lies at a path, and nothing where it leads."""
    # `os.path`, as 10^5 files are known by their texts.
    return os.path.islink(path) and not os.path.exists(path)  # noqa: PTH114, PTH110  # pathlib's raise where os's tell


def refuse_circle(error: OSError) -> None:
    """Refuses links that lead in a circle; what else may be wrong with a folder is left to who lists it.

    Args:
        error: What listing a folder, or looking at something in it, raised.

    Raises:
        PathError: Of the link, which alone is to be removed, whichever folder was listed through it.
    """
    if error.errno != errno.ELOOP or error.filename is None:
        return
    path, passed = Path(error.filename), set[str]()
    for place in (*reversed(path.parents), path):
        real = os.path.realpath(place)
        # Where a link's circle holds no folder, its real path is a link still.
        if place.is_symlink() and (real in passed or os.path.islink(real)):  # noqa: PTH114  # `realpath` gives texts
            raise PathError(place, "a link that leads back to where it is", mend="remove the link") from error
        passed.add(real)


READABLE = "make it readable"
"""What to do about a file or folder without permission, which may be whole."""


def mend_of(error: BaseException, otherwise: str) -> str:
    """Returns what to do about a file or folder that cannot be read: to give permission, or else what mends it."""
    return READABLE if isinstance(error, PermissionError) else otherwise


def reason_of(error: BaseException) -> str:
    """Returns in one line why something failed.

    An error of the operating system is reduced to its bare reason ("No space left on device"): callers name the file
    themselves, and `str(error)` would name it a second time, with a number. So is one that urllib has wrapped.
    """
    cause = getattr(error, "reason", None)  # of a URLError; those of others are texts
    if isinstance(cause, OSError):
        error = cause
    return error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
