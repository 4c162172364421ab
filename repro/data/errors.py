"""Errors about one file or folder of a data set."""

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


def reason_of(error: BaseException) -> str:
    """Returns in one line why something failed.

    An error of the operating system is reduced to its bare reason ("No space left on device"): callers name the file
    themselves, and `str(error)` would name it a second time, with a number.
    """
    return error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
