"""The identity of a run: which fields of its settings count, with which values, and the hash of these.

This module knows dataclasses, enums and JSON, but not what the settings mean; those are in `repro.settings.sections`.

An id names the folder of a run and stands in each of its results, so it has to survive changes of the code. Two rules
ensure this. Every field counts with its value, not as "the default": a new default makes new runs, and leaves the ids
of old ones. And a field that is added later says what runs did before it existed (`added`). With that value the field
does not count, so that the hashed content is the same as before.

What depends on the dataclasses alone (`keys`, `counted_settings`) is worked out once: runs are read by the thousand.
"""

import dataclasses
import hashlib
import json
import operator
from collections.abc import Callable, Mapping
from dataclasses import field
from enum import Enum
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

Smaller = Callable[[Any, Any], bool]
"""Returns whether a setting's first value makes a run smaller than its second one does."""


def outside_identity(default: Any) -> Any:
    """Returns a field that says how or where a run is carried out, not what it is, and has no part in the run's id.

    Args:
        default: The default value, or a class whose instances are made by calling it.
    """
    factory = {"default_factory": default} if isinstance(default, type) else {"default": default}
    return field(**factory, metadata={"identity": False})


def added(default: Any, *, absent: Any, smaller: Smaller | None = None, unless: str = "") -> Any:
    """Returns a field that was added when runs already existed.

    Args:
        default: What new runs get.
        absent: What older runs, which lack the field, did. A run with this value keeps the id that it had before the
            field existed. Never change it, also where `default` changes.
        smaller: As for `size`, if the field is a size.
        unless: If the field is a path, the name of the field with the hash of the file's content.
    """
    options = {"smaller": smaller, "unless": unless}
    return field(
        default=default, metadata={"absent": absent, **{name: value for name, value in options.items() if value}}
    )


def size(default: Any, smaller: Smaller = operator.lt) -> Any:
    """Returns a field that says how large a run is: one with less than the paper's is *tiny* in every table.

    Args:
        default: The default value, or a class whose instances are made by calling it.
        smaller: Compares two values; needed if they are not numbers.
    """
    factory = {"default_factory": default} if isinstance(default, type) else {"default": default}
    return field(**factory, metadata={"smaller": smaller})


def _counted_fields(kind: type) -> list[dataclasses.Field[Any]]:
    """Returns the fields of a run, or of one of its sections, that are part of its identity."""
    return [f for f in dataclasses.fields(kind) if f.metadata.get("identity", True)]


def identity(value: Any) -> Any:
    """Returns the part of a run that its id is made of, as JSON values.

    Fields are left out that were added later and have the value of older runs (`added`), and a file's path if the hash
    of its content is known (metadata `unless`, which names the hash's field).

    Args:
        value: A run, one of its sections, or a single value.
    """
    if not dataclasses.is_dataclass(value):
        return value.name if isinstance(value, Enum) else value
    content = {}
    for f in _counted_fields(type(value)):
        item = getattr(value, f.name)
        is_replaced = "unless" in f.metadata and getattr(value, f.metadata["unless"]) != ""
        if not is_replaced and ("absent" not in f.metadata or item != f.metadata["absent"]):
            # 1 and 1.0 are the same learning rate, but not the same JSON.
            content[f.name] = float(item) if f.type is float else identity(item)
    return content


def digest(content: Any) -> str:
    """Returns ten hex digits from JSON values; equal for equal content, on any Python."""
    # Keys are sorted and spaces left out, so that neither the order of fields nor a writer's style matters.
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def keys(kind: type) -> Mapping[str, Any]:
    """Returns every dotted key of a dataclass with its type.

    Args:
        kind: The dataclass; a field that is a dataclass itself is a section, whose keys are listed in its place.
    """
    return _keys(kind, "")


@cache  # each run that is read or checked asks for them
def _keys(kind: type, prefix: str) -> Mapping[str, Any]:
    types: dict[str, Any] = {}
    for f in dataclasses.fields(kind):
        if isinstance(f.type, type) and dataclasses.is_dataclass(f.type):
            types |= _keys(f.type, f"{prefix}{f.name}.")
        else:
            types[prefix + f.name] = f.type
    return MappingProxyType(types)


@cache
def value_of(key: str) -> Callable[[Any], Any]:
    """Returns the function that reads the setting of a dotted key from a run."""
    return operator.attrgetter(key)


class CountedSetting(NamedTuple):
    """A setting that is part of the identity of a run."""

    name: str
    """Its dotted key."""
    smaller: Smaller | None
    """Returns whether one value makes a run smaller than another (`size`); None: it is no size."""
    unless: str
    """The key of the hash of a file's content if the setting is the file's path; else empty."""

    def is_replaced(self, run: Any) -> bool:
        """Returns whether the hash of a file's content counts in place of the file's path."""
        return bool(self.unless) and value_of(self.unless)(run) != ""


def counted_settings(kind: type) -> tuple[CountedSetting, ...]:
    """Returns the settings of a dataclass that are part of the identity of a run, in the order of its fields."""
    return _counted_settings(kind, "", None)


@cache  # as many runs are compared as a table has
def _counted_settings(kind: type, prefix: str, smaller: Smaller | None) -> tuple[CountedSetting, ...]:
    """Returns the counted settings of a section; `smaller` compares them if the section as a whole is a size."""
    counted: list[CountedSetting] = []
    for f in _counted_fields(kind):
        name, of_field = prefix + f.name, f.metadata.get("smaller", smaller)
        if isinstance(f.type, type) and dataclasses.is_dataclass(f.type):
            counted += _counted_settings(f.type, f"{name}.", of_field)
        else:
            unless = f.metadata.get("unless", "")
            counted.append(CountedSetting(name, of_field, prefix + unless if unless else ""))
    return tuple(counted)


def plain(value: Any) -> Any:
    """Returns a dataclass as nested dictionaries of YAML's own types, with every field."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value.name if isinstance(value, Enum) else value
