"""Why there is no number, or fewer than were started."""

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from repro.runs.departures import common_scale, scale_of
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


def reason(method: str, column: Column, metric: str, frame: pd.DataFrame, runs: Sequence[RunRecord]) -> str:
    """Say why a cell is empty.

    Args:
        method: Of its row.
        column: Of the table.
        metric: Of the cell.
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
    if elsewhere.empty or column.planned:
        return "not run"
    for name, text in _OTHER.items():
        if column.key[KEYS.index(name)] not in set(elsewhere[name]):
            return text
    return "other protocol"


def without_result(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs that were begun and gave no number yet; the other functions here want these."""
    return [run for run in runs if not run.folder.results.exists() and run.state in UNFINISHED]


def unfinished(method: str, column: Column, runs: Sequence[RunRecord]) -> Counter[str]:
    """Count the states of a method's runs that belong into a column and have no result yet."""
    return Counter(run.state for run in runs if run.method == method and _fits(run, column))


def missing_seeds(states: Counter[str]) -> str:
    """A note on a cell whose other seeds gave no number: a mean over the survivors may flatter."""
    parts = [f"{states[state]} {text}" for state, text in UNFINISHED.items() if states[state]]
    return f"further runs of it have no result: {', '.join(parts)}" if parts else ""


def _fits(run: RunRecord, column: Column) -> bool:
    if run.run is None:
        return True  # its run.yaml cannot be read: better said in one column too many than in none
    scale = common_scale(scale_of(run.run.departures))
    return (str(run.run.fidelity), scale) == (column.fidelity, column.scale)
