"""Folders that are complete or absent, even after a crash or on a full disk."""

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
from repro.filesystem.file_locks import locked
from repro.filesystem.files import folder_size, full_disk_reason, is_of_a_full_disk, sync_folder
from repro.filesystem.writability import why_unwritable
from repro.quantities import size_text

_UNFINISHED, _ASIDE = ".part", ".old"
"""How the names of temporary folders end: one being filled, and one being replaced."""


@contextlib.contextmanager
def new_folder(target: Path, *, force: bool = False, mend: str = "name another folder, or remove it") -> Iterator[Path]:
    """Yields a folder to fill. It takes the target's name after the block, or is removed if the block fails.

    Unfinished folders of killed processes of this machine are removed first. A folder that one of them was replacing
    gets its name back.

    Args:
        target: Must not exist or be an empty folder, unless `force`.
        force: Whether to replace the folder that is there, once the new one is whole.
        mend: What to do about a folder that is there.

    Yields:
        The folder to write to, beside the target.

    Raises:
        UserError: The target exists, is a link or a file, or cannot be written to; or a file that was read within the
            block cannot be.
    """
    temporary, lock = "", -1
    try:
        if target.is_symlink():  # a folder cannot be renamed over it
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
        os.sync()  # once for thousands of small files: syncing each would take longer than writing them
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
            # A file that the block reads; neither the folder nor its place is to blame.
            mend = "see whether it is still there and can be read, and repeat"
            raise UserError(f"{error.filename}: {reason}, so that {target} was not written", mend=mend) from error
        mend = system_mend(error, "name a folder that can be written to")
        raise UserError(f"cannot write {target}: {reason}", mend=mend) from error
    finally:
        if temporary:  # after the rename nothing of this name exists
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(lock)


def _is_elsewhere(path: Path, target: Path) -> bool:
    """Returns whether a path is neither beside a target, where its temporary folder is, nor one of its parents."""
    return target.parent not in path.parents and path not in target.parents


def _begin(target: Path) -> tuple[str, int]:
    """Makes and locks the folder to fill, and removes those that no process fills any more.

    Returns:
        The folder, and a descriptor that holds its lock until it is closed, by whatever ends the process.
    """
    prefix = _prefix(target)
    with _alone_beside(target):  # no other process may find the folder before it is locked
        for left in target.parent.glob(f"{glob.escape(prefix)}*{_UNFINISHED}"):
            _remove_unlocked(left)
        temporary = tempfile.mkdtemp(prefix=prefix, suffix=_UNFINISHED, dir=target.parent)
        lock = os.open(temporary, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks, on which nothing is removed either
            fcntl.flock(lock, fcntl.LOCK_EX)
        return temporary, lock


def _prefix(target: Path) -> str:
    """Returns how the names of a target's temporary folders begin."""
    # With the machine's name: locks that are held on other machines may be invisible here.
    return f".{target.name}.{socket.gethostname()}."


@contextlib.contextmanager
def _alone_beside(target: Path) -> Iterator[None]:
    """Keeps other processes of this machine from making or removing temporary folders beside a target."""
    place = os.open(target.parent, os.O_RDONLY)
    try:
        with locked(place):
            yield
    finally:
        os.close(place)


def _undo_killed_swap(target: Path) -> None:
    """Gives a folder that a killed process had set aside its name back; removes it if the new one has that name."""
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
    """Removes a folder that nobody has locked; if that cannot be told, it stays."""
    with contextlib.suppress(OSError):
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def _take_the_place(new: Path, target: Path) -> None:
    """Gives a complete folder the name of another one, and then removes the latter; if it fails, the latter stays."""
    # Not removed first: that may fail half-way, such as at a file that is open on a network file system.
    aside = new.with_suffix(_ASIDE)
    try:
        target.rename(aside)
        new.rename(target)
    finally:
        if not target.exists():
            aside.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
