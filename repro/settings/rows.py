"""What commands need to know of the methods; `baselines` defines these, and the command line hands them in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from repro.settings.run import Run


class MethodRow(Protocol):
    """What a method's name stands for: one row of the paper's tables."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """How the method differs from the default Run, as nested settings."""


class Resolve(Protocol):
    """A function that makes the run of a method, with layers of settings on top of the row's."""

    def __call__(self, method: str, *layers: Mapping[str, Any], origin: str = "settings") -> Run:
        """Returns the run of a method.

        Args:
            method: Name of a row.
            layers: Nested settings, later ones winning.
            origin: What messages call the layers.

        Raises:
            UserError: A method, key or value is unknown.
        """


@dataclass(frozen=True)
class Rows:
    """The rows of the tables."""

    methods: Mapping[str, MethodRow]
    """Every row by its name."""
    headline: Sequence[str]
    """Names of the rows that are used if none is named."""
    resolve: Resolve
    build: Callable[..., Any]
    """Makes what a row trains, a `repro.training.learner.Build`; typed loosely, as that room needs torch."""
