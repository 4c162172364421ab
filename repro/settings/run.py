"""Run: one frozen, typed description of an experiment; its id follows from its content (`repro.settings.identity`).

A `Run` is read from defaults, the settings of a method's row, a YAML file and `key.sub=value` overrides, in this
order, and never changes afterwards. No torch is imported here: tables and launchers read runs too.

The settings themselves, section by section, are `repro.settings.sections`.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from repro.errors import UserError
from repro.settings.identity import digest, identity, plain
from repro.settings.limits import LARGEST_WHOLE, problems
from repro.settings.run_name import folder_name
from repro.settings.sections import RunSettings
from repro.settings.yaml_text import format_yaml


@dataclass(frozen=True)
class Run(RunSettings):
    """One experiment: a method on a data set with a seed."""

    def __post_init__(self) -> None:
        """Refuses settings that could only fail later.

        Raises:
            UserError: Two settings exclude each other, or a value is out of its range.
        """
        for problem in problems(self):  # lazily: only the first is computed
            raise UserError(problem.what, mend=problem.mend)

    def with_seed(self, seed: int) -> "Run":
        """Returns the run with another seed, checking only the seed, since nothing else depends on it.

        A sweep has thousands of runs and few recipes: with all checks, each run would take a millisecond.

        Raises:
            UserError: The seed is out of its range.
        """
        if not 0 <= seed <= LARGEST_WHOLE:
            return replace(self, seed=seed)  # which refuses it in the usual words
        run = object.__new__(type(self))
        run.__dict__.update(self.__dict__, seed=seed, content={**self.content, "seed": seed})
        return run

    @cached_property
    def content(self) -> dict[str, Any]:
        """What the id is made of, as JSON values; must not be changed."""
        content: dict[str, Any] = identity(self)
        return content

    @property
    def id(self) -> str:
        """Ten hex digits from the content of the run; equal for equal experiments, on any Python."""
        return digest(self.content)

    @property
    def recipe(self) -> str:
        """Ten hex digits from the content of the run without its seed: runs of one recipe may be averaged."""
        return digest({name: value for name, value in self.content.items() if name != "seed"})

    @property
    def folder(self) -> str:
        """`METHOD/sSEED-ID`, the run's place below its sweep."""
        return f"{self.method}/{folder_name(self.seed, self.id)}"

    def to_yaml(self) -> str:
        """Returns the whole run as `run.yaml` holds it, every setting with its value."""
        return format_yaml(plain(self))
