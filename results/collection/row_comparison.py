"""How a run compares with its method's row: the same, with other settings, or not comparable."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from repro.errors import UserError
from repro.runs.evaluation import PROTOCOLS, Evaluation
from repro.settings.comparison import departures, plays_a_part, settings
from repro.settings.departures import Departure, common_sizes, listed, scale_of, scale_of_both
from repro.settings.run import Run
from repro.settings.sections import Framework

Recipe = Callable[[str], Run]
"""Makes the run that a method's name stands for, with none of its settings changed; raises UserError for unknown names.

The command line passes it in, as this room may not import `baselines`.
"""
TINY, ALTERED = "TINY", "ALTERED"
"""Marks of runs that depart from their row: by being smaller, or in another way."""


@dataclass(frozen=True)
class RowComparison:
    """How a run departs from the unchanged row of its method.

    Attributes:
        run: The run; None if its `run.yaml` cannot be read.
        row: The run that stands for the method's row; None if there is none.
        unknown: Why the two cannot be compared; empty if they can.
        departures: Every setting that differs and plays a part in the run or in the row.
    """

    run: Run | None = None
    row: Run | None = None
    unknown: str = ""
    departures: tuple[Departure, ...] = field(default=())

    @classmethod
    def of(cls, run: Run | None, recipe: Recipe | None) -> "RowComparison":
        """Compares a run with its method's row.

        Args:
            run: The run; None if its `run.yaml` cannot be read.
            recipe: Makes the run that a method's name stands for; None: the run is not compared.
        """
        if run is None:
            return cls(unknown="settings unknown: no run.yaml that this version reads")
        if run.framework is Framework.external:
            return cls(run, unknown=f"imported weights: how they were trained is unknown{_crops_of(run)}")
        if recipe is None:
            return cls(run, unknown="settings not compared with the method's row")
        try:
            row = recipe(run.method)
        except UserError:
            return cls(run, unknown="settings not compared: this version has no row of that name")
        return cls(run, row, departures=departures(run, row))

    def __str__(self) -> str:
        """Returns all departures, each with the row's value, or why they are unknown; empty if the run is its row."""
        return self.unknown or "; ".join(departure.in_full for departure in listed(self.departures))

    @property
    def is_the_row(self) -> bool:
        """Whether the run is known to be its method's row, changed in nothing."""
        return self.row is not None and not self.departures

    @property
    def smaller(self) -> tuple[Departure, ...]:
        """The departures that make the run smaller."""
        return tuple(departure for departure in self.departures if departure.smaller)

    @property
    def altered(self) -> tuple[Departure, ...]:
        """The departures that do not make the run smaller."""
        return tuple(departure for departure in self.departures if not departure.smaller)

    @property
    def scale(self) -> str:
        """The smaller sizes that decide the run's column in a table, `64 px, 2 epochs`; empty at the row's sizes."""
        return scale_of(common_sizes(self.smaller))

    @property
    def fidelity(self) -> str:
        """The fidelity that decides the run's column in a table: `paper` if the run has that of its row.

        So a row that is named after the released code stands beside the rows that it is compared with. The text is the
        run's own if it departs from its row in a switch that plays a part, or if there is no row to compare with.
        """
        is_of_row = self.row is not None and not any(name.startswith("fidelity.") for name in self.by_name)
        return str(self.run.fidelity) if self.run and not is_of_row else "paper"

    @cached_property
    def by_name(self) -> Mapping[str, Departure]:
        """The departures by `section.key`."""
        return {departure.what: departure for departure in self.departures}

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """The value of every setting that plays a part in the run or in its row."""
        if self.run is None:
            return {}
        row = self.row or self.run
        return {
            name: setting.value
            for name, setting in settings(self.run).items()
            if plays_a_part(name, self.run) or plays_a_part(name, row)
        }

    def measured_by_protocol(self, task: str, dataset: str, protocol: str) -> bool:
        """Returns whether a measurement followed its task's protocol, as it is or with the settings of the row.

        Args:
            task: The evaluation.
            dataset: Its data set.
            protocol: The recorded protocol, which names its departures.
        """
        if self.row is None or task not in PROTOCOLS:
            return False
        evaluation = Evaluation(task, dataset)
        # The default settings are the protocols. A row may have settings of its own, as that of supervised weights has.
        return protocol in {*evaluation.protocols(Run()), *evaluation.protocols(self.row)}

    def altered_unlike(self, other: "RowComparison") -> list[str]:
        """Returns the settings in which two runs differ although their rows do not: differences beyond the methods'.

        Empty if one of the two cannot be compared with its row.
        """
        if self.row is None or other.row is None:
            return []
        rows = settings(self.row), settings(other.row)
        return [
            name
            for name in dict.fromkeys([*self.by_name, *other.by_name])
            if name in self.values and name in other.values
            if self.values[name] != other.values[name] and rows[0][name].value == rows[1][name].value
        ]


def _crops_of(run: Run) -> str:
    """Returns the side of the crops by which imported weights are evaluated, if it is not the paper's; else nothing."""
    here, paper = run.data.crop, Run().data.crop
    return "" if here == paper else f"; evaluated by crops of {Departure('data.crop', here, paper).in_full}"


def words(of: Iterable[Departure], evaluation_scale: str = "") -> list[str]:
    """Returns departures as notes print them, sizes first: `TINY: 64 px` and `ALTERED: optimization.lr=0.3`.

    Args:
        of: The departures.
        evaluation_scale: How the evaluation is smaller, as in `repro.runs.records.Result.evaluation_scale`.
    """
    given = list(of)
    kinds = {
        TINY: scale_of_both(scale_of(d for d in given if d.smaller), evaluation_scale),
        ALTERED: scale_of(d for d in given if not d.smaller),
    }
    return [f"{kind}: {text}" for kind, text in kinds.items() if text]
