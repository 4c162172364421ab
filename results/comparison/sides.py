"""The two sides of a comparison: the runs that a word on the command line names, and their results."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from repro.errors import UserError, nearest
from repro.filesystem.presence import is_folder
from repro.settings.run_name import RunName
from results.collection.runs import RunRecord, by_path_of_rows, find_runs

COLUMN = ["task", "dataset", "split", "protocol"]
"""Columns in which both sides must agree. Sizes and recipes may differ between the sides, but not within one."""


@dataclass(frozen=True)
class SideRows:
    """The results of one side, and its runs.

    Attributes:
        rows: Rows of what `results.collection.collect.collect_runs` returns.
        records: Their runs, by the `path` of the rows; others may be among them.
        word: The argument that named the side.
    """

    rows: pd.DataFrame
    records: Mapping[str, RunRecord]
    word: str

    @classmethod
    def of(cls, frame: pd.DataFrame, runs: Sequence[RunRecord], word: str) -> "SideRows":
        """Returns the results of some runs.

        Args:
            frame: What `results.collection.collect.collect_runs` returns.
            runs: The runs.
            word: The argument that named the side.
        """
        records = by_path_of_rows(runs)
        return cls(frame[frame["path"].isin(list(records))], records, word)

    @property
    def without_a_row(self) -> list[RunRecord]:
        """Its runs that have none of its rows."""
        with_one = set(self.rows["path"])
        return [run for path, run in self.records.items() if path not in with_one]

    @property
    def columns(self) -> list[tuple[str, ...]]:
        """The different values of `COLUMN` of its rows, in the rows' order."""
        return list(dict.fromkeys(self.rows[COLUMN].astype(str).itertuples(index=False, name=None)))

    @property
    def metrics(self) -> list[str]:
        """The metrics of its rows, in the rows' order."""
        return list(dict.fromkeys(self.rows["metric"].astype(str)))

    @property
    def scale(self) -> str:
        """The scale of its runs, the same for all after `refuse_mixed`; empty at the paper's scale."""
        return str(self.rows["scale"].iloc[0])

    def by_tasks(self, tasks: Iterable[str]) -> "SideRows":
        """Returns the results by some evaluations."""
        return replace(self, rows=self.rows[self.rows["task"].isin(list(tasks))])

    def in_column(self, column: tuple[str, ...]) -> "SideRows":
        """Returns the results in one of `columns`, and its runs but those that were only measured on other data.

        Other data are those on which no run with a result in the column was measured.
        """
        wanted = pd.Series(column, index=COLUMN)  # a bare tuple is one value to pandas 4
        here = (self.rows[COLUMN].astype(str) == wanted).all(axis=1)
        paths, datasets = self.rows["path"], self.rows["dataset"]
        data = datasets[paths.isin(paths[here])]
        others = {*paths} - {*paths[datasets.isin(data)]}
        records = {path: run for path, run in self.records.items() if path not in others}
        return replace(self, rows=self.rows[here], records=records)

    def by_metric(self, metric: str) -> "SideRows":
        """Returns the results of one metric."""
        return replace(self, rows=self.rows[self.rows["metric"] == metric])


def select(runs: Sequence[RunRecord], word: str) -> list[RunRecord]:
    """Returns the runs that a word on the command line names.

    Args:
        runs: The run folders at hand.
        word: A method, `SWEEP/METHOD`, a sweep, a run's folder, its name or the beginning of its id.

    Raises:
        UserError: There are none.
    """
    path = Path(word)
    below = [run for run in runs if is_folder(path) and run.path.resolve().is_relative_to(path.resolve())]
    named = [run for run in runs if _is_meant(run, word)]
    if not named and not below:
        if is_folder(path) and find_runs([path]):
            what = f"the runs in '{word}' are none of those below --runs"
            raise UserError(what, mend=f"add --runs {shlex.quote(word)}; repeat --runs for each folder")
        known = list(dict.fromkeys(name for run in runs for name in (run.method, run.sweep)))
        raise UserError(f"no method, sweep or run '{word}'", mend=nearest(word, known))
    return named or below


def _is_meant(run: RunRecord, word: str) -> bool:
    name = RunName(run.sweep, run.method, run.path.name)
    return word in (run.method, run.sweep, f"{run.sweep}/{run.method}", run.name) or name.is_meant_by(word)
