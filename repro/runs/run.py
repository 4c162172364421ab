"""Run: one frozen, typed description of an experiment; its id follows from its content (`repro.runs.identity`).

A `Run` is read from defaults, the settings of a method's row, a YAML file and `key.sub=value` overrides, in this
order, and never changes afterwards. No torch is imported here: tables and launchers read runs too.

The settings themselves, section by section, are `repro.runs.sections`.
"""

from dataclasses import dataclass

from repro.errors import UserError
from repro.runs.identity import digest, identity, plain
from repro.runs.limits import problems
from repro.runs.sections import RunSettings
from repro.runs.yaml_text import format_yaml


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

    @property
    def id(self) -> str:
        """Ten hex digits from the content of the run; equal for equal experiments, on any Python."""
        return digest(identity(self))

    @property
    def recipe(self) -> str:
        """Ten hex digits from the content of the run without its seed: runs of one recipe may be averaged."""
        return digest({name: value for name, value in identity(self).items() if name != "seed"})

    @property
    def folder(self) -> str:
        """`METHOD/sSEED-ID`, the run's place below its sweep."""
        return f"{self.method}/s{self.seed}-{self.id}"

    def to_yaml(self) -> str:
        """Returns the whole run as `run.yaml` holds it, every setting with its value."""
        return format_yaml(plain(self))
