"""Where the data sets are on this machine: as given, by an environment variable, or by the user's list."""

import contextlib
import os
from pathlib import Path

import platformdirs

from repro.data.catalogue import DATASETS, Dataset, find_dataset
from repro.data.errors import PathError, mend_of, reason_of, refuse_circle
from repro.errors import UserError, nearest
from repro.filesystem.clutter import is_clutter
from repro.filesystem.files import read_regular, reading
from repro.filesystem.paths import expanded
from repro.filesystem.presence import exists, is_folder
from repro.settings.run import Run
from repro.settings.yaml_text import LONGEST_TEXT, parse_yaml

ROOT_VARIABLE = "SALMASK_DATA"
"""The environment variable that names a folder with one folder (or link) for each data set."""


class RootNotSetError(UserError):
    """Nothing says where a data set is; the mend names every way to say it."""


def find_root(dataset: str, root: Path | None) -> Path | None:
    """Looks up the folder of a data set: as given, else by $SALMASK_DATA, else by the user's `data.yaml`.

    Args:
        dataset: The data set's name.
        root: The folder that the command line or `machine.data_root` names; None: look it up.

    Returns:
        An existing folder that is not empty; None for a data set that is read from no folder.

    Raises:
        RootNotSetError: No root is set.
        UserError: The name is unknown, or the folder is missing or empty.
    """
    entry = find_dataset(dataset)
    if not entry.needs_root:
        return None
    if root is not None:
        return _usable(root, entry, "as given")
    variable = _variable_folder()
    for name in entry.root_names:
        # A folder below the variable's counts only if it exists: not every data set need be there.
        if variable is not None and exists(variable / name):
            return _usable(variable / name, entry, f"by ${ROOT_VARIABLE}")
    listed_roots = read_roots(config_file())
    for name in entry.root_names:
        if name in listed_roots:
            return _usable(listed_roots[name], entry, f"by {config_file()}")
    raise RootNotSetError(f"no root set for data set {dataset!r}", mend=how_to_set_root(entry.root_names[0]))


def root_of(run: Run, dataset: str, root: Path | None = None) -> Path | None:
    """Looks up the root of a data set that a run is trained or evaluated on.

    Args:
        run: The run; its `machine.data_root` is the root of the data that it is pretrained on, and of no other.
        dataset: The data set's name.
        root: The folder that the command line names; None: look it up.

    Returns:
        The root; None for a data set that is read from no folder.

    Raises:
        UserError: As `find_root` does.
    """
    if root is None and dataset == run.data.dataset and run.machine.data_root:
        root = expanded(run.machine.data_root)
        if not (root.is_absolute() or exists(root)):
            # Older versions recorded the path as entered, relative to the folder where the run was begun.
            with contextlib.suppress(RootNotSetError):
                return find_root(dataset, None)
    return find_root(dataset, root)


def refuse_idle_root(dataset: str, root: object) -> None:
    """Refuses a root on the command line, if it is not empty, of a data set that is read from no folder.

    Raises:
        UserError: The name is unknown, or the root would change nothing.
    """
    if root and not find_dataset(dataset).needs_root:
        raise UserError(f"data set {dataset!r} is drawn and has no root", mend="leave --root out")


def how_to_set_root(name: str) -> str:
    """Returns every way to say where the data set of a name is, as a mend."""
    return f"give --root DIR, or {how_to_list_root(name)}"


def how_to_list_root(name: str) -> str:
    """Returns the ways to say where the data set of a name is that hold for every command, as a mend."""
    return f"make ${ROOT_VARIABLE}/{name}, or write `{name}: DIR` into {config_file()}"


def new_root(dataset: str, root: Path | None) -> Path:
    """Looks up the folder in which a data set is to be made; unlike `find_root`'s it need not exist.

    Args:
        dataset: The data set's name.
        root: The folder that the command line names; None: look it up.

    Raises:
        UserError: The name is unknown or no folder is named.
    """
    entry = find_dataset(dataset)
    # Both are read even if `root` decides, so that a wrong variable or list is noticed now.
    variable, listed_roots = _variable_folder(), read_roots(config_file())
    if root is not None:
        return expanded(root)
    if variable is not None:
        return variable / entry.root_names[0]
    for name in entry.root_names:
        if name in listed_roots:
            return listed_roots[name]
    raise UserError(f"nothing says where to put data set {dataset!r}", mend=f"give --root DIR, or set ${ROOT_VARIABLE}")


def config_file() -> Path:
    """Returns the path of the user's list of data roots, a YAML mapping of name to folder; it need not exist."""
    return platformdirs.user_config_path("salmask") / "data.yaml"


def _variable_folder() -> Path | None:
    """Returns the folder that the environment variable names; None where it is not set."""
    value = os.environ.get(ROOT_VARIABLE, "")
    if not value:
        return None
    folder = expanded(value)
    # Refused rather than ignored: it was set on purpose, and the user's list would silently replace it.
    if not is_folder(folder):
        raise UserError(f"${ROOT_VARIABLE} names {folder}, which is not a folder", mend="make it or unset the variable")
    return folder


def read_roots(path: Path) -> dict[str, Path]:
    """Reads a list of data roots: folder by name; empty where there is no such file.

    Raises:
        UserError: It cannot be read, or names what is no data set.
    """
    if not exists(path):
        return {}
    with reading(path, "correct or remove it"):
        folders = parse_yaml(read_regular(path, LONGEST_TEXT).decode())
    if folders is None:  # a file of comments alone
        return {}
    if not isinstance(folders, dict) or not all(isinstance(folder, str) and folder for folder in folders.values()):
        reason = "must map the names of data sets to folders"
        raise PathError(path, reason, mend="write one `NAME: DIR` a line")
    root_names = sorted({name for entry in DATASETS.values() for name in entry.root_names})
    for name in folders:
        if name not in root_names:  # else a mistyped name would read as "no root set"
            raise PathError(path, f"unknown data set {name!r}", mend=nearest(str(name), root_names))
    try:
        # A relative folder is relative to the list, which means the same from wherever a command is started.
        return {name: path.parent / expanded(folder) for name, folder in folders.items()}
    except UserError as error:
        raise PathError(path, error.what, mend=error.mend) from error


def _usable(folder: Path, entry: Dataset, source: str) -> Path:
    """Returns a data set's folder if it can be read and is not empty; `source` says what named it, for the error."""
    folder = expanded(folder)
    origin = f"(root of {entry.name}, {source})"
    try:
        with os.scandir(folder) as entries:
            empty = all(is_clutter(entry.name, folder=entry.is_dir()) for entry in entries)
    except OSError as error:
        refuse_circle(error)
        raise PathError(
            folder, f"{reason_of(error)} {origin}", mend=mend_of(error, "name an existing folder")
        ) from error
    if empty:
        raise PathError(folder, f"the folder is empty {origin}", mend=entry.mend)
    return folder
