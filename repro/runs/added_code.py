"""Finds where in added code an error arose: code that a user added to salmask, such as a task or a data set.

The user can correct such an error; it is no fault of salmask to report. A line is *added* if its file belongs neither
to salmask's packages nor to Python or an installed library. In a git checkout of salmask, files that git does not track
and lines written since the checkout left its upstream branch are added too.
"""

import re
import subprocess
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import TracebackType

from repro.errors import visible_in_line
from repro.filesystem.paths import CODE_ROOT, OWN_PACKAGES
from repro.runs.provenance import git

_INSTALLED = frozenset({"site-packages", "dist-packages"})
"""Names of folders that hold installed libraries."""
_PATIENCE_SECONDS = 10.0
"""Longest wait for git."""
_NAMED_MODULE = re.compile(r"'(\w+)(?:\.[\w.]+)?'")
"""A module quoted in the message of an ImportError or AttributeError; of `package.module`, the package."""
_TOLD_FRAME = re.compile(r'^\s*File "(?P<path>[^"\n]+)", line (?P<line>\d+)', re.MULTILINE)
"""A frame in the message of an error from a DataLoader's worker, which holds the worker's whole traceback."""


@dataclass(frozen=True)
class Place:
    """A line of code."""

    path: Path
    line: int

    def __str__(self) -> str:
        path = self.path.resolve()
        shown = path.relative_to(CODE_ROOT) if path.is_relative_to(CODE_ROOT) else self.path
        return f"{visible_in_line(str(shown))}, line {self.line}"


def added_place(error: BaseException) -> Place | None:
    """Returns the innermost line of added code that an error came through; None if there is none.

    Args:
        error: As it was caught.
    """
    return next((place for place in _places(error) if is_added(place)), None)


def added_traceback(error: BaseException) -> str:
    """Returns the traceback of an error from its outermost line of added code on; all of it if there is no such line.

    Args:
        error: As it was caught.
    """
    begin: TracebackType | None = error.__traceback__
    while begin is not None and not is_added(_place_of(begin)):
        begin = begin.tb_next
    return "".join(traceback.format_exception(error.with_traceback(begin)))


def _places(error: BaseException) -> Iterator[Place]:
    """Yields the lines that an error came through, innermost first."""
    if isinstance(error, SyntaxError) and error.filename:
        yield Place(Path(error.filename), error.lineno or 0)
    told = _TOLD_FRAME.findall(str(error)) if "\nOriginal Traceback" in str(error) else []
    yield from (Place(Path(path), int(line)) for path, line in reversed(told))
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append(_place_of(trace))
        trace = trace.tb_next
    yield from reversed(frames)


def _place_of(trace: TracebackType) -> Place:
    return Place(Path(trace.tb_frame.f_code.co_filename), trace.tb_lineno)


def stand_in(error: BaseException) -> Path | None:
    """Returns the file that shadows another module of the same name, if an error's message names that module.

    For example, a `timm.py` in the folder that salmask is called from, which `python -m` searches first. None for other
    errors.

    Args:
        error: As it was caught.
    """
    for name in _NAMED_MODULE.findall(str(error)) if isinstance(error, ImportError | AttributeError) else ():
        file = getattr(sys.modules.get(name), "__file__", None)
        if not file or _is_installed(Path(file)):
            continue
        folder = Path(file).parents[Path(file).stem == "__init__"].resolve()
        if name in OWN_PACKAGES and folder == CODE_ROOT:  # salmask itself, even if another copy of it is installed
            continue
        others = [place for place in sys.path if Path(place).resolve() != folder]
        if PathFinder.find_spec(name, others) is not None:
            return Path(file)
    return None


@cache
def is_added(place: Place) -> bool:
    """Returns whether a line belongs to added code.

    Args:
        place: The line; its file as Python names it.
    """
    path = place.path.resolve()  # as `CODE_ROOT` is
    if not path.is_file():  # no file: `<frozen importlib._bootstrap>`, for example
        return False
    own = path.is_relative_to(CODE_ROOT)
    if own and path.relative_to(CODE_ROOT).parts[0] in OWN_PACKAGES:
        return _was_written_since(path, place.line)
    if _is_installed(path) or _is_installed(place.path) or path == Path(sys.argv[0]).resolve():
        return False
    return not own or _was_written_since(path, place.line)


def _is_installed(path: Path) -> bool:
    """Returns whether a file belongs to Python or to an installed library, in whatever folders these are."""
    folders = (*_python_folders(), *_target_folders(tuple(sys.path)))
    return bool(_INSTALLED.intersection(path.parts)) or any(path.is_relative_to(folder) for folder in folders)


@cache
def _python_folders() -> Sequence[Path]:
    """Returns the folders of Python's own modules and scripts."""
    paths = sysconfig.get_paths()
    folders = [Path(paths[name]) for name in ("stdlib", "platstdlib", "scripts")]
    return [*folders, *(folder.resolve() for folder in folders)]


@cache
def _target_folders(search_path: Sequence[str]) -> Sequence[Path]:
    """Returns the folders of the search path that hold installed libraries (`pip install --target`).

    Args:
        search_path: Where Python looks for modules; "" is the working folder.
    """
    return [Path(place).resolve() for place in search_path if any(Path(place).glob("*.dist-info"))]


def _was_written_since(path: Path, line: int) -> bool:
    """Returns whether a line was written since the checkout left its upstream branch; False outside of a checkout."""
    base = _base()
    if not base:
        return False
    if _git("ls-files", "--", str(path)) == "":  # untracked; None means that git gave no answer
        return True
    # By line, not by file: adding a task also means adding a line to a module of salmask's own.
    told = _git("blame", "--porcelain", f"-L{line},{line}", f"^{base}", "--", str(path))
    return told is not None and "\nboundary\n" not in told


@cache
def _base() -> str:
    """Returns the commit up to which a checkout's code is salmask's own; empty outside of a checkout."""
    # If salmask is installed in a virtual environment inside another project's checkout, git would answer for that one.
    if _git("ls-files", "--error-unmatch", "--", "repro/__init__.py") is None:
        return ""
    left = (_git("merge-base", "HEAD", branch) for branch in ("@{upstream}", "origin/HEAD", "HEAD"))
    return next(filter(None, left), "")


def _git(*words: str) -> str | None:
    """Returns git's output about the code; None if git fails or is missing."""
    with suppress(OSError, subprocess.SubprocessError):
        return git(CODE_ROOT, *words, patience=_PATIENCE_SECONDS)
    return None
