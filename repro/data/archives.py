"""Archives of data sets: found or downloaded, checked, and unpacked whole or not at all."""

import contextlib
import errno
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from rich.console import Console
from rich.progress import Progress

from repro.errors import UserError
from repro.files import sync_folder

TORN = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error)


def locate(given: Sequence[Path], name: str) -> Path | None:
    """The archive of a name among files and folders that a person gave; None where it is not.

    Raises:
        UserError: something given does not exist.
    """
    for path in (path.expanduser() for path in given):
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; name the downloaded archives, or the folder with them")
        if path.is_dir() and (path / name).is_file():
            return path / name
        if path.is_file() and path.name == name:
            return path
    return None


def check_md5(archive: Path, md5: str) -> None:
    """Make sure that a file is the published one.

    Raises:
        UserError: it is not.
    """
    from torchvision.datasets.utils import calculate_md5

    found = calculate_md5(archive)
    if found != md5:
        raise UserError(f"{archive}: its MD5 is {found}, the published file's {md5}; download it again")


def fetch(url: str, folder: Path, md5: str) -> Path:
    """Download a file with its checksum; one that is there already is kept.

    Raises:
        UserError: there is no network, or what came is not the published file.
    """
    from torchvision.datasets.utils import download_url

    name = url.rpartition("/")[2]
    try:
        download_url(url, folder, name, md5)
    except (OSError, RuntimeError) as error:  # torchvision reports a wrong checksum as RuntimeError
        raise UserError(
            f"cannot download {url} ({reason(error)})", mend="download it elsewhere and give it with --from FILE"
        ) from error
    return folder / name


def unpack_folder(archive: tarfile.TarFile, inside: str, target: Path, *, source: Path) -> None:
    """Unpack one folder of a tar file; it appears under its name only when all of it is on disk.

    Args:
        archive: open.
        inside: name of the folder in it, at any depth.
        target: what the folder becomes; it must not exist.
        source: the file that a message names.

    Raises:
        UserError: the archive is torn or does not hold the folder, or the disk is full.
    """
    part = target.with_name(f".{target.name}.part")
    if part.exists():  # left by a process that was killed
        shutil.rmtree(part)
    try:
        with blaming(source, target.parent), Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task(f"unpacking {inside}", total=None)
            for member in archive:
                place = _below(member, inside)
                if place is None:
                    continue
                stream = archive.extractfile(member)
                if stream is None:
                    raise tarfile.ReadError(f"{member.name} is no regular file")
                write(part / place, stream, member.size)
                progress.advance(task)
        if not part.exists():
            raise UserError(f"{source}: holds no folder {inside}; not the right archive: download it again")
        sync_folder(part)
        part.rename(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _below(member: tarfile.TarInfo, inside: str) -> PurePosixPath | None:
    """Where a member lies below the wanted folder; None for folders, for members elsewhere and for hidden files.

    Raises:
        tarfile.ReadError: a link, or a name that would lead out of the folder.
    """
    parts = PurePosixPath(member.name).parts
    if member.isdir() or inside not in parts[:-1]:
        return None
    below = parts[parts.index(inside) + 1 :]
    if any(part.startswith(".") and part != ".." for part in below):  # what a Mac adds
        return None
    if not member.isreg() or ".." in parts:
        raise tarfile.ReadError(f"holds {member.name!r}, which does not belong there")
    return PurePosixPath(*below)


def write(path: Path, stream: IO[bytes], size: int) -> None:
    """Write a member of an archive and flush it to disk.

    Raises:
        tarfile.ReadError: there are fewer bytes than the archive says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(stream, file)
        if file.tell() != size:
            raise tarfile.ReadError(f"{path.name} has {file.tell()} of {size} bytes")
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def blaming(source: Path | str, folder: Path, needed: int = 0) -> Iterator[None]:
    """Turn a torn archive or a full disk into one line; `needed` is how many bytes are still to be written."""
    try:
        yield
    except TORN as error:
        raise UserError(
            f"{source}: torn, incomplete or not the right archive ({reason(error)}); download it again and repeat "
            "(what is finished is kept)"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            amount = f"about {needed / 1e9:.1f} GB more are needed" if needed else "more room is needed"
            raise UserError(
                f"{folder}: the disk is full: {amount}; make room and repeat (what is finished is kept)"
            ) from error
        raise UserError(f"{error.filename or source}: {reason(error)}; make it accessible and repeat") from error


def reason(error: BaseException) -> str:
    """An error in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


Preparer = Callable[[Sequence[Path], Path], None]
"""Makes the root (second argument) from downloaded archives: files, or folders with them; none: download."""
