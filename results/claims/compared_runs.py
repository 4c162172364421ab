"""What speaks against the runs that claims and parts compare: their code, and the seeds that gave no number."""

from collections import Counter
from collections.abc import Iterator, Sequence

import pandas as pd

from repro.errors import first_few
from repro.runs.labels import label
from results.claims.parts import MethodPart
from results.claims.verdicts import Verdict
from results.collection.collect import NOT_ONE_STATE, code_states, is_of_one_known_state
from results.collection.runs import RunRecord
from results.tables.absence import lacking_a_number, states_text, unfinished
from results.tables.columns import Column
from results.tables.references import without_untrained


def notes_on_runs(
    verdicts: Sequence[Verdict], parts: Sequence[MethodPart], frame: pd.DataFrame | None, runs: Sequence[RunRecord]
) -> list[str]:
    """Returns a sentence on the code that measured what is compared, and one on seeds of it that have no result.

    Args:
        verdicts: What `judge` returns.
        parts: What `results.claims.parts.parts` returns.
        frame: What `results.collection.collect.collect` returns; None where nothing was run.
        runs: The run folders at hand.
    """
    if frame is None:
        return []
    trained, lacking = without_untrained(frame), lacking_a_number(runs)
    compared: list[pd.DataFrame] = []
    missing: dict[str, Counter[str]] = {}
    for column, methods in _compared(verdicts, parts):
        rows = column.rows_of(trained[trained["task"] == column.task])
        for method in methods:
            of_method = rows[rows["method"] == method]
            compared.append(of_method)
            # A run may lack its number in several columns: of each state the most that any of these lacks.
            states = unfinished(method, column, lacking, set(of_method["run_id"]))
            missing[method] = missing.get(method, Counter()) | states
    notes = []
    if compared and not is_of_one_known_state(measured := pd.concat(compared)):
        notes.append(f"{NOT_ONE_STATE}: {first_few(code_states(measured))}.")
    if told := [f"{label(method)} ({states_text(states)})" for method, states in sorted(missing.items()) if states]:
        notes.append(f"Further runs of what is compared have no result: {first_few(told)}.")
    return notes


def _compared(verdicts: Sequence[Verdict], parts: Sequence[MethodPart]) -> Iterator[tuple[Column, set[str]]]:
    """Yields each column in which methods are compared, once, and these methods."""
    pairs = [
        (verdict.column, {verdict.claim.better, verdict.claim.worse})
        for verdict in verdicts
        if verdict.column is not None and verdict.told
    ]
    pairs += [(part.column, {part.method, part.without}) for part in parts]
    columns: dict[tuple[object, ...], tuple[Column, set[str]]] = {}
    for column, methods in pairs:
        key = (column.task, column.key, column.metrics)
        columns.setdefault(key, (column, set()))[1].update(methods)
    yield from columns.values()
