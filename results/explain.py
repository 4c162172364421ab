"""Where a number in a table comes from: the runs behind a cell, and all that is known about each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from repro.errors import UserError, nearest
from repro.runs.difference import difference
from repro.runs.run import Run
from results.absence import reason, without_result
from results.columns import find_columns
from results.published import Published, published
from results.runs import RunRecord
from results.tables import choose, summary

Recipe = Callable[[str], Run]
"""The run that a method's name stands for."""


@dataclass(frozen=True)
class CellAddress:
    """A cell of a table, named as `TABLE:METHOD:DATASET[:METRIC]`."""

    table: Published
    method: str
    dataset: str
    metric: str

    @classmethod
    def parse(cls, text: str) -> "CellAddress":
        """Read a cell's name.

        Raises:
            UserError: It has another form, or names something that the table does not have.
        """
        parts = text.split(":")
        if len(parts) not in (3, 4) or not all(parts):
            raise UserError(
                f"'{text}' names no cell; write TABLE:METHOD:DATASET, for example table1:mocov2+ours-hp:imagenet100"
            )
        table = published(parts[0])
        known = {metric: None for group in table.groups for metric in group.metrics}
        metric = parts[3] if len(parts) == 4 else next(iter(known))
        if not table.metrics and metric not in known:
            raise UserError(f"{parts[0]} has no metric '{metric}'", mend=nearest(metric, known))
        return cls(table, parts[1], parts[2], metric)

    @property
    def published(self) -> float | None:
        """The paper's number; None where it has none."""
        metric = next(iter(self.table.groups[0].metrics)) if self.metric in self.table.metrics else self.metric
        for group in self.table.groups:
            if group.dataset == self.dataset and metric in group.metrics:
                return self.table.values.get((self.method, group.name, group.metrics[metric]))
        return None


def explain(
    text: str, frame: pd.DataFrame | None, runs: Sequence[RunRecord], recipe: Recipe | None = None
) -> dict[str, Any]:
    """Tell what is behind a cell of a table.

    Args:
        text: `TABLE:METHOD:DATASET[:METRIC]`, for example `table1:mocov2+ours-hp:imagenet100`.
        frame: What `results.collect.collect` returns; None where nothing was evaluated.
        runs: The run folders at hand.
        recipe: The run that a method's name stands for, by which what a run changed is told; the defaults without it.

    Returns:
        The cell, the published number, and ours by protocol with every run behind it; where there is none, why.

    Raises:
        UserError: The text names no cell, or neither table nor runs know the method.
    """
    cell = CellAddress.parse(text)
    known = list(dict.fromkeys([*cell.table.rows, *(run.method for run in runs)]))
    if cell.method not in known:
        raise UserError(
            f"no method '{cell.method}' in {cell.table.name} or among the runs", mend=nearest(cell.method, known)
        )
    metric = cell.metric if cell.table.metrics else ""
    chosen = choose(frame, cell.table, metric) if frame is not None else pd.DataFrame(columns=["dataset", "metric"])
    columns = [
        column
        for column in (find_columns(chosen, cell.table, metric, every=True) if frame is not None else [])
        if column.dataset == cell.dataset and cell.metric in dict(column.metrics)
    ]
    folders = {str(run.folder.results): run for run in runs}
    found = []
    for column in columns:
        part = column.rows_of(chosen) if not column.planned else chosen.iloc[:0]
        part = part[(part["method"] == cell.method) & (part["metric"] == cell.metric)].sort_values("seed")
        dataset, split, protocol, fidelity, scale = column.key
        if part.empty:
            ours = reason(cell.method, column, cell.metric, chosen, without_result(runs))
        else:
            ours = summary(part["value"])
        found.append(
            {
                "ours": ours,
                "dataset": dataset,
                "split": split,
                "protocol": protocol,
                "fidelity": fidelity,
                "scale": scale or "as in the paper",
                "runs": [_behind(row, folders, recipe) for row in part.to_dict("records")],
            }
        )
    others = [run for run in without_result(runs) if run.method == cell.method]
    return {
        "cell": text,
        "metric": cell.metric,
        "published": cell.published,
        "ours": found,
        "runs without a result": [f"{run.name}: {_state(run)}" for run in others],
    }


def _behind(row: Mapping[Any, Any], folders: Mapping[str, RunRecord], recipe: Recipe | None) -> dict[str, Any]:
    run = folders.get(row["path"], RunRecord(Path(row["path"]).parent))
    return {
        "run": run.name,
        "seed": row["seed"],
        "value": row["value"],
        "measured at": f"{row['commit']}{' (dirty)' if row['dirty'] else ''}",
        "started": str(row["started"]),
        "took": f"{row['duration_s']:g} s on {row['device']}",
        **describe(run, recipe),
    }


def describe(run: RunRecord, recipe: Recipe | None = None) -> dict[str, Any]:
    """What a run's folder tells about it.

    Args:
        run: The folder.
        recipe: The run that a method's name stands for; without it, or for a method it does not know, the defaults.

    Returns:
        State, configuration and what it changed of the recipe, code, machine, data, training time, and files.
    """
    last = run.attempts[-1] if run.attempts else {}
    seconds = run.training_seconds
    return {
        "state": _state(run),
        "configuration": str(run.folder.run_yaml) if run.run else "run.yaml is missing, or of another version",
        "differs from the recipe in": changed(run, recipe),
        "trained at": [f"{a.get('commit', '?')}{' (dirty)' if a.get('dirty') else ''}" for a in run.attempts],
        "device": last.get("device", "not recorded"),
        "host": last.get("host", "not recorded"),
        "packages": last.get("packages", {}),
        "data": last.get("data", {}),
        "pretraining took": f"{seconds:.0f} s" if seconds else "not recorded",
        "logs": [str(path) for path in run.logs],
    }


def changed(run: RunRecord, recipe: Recipe | None) -> dict[str, str]:
    """What a run changed of its method's recipe: `{"data.crop": "224 -> 64"}`."""
    if run.run is None:
        return {}
    return {name: f"{before} -> {after}" for name, (before, after) in difference(_recipe(run, recipe), run.run).items()}


def _recipe(run: RunRecord, recipe: Recipe | None) -> Run:
    if recipe is None:
        return Run()
    try:
        return recipe(run.method)
    except UserError:  # a method of somebody else's version
        return Run()


def _state(run: RunRecord) -> str:
    error = run.status.error if run.status else ""
    return f"{run.state}: {error}" if error else run.state
