"""Paths as a person enters them (`~`, relative ones), and where caches and code are."""

import os
import re
from pathlib import Path

import platformdirs

from repro.errors import UserError

CACHE_VARIABLE = "SALMASK_CACHE"
"""The environment variable that names the folder of all caches."""

CODE_ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the packages: a checkout, a copy of one that jobs run from, or `site-packages`."""

OWN_PACKAGES = ("repro", "baselines", "downstream", "results", "slurm")
"""The packages of salmask, wherever it is installed: all code that a job imports from it."""

_HOME = re.compile(r"((?:[^=~/\s]+=)*)(~[^/=\s]*(?:/.*)?)", re.DOTALL)
"""`~` at the beginning of a word, or of a value behind `--option=`, `key.sub=` or `--root=DATASET=`."""


def check_surroundings() -> None:
    """Refuses a process without a home folder, as in a container under a bare user number, or without a working folder.

    Caches, profiles and libraries look for files in the home folder. If the working folder is gone, relative paths lead
    nowhere, and MKL even ends the process when torch is imported.

    Raises:
        UserError: One of the two is missing.
    """
    try:
        Path.home()
    except RuntimeError as error:
        what = f"no home folder: $HOME is not set, and this machine knows no user {os.getuid()}"
        raise UserError(what, mend="export HOME=DIR, a folder that this user may write to") from error
    try:
        Path.cwd()
    except OSError as error:
        raise UserError("the working folder is gone", mend="cd to one that exists") from error


def cache_home() -> Path:
    """Returns the folder of all caches, each in a folder of its own: $SALMASK_CACHE, else the user's cache folder.

    Raises:
        UserError: $SALMASK_CACHE begins with `~USER`, and this machine has no such user.
    """
    named = os.environ.get(CACHE_VARIABLE, "")
    return expanded(named) if named else platformdirs.user_cache_path("salmask")


def expanded(path: str | Path) -> Path:
    """Returns a path with `~` or `~user` at its beginning expanded.

    Raises:
        UserError: There is no such home folder on this machine.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        what = f"{path}: {Path(path).parts[0]} is not a home folder on this machine"
        raise UserError(what, mend="write the whole path") from error


def with_home(word: str) -> str:
    """Returns a word of a command line with `~` and `~user` expanded, wherever a path may begin in it.

    A shell does so only at the beginning of a word: `--out=~/runs` arrives as it was typed, and would make a folder
    named `~`. A `~` that is not a home folder of this machine stays as it is.
    """
    match = _HOME.fullmatch(word)
    return word if match is None else match[1] + os.path.expanduser(match[2])  # noqa: PTH111  # text, kept if no path


def require_utf8(path: Path) -> None:
    """Refuses a path that is not UTF-8 and is to be recorded: neither TensorBoard nor a table of results takes it.

    Args:
        path: As Python decoded it, with surrogates for other bytes.

    Raises:
        UserError: It is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise UserError(f"{shown} is not UTF-8", mend="rename that folder, or name another place") from error


def absolute(path: str) -> str:
    """Returns a path that is to be recorded: absolute, with `~` expanded; an empty one stays empty.

    Links in it stay: they are what a person named, and may lead elsewhere tomorrow.
    """
    return os.path.abspath(os.path.expanduser(path)) if path else path  # noqa: PTH100, PTH111  # text in, text out
