"""Archives of data sets: found or downloaded, checked, and unpacked whole or not at all."""

import contextlib
import hashlib
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import IO

from repro.command_line.progress import ProgressBars
from repro.data.errors import PathError, reason_of
from repro.errors import UserError, system_mend
from repro.filesystem.files import is_of_a_full_disk, sync_folder
from repro.filesystem.paths import expanded
from repro.filesystem.presence import exists, is_file, is_folder
from repro.quantities import size_text
from repro.runs.lock import held

Preparer = Callable[[Sequence[Path], Path], None]
"""Makes the root (second argument) from archives (first: files, or folders with them; none: they are downloaded)."""

TORN = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError)
"""What the standard library raises for files that are torn, encrypted, no archives, or of an unknown compression."""

DOWNLOAD_AGAIN = "download it again and repeat (what is finished is kept)"
"""The mend of an archive that is torn or incomplete."""

MAKE_READABLE = "make it readable and repeat"
"""The mend of an archive without permission to read it."""

_LOCK = ".salmask-prepare.lock"
"""The file in a root that is locked while the root is prepared."""


@contextlib.contextmanager
def preparing(root: Path) -> Iterator[None]:
    """Holds the lock under which a root is prepared, for the length of a `with` block.

    If the block fails before there is a file in a root that was empty, the folders that were made are removed again,
    the root too if it was made here.

    Args:
        root: The folder that is unpacked into; made where it does not exist.

    Raises:
        UserError: Another process is preparing the same root, or the root cannot be written to.
    """
    missing = list(takewhile(lambda folder: not exists(folder), (root, *root.parents)))
    with held(
        root / _LOCK,
        taken=lambda: UserError(f"{root}: another process is preparing this folder", mend="wait until it has finished"),
        unwritable="name a folder that can be written with --root",
    ):
        was_empty = all(_is_lock(path) for path in root.iterdir())
        try:
            yield
        except BaseException:
            if was_empty:
                with contextlib.suppress(OSError):  # a folder is not empty
                    _remove_empty(root, missing)
            raise


def _is_lock(path: Path) -> bool:
    """Returns whether a file is the lock of `preparing`, of any generation (see `repro.runs.lock`)."""
    return path.name.startswith(_LOCK)


def _remove_empty(root: Path, made: Iterable[Path]) -> None:
    """Removes what was made of a root that holds no file; its lock must be held.

    Args:
        root: The folder that was to be unpacked into.
        made: The root and the folders above it that were not there before, innermost first.

    Raises:
        OSError: The root holds a file.
    """
    for path in sorted(root.rglob("*"), reverse=True):
        if not _is_lock(path):
            path.rmdir()
    for lock in filter(_is_lock, root.iterdir()):
        lock.unlink()
    for folder in made:
        folder.rmdir()


def locate(given: Sequence[Path], name: str) -> Path | None:
    """Looks for the archive of a name among the files and folders that were given.

    Args:
        given: Archives, or folders with archives.
        name: The archive's file name.

    Returns:
        The archive's path; None where it is not among them.

    Raises:
        UserError: Something given does not exist.
    """
    for path in map(expanded, given):
        if not exists(path):
            raise PathError(
                path, "no such file or folder", mend="name the downloaded archives, or the folder with them"
            )
        if is_folder(path) and is_file(path / name):
            return path / name
        if is_file(path) and path.name == name:
            return path
    return None


def locate_all(given: Sequence[Path], sources: Mapping[str, str], dataset: str) -> dict[str, Path]:
    """Looks for several archives, all of which are needed, before any of them is read.

    Args:
        given: Archives, or folders with archives.
        sources: Where each archive is published, by its file name.
        dataset: The data set's name, which the message names if nothing was given.

    Returns:
        The path of each archive by its file name.

    Raises:
        UserError: An archive is not there, or something given does not exist.
    """
    # All are looked for before the error, which names everything that is still to be downloaded.
    paths = {name: path for name in sources if (path := locate(given, name)) is not None}
    if missing := [name for name in sources if name not in paths]:
        urls = dict.fromkeys(sources[name] for name in missing)  # each once, in order
        raise UserError(
            f"{', '.join(map(str, given)) or dataset}: {', '.join(missing)} missing",
            mend=f"download from {', '.join(urls)} and name the files, or the folder that holds them, with --from",
        )
    return paths


