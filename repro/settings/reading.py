"""Reads a run from defaults, a method's row, a YAML file and `key.sub=value`; refuses what does not fit in one line."""

import dataclasses
import difflib
import functools
import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from repro.errors import UserError, one_line
from repro.filesystem.files import read_regular
from repro.filesystem.paths import absolute, expanded
from repro.filesystem.presence import exists, is_special
from repro.settings.identity import keys
from repro.settings.image_files import hash_once
from repro.settings.run import Run
from repro.settings.sections import FidelitySettings, LocalizerSettings
from repro.settings.yaml_text import LONGEST_TEXT, parse_yaml

_EXPECTED: Mapping[Any, tuple[str, str]] = {
    int: ("a whole number", "1"),
    float: ("a number", "0.1"),
    bool: ("true or false", "true"),
    str: ("text", "some-text"),
    tuple[int, ...]: ("a list of whole numbers", "[1,2]"),
    tuple[float, ...]: ("a list of numbers", "[0.1,1]"),
}
"""Type of a setting -> what a value has to be, and an example."""
FOLDERS = ("machine.data_root", "machine.data_cache")
"""Settings that name folders; on a command line they are made absolute (`pinned` does so for a file's data root)."""
_LONGEST_NUMBER = 18
"""Most digits of a whole number: more do not fit into 64 bits, and thousands cannot be read by Python at all."""


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings with dotted keys as nested ones: `{"a.b": 1}` as `{"a": {"b": 1}}`.

    `fidelity: released` is short for all of its switches. Nested and dotted keys may be mixed.

    Raises:
        UserError: A section has a value of its own beside those of its keys.
    """
    tree: dict[str, Any] = {}
    for dotted, value in flat(settings):
        node = tree
        *parents, leaf = dotted.split(".")
        for name in parents:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                raise UserError(
                    f"'{name}' is a section, but has a value of its own beside '{dotted}'", mend="set its keys only"
                )
        node[leaf] = value
    return tree


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields nested or dotted settings as pairs of dotted key and value.

    Args:
        tree: Settings by name, a section being a mapping itself; `fidelity: released` stands for all of its switches.
            An empty mapping is yielded as a value, so that it is refused: a section has settings.
        prefix: What the keys begin with.
    """
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        if dotted == "fidelity" and not isinstance(value, Mapping):
            yield from ((f"fidelity.{f.name}", value) for f in dataclasses.fields(FidelitySettings))
        elif isinstance(value, Mapping) and value:
            yield from flat(value, f"{dotted}.")
        else:
            yield dotted, value


def _check_keys(tree: Mapping[str, Any], right_keys: Collection[str], origin: str) -> None:
    """Refuses settings that a run does not have.

    Raises:
        UserError: A key is unknown, with the nearest right one as the mend, or names a section.
    """
    for dotted, _ in flat(tree):
        if dotted in right_keys:
            continue
        below = [key for key in right_keys if key.startswith(f"{dotted}.")]
        if below:
            raise UserError(f"{origin}: '{dotted}' is a section", mend=f"set its keys, for example {below[0]}")
        raise UserError(f"{origin}: unknown key '{dotted}'", mend=_mend_of_key(dotted, right_keys))


def _mend_of_key(dotted: str, right_keys: Collection[str]) -> str:
    """Returns the mend of an unknown key: the key that was probably meant; without a similar one, those that exist."""
    section, _, leaf = dotted.rpartition(".")
    by_leaf: dict[str, list[str]] = {}
    for key in right_keys:
        by_leaf.setdefault(key.rpartition(".")[2], []).append(key)
    # A right name in a wrong section, or in none, is a clear hint, even if the whole keys differ much.
    candidates = by_leaf.get(leaf) or difflib.get_close_matches(dotted, right_keys, n=1, cutoff=0.5)
    if not candidates:
        # Last parts only: a long section would outweigh a typing error in a short name.
        names = difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.5)
        candidates = by_leaf[names[0]] if names else []
    if len(candidates) > 1 and not section:
        candidates = _pretraining_first(candidates)
        return f"did you mean {', '.join(map(repr, candidates[:-1]))} or {candidates[-1]!r}?"
    if candidates:
        return f"did you mean {difflib.get_close_matches(dotted, candidates, n=1, cutoff=0.0)[0]!r}?"
    if of_section := [key for key in right_keys if key.startswith(f"{section}.")]:
        return f"the keys of {section} are {', '.join(of_section)}"
    return f"the top-level keys are {', '.join(dict.fromkeys(key.partition('.')[0] for key in right_keys))}"


def _pretraining_first(found: Iterable[str]) -> list[str]:
    """Returns keys with the same last part, the pretraining's first, which is usually meant."""
    return sorted(found, key=lambda key: not key.startswith("optimization."))


def settings_named(name: str) -> list[str]:
    """Returns the keys that a name stands for, a full key or its last part alone, the likeliest first."""
    types = keys(Run)
    return [name] if name in types else _pretraining_first(key for key in types if key.rpartition(".")[2] == name)


