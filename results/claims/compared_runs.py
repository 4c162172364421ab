"""What speaks against the compared runs: code, warnings in training, unusable predictions, seeds without a number."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from repro.errors import first_few
from repro.settings.labels import label
from results.claims.parts import MethodPart
from results.claims.verdicts import Verdict
from results.collection.collect import NOT_ONE_STATE, code_states, is_of_one_known_state
from results.collection.runs import RunRecord, by_path_of_rows, symptoms_text
from results.tables.absence import lacking_a_number, states_text, unfinished
from results.tables.columns import Column
from results.tables.references import without_untrained


def notes_on_runs(
    verdicts: Sequence[Verdict], parts: Sequence[MethodPart], frame: pd.DataFrame | None, runs: Sequence[RunRecord]
) -> list[str]:
    """Returns notes on compared runs: code, trainings that warned (a list), unusable predictions, and missing results.

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
    further: dict[str, Counter[str]] = {}
    of_parts = [(part.column, {part.method, part.without}) for part in parts]
    for column, methods in _by_column([*_pairs(verdicts, both_run=True), *of_parts]):
        for method in methods:
            of_method = column.rows_of(trained[trained["method"] == method])
            compared.append(of_method)
            # A run may lack its number in several columns. `|` takes the largest count over the columns, not their sum.
            states = unfinished(method, column, lacking, set(of_method["run_id"]))
            further[method] = further.get(method, Counter()) | states
    alone: dict[str, Counter[str]] = {}
    # If no run of a row has a number, its comparisons are "not run", as if no run had been started.
    for column, methods in _by_column(_pairs(verdicts, both_run=False)):
        for method in methods:
            if column.rows_of(trained[trained["method"] == method]).empty:
                alone[method] = alone.get(method, Counter()) | unfinished(method, column, lacking)
    notes = _notes_on_measured(pd.concat(compared), runs) if compared else []
    if unusable := dict.fromkeys(run for verdict in verdicts for run in verdict.unusable):
        what = "Predictions that are missing, were changed or give another value, so that seeds alone judge"
        notes.append(f"{what}: {first_few(list(unusable))}.")
    for what, missing in (
        ("Runs without a result, left out of the comparisons", further),
        ("Rows of which no run has a result, not compared", alone),
    ):
        if told := [f"{label(method)} ({states_text(states)})" for method, states in sorted(missing.items()) if states]:
            notes.append(f"{what}: {first_few(told)}.")
    return notes


def _notes_on_measured(measured: pd.DataFrame, runs: Sequence[RunRecord]) -> list[str]:
    """Returns what speaks against runs that have results: code that is not one known state, and warnings in training.

    Args:
        measured: The results of the compared runs.
        runs: The run folders at hand.
    """
    notes = []
    if not is_of_one_known_state(measured):
        notes.append(f"{NOT_ONE_STATE}: {first_few(code_states(measured))}.")
    records = by_path_of_rows(runs)
    warned = {
        str(method): symptoms_text((records[path] for path in paths if path in records), len(paths))
        for method, rows in measured.groupby("method", observed=True)
        if (paths := set(map(str, rows["path"])))
    }
    if told := [f"- {label(method)}: {text}" for method, text in sorted(warned.items()) if text]:
        notes.append("\n".join(["Warnings in training:", *told]))
    return notes


def _pairs(verdicts: Sequence[Verdict], *, both_run: bool) -> Iterator[tuple[Column, set[str]]]:
    """Yields column and methods of each comparison: of those with runs of both methods, or of those with one alone."""
    for verdict in verdicts:
        if verdict.column is not None and verdict.both_run == both_run and (both_run or verdict.comparison.unpaired):
            yield verdict.column, {verdict.claim.better, verdict.claim.worse}


def _by_column(pairs: Iterable[tuple[Column, set[str]]]) -> Iterator[tuple[Column, set[str]]]:
    """Yields each column once, with all methods that are compared in it."""
    columns: dict[tuple[object, ...], tuple[Column, set[str]]] = {}
    for column, methods in pairs:
        key = (column.task, column.key, column.metrics)
        columns.setdefault(key, (column, set()))[1].update(methods)
    yield from columns.values()
