"""Why there is no number in a cell, or why it has fewer seeds than were started."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from repro.errors import UserError
from repro.filesystem.files import read_regular
from repro.filesystem.presence import is_filled
from repro.runs.evaluation import task_and_dataset
from repro.settings.comparison import sizes_below_recipe
from repro.settings.departures import scale_of, scale_of_both
from repro.settings.run_name import RunName
from repro.settings.yaml_text import LONGEST_TEXT
from results.collection.collect import KEYS
from results.collection.runs import RunRecord
from results.tables.columns import Column

UNFINISHED = {
    "running": "running",
    "silent": "silent",
    "failed": "failed",
    "interrupted": "interrupted",
    "pretrained": "not evaluated",
    "unreadable": "status unreadable",
}
"""State of a run, or of an evaluation, without a number -> what the cell says, the most hopeful first."""

_OTHER = {"protocol": "other protocol", "fidelity": "other fidelity", "scale": "other scale", "split": "other split"}
"""Key in which the method's numbers differ from the column -> what the cell says; the first such key counts."""


@dataclass(frozen=True)
class BegunRun:
    """A run that was started and lacks a number.

    Attributes:
        record: The run.
        state: One of `UNFINISHED` if the run has no numbers at all; else empty.
        evaluations: If it has numbers: evaluations that were started and gave none -> one of `UNFINISHED`.
        belongs: What decides to which columns it belongs; None if its `run.yaml` cannot be read.
    """

    record: RunRecord
    state: str
    evaluations: Mapping[str, str]
    belongs: "_Belongs | None"

    def state_in(self, column: Column) -> str:
        """Returns the state in which it lacks a number in a column; empty if it lacks none there."""
        # A run of unknown settings counts in every column: better in one too many than in none.
        if self.belongs and not self.belongs.fits(column):
            return ""
        if self.state:
            return self.state
        own = self.belongs.dataset if self.belongs else column.dataset
        for name, state in self.evaluations.items():
            task, dataset = task_and_dataset(name)
            # A detection task is named after its data set. If scenes stand in for that, the run tells the data.
            at_hand = (dataset,) if dataset else (own, task)
            if task == column.task and column.dataset in at_hand:
                return state
        return ""


@dataclass(frozen=True)
class _Belongs:
    """What decides to which columns a run's numbers belong."""

    fidelity: str
    scale: str
    """Of the pretraining alone: a run does not say how, and on what, a detector would have been trained."""
    dataset: str
    """Of the pretraining, and of evaluations that name no data set."""

    def fits(self, column: Column) -> bool:
        """Returns whether the run's numbers would belong to a column, if evaluated at the column's scale."""
        scale = scale_of_both(self.scale, column.evaluation_scale)
        return (self.fidelity, scale) == (column.fidelity, column.scale)


def measured_otherwise(frame: pd.DataFrame, metric: str) -> set[tuple[str, str]]:
    """Returns the pairs of method and data set that have a number by a metric, whatever the evaluation.

    Args:
        frame: Results of all tasks.
        metric: The metric.
    """
    rows = frame[frame["metric"] == metric][["method", "dataset"]].drop_duplicates()
    return {(str(method), str(dataset)) for method, dataset in rows.itertuples(index=False, name=None)}


def reason(
    method: str,
    column: Column,
    metric: str,
    frame: pd.DataFrame,
    runs: Sequence[BegunRun],
    otherwise: Collection[tuple[str, str]] = (),
) -> str:
    """Says why a cell is empty.

    Args:
        method: The method of its row.
        column: Its column.
        metric: The metric that it would show.
        frame: Results of the table's task.
        runs: What `lacking_a_number` returns.
        otherwise: What `measured_otherwise` returns, for a table of one task.

    Returns:
        A value of `UNFINISHED` (`silent`: it says that it is running, but has no heartbeat), `other protocol` (or
        fidelity, scale, split: there is a number in another column), `not by linear` (or another task: there is a
        number by another one) or `not run`.
    """
    states = unfinished(method, column, runs)
    for state, text in UNFINISHED.items():
        if states[state]:
            return text
    by_another_task = (method, column.dataset) in otherwise
    if column.planned and not by_another_task:
        return "not run"  # most cells of a table: nothing needs to be looked up for them
    elsewhere = frame[(frame["method"] == method) & (frame["dataset"] == column.dataset) & (frame["metric"] == metric)]
    # A column without runs has no protocol or split of its own from which another number could differ.
    if elsewhere.empty or column.planned:
        return f"not by {column.task}" if elsewhere.empty and by_another_task else "not run"
    for name, text in _OTHER.items():
        if column.key[KEYS.index(name)] not in set(elsewhere[name]):
            return text
    # Each key's value occurs among the method's numbers; only their combination does not.
    return "other protocol"


def lacking_a_number(runs: Sequence[RunRecord]) -> list[BegunRun]:
    """Returns the runs that were started and lack the numbers of some or all evaluations."""
    # Reading and checking a run's settings takes a tenth of a second, and a sweep may have thousands of runs. Seeds of
    # one recipe belong to the same columns, so one run of each recipe is read.
    shared: dict[str, _Belongs | None] = {}
    lacking = []
    for run in runs:
        is_measured = is_filled(run.folder.results)
        state, evaluations = "" if is_measured else run.state, run.unfinished_evaluations if is_measured else {}
        if state in UNFINISHED or evaluations:
            settings = _settings_but_the_seed(run)
            if shared.get(settings) is None:  # also again where the one before could not be read
                shared[settings] = _belongs(run)
            lacking.append(BegunRun(run, state, evaluations, shared[settings]))
    return lacking


def _belongs(record: RunRecord) -> _Belongs | None:
    run = record.run
    if run is None:
        return None
    # A run without a row has the scale that its results record, see `results.collection.collect`.
    comparison = record.comparison
    scale = comparison.scale if comparison.row else scale_of(sizes_below_recipe(run))
    return _Belongs(comparison.fidelity, scale, run.data.dataset)


def _settings_but_the_seed(run: RunRecord) -> str:
    """Returns the text of a run's settings without its id and its seed; empty if it cannot be read."""
    try:
        lines = read_regular(run.folder.run_yaml, LONGEST_TEXT).decode().splitlines()
    except (OSError, UnicodeDecodeError, UserError):
        return ""
    return "\n".join(line for line in lines if not line.startswith(("#", "seed:")))


def unfinished(method: str, column: Column, runs: Sequence[BegunRun], measured: Collection[str] = ()) -> Counter[str]:
    """Counts the states of a method's runs that belong to a column and lack its number.

    Args:
        method: The method of the row.
        column: The column. Its fidelity and scale decide, and for runs with other numbers also its task and data set;
            without a number, a run has no split or protocol.
        runs: What `lacking_a_number` returns.
        measured: Ids of runs that have the number, perhaps in another folder.
    """
    lacking = (run for run in runs if run.record.method == method and RunName.of(run.record.path).id not in measured)
    states = (run.state_in(column) for run in lacking)
    return Counter(state for state in states if state)


def missing_seeds(states: Counter[str]) -> str:
    """Returns the note on a cell whose other seeds gave no number, as a mean over the survivors may flatter.

    Args:
        states: What `unfinished` returns; the note is empty if nothing is counted.
    """
    text = states_text(states)
    return f"further runs of it have no result: {text}" if text else ""


def states_text(states: Counter[str]) -> str:
    """Returns how many runs are in which state, `1 failed, 2 not evaluated`; empty if nothing is counted."""
    return ", ".join(f"{states[state]} {text}" for state, text in UNFINISHED.items() if states[state])
