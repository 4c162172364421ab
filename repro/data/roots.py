"""Where the data sets are on this machine: as given, by an environment variable, or by the user's list."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
import yaml

from repro.data.catalogue import DATASETS, Dataset, find
from repro.errors import UserError, nearest

if TYPE_CHECKING:
    from repro.runs.run import Run

ROOT_VARIABLE = "SALMASK_DATA"
"""Environment variable: a folder with one folder (or link) for each data set."""


class RootNotSetError(UserError):
    """Nothing says where a data set is; the message says every way to."""


def find_root(dataset: str, given: Path | None) -> Path | None:
    """The folder of a data set: as given, else from $SALMASK_DATA, else from the user's `data.yaml`.

    Args:
        dataset: Its name.
        given: By the command line or `machine.data_root`.

    Returns:
        An existing folder that is not empty; None for a data set that is read from no folder.

    Raises:
        RootNotSetError: no root is set.
        UserError: the name is unknown, or the folder is missing or empty.
    """
    entry = find(dataset)
    if not entry.needs_root:
        return None
    if given is not None:
        return _usable(given, entry, "as given")
    variable = _variable_folder()
    for name in entry.root_names:
        if variable is not None and (variable / name).exists():
            return _usable(variable / name, entry, f"by ${ROOT_VARIABLE}")
    listed = _listed_roots()
    for name in entry.root_names:
        if name in listed:
            return _usable(listed[name], entry, f"by {config_file()}")
    raise RootNotSetError(f"no root set for data set {dataset!r}", mend=how_to_set_root(entry.root_names[0]))


def root_of(run: "Run", dataset: str, given: Path | None = None) -> Path | None:
    """The root of a data set that a run is trained or evaluated on; None where it is read from no folder.

    Args:
        run: its `machine.data_root` is the root of the data that it is pretrained on, and of no other.
        dataset: its name.
        given: by the command line.

    Raises:
        UserError: as `find_root`.
    """
    if given is None and dataset == run.data.dataset and run.machine.data_root:
        given = Path(run.machine.data_root)
    return find_root(dataset, given)


def how_to_set_root(name: str) -> str:
    """Every way to say where the data set of a name is."""
    return f"give --root DIR or machine.data_root=DIR, or {how_to_list_root(name)}"


def how_to_list_root(name: str) -> str:
    """The ways that hold for every command."""
    return f"make ${ROOT_VARIABLE}/{name}, or write `{name}: DIR` into {config_file()}"


def new_root(dataset: str, given: Path | None) -> Path:
    """The folder in which a data set is to be made; unlike `find_root`'s it need not exist.

    Raises:
        UserError: the name is unknown or no folder is named.
    """
    entry = find(dataset)
    variable, listed = _variable_folder(), _listed_roots()
    if given is not None:
        return given.expanduser()
    if variable is not None:
        return variable / entry.root_names[0]
    for name in entry.root_names:
        if name in listed:
            return listed[name]
    raise UserError(f"where to put data set {dataset!r}? give --root DIR, or set ${ROOT_VARIABLE}")


def config_file() -> Path:
    """The user's list of data roots, a YAML mapping of name to folder; it need not exist."""
    return platformdirs.user_config_path("salmask") / "data.yaml"


def _variable_folder() -> Path | None:
    value = os.environ.get(ROOT_VARIABLE, "")
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise UserError(f"${ROOT_VARIABLE} names {folder}, which is not a folder; make it or unset the variable")
    return folder


def _listed_roots() -> dict[str, Path]:
    path = config_file()
    try:
        listed = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"{path}: cannot be read as YAML ({' '.join(str(error).split())}); mend or remove it"
        ) from error
    if listed is None:
        return {}
    if not isinstance(listed, dict) or not all(isinstance(value, str) for value in listed.values()):
        raise UserError(f"{path}: must map the names of data sets to folders, one `NAME: DIR` a line")
    known = sorted({name for entry in DATASETS.values() for name in entry.root_names})
    for name in listed:
        if name not in known:
            raise UserError(f"{path}: unknown data set {name!r}", mend=nearest(str(name), known))
    return {name: path.parent / Path(value).expanduser() for name, value in listed.items()}


def _usable(folder: Path, entry: Dataset, source: str) -> Path:
    folder = folder.expanduser()
    try:
        with os.scandir(folder) as entries:
            empty = next(entries, None) is None
    except OSError as error:
        raise UserError(
            f"{folder}: {error.strerror} (root of {entry.name}, {source}); name an existing folder"
        ) from error
    if empty:
        raise UserError(f"{folder}: the folder is empty (root of {entry.name}, {source}); {entry.mend}")
    return folder
