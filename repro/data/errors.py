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
        # An exception of another process is made anew here from its `args`, which must fit this constructor rather
        # than `UserError`'s.
        self.args = (path, reason)
        self.path, self.reason = Path(path), reason


LINK_TO_NOTHING = "a link to nothing"
"""Why a broken link, which a folder lists like a file, cannot be used."""


def is_broken_link(path: Path | str) -> bool:
    """Returns whether there is a link at a path, and nothing where it leads."""
    # `os.path`, since the paths of 10^5 files are texts.
    return os.path.islink(path) and not os.path.exists(path)  # noqa: PTH114, PTH110  # pathlib's raise where os's tell


def refuse_circle(error: OSError) -> None:
    """Refuses links that lead in a circle; any other error of a folder is left to the caller.

    Args:
        error: What listing a folder, or looking at something in it, raised.

    Raises:
        PathError: A link leads in a circle. The error names that link, even if a folder below it was listed.
    """
    if error.errno != errno.ELOOP or error.filename is None:
        return
    path, passed = Path(error.filename), set[str]()
    for place in (*reversed(path.parents), path):
        real = os.path.realpath(place)
        # The real path of a circle of links alone is still a link.
        if place.is_symlink() and (real in passed or os.path.islink(real)):  # noqa: PTH114  # `realpath` gives texts
            raise PathError(place, "a link that leads back to where it is", mend="remove the link") from error
        passed.add(real)


READABLE = "make it readable"
"""The mend of a file or folder that this user may not read, and that may be sound."""


def mend_of(error: BaseException, otherwise: str) -> str:
    """Returns the mend of a file or folder that cannot be read: `READABLE` where permission is missing."""
    return READABLE if isinstance(error, PermissionError) else otherwise


def reason_of(error: BaseException) -> str:
    """Returns in one line why something failed.

    An error of the operating system, even if urllib has wrapped it, is reduced to its bare reason ("No space left on
    device"): callers name the file themselves, and `str(error)` would name it a second time, with a number.
    """
    cause = getattr(error, "reason", None)  # an error in a URLError; in others a text
    if isinstance(cause, OSError):
        error = cause
    return error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
