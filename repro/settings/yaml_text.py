"""YAML as people write settings: usual numbers, every key once, and the speed of libyaml.

YAML 1.1 reads `010` as eight, `1:30` as ninety and `1e-3` as text. Here `1e-3` is a number, and the other two stay
text, which each setting converts to its type: `010` is the seed ten, or the name 010.
"""

import io
import re
import sys
from typing import Any

import yaml

try:
    from yaml import CSafeDumper as _SafeDumper
    from yaml import CSafeLoader as _SafeLoader
except ImportError:  # PyYAML was built without libyaml: slower, and the same otherwise
    from yaml import SafeDumper as _SafeDumper  # type: ignore[assignment]  # another class, used alike
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]  # likewise

_LEADING_ZERO = re.compile(r"[+-]?0[0-9]{1,18}")
_NUMBERS = {
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?$"
        r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
    ),
}
"""Tag -> its pattern. Text that begins with a digit and matches neither stays text."""
_REPLACED = {*_NUMBERS, "tag:yaml.org,2002:timestamp"}
_DEEPEST = 20
"""Most levels of lists and mappings in a text; settings have three, a sweep has five."""
_LARGEST_SIZE = 10_000
"""Most values that a text may stand for: by anchors and aliases (`&a`, `*a`), a few lines can stand for billions."""
LONGEST_TEXT = 2**20
"""Most characters of a text; settings have some thousands."""
_LIBYAMLS_LIMIT = "exceeded maximum nesting depth"
"""libyaml's message for more than a thousand levels; without libyaml, Python's recursion limit ends the reading."""
_FIRST_CHARACTERS = "-+.0123456789"


class _SettingsLoader(_SafeLoader):
    """PyYAML's safe loader with numbers and keys as this module has them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Returns a mapping; refuses a repeated key, of which YAML would take the last."""
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for position, name in enumerate(names):
            if name in names[:position] and name != "<<":  # `<<` merges a mapping, and may merge several
                raise yaml.constructor.ConstructorError(None, None, f"found duplicate key {name}", node.start_mark)
        return super().construct_mapping(node, deep=deep)


class _Text(io.StringIO):
    """Text that YAML's errors call "the text", with the place in it, instead of `<unicode string>`."""

    name = "the text"


class _SettingsDumper(_SafeDumper):
    """PyYAML's safe dumper; it quotes a text that this module's loader, or any other, would take for a number."""


_SettingsLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in _SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _NUMBERS.items():
    _SettingsLoader.add_implicit_resolver(_tag, _pattern, list(_FIRST_CHARACTERS))
    _SettingsDumper.add_implicit_resolver(_tag, _pattern, list(_FIRST_CHARACTERS))


def parse_yaml(text: str) -> Any:
    """Returns what a text of YAML holds.

    Raises:
        yaml.YAMLError: The text is no YAML, or a mapping holds a key twice.
        RecursionError: It is nested deeper than any settings are, or contains itself.
        ValueError: A number has thousands of digits, the text is too long, or it stands for too many values.
    """
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"it has {len(text)} characters; at most {LONGEST_TEXT} are allowed")
    try:
        content = yaml.load(_Text(text), Loader=_SettingsLoader)
    except yaml.scanner.ScannerError as error:
        if error.problem == _LIBYAMLS_LIMIT:
            raise RecursionError(error.problem) from error
        raise
    depth, size = _measured(content, {})
    if depth > _DEEPEST:
        raise RecursionError(f"more than {_DEEPEST} levels")
    if size > _LARGEST_SIZE:
        raise ValueError(f"it stands for {size:.3g} values; at most {_LARGEST_SIZE} are allowed")
    return content


def format_yaml(content: Any) -> str:
    """Returns nested values of YAML's own types as text that `parse_yaml` reads back unchanged."""
    text: str = yaml.dump(content, Dumper=_SettingsDumper, sort_keys=False)
    return text


def _measured(value: Any, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Returns the levels of lists and mappings of a value, and how many values it stands for.

    Args:
        value: Of YAML's own types; a part that stands in it at several places is measured once.
        known: Measures of parts by their `id`; filled here.

    Raises:
        RecursionError: A part contains itself.
    """
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    if items is None:
        return 0, 1
    if id(value) not in known:
        known[id(value)] = (sys.maxsize, 0)  # in progress: meeting this part again means that it contains itself
        parts = [_measured(item, known) for item in items]
        known[id(value)] = 1 + max((depth for depth, _ in parts), default=0), 1 + sum(size for _, size in parts)
    depth, size = known[id(value)]
    if depth == sys.maxsize:
        raise RecursionError("a part contains itself")
    return depth, size


def decimal(value: Any) -> Any:
    """Returns text with zeros in front, such as `010`, as the whole number that it says.

    Args:
        value: From `parse_yaml`; any other value is returned unchanged.
    """
    return int(value) if isinstance(value, str) and _LEADING_ZERO.fullmatch(value) else value
