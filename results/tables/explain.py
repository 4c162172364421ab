"""Where a number in a table comes from: the runs behind a cell, and all that is known about each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from repro.errors import UserError, nearest
from repro.quantities import duration_text
from repro.runs.status import Status
from repro.settings.departures import shown_value
from repro.settings.detection import DETECTION_TASKS
from results.collection.collect import refuse_mixed
from results.collection.runs import RunRecord, by_path_of_rows, code_label
from results.paper.published import Published, has_row, published
from results.tables.absence import BegunRun, lacking_a_number, measured_otherwise, reason
from results.tables.cells import summary
from results.tables.columns import find_columns
from results.tables.references import without_untrained
from results.tables.selection import by_task, measured_task, select_results


@dataclass(frozen=True)
class CellAddress:
    """A cell of a table, written as `TABLE:METHOD:DATASET[:METRIC]`.

    Attributes:
        table: The published table.
        method: The method of the row, not necessarily one of the paper's.
        dataset: Our name of the column's data set, not necessarily one of the paper's.
        metric: Our name of the metric; the table's first where the text names none.
    """

    table: Published
    method: str
    dataset: str
    metric: str

    @classmethod
    def parse(cls, text: str) -> "CellAddress":
        """Reads the address of a cell.

        Raises:
            UserError: It has another form, or names something that the table does not have.
        """
        words = text.split(":")
        if len(words) not in (3, 4) or not all(words):
            raise UserError(
                f"'{text}' names no cell",
                mend="write TABLE:METHOD:DATASET, for example table1:mocov2+ours-hp:imagenet100",
            )
        table = published(words[0])
        metrics = [metric for group in table.groups for metric in group.metrics]
        metric = words[3] if len(words) == 4 else metrics[0]
        # A table that leaves its metric open shows any of ours.
        if not table.metrics and metric not in metrics:
            raise UserError(f"{words[0]} has no metric '{metric}'", mend=nearest(metric, dict.fromkeys(metrics)))
        return cls(table, words[1], words[2], metric)

    @property
    def published(self) -> float | None:
        """The paper's number in percent; None where it has none."""
        # If the paper leaves its metric open, its number stands beside each metric of ours that it may mean.
        metric = next(iter(self.table.groups[0].metrics)) if self.metric in self.table.metrics else self.metric
        for group in self.table.groups:
            if group.dataset == self.dataset and metric in group.metrics:
                return self.table.values.get((self.method, group.name, group.metrics[metric]))
        return None


def explain(
    text: str, frame: pd.DataFrame | None, runs: Sequence[RunRecord], *, task: str = "", metric: str = ""
) -> dict[str, Any]:
    """Tells what is behind a cell of a table.

    Args:
        text: `TABLE:METHOD:DATASET[:METRIC]`, for example `table1:mocov2+ours-hp:imagenet100`.
        frame: What `results.collection.collect.collect` returns; None where nothing was evaluated.
        runs: The run folders at hand.
        task: The evaluation, as in `results.tables.rendering.render`. Empty: the table's own, or the next best if the
            data set was not measured by that.
        metric: The metric, if the text names none.

    Returns:
        The cell, its published number, and those measured, by protocol, with every run behind; or why there is none.

    Raises:
        UserError: The text names no cell or another metric than `metric`, neither table nor runs know the method, data
            set or metric, the table has no other tasks, or runs must not be averaged (`refuse_mixed`).
    """
    if metric and text.count(":") == 3 and not text.endswith(f":{metric}"):
        raise UserError(f"'{text}' names another metric than --metric {metric}", mend="name one of the two")
    frame = None if frame is None else without_untrained(frame)  # as in the table
    address = CellAddress.parse(f"{text}:{metric}" if metric and text.count(":") == 2 else text)
    shown_by = _shown_by(address, frame) if not task and frame is not None else {}
    task = task or shown_by.get(address.dataset, "")
    address = replace(address, table=by_task(address.table, task))
    _require_known(address, frame, shown_by)
    at_hand = [run.method for run in runs if has_row(address.table, run.method)]
    methods = list(dict.fromkeys([*address.table.rows, *at_hand]))
    if address.method not in methods:
        raise UserError(
            f"{address.table.name} has no row for '{address.method}', neither of the paper nor of the runs at hand",
            mend=nearest(address.method, methods),
        )
    lacking = lacking_a_number([run for run in runs if run.method == address.method])
    return {
        "cell": text,
        "metric": address.metric,
        "published": address.published,
        "measured": [] if frame is None else _measured(address, frame, runs, lacking),
        "runs without a result": [f"{run.record.name}: {_lack(run)}" for run in lacking],
    }


def _shown_by(address: CellAddress, frame: pd.DataFrame) -> dict[str, str]:
    """Returns the evaluation by which the cell's table shows each data set that was measured."""
    name, metric = address.table.name, address.metric if address.table.metrics else ""
    of_datasets = frame.groupby("dataset", observed=True)
    tasks = {str(dataset): measured_task(rows, name, metric) for dataset, rows in of_datasets}
    return {dataset: task for dataset, task in tasks.items() if task is not None}


def _require_known(address: CellAddress, frame: pd.DataFrame | None, datasets_measured: Iterable[str]) -> None:
    """Raises a UserError if neither table nor results have the cell's data set, or its metric."""
    table = address.table
    results = pd.DataFrame(columns=["task", "dataset", "metric"]) if frame is None else frame
    # A table that leaves its metric open shows any that a classifier was measured by, whichever evaluation gave it.
    classified = results[~results["task"].isin(DETECTION_TASKS)]
    metrics = dict.fromkeys([*table.metrics, *map(str, classified["metric"].unique())])
    if table.metrics and address.metric not in metrics:
        raise UserError(
            f"no metric '{address.metric}' in {table.name} or among its results", mend=nearest(address.metric, metrics)
        )
    measured = map(str, results[results["task"] == table.task]["dataset"].unique())
    datasets = dict.fromkeys([*(group.dataset for group in table.groups), *measured, *datasets_measured])
    if address.dataset not in datasets:
        raise UserError(
            f"no data set '{address.dataset}' in {table.name} or among its results",
            mend=nearest(address.dataset, datasets),
        )


