"""What plots are made of: the run folders, their results, and the tables' data, each worked out once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from repro.errors import UserError
from results.runs import RunRecord
from results.style import Theme
from results.tables import render


class NothingToDrawError(UserError):
    """The runs at hand hold nothing that a plot shows; the message says what is missing."""


@dataclass
class Material:
    """What plots are made of.

    Attributes:
        runs: The run folders at hand.
        frame: Their results; None where nothing was evaluated.
        theme: Whether they are for a light or a dark page.
    """

    runs: Sequence[RunRecord]
    frame: pd.DataFrame | None
    theme: Theme = "light"
    _tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    def table(self, name: str) -> pd.DataFrame:
        """The data of a table that has numbers of ours, one line per row and column.

        Raises:
            NothingToDrawError: There are none.
        """
        if name not in self._tables:
            self._tables[name] = self._render(name)
        records = self._tables[name]
        if records.empty:
            raise NothingToDrawError(f"no result belongs into {name}; evaluate a run first")
        return records

    def has(self, name: str) -> bool:
        """Whether a table has numbers of ours."""
        try:
            return not self.table(name).empty
        except NothingToDrawError:
            return False

    def _render(self, name: str) -> pd.DataFrame:
        if self.frame is None:
            return pd.DataFrame()
        records = render(name, self.frame, runs=self.runs, rows="all").records
        filled = records[records["n"] > 0].copy()
        filled["place"] = [_place(line) for line in filled.to_dict("records")]
        return filled


def _place(line: Mapping[Any, Any]) -> str:
    """A column of ours, as a panel's title."""
    tiny = " (TINY, not comparable with the paper)" if line["scale"] else ""
    released = "" if line["fidelity"] == "paper" else f", fidelity {line['fidelity']}"
    return f"{line['dataset']}{tiny}, {line['protocol']}{released}"
