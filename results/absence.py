"""Why there is no number in a cell, or why it has fewer seeds than were started."""

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from results.collect import KEYS
from results.columns import Column
from results.runs import RunRecord

UNFINISHED = {
    "running": "running",
    "silent": "silent",
    "failed": "failed",
    "interrupted": "interrupted",
    "pretrained": "not evaluated",
    "unreadable": "status unreadable",
}
"""State of a run folder without a result -> what the cell says, the most hopeful first."""

_OTHER = {"protocol": "other protocol", "fidelity": "other fidelity", "scale": "other scale", "split": "other split"}
"""A key in which the method's numbers differ from the column -> what the cell says; the first that differs is named."""


def reason(method: str, column: Column, metric: str, frame: pd.DataFrame, runs: Sequence[RunRecord]) -> str:
    """Say why a cell is empty.

    Args:
        method: The method of its row.
        column: The column that it stands in.
        metric: The metric that it would show.
        frame: Results of the table's task.
        runs: What `without_result` returns.

    Returns:
        `running`, `silent` (says that it runs, without a heartbeat), `failed`, `interrupted`, `not evaluated`,
        `other protocol` (or fidelity, scale, split: there is a number in another column) or `not run`.
    """
    states = unfinished(method, column, runs)
    for state, text in UNFINISHED.items():
        if states[state]:
            return text
    elsewhere = frame[(frame["method"] == method) & (frame["dataset"] == column.dataset) & (frame["metric"] == metric)]
    # A column that nothing was run for has no protocol or split of its own that another number could differ from.
    if elsewhere.empty or column.planned:
        return "not run"
    for name, text in _OTHER.items():
        if column.key[KEYS.index(name)] not in set(elsewhere[name]):
            return text
    # Each key alone occurs among the method's numbers, and only their combination does not.
    return "other protocol"


def without_result(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Returns the runs that were begun and gave no number yet, which the other functions here expect."""
    return [run for run in runs if not run.folder.results.exists() and run.state in UNFINISHED]


def unfinished(method: str, column: Column, runs: Sequence[RunRecord]) -> Counter[str]:
    """Count the states of a method's runs that belong into a column and have no result yet.

    Args:
        method: The method of the row.
        column: The column, of which fidelity and scale decide; a run without a result has no split or protocol.
        runs: What `without_result` returns.
    """
    return Counter(run.state for run in runs if run.method == method and _fits(run, column))


def missing_seeds(states: Counter[str]) -> str:
    """Returns the note on a cell whose other seeds gave no number, as a mean over the survivors may flatter.

    Args:
        states: What `unfinished` returns; the note is empty where nothing is counted.
    """
    counts = [f"{states[state]} {text}" for state, text in UNFINISHED.items() if states[state]]
    return f"further runs of it have no result: {', '.join(counts)}" if counts else ""


def _fits(run: RunRecord, column: Column) -> bool:
    if run.run is None:
        return True  # its run.yaml cannot be read: better said in one column too many than in none
    return (str(run.run.fidelity), run.comparison.scale) == (column.fidelity, column.scale)