def build(layers: Sequence[Mapping[str, Any]], *, base: Run | None = None, origin: str = "settings") -> Run:
    """Returns a run made from layers of settings, later ones winning.

    Args:
        layers: Nested or dotted settings.
        base: The run that the layers change; None: the default run.
        origin: What messages call the layers.

    Raises:
        UserError: A key is unknown (the nearest right one is named), or a value is of a wrong type.
    """
    changes: dict[str, Any] = {}
    for layer in layers:
        changes |= _typed_settings(layer, origin)
    return _with_values(base or Run(), nested(changes))


def _typed_settings(layer: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Returns the settings of a layer by their dotted keys, each converted to its type.

    Raises:
        UserError: A key is unknown, or a value is of a wrong type.
    """
    typed: dict[str, Any] = {}
    types = keys(Run)
    tree = nested(layer)
    _check_keys(tree, types, origin)
    for dotted, value in flat(tree):
        # OmegaConf would replace the value by what it refers to.
        if any("${" in str(item) or item == "???" for item in (value if isinstance(value, list) else [value])):
            raise UserError(f"{origin}: {dotted}={value} refers to another value", mend="write the value itself")
        is_empty = isinstance(value, Mapping)  # of a mapping that is not empty, `flat` yields the keys
        # OmegaConf would read True as 1 and 7 as True.
        if is_empty or isinstance(value, bool) is not (types[dotted] is bool):
            raise _wrong_type(origin, dotted, value, types[dotted])
        items = [value] if isinstance(value, str) or not isinstance(value, Sequence) else value
        if any(type(item) is int and abs(item) >= 10**_LONGEST_NUMBER for item in items):
            mend = f"a number of {_LONGEST_NUMBER} digits at most"
            raise UserError(f"{origin}: {dotted} has too many digits", mend=mend)
        try:
            typed[dotted] = _typed(value, types[dotted])
        except OmegaConfBaseException as error:
            raise _wrong_type(origin, dotted, value, types[dotted]) from error
    return typed


@functools.cache
def _one_setting(kind: Any) -> type:
    """Returns a dataclass with one field of a type, `value`."""
    return dataclasses.make_dataclass("OneSetting", [("value", kind)])


def _typed(value: Any, kind: Any) -> Any:
    """Returns a value as a setting's type has it: "1" as 1, a name as an enum's member.

    Raises:
        OmegaConfBaseException: The value is not of that type.
    """
    if type(value) is kind:
        return value
    if isinstance(kind, type) and issubclass(kind, Enum) and isinstance(value, str) and value in kind.__members__:
        return kind[value]
    # A config of this setting alone: one of all the settings takes a hundred times as long to make.
    config = OmegaConf.structured(_one_setting(kind))
    config.value = value
    return getattr(OmegaConf.to_object(config), "value")  # noqa: B009  # of a class that mypy cannot know


def _with_values(settings: Any, changes: Mapping[str, Any]) -> Any:
    """Returns a run, or one of its sections, with other values; `changes` are nested as the sections are."""
    return dataclasses.replace(
        settings,
        **{
            name: _with_values(getattr(settings, name), value) if isinstance(value, Mapping) else value
            for name, value in changes.items()
        },
    )


def _wrong_type(origin: str, dotted: str, value: Any, kind: Any) -> UserError:
    """Returns the error for a value that is not of its setting's type."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        names = ", ".join(member.name for member in kind)
        return UserError(f"{origin}: {dotted}={value} is unknown", mend=f"one of {names}")
    expected, example = _EXPECTED[kind]
    return UserError(f"{origin}: {dotted}={value} is not {expected}", mend=f"for example {dotted}={example}")


def read_yaml(path: Path) -> dict[str, Any]:
    """Returns the settings that a YAML file holds, unchecked.

    Raises:
        UserError: The file is missing or cannot be read, is no YAML, or holds no mapping.
    """
    readable = "name a text file that can be read"
    try:
        content = parse_yaml(read_regular(path, LONGEST_TEXT).decode())
    except FileNotFoundError:
        raise UserError(f"config file {path} does not exist", mend="name an existing file") from None
    except UserError as error:  # of a folder, whose usual mend would be to remove it
        raise UserError(f"config file {error.what}", mend=readable) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config file {path} cannot be read: {error}", mend=readable) from error
    except RecursionError as error:
        raise UserError(f"config file {path} is nested too deeply", mend="write `key: value`") from error
    except yaml.YAMLError as error:
        message = one_line(error)  # YAML's own has several lines, with the place in the file
        raise UserError(f"config file {path} is no YAML: {message}", mend="correct it there") from error
    except ValueError as error:  # Python's own, for a number of thousands of digits
        raise UserError(f"config file {path} cannot be read: {one_line(error)}", mend="correct it there") from error
    if not isinstance(content, dict):
        mend = "write lines such as `seed: 1`"
        raise UserError(f"config file {path} holds no settings of the form `key: value`", mend=mend)
    return {str(key): value for key, value in content.items()}


def read_settings(path: Path) -> dict[str, Any]:
    """Returns the settings of a user's YAML file, each with a known key and a value of its type.

    Raises:
        UserError: Names the file: it is missing, no YAML, or holds an unknown key or a value of a wrong type.
    """
    settings = read_yaml(path)
    # Whether values fit together is checked later: a row and the command line have more of them.
    _typed_settings(settings, f"config file {path}")
    return settings


def parse_overrides(items: Iterable[str]) -> dict[str, Any]:
    """Returns settings of the command line, such as `["seed=1", "data.crop=64"]`, nested and with values read as YAML.

    Raises:
        UserError: An item has no key or no `=`, or its value is no YAML.
    """
    settings: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            mend = "write key.sub=value, for example seed=1 or data.crop=64"
            raise UserError(f"'{item}' is not a setting", mend=mend)
        try:
            # To YAML, a comment begins at " #"; on a command line it is a part of a folder's name.
            is_plain = not value.startswith(("'", '"', "[", "{"))
            settings[key] = value if is_plain and " #" in f" {value}" else parse_yaml(value)
        except RecursionError as error:
            raise UserError(f"'{key}': the value is nested too deeply", mend="a list such as [1,2]") from error
        except ValueError as error:  # Python's own, for a number of thousands of digits
            mend = f"a number of {_LONGEST_NUMBER} digits at most"
            raise UserError(f"'{key}': the value cannot be read ({one_line(error)})", mend=mend) from error
        except yaml.YAMLError as error:
            mend = "write a number, text, true, false, or a list such as [1,2]"
            raise UserError(f"'{item}': the value is no YAML: {one_line(error)}", mend=mend) from error
    # A run records these folders, and must find them from any working folder.
    for key in FOLDERS:
        if isinstance(settings.get(key), str):
            settings[key] = absolute(settings[key])
    return nested(settings)


def command_settings(words: Iterable[str] | None, *, data: str = "", root: str = "") -> dict[str, Any]:
    """Returns the settings of a command line, nested: its words `KEY.SUB=VALUE`, and what `--data` and `--root` say.

    Args:
        words: Settings as a person entered them; None: none.
        data: Value of `--data`, which is short for `data.dataset=`; empty: none.
        root: Value of `--root`, which is short for `machine.data_root=`; empty: none.

    Raises:
        UserError: A word is not a setting, or an option and a word contradict each other.
    """
    settings = dict(flat(parse_overrides(words or [])))
    for option, key, value in (("--data", "data.dataset", data), ("--root", "machine.data_root", absolute(root))):
        if value and settings.setdefault(key, value) != value:
            raise UserError(
                f"{option} {value} and {key}={settings[key]} contradict each other", mend="leave one of them out"
            )
    return nested(settings)


def load(path: Path, unreadable: str = "") -> Run:
    """Reads a run back from its `run.yaml`.

    Args:
        path: The file.
        unreadable: The mend where it cannot be read; empty: to put it back.

    Raises:
        UserError: The file is missing, broken, or was written by a version with other keys.
    """
    try:
        settings = read_yaml(path)
    except UserError as error:  # nobody is to write this file by hand, as the usual mend says
        raise UserError(error.what, mend=unreadable or "put it back as it was written") from error
    return build([settings], origin=str(path))


def pinned(run: Run) -> Run:
    """Returns a run that means the same from any working folder, and that knows a user's own files by their content.

    A relative data root becomes absolute if there is such a folder. For a user's own checkpoint, maps or masks, the
    SHA-256 of the content becomes part of the identity instead of the path. So a run that goes on, or is made again,
    has the same files or is refused.

    Raises:
        UserError: The checkpoint, or a folder of maps or masks, cannot be read.
    """
    root = absolute(run.machine.data_root)
    if root != run.machine.data_root and exists(Path(root)):
        run = dataclasses.replace(run, machine=dataclasses.replace(run.machine, data_root=root))
    localizer = run.localizer
    if localizer.network == "checkpoint" and localizer.weights:
        path = expanded(localizer.weights).resolve()
        digest = localizer.sha256 or _hash_of_checkpoint(path, localizer)
        localizer = dataclasses.replace(localizer, weights=str(path), sha256=digest)
    if localizer.files:
        folder = expanded(localizer.files).resolve()
        digest = localizer.files_sha256 or hash_once("localizer.files", folder)
        localizer = dataclasses.replace(localizer, files=str(folder), files_sha256=digest)
    data = run.data
    if data.masks:
        folder = expanded(data.masks).resolve()
        # Masks that only measure have no hash, even in settings taken from a run that they guided.
        digest = data.masks_sha256 or hash_once("data.masks", folder) if run.needs_true_masks else ""
        data = dataclasses.replace(data, masks=str(folder), masks_sha256=digest)
    return dataclasses.replace(run, localizer=localizer, data=data)


def _hash_of_checkpoint(path: Path, localizer: LocalizerSettings) -> str:
    mend = "the backbone.pth of a finished run"
    if is_special(path):  # a reader would wait for it
        raise UserError(f"localizer.weights={localizer.weights} is not a regular file", mend=mend)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        what = f"localizer.weights={localizer.weights} cannot be read ({error.strerror})"
        raise UserError(what, mend=mend) from error
