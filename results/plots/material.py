"""The material of plots: the run folders, their results, and the tables' data, each worked out once."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from repro.errors import UserError
from results.collection.collect import KEYS
from results.collection.row_comparison import ALTERED, TINY
from results.collection.runs import RunRecord
from results.paper.published import published
from results.plots.style import Theme
from results.tables.rendering import render
from results.tables.selection import METRICS, asked_of


class NothingToDrawError(UserError):
    """The runs at hand hold nothing that a plot shows."""

    @property
    def note(self) -> str:
        """What is missing and what would give it, as pages say it where the plot would stand."""
        return f"{self.what}; {self.mend}" if self.mend else self.what


@dataclass
class Material:
    """What plots are made of.

    Attributes:
        runs: The run folders at hand.
        frame: Their results; None if nothing was evaluated.
        theme: Whether the plots are for a light or a dark page.
        task: Another evaluation than the paper's linear probe, by which Tables 1 and 3 are made; empty for the paper's.
        metric: Another measure of Tables 1 and 3 than the first; empty for the first.
    """

    runs: Sequence[RunRecord]
    frame: pd.DataFrame | None
    theme: Theme = "light"
    task: str = ""
    metric: str = ""
    _tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    """What `table` has worked out, by name."""

    @property
    def tiny(self) -> bool:
        """Whether some runs are smaller than the paper's."""
        # If a run's settings are lost, only its results tell the scale.
        recorded = self.frame is not None and bool((self.frame["scale"] != "").any())
        return recorded or any(run.comparison.smaller for run in self.runs)

    @property
    def warning(self) -> str:
        """What a figure's note says of runs that are not the paper's, `; TINY MODE, not comparable with the paper`."""
        altered = any(run.comparison.altered for run in self.runs)
        kinds = " and ".join([f"{TINY} MODE"] * self.tiny + [ALTERED] * altered)
        return f"; {kinds}, not comparable with the paper" if kinds else ""

    def table(self, name: str) -> pd.DataFrame:
        """Returns the lines of a table's data that have a measured number.

        Args:
            name: `table1`, `table2` or `table3`.

        Returns:
            `Table.records`, one line per row, column group and metric, and `panel`, the title of the panel that shows
            the line's column, and no other column. Untrained networks are left out, as in the report's tables.

        Raises:
            NothingToDrawError: There are none.
        """
        if not self.has(name):
            raise NothingToDrawError(f"no result belongs in {name}", mend="evaluate a run first")
        return self._tables[name]

    def has(self, name: str) -> bool:
        """Returns whether a table has measured numbers."""
        if name not in self._tables:
            self._tables[name] = self._render(name)
        return not self._tables[name].empty

    def _render(self, name: str) -> pd.DataFrame:
        if self.frame is None:
            return pd.DataFrame()
        # All rows: with another choice, a table without any result would be refused.
        task, metric = asked_of(published(name), self.task, self.metric)
        # With references, untrained networks become references, which are no records, and get no columns of their own.
        table = render(name, self.frame, runs=self.runs, every=True, task=task, metric=metric, references=True)
        records = table.records
        filled = records[records["n"] > 0].copy()
        lines = filled.to_dict("records")
        titles = panel_titles(lines, table.sizes)
        filled["panel"] = [titles[key_of(line)] for line in lines]
        return filled


def percent(metric: str) -> str:
    """Returns the label of an axis with a metric, `top-1, %`."""
    return f"{printed(metric)}, %"


def printed(metric: str) -> str:
    """Returns a metric's name for people: `top-1`, `box AP50`."""
    return METRICS.get(metric) or metric.replace("bbox_", "box ").replace("mask_", "mask ")


def key_of(line: Mapping[Any, Any]) -> tuple[str, ...]:
    """Returns what identifies a line's column; numbers of two columns are never in one panel."""
    return tuple(str(line[name]) for name in (*KEYS, "mark"))


def panel_titles(
    lines: Iterable[Mapping[Any, Any]], sizes: Mapping[tuple[str, ...], tuple[str, ...]]
) -> dict[tuple[str, ...], str]:
    """Returns the title of each column's panel, no two alike.

    Titles that would be alike are extended by the parts of their sizes that they do not share, or by their splits.

    Args:
        lines: Any lines of the columns, with `KEYS` and `mark`.
        sizes: The parts of the scale of each column, by `key_of` its lines.
    """
    columns = {key_of(line): line for line in lines}
    titles = {key: _title(line) for key, line in columns.items()}
    for title in _repeated(titles):
        rivals = [key for key in titles if titles[key] == title]
        shared = set.intersection(*(set(sizes[key]) for key in rivals))
        for key in rivals:
            titles[key] = ", ".join([title, *(part for part in sizes[key] if part not in shared)])
    for title in _repeated(titles):
        for key in [key for key in titles if titles[key] == title]:
            titles[key] = f"{title}, {columns[key]['split']}"
    return titles


def _repeated(titles: Mapping[Any, str]) -> list[str]:
    return [title for title, number in Counter(titles.values()).items() if number > 1]


def _title(line: Mapping[Any, Any]) -> str:
    """Returns what each panel's title says: the data, a mark if they are not the paper's, protocol and fidelity."""
    mark = f" ({line['mark']}, not comparable with the paper)" if line["mark"] else ""
    fidelity = "" if line["fidelity"] == "paper" else f", fidelity {line['fidelity']}"
    return f"{line['dataset']}{mark}, {line['protocol']}{fidelity}"
