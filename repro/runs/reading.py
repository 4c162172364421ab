"""Reading a run: defaults, a method's row, a YAML file, `key.sub=value`; with one clear line for what does not fit."""

import dataclasses
import difflib
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from repro.errors import UserError
from repro.runs.run import Run
from repro.runs.sections import FidelitySettings


def keys(kind: type, prefix: str = "") -> dict[str, Any]:
    """Every dotted key of a dataclass with its type."""
    found: dict[str, Any] = {}
    for f in dataclasses.fields(kind):
        if dataclasses.is_dataclass(f.type) and isinstance(f.type, type):
            found |= keys(f.type, f"{prefix}{f.name}.")
        else:
            found[prefix + f.name] = f.type
    return found


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a.b": 1}` as `{"a": {"b": 1}}`; `fidelity: released` is short for all of its switches.

    Raises:
        UserError: a section has a value of its own beside those of its keys.
    """
    tree: dict[str, Any] = {}
    for dotted, value in _flatten(flat):
        node = tree
        *parents, leaf = dotted.split(".")
        for name in parents:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                raise UserError(f"'{name}' is a section and has a value beside '{dotted}'", mend="set its keys only")
        node[leaf] = value
    return tree


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        if dotted == "fidelity" and not isinstance(value, Mapping):
            yield from ((f"fidelity.{f.name}", value) for f in dataclasses.fields(FidelitySettings))
        elif isinstance(value, Mapping):
            yield from _flatten(value, f"{dotted}.")
        else:
            yield dotted, value


def _check_keys(tree: Mapping[str, Any], known: Iterable[str], origin: str) -> None:
    known = list(known)
    sections = {name.rpartition(".")[0] for name in known}
    for dotted, _ in _flatten(tree):
        if dotted in known:
            continue
        if dotted in sections:
            raise UserError(
                f"{origin}: '{dotted}' is a section; set its keys, for example {dotted}.{_first(known, dotted)}"
            )
        same_leaf = [k for k in known if k.rpartition(".")[2] == dotted.rpartition(".")[2]]
        close = difflib.get_close_matches(dotted, same_leaf or known, n=1, cutoff=0.0 if same_leaf else 0.5)
        if not close:
            leaves = {k.rpartition(".")[2]: k for k in known}
            close = [leaves[k] for k in difflib.get_close_matches(dotted.rpartition(".")[2], leaves, n=1, cutoff=0.5)]
        top_level = dict.fromkeys(k.partition(".")[0] for k in known)
        mend = f"did you mean '{close[0]}'?" if close else f"the top-level keys are {', '.join(top_level)}"
        raise UserError(f"{origin}: unknown key '{dotted}'", mend=mend)


def _first(known: Iterable[str], section: str) -> str:
    return next(k for k in known if k.startswith(f"{section}.")).rpartition(".")[2]


def build(layers: Sequence[Mapping[str, Any]], *, base: Run | None = None, origin: str = "settings") -> Run:
    """A run from layers of nested settings, later ones winning.

    Raises:
        UserError: an unknown key (with the nearest right one) or a value of a wrong type.
    """
    config = OmegaConf.structured(base or Run)
    assert isinstance(config, DictConfig)
    _thaw(config)
    types = keys(Run)
    for layer in layers:
        tree = nested(layer)
        _check_keys(tree, types, origin)
        for dotted, value in _flatten(tree):
            if isinstance(value, bool) is not (types[dotted] is bool):  # OmegaConf would read True as 1 and 7 as True
                raise UserError(_wrong_type(origin, dotted, value, types[dotted]))
            try:
                OmegaConf.update(config, dotted, value)
            except OmegaConfBaseException as error:
                raise UserError(_wrong_type(origin, dotted, value, types[dotted])) from error
    made = OmegaConf.to_object(config)
    assert isinstance(made, Run)
    return made


def _wrong_type(origin: str, dotted: str, value: Any, kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"{origin}: {dotted}={value} is none of: {', '.join(member.name for member in kind)}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    names |= {tuple[int, ...]: "a list of whole numbers, [1,2]", tuple[float, ...]: "a list of numbers, [0.1,1]"}
    expected = names.get(kind, str(kind))
    return f"{origin}: {dotted}={value} is not {expected}"


def _thaw(config: DictConfig) -> None:
    """OmegaConf takes a frozen dataclass for a read-only node; it is filled here, once."""
    OmegaConf.set_readonly(config, False)
    for key in config:
        node = config._get_node(key)
        if isinstance(node, DictConfig):
            _thaw(node)


def read_yaml(path: Path) -> dict[str, Any]:
    """Settings from a YAML file.

    Raises:
        UserError: the file is missing, no YAML, or no mapping.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.create(path.read_text()))
    except FileNotFoundError:
        raise UserError(f"config file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config file {path} cannot be read: {error}") from error
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"config file {path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"config file {path} holds no settings of the form `key: value`")
    return {str(key): value for key, value in content.items()}


def parse_overrides(items: Iterable[str]) -> dict[str, Any]:
    """`["seed=1", "data.crop=64"]` as a nested dictionary, values read as YAML.

    Raises:
        UserError: an item has no `=`.
    """
    flat: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UserError(f"'{item}' is no setting; write key.sub=value, for example seed=1 or data.crop=64")
        try:
            flat[key] = OmegaConf.from_dotlist([f"v={value}"]).v
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            raise UserError(f"'{item}': the value is no YAML: {' '.join(str(error).split())}") from error
    return nested(flat)


def load(path: Path) -> Run:
    """Read a run back from its `run.yaml`.

    Raises:
        UserError: the file is missing, broken, or was written by a version with other keys.
    """
    return build([read_yaml(path)], origin=str(path))


def pinned(run: Run) -> Run:
    """The run with the content of the checkpoint that its localizer is named by: a path alone says nothing.

    Its SHA-256 becomes part of the identity in the place of the path, so that a run that goes on, or is made again, has
    the same localizer or is refused.

    Raises:
        UserError: there is no such file.
    """
    localizer = run.localizer
    if localizer.network != "checkpoint" or localizer.sha256 or not localizer.weights:
        return run
    path = Path(localizer.weights).expanduser().resolve()
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"localizer.weights={localizer.weights} cannot be read ({error.strerror})",
            mend="the backbone.pth of a finished run",
        ) from error
    return dataclasses.replace(run, localizer=dataclasses.replace(localizer, weights=str(path), sha256=digest))
