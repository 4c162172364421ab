"""Folders that are whole or not there, also after a crash or where the disk is full."""

import contextlib
import fcntl
import glob
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from repro.errors import UserError, system_mend
from repro.file_locks import locked
from repro.files import folder_size, full_disk_reason, is_of_a_full_disk, sync_folder
from repro.quantities import size_text
from repro.writability import why_unwritable

_UNFINISHED, _ASIDE = ".part", ".old"
"""How the names of temporary folders end: of one that is being filled, and of one that is being replaced."""


@contextlib.contextmanager
def new_folder(target: Path, *, force: bool = False, mend: str = "name another folder, or remove it") -> Iterator[Path]:
    """Yields a folder to fill, which takes the target's name once it is filled, and goes if it is not.

    What a killed process of this machine left of such a folder goes, too, and what it was about to replace comes back.

    Args:
        target: Must not exist, or be an empty folder.
        force: Whether to replace the folder that is there, once the new one is whole.
        mend: What to do about a folder that is there.

    Yields:
        The folder to write to, beside the target.

    Raises:
        UserError: The target is there, or cannot be written to; or a file that was read meanwhile cannot be.
    """
    temporary, lock = "", -1
    try:
        if target.is_symlink():  # it could be replaced by no folder
            raise UserError(f"{target} is a link", mend="name the folder that it leads to, or another one")
        _undo_killed_swap(target)
        if target.exists() and not target.is_dir():
            raise UserError(f"{target} is a file", mend="name a folder")
        if not force and target.exists() and any(target.iterdir()):
            raise UserError(f"{target} exists already", mend=mend)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target and not in /tmp: only within one file system is a rename a single step.
        temporary, lock = _begin(target)
        Path(temporary).chmod(0o755)
        yield Path(temporary)
        os.sync()  # thousands of small files: one by one would take longer than writing them
        if force and target.exists():
            with _alone_beside(target):
                _take_the_place(Path(temporary), target)
        else:
            Path(temporary).replace(target)  # over an empty folder too, as rename(2) allows
        sync_folder(target.parent)
    except OSError as error:
        if is_of_a_full_disk(error):
            written = folder_size(Path(temporary)) if temporary else 0
            reason = full_disk_reason(target.parent, f"{size_text(written)} of it were written")
            raise UserError(f"cannot write {target}: {reason}", mend="free some space there") from error
        reason = why_unwritable(target.parent, error)
        if isinstance(error.filename, str) and _is_elsewhere(Path(error.filename).absolute(), target.absolute()):
            # What it was to be made from; neither the folder nor its place is to blame.
            mend = "see whether it is still there and can be read, and repeat"
            raise UserError(f"{error.filename}: {reason}, so that {target} was not written", mend=mend) from error
        mend = system_mend(error, "name a folder that can be written to")
        raise UserError(f"cannot write {target}: {reason}", mend=mend) from error
    finally:
        if temporary:  # after the rename there is nothing of this name any more
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(lock)


def _is_elsewhere(path: Path, target: Path) -> bool:
    """Returns whether a path is neither beside a target, where its temporary folder is, nor one of its parents."""
    return target.parent not in path.parents and path not in target.parents


def _begin(target: Path) -> tuple[str, int]:
    """Makes the folder to fill, and removes those that nobody fills any more.

    Returns:
        The folder, and a descriptor that holds its lock until it is closed, by whatever ends the process.
    """
    prefix = _prefix(target)
    with _alone_beside(target):  # or another process might find the folder before its lock is held
        for left in target.parent.glob(f"{glob.escape(prefix)}*{_UNFINISHED}"):
            _remove_unlocked(left)
        temporary = tempfile.mkdtemp(prefix=prefix, suffix=_UNFINISHED, dir=target.parent)
        lock = os.open(temporary, os.O_RDONLY)
        with contextlib.suppress(OSError):  # of a file system without locks, on which nothing is removed either
            fcntl.flock(lock, fcntl.LOCK_EX)
        return temporary, lock


def _prefix(target: Path) -> str:
    """Returns how the names of a target's temporary folders begin."""
    # The machine is part of the name, as one of another machine may be locked where this one sees no lock.
    return f".{target.name}.{socket.gethostname()}."


@contextlib.contextmanager
def _alone_beside(target: Path) -> Iterator[None]:
    """Keeps other processes of this machine from the names of temporary folders beside a target."""
    place = os.open(target.parent, os.O_RDONLY)
    try:
        with locked(place):
            yield
    finally:
        os.close(place)


def _undo_killed_swap(target: Path) -> None:
    """Gives back the folder that a killed process had set aside, or removes it where the new one had its name."""
    asides = f"{glob.escape(_prefix(target))}*{_ASIDE}"
    if not any(target.parent.glob(asides)):
        return
    with _alone_beside(target):
        for aside in target.parent.glob(asides):
            if target.exists():
                shutil.rmtree(aside, ignore_errors=True)
            else:
                aside.rename(target)


def _remove_unlocked(folder: Path) -> None:
    """Removes a folder whose lock nobody holds; one of which that is unknown stays."""
    with contextlib.suppress(OSError):
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def _take_the_place(new: Path, target: Path) -> None:
    """Gives a whole folder the name of another one, which goes only then; where that fails, the other one stays."""
    # Not removed first: half of it may be gone before an error, such as a file that is open on a network file system.
    aside = new.with_suffix(_ASIDE)
    try:
        target.rename(aside)
        new.rename(target)
    finally:
        if not target.exists():
            aside.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
