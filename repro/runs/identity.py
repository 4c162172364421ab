"""What a run is known by: which fields of its settings count, the values they count with, and the hash of these.

It knows dataclasses, enums and JSON, and nothing of what the settings mean; those stand in `repro.runs.run`.
"""

import dataclasses
import hashlib
import json
from dataclasses import field
from enum import Enum
from typing import Any


def outside_identity(default: Any) -> Any:
    """A field that says how or where a run is carried out, not what it is: it has no part in the run's id."""
    factory = {"default_factory": default} if isinstance(default, type) else {"default": default}
    return field(**factory, metadata={"identity": False})


def added(default: Any, *, absent: Any) -> Any:
    """A field that came after runs had been made.

    Args:
        default: what new runs get.
        absent: what older runs, which lack the field, did. A run with this value keeps the id that it had before the
            field existed. Never change it, also where `default` changes.
    """
    return field(default=default, metadata={"absent": absent})


def identity(value: Any) -> Any:
    """The part of a run that its id is made of, as JSON values.

    Every field counts with its value, so an id keeps its meaning when a default changes. Left out are fields that are
    no part of the identity, fields added later that hold what older runs did (`added`), and a file's path where the
    hash of its content is known.
    """
    if not dataclasses.is_dataclass(value):
        return value.name if isinstance(value, Enum) else value
    content = {}
    for f in dataclasses.fields(value):
        item = getattr(value, f.name)
        absent = "absent" in f.metadata and item == f.metadata["absent"]
        replaced = "unless" in f.metadata and getattr(value, f.metadata["unless"]) != ""
        if f.metadata.get("identity", True) and not absent and not replaced:
            # 1 and 1.0 are the same learning rate, but not the same JSON.
            content[f.name] = float(item) if f.type is float else identity(item)
    return content


def digest(content: Any) -> str:
    """Ten hex digits from JSON values; equal for equal content, on any Python."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def plain(value: Any) -> Any:
    """A dataclass as nested dictionaries of YAML's own types."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value.name if isinstance(value, Enum) else value
