"""The settings in which two runs differ."""

from collections.abc import Iterator, Mapping
from typing import Any

from repro.runs.identity import identity, plain
from repro.runs.run import Run


def difference(first: Run, second: Run) -> dict[str, tuple[Any, Any]]:
    """Returns the settings in which two runs differ, as `{"section.key": (first's, second's)}`.

    Their seeds and how they are carried out (names, `machine`, the evaluations) are left aside.
    """
    # A field that was added later stands in the identity of only one of the runs (`added`): both are asked for names,
    # and the values come from the whole runs.
    names = dict.fromkeys(name for run in (first, second) for name, _ in flat(identity(run)) if name != "seed")
    of_first, of_second = dict(flat(plain(first))), dict(flat(plain(second)))
    return {name: (of_first[name], of_second[name]) for name in names if of_first[name] != of_second[name]}


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields nested settings as pairs of `section.key` and value.

    Args:
        tree: Settings by name, a section being a mapping itself.
        prefix: What the names begin with.
    """
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
