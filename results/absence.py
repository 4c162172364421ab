"""Why there is no number in a cell, or why it has fewer seeds than were started."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from repro.errors import UserError
from repro.files import read_regular
from repro.runs.yaml_text import LONGEST_TEXT
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


@dataclass(frozen=True)
class BegunRun:
    """A run that gave no number yet."""

    record: RunRecord
    state: str
    """One of `UNFINISHED`."""
    fidelity_and_scale: tuple[str, str] | None
    """As columns name them; None where its `run.yaml` cannot be read."""


def reason(method: str, column: Column, metric: str, frame: pd.DataFrame, runs: Sequence[BegunRun]) -> str:
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


def without_result(runs: Sequence[RunRecord]) -> list[BegunRun]:
    """Returns the runs that were begun and gave no number yet, which the other functions here expect."""
    begun = [(run, run.state) for run in runs if not run.folder.results.exists()]
    # To read and check a run's settings takes a tenth of a second. Seeds of one recipe differ in nothing that is asked
    # here, and a cluster's sweep has thousands of them: one of each is read.
    shared: dict[str, tuple[str, str] | None] = {}
    unfinished_runs = []
    for run, state in begun:
        if state in UNFINISHED:
            settings = _settings_but_the_seed(run)
            if shared.get(settings) is None:  # also again where the one before could not be read
                shared[settings] = None if run.run is None else (str(run.run.fidelity), run.comparison.scale)
            unfinished_runs.append(BegunRun(run, state, shared[settings]))
    return unfinished_runs


def _settings_but_the_seed(run: RunRecord) -> str:
    """Returns the text of a run's settings without its id and its seed; empty where there is none."""
    try:
        lines = read_regular(run.folder.run_yaml, LONGEST_TEXT).decode().splitlines()
    except (OSError, UnicodeDecodeError, UserError):
        return ""
    return "\n".join(line for line in lines if not line.startswith(("#", "seed:")))


def unfinished(method: str, column: Column, runs: Sequence[BegunRun]) -> Counter[str]:
    """Count the states of a method's runs that belong into a column and have no result yet.

    Args:
        method: The method of the row.
        column: The column, of which fidelity and scale decide; a run without a result has no split or protocol.
        runs: What `without_result` returns.
    """
    return Counter(run.state for run in runs if run.record.method == method and _fits(run, column))


def missing_seeds(states: Counter[str]) -> str:
    """Returns the note on a cell whose other seeds gave no number, as a mean over the survivors may flatter.

    Args:
        states: What `unfinished` returns; the note is empty where nothing is counted.
    """
    counts = [f"{states[state]} {text}" for state, text in UNFINISHED.items() if states[state]]
    return f"further runs of it have no result: {', '.join(counts)}" if counts else ""


def _fits(run: BegunRun, column: Column) -> bool:
    # One that cannot be read: better said in one column too many than in none.
    return run.fidelity_and_scale in (None, (column.fidelity, column.scale))
