"""Downloads of published files: an interrupted one is continued, and a server that stays silent is given up."""

import os
import ssl
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from repro.command_line.progress import BYTES, ProgressBars, doing
from repro.data.archives import blaming, check_md5, md5_of
from repro.data.errors import reason_of
from repro.errors import UserError
from repro.filesystem.files import sync_folder
from repro.filesystem.presence import is_file

SILENCE_SECONDS = 60.0
"""How long a server may send nothing."""
_CHUNK_BYTES = 1 << 20
_CUT = (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
"""Errors of a network; any other OSError is the disk's."""
_ELSEWHERE = "download it elsewhere and give it with --from FILE"


def obtain(url: str, folder: Path, md5: str, given: Path | None) -> Path:
    """Returns a published file, given or downloaded, after checking that it is that file.

    Args:
        url: Where it is published.
        folder: The folder that it is downloaded to.
        md5: The published file's MD5, 32 hex digits.
        given: The file that a person gave; None: download it.

    Raises:
        UserError: The file is another one or cannot be read, or as `fetch` does.
    """
    if given is None:
        return fetch(url, folder, md5)
    with doing(f"{given.name}: checksum"):
        check_md5(given, md5)
    return given


def fetch(url: str, folder: Path, md5: str) -> Path:
    """Downloads a file and compares its checksum; a file that is there with this checksum is kept.

    It gets its name only when it is whole. A part that was downloaded before an interruption is kept and continued.

    Args:
        url: Where it is published; the last part is the file's name.
        folder: The folder that the file is written to; made where it does not exist.
        md5: The published file's MD5, 32 hex digits.

    Returns:
        The file's path.

    Raises:
        UserError: There is no network, the server is silent, the disk is full, or what came is not the published file.
    """
    path = folder / url.rpartition("/")[2]
    unfinished = path.with_name(f".{path.name}.part")
    with doing(f"{path.name}: checksum"):
        if is_file(path) and md5_of(path) == md5:
            return path
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with blaming(url, folder), unfinished.open("ab") as file, ProgressBars() as progress:
            task = progress.add_task(f"downloading {path.name}", total=None, unit=BYTES)
            _download(url, file, lambda size, total: progress.update(task, completed=size, total=total))
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        if is_file(unfinished) and not unfinished.stat().st_size:  # nothing came that could be continued
            unfinished.unlink()
        raise
    with doing(f"{path.name}: checksum"):
        actual = md5_of(unfinished)
    if actual != md5:
        unfinished.unlink()
        raise UserError(
            f"cannot download {url} (what came has the MD5 {actual}, the published file {md5})", mend=_ELSEWHERE
        )
    unfinished.replace(path)
    sync_folder(folder)
    return path


def _download(url: str, file: IO[bytes], tell: Callable[[int, int | None], None]) -> None:
    """Appends what a file lacks of the published one, connecting again as long as each connection brings something.

    Args:
        url: Where it is published.
        file: What was downloaded earlier, open for appending.
        tell: Called with the number of bytes so far, and with that of the whole file (None if the server does not say).

    Raises:
        UserError: A connection brought nothing.
    """
    while True:
        size = file.tell()
        try:
            if _receive(url, file, tell):
                return
            reason = "the connection was cut"
        except HTTPError as error:
            if size and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return  # there is no more; the checksum will show whether all is there
            reason = str(error)
        except _CUT as error:
            reason = reason_of(error)
        if file.tell() <= size:
            again = "repeat, which continues the download, or " if size else ""
            raise UserError(f"cannot download {url} ({reason})", mend=again + _ELSEWHERE)


def _receive(url: str, file: IO[bytes], tell: Callable[[int, int | None], None]) -> bool:
    """Appends what one connection brings, and returns whether that is all; the arguments are those of `_download`."""
    request = Request(url, headers={"User-Agent": "salmask", "Range": f"bytes={file.tell()}-"})
    with urlopen(request, timeout=SILENCE_SECONDS) as response:
        if response.status != HTTPStatus.PARTIAL_CONTENT:  # the server sends the whole file
            file.truncate(0)
            file.seek(0)
        total = None if response.length is None else file.tell() + response.length
        while chunk := response.read(_CHUNK_BYTES):
            file.write(chunk)
            tell(file.tell(), total)
    # A connection that is closed too early looks like the end of the file.
    return total is None or file.tell() >= total
