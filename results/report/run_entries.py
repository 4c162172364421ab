"""The runs of a page: what each folder tells, the end of its log, and the commands that make it again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from repro.filesystem.files import tail
from repro.quantities import number_text
from repro.runs.evaluation import HEADLINES, PROTOCOLS, Evaluation
from repro.settings.run import Run
from results.collection.runs import RunRecord, code_label
from results.report.galleries import Gallery
from results.report.redo import commands
from results.tables.explain import changed, describe

LOG_LINES = 12
"""How many of the last lines of a run's log the page shows."""


@dataclass(frozen=True)
class Entry:
    """A run as the page lists it."""

    run: RunRecord
    anchor: str
    """The id of its place on the page."""
    seed: str
    commit: str
    """The code of its newest attempt, shortened."""
    facts: Mapping[str, Any]
    """What its folder tells, by name; a value may be a text, a list or a mapping."""
    changed: Mapping[str, str]
    """How it departs from its method's recipe, as `results.tables.explain.changed` returns it."""
    results: list[dict[str, Any]]
    """Its rows."""
    headlines: str
    """Its main numbers, as `headlines` names them."""
    log: str
    """The last lines of its newest log."""
    commands: list[str]
    """What makes it again."""
    configuration: str
    """The whole `run.yaml`; empty if it cannot be read."""
    galleries: Sequence[Gallery]


def entries(
    runs: Sequence[RunRecord], frame: pd.DataFrame | None, galleries: Mapping[str, Sequence[Gallery]]
) -> list[Entry]:
    """Lists the runs in the order of their names.

    Args:
        runs: The run folders at hand.
        frame: Their results; None if nothing was evaluated.
        galleries: What `results.report.galleries.embed` returns.
    """
    rows = {} if frame is None else {str(path): of_run for path, of_run in frame.groupby("path", observed=True)}
    return [
        _entry(run, f"run-{index}", rows.get(run.path_of_rows), galleries.get(run.name, ()))
        for index, run in enumerate(runs)
    ]


def _entry(run: RunRecord, anchor: str, rows: pd.DataFrame | None, galleries: Sequence[Gallery]) -> Entry:
    facts = describe(run)
    # The settings have sections of their own below, and the packages are in the page's provenance.
    for shown_elsewhere in ("differs from the recipe in", "configuration", "packages"):
        facts.pop(shown_elsewhere)
    # Relative paths: the page is the same wherever the runs were copied to.
    facts["logs"] = [str(path.relative_to(run.path)) for path in run.logs]
    results = (
        [] if rows is None else [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]
    )
    attempt = run.last_attempt
    return Entry(
        run=run,
        anchor=anchor,
        seed=str(run.run.seed) if run.run else "?",
        commit=code_label(str(attempt.get("commit", "?"))[:7], dirty=bool(attempt.get("dirty"))),
        facts=facts,
        changed=changed(run),
        results=results,
        headlines=headlines(results, run.run),
        log=_tail(run.logs),
        commands=commands(run),
        configuration=run.run.to_yaml() if run.run else "",
        galleries=galleries,
    )


def headlines(results: Sequence[Mapping[str, Any]], run: Run | None) -> str:
    """Returns a run's main numbers, named and in an order that does not depend on what was measured first.

    Args:
        results: Its rows.
        run: The run, whose settings name its protocols; None if they are unknown.

    Returns:
        `top1: linear 26.60, knn k=20 31.20, knn k=200 23.10 %`; with the data set if there are several. If an
        evaluation has several protocols, the run's own come in the order of its settings, named by their departures,
        and others last, by their whole names.
    """
    several_datasets = len({row["dataset"] for row in results}) > 1
    own = _own_protocols(results, run)
    rows = sorted((row for row in results if row["metric"] in HEADLINES), key=lambda row: _place(row, list(own)))
    protocols = {(row["task"], row["dataset"]): {r["protocol"] for r in rows if _same(r, row)} for row in rows}
    parts = []
    for metric in HEADLINES:
        shown: dict[str, str] = {}
        for row in rows:
            if row["metric"] == metric:
                several = len(protocols[row["task"], row["dataset"]]) > 1
                how = own.get(row["protocol"]) or row["protocol"] if several else ""
                where = row["dataset"] if several_datasets and row["dataset"] != row["task"] else ""
                name = " ".join(filter(None, [row["task"], how, where]))
                shown[name] = f"{name} {number_text(row['value'])}"
        parts += [f"{metric}: {', '.join(shown.values())} %"] if shown else []
    return "; ".join(parts)


def _own_protocols(results: Sequence[Mapping[str, Any]], run: Run | None) -> dict[str, str]:
    """Returns the protocols by which a run's settings measure what was evaluated, in order: name -> departures."""
    if run is None:
        return {}
    evaluations = [
        Evaluation(task, dataset)
        for task, dataset in dict.fromkeys((row["task"], row["dataset"]) for row in results)
        if task in PROTOCOLS
    ]
    protocols = (protocol for evaluation in evaluations for protocol in evaluation.possible_protocols(run))
    return {protocol.name: protocol.departures for protocol in protocols}


def _place(row: Mapping[str, Any], own: list[str]) -> tuple[int, str, int, str]:
    """Returns the sort key of a number: its task, in the order of `PROTOCOLS`, its data set, and its protocol."""
    tasks = list(PROTOCOLS)
    task, protocol = str(row["task"]), str(row["protocol"])
    return _index(tasks, task), str(row["dataset"]), _index(own, protocol), protocol


def _index(known: list[str], name: str) -> int:
    """Returns the place of a name among known ones; an unknown one comes after them."""
    return known.index(name) if name in known else len(known)


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[name] == other[name] for name in ("task", "dataset", "metric"))


def _tail(logs: Sequence[Path]) -> str:
    """Returns the last lines of the newest log, each cut if it is very long."""
    lines = tail(logs[-1]).splitlines() if logs else []
    return "\n".join(line[:400] for line in lines[-LOG_LINES:])