def md5_of(file: Path) -> str:
    """Returns a file's MD5, 32 hex digits.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise PathError(file, reason_of(error), mend=MAKE_READABLE) from error


def has_all(given: Sequence[Path], names: Iterable[str]) -> bool:
    """Returns whether all archives of these names are among the files and folders that were given.

    Raises:
        UserError: Something given does not exist.
    """
    return all(locate(given, name) is not None for name in names)


def check_md5(file: Path, md5: str, *, mend: str = "download it again") -> None:
    """Makes sure that a file is the published one.

    Args:
        file: An archive, or a file out of one.
        md5: The published file's MD5, 32 hex digits.
        mend: What a person can do if the file is another one.

    Raises:
        UserError: The file is another one, or cannot be read.
    """
    actual = md5_of(file)
    if actual != md5:
        raise PathError(file, f"its MD5 is {actual}, the published file's {md5}", mend=mend)


def unpack_folder(archive: tarfile.TarFile, inside: str, target: Path, *, source: Path) -> None:
    """Unpacks one folder of a tar file; it appears under its name only when all of it is on disk.

    Args:
        archive: An open tar file, which may be a stream.
        inside: The name of the folder in it, at any depth.
        target: What the folder becomes; it must not exist.
        source: The file that a message names.

    Raises:
        UserError: The archive is torn or does not hold the folder, or the disk is full.
    """
    with blaming(source, target.parent), whole_folder(target) as folder, ProgressBars() as progress:
        # A stream has no table of contents: how much is to come is not known, and each member is read as it passes.
        task = progress.add_task(f"unpacking {inside}", total=None, unit="files")
        for member in archive:
            path = _path_below(member, inside)
            if path is None:
                continue
            with open_member(archive, member) as stream:
                write_member(folder / path, stream, member.size)
            progress.advance(task)
        if not any(folder.iterdir()):
            raise PathError(source, f"holds no folder {inside}; not the right archive", mend="download it again")


def _path_below(member: tarfile.TarInfo, inside: str) -> PurePosixPath | None:
    """Returns where a member lies below a folder; None for folders, for members elsewhere and for hidden files.

    Raises:
        tarfile.ReadError: The member is a link, or its name would lead out of the folder.
    """
    parts = PurePosixPath(member.name).parts
    if member.isdir() or inside not in parts[:-1]:
        return None
    below = parts[parts.index(inside) + 1 :]
    if any(name.startswith(".") and name != ".." for name in below):  # added by macOS
        return None
    # Refused rather than skipped: no published archive has such members, so this is another one.
    if not member.isreg() or ".." in parts:
        raise tarfile.ReadError(f"holds {member.name!r}, which does not belong there")
    return PurePosixPath(*below)


def open_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    """Opens a member of a tar file, which must be a regular file, for reading."""
    stream = archive.extractfile(member)
    assert stream is not None  # for type checkers: it is, of folders and devices
    return stream


def write_member(path: Path, stream: IO[bytes], size: int, *, synced: bool = True) -> None:
    """Writes a member of an archive.

    Args:
        path: The file to write; its folder is made.
        stream: The member's content.
        size: The bytes that the archive says it has.
        synced: Whether it is flushed to disk.

    Raises:
        tarfile.ReadError: There are fewer bytes than the archive says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(stream, file)
        if file.tell() != size:  # tarfile may end silently where an archive is cut within a member
            raise tarfile.ReadError(f"{path.name} has {file.tell()} of {size} bytes")
        file.flush()
        if synced:
            os.fsync(file.fileno())


def write_member_atomically(path: Path, size: int, open_stream: Callable[[], IO[bytes]], *, synced: bool) -> None:
    """Writes a member of an archive to a file that gets its name only when all of it is there.

    Args:
        path: The file to write; its folder is made. A file that already has the size is left alone.
        size: The bytes that the archive says it has.
        open_stream: Opens the member's content.
        synced: Whether it is flushed to disk. If not, a power cut may leave a file that is short, and so written again.

    Raises:
        tarfile.ReadError: There are fewer bytes than the archive says.
    """
    if path.is_file() and path.stat().st_size == size:
        return
    unfinished = path.with_name(f".{path.name}.part")
    try:
        with open_stream() as stream:
            write_member(unfinished, stream, size, synced=synced)
        unfinished.replace(path)
    finally:
        with contextlib.suppress(OSError):  # after the rename there is nothing of this name any more
            unfinished.unlink()


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Makes a folder to fill, which is renamed to the target after the `with` block, or removed if the block fails.

    Unlike `new_folders.new_folder` it needs the lock of `preparing`: its temporary folder has a fixed name, so
    that what a killed process left behind, on any machine, is found and removed. Whoever writes files must flush them,
    as `write_member` does. Their names are made durable here, first those in the folder, then the folder's own.

    Args:
        target: The final folder; it must not exist.

    Yields:
        The folder to write to, beside the target.
    """
    unfinished = target.with_name(f".{target.name}.part")
    if unfinished.exists():  # left by a process that was killed
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        sync_folder(unfinished)
        unfinished.rename(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def blaming(source: Path | str, folder: Path, remaining: int = 0) -> Iterator[None]:
    """Turns a torn archive or a full disk into an error that names the file to blame.

    Args:
        source: The archive that is read, or a member of it.
        folder: The folder that is written to.
        remaining: The bytes that are still to be written; 0 if unknown.

    Raises:
        UserError: In place of an error of the archive or of the operating system.
    """
    try:
        yield
    except TORN as error:
        raise UserError(
            f"{source}: torn, incomplete or not the right archive ({reason_of(error)})", mend=DOWNLOAD_AGAIN
        ) from error
    except OSError as error:
        if is_of_a_full_disk(error):
            amount = f"about {size_text(remaining)} more are needed" if remaining else "more room is needed"
            raise PathError(
                folder, f"the disk is full: {amount}", mend="make room and repeat (what is finished is kept)"
            ) from error
        raise UserError(
            f"{error.filename or source}: {reason_of(error)}", mend=system_mend(error, "make it accessible and repeat")
        ) from error
