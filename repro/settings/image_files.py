"""Files that a user provides for images, one per image in one folder: which there are, and their hash. No torch.

A setting names such a folder: `localizer.files` holds maps, `data.masks` masks. A file has the name of its image below
the folder of the image's split, except for the ending: for `train/cat/1.jpg` it is `cat/1.png` or `cat/1.npy`.
"""

import functools
import hashlib
import os
from pathlib import Path
from typing import NoReturn

from repro.errors import UserError
from repro.filesystem.clutter import is_clutter
from repro.filesystem.files import read_regular

ENDINGS = (".npy", ".png")
"""Endings of NumPy's arrays and of grey pictures."""
LONGEST_FILE = 1 << 30
"""Most bytes of one file: as many as an array of 128 million numbers has."""


def files_by_name(setting: str, folder: Path) -> dict[str, str]:
    """Returns the files in a folder and its subfolders, sorted.

    Args:
        setting: The setting that names the folder, for messages.
        folder: The folder of the files.

    Returns:
        Each file's path without its ending -> the path with it; both relative to the folder.

    Raises:
        UserError: The folder cannot be read, holds no such file, or has two files for one image.
    """

    def refuse(error: OSError) -> NoReturn:
        raise UserError(
            f"{setting}: {error.filename} cannot be read ({error.strerror})",
            mend=f"{setting}=DIR, a folder that can be read, with a file for each image",
        ) from error

    found = []
    # Links are followed, as among images; if they form a loop, the operating system ends it.
    for below, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not is_clutter(name, folder=True)]
        inside = os.path.relpath(below, folder)
        prefix = "" if inside == os.curdir else f"{inside}/"
        found += [prefix + name for name in names if name.endswith(ENDINGS) and not is_clutter(name)]
    if not found:
        what = f"{setting}={folder} holds no file that ends with {' or '.join(ENDINGS)}"
        raise UserError(what, mend="CLASS/NAME.png for the image CLASS/NAME.jpg, and so on")
    files: dict[str, str] = {}
    for file in sorted(found):
        name = os.path.splitext(file)[0]  # noqa: PTH122  # a Path for each of 10^5 files takes seconds
        if files.setdefault(name, file) != file:
            raise UserError(f"{setting}={folder} holds {files[name]} and {file}", mend="remove one of them")
    return files


def hash_files(setting: str, folder: Path) -> str:
    """Returns the SHA-256, as hex digits, of the names and the contents of all files of a folder.

    Args:
        setting: The setting that names the folder, for messages.
        folder: The folder of the files.

    Raises:
        UserError: The folder or a file of it cannot be read.
    """
    digest = hashlib.sha256()
    for file in files_by_name(setting, folder).values():
        content = read_file(setting, folder, file)
        digest.update(f"{file}\0{len(content)}\0".encode(errors="surrogateescape"))
        digest.update(content)
    return digest.hexdigest()


@functools.cache
def hash_once(setting: str, folder: Path) -> str:
    """Returns the same as `hash_files`, computed once in a process: a sweep asks for it in each of its runs."""
    return hash_files(setting, folder)


def read_file(setting: str, folder: Path, file: str) -> bytes:
    """Returns the content of a file.

    Args:
        setting: The setting that names the folder, for messages.
        folder: The folder of the files.
        file: The file's path, relative to the folder.

    Raises:
        UserError: It cannot be read, is not a regular file, or is larger than `LONGEST_FILE`.
    """
    try:
        return read_regular(folder / file, LONGEST_FILE)
    except OSError as error:
        what = f"{setting}={folder}: {file} cannot be read ({error.strerror})"
        raise UserError(what, mend="make it readable, or put it back") from error