def with_common_facts(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what `explain` returns, with facts that all seeds of a column share given once, for people to read.

    Args:
        content: What `explain` returns.
    """
    return {**content, "measured": [_with_common_facts(column) for column in content["measured"]]}


def _with_common_facts(column: Mapping[str, Any]) -> dict[str, Any]:
    runs = column["runs"]
    common = {name: value for name, value in runs[0].items() if all(run[name] == value for run in runs)} if runs else {}
    if len(runs) < 2 or not common:
        return dict(column)
    own = [{name: value for name, value in run.items() if name not in common} for run in runs]
    return {**column, f"all {len(runs)} runs": common, "runs": own}


def _measured(
    address: CellAddress, frame: pd.DataFrame, runs: Sequence[RunRecord], lacking: Sequence[BegunRun]
) -> list[dict[str, Any]]:
    """Returns, for each column in which the cell may stand, what it shows and the runs behind it."""
    metric = address.metric if address.table.metrics else ""
    results = select_results(frame, address.table, metric)
    records = by_path_of_rows(runs)
    entries = []
    # Planned columns too: if a cell has no runs, the reason is shown.
    for column in find_columns(results, address.table, metric, every=True):
        if column.dataset != address.dataset or address.metric not in dict(column.metrics):
            continue
        rows = column.rows_of(results)
        rows = rows[(rows["method"] == address.method) & (rows["metric"] == address.metric)].sort_values("seed")
        dataset, split, protocol, fidelity, scale = column.key
        comparison = column.comparisons.get(address.method)
        if rows.empty:
            otherwise = measured_otherwise(frame, address.metric) if address.table.task else ()
            shown_text = reason(address.method, column, address.metric, results, lacking, otherwise)
        else:
            refuse_mixed(rows)  # tables refuse such runs as well
            shown_text = summary(rows["value"])
        entries.append(
            {
                "measured": shown_text,
                "dataset": dataset,
                "split": split,
                "protocol": protocol,
                # The cell's own, which may be by its row's name; the column's is that beside such names.
                "fidelity": fidelity if rows.empty else rows["recorded_fidelity"].iloc[0],
                "scale": scale,
                # A method without runs here has no departures to show.
                **({} if comparison is None else {"departs from the paper in": str(comparison) or "nothing"}),
                "runs": [_behind(row, records) for row in rows.to_dict("records")],
            }
        )
    return entries


def _behind(row: Mapping[Any, Any], records: Mapping[str, RunRecord]) -> dict[str, Any]:
    """Tells what is known of a row of results and of its run; `records` are the runs by `path_of_rows`."""
    run = records[row["path"]]
    return {
        "run": run.name,
        "seed": row["seed"],
        "value": round(row["value"], 4),  # 29.799999999999997 is what binary fractions make of 29.8
        "measured at": code_label(row["commit"], dirty=row["dirty"]),
        "started": str(row["started"]),
        "took": f"{row['duration_s']:g} s on {row['device']}",
        **describe(run),
    }


def describe(run: RunRecord) -> dict[str, Any]:
    """Returns what a run's folder tells about it.

    Args:
        run: The folder.

    Returns:
        State, configuration and what it changed of the recipe, code, machine, data, training time, and files.
    """
    attempt = run.last_attempt
    seconds = run.training_seconds
    return {
        "state": _state(run),
        "configuration": f"{run.folder.run_yaml}{'' if run.run else ' is missing, or of another version'}",
        "differs from the recipe in": changed(run) if run.run else run.comparison.unknown,
        "trained at": [code_label(entry.get("commit", "?"), dirty=entry.get("dirty", False)) for entry in run.attempts],
        "device": attempt.get("device", "not recorded"),
        "host": attempt.get("host", "not recorded"),
        "packages": attempt.get("packages", {}),
        "data": attempt.get("data", {}),
        "pretraining took": duration_text(seconds) if seconds else "not recorded",
        "logs": [str(path) for path in run.logs],
    }


def changed(run: RunRecord) -> dict[str, str]:
    """Returns the settings that a run changed of its method's recipe.

    Args:
        run: The folder.

    Returns:
        Setting -> its value in the recipe and here, `{"data.crop": "224 -> 64"}`; the latter alone if the setting plays
        no part in the recipe. Empty if nothing can be compared (`RowComparison.unknown`).
    """
    return {
        departure.what: " -> ".join(
            shown_value(value) for value in (departure.paper, departure.here) if value is not None
        )
        for departure in run.comparison.departures
    }


def _lack(run: BegunRun) -> str:
    """Returns the state of a run, or of the evaluations that it lacks, with the errors that ended them."""
    if not run.evaluations:
        return _state(run.record)
    return "; ".join(
        f"{task} {_with_error(state, _status_of(run.record, task))}" for task, state in run.evaluations.items()
    )


def _status_of(run: RunRecord, task: str) -> Status | None:
    try:
        return run.folder.status(task)
    except UserError:  # the state says that it is unreadable
        return None


def _state(run: RunRecord) -> str:
    return _with_error(run.state, run.status)


def _with_error(state: str, status: Status | None) -> str:
    return f"{state}: {status.error}" if status and status.error else state
