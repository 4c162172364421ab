"""What commands need to know of the methods, which only `baselines` knows and the command line hands in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from repro.runs.run import Run


class MethodRow(Protocol):
    """What a method's name stands for."""

    @property
    def title(self) -> str:
        """As the paper has it."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """How it differs from the default Run."""


class Resolve(Protocol):
    """The run of a method, with layers of settings on top."""

    def __call__(self, method: str, *layers: Mapping[str, Any], origin: str = "settings") -> Run:
        """Raise a UserError for an unknown method, key or value; `origin` is what messages call the layers."""


@dataclass(frozen=True)
class Rows:
    """The rows of the tables."""

    methods: Mapping[str, MethodRow]
    headline: Sequence[str]
    """Those that stand for all where none is named."""
    resolve: Resolve
    build: Callable[..., Any]
    """Makes what a row trains, a `repro.training.learner.Build`; typed loosely, as that room needs torch."""
