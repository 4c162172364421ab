"""In which settings two runs differ."""

from collections.abc import Iterator, Mapping
from typing import Any

from repro.runs.identity import identity, plain
from repro.runs.run import Run


def difference(first: Run, second: Run) -> dict[str, tuple[Any, Any]]:
    """The settings in which two runs differ, as `{"section.key": (first's, second's)}`.

    Their seeds and how they are carried out (names, `machine`, `probe`) are left aside.
    """
    names = dict.fromkeys(name for run in (first, second) for name, _ in flat(identity(run)) if name != "seed")
    one, other = dict(flat(plain(first))), dict(flat(plain(second)))
    return {name: (one[name], other[name]) for name in names if one[name] != other[name]}


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as pairs of `section.key` and value."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
