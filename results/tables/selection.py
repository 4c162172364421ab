"""Which results a table is made of, and the columns of ours that they fill."""

from dataclasses import replace

import pandas as pd

from repro.errors import UserError, nearest
from repro.runs.evaluation import NEXT_BEST, PROTOCOLS, is_accuracy, refuse_no_accuracy
from repro.settings.detection import DETECTION_TASKS
from results.collection.collect import refuse_mixed
from results.paper.published import Published, has_row, published
from results.tables.cells import values_by_cell
from results.tables.columns import Column, find_columns
from results.tables.references import without_untrained

METRICS = {
    "top1": "top-1",
    "top1_best": "top-1 of the best epoch",
    "top5": "top-5",
    "mean_per_class": "mean per class",
}
"""Metric of a classifier -> its printed name."""
ValuesByCell = dict[tuple[str, str], dict[int, float]]
"""(method, metric) -> seed -> value in percent."""


def by_task(paper: Published, task: str) -> Published:
    """Returns the layout of a table for another evaluation, whose numbers the paper does not have.

    Args:
        paper: The published table.
        task: The evaluation; if it is empty or the paper's, the table is returned as it is.

    Raises:
        UserError: The table's numbers are of several evaluations already.
    """
    if task in ("", paper.task):
        return paper
    if not paper.task:
        raise UserError(f"{paper.name} has no other tasks", mend="leave --task out")
    setting = f"the paper evaluates by {paper.task} classifiers, and this is {task}: no published number compares"
    return replace(
        paper,
        title=f"{paper.title_without_task}, by {task}",
        task=task,
        groups=tuple(replace(group, caveats=(setting,), other_setting=setting) for group in paper.groups),
        values={},  # with no published number there is no difference either, and nothing is ranked
    )


def asked_of(paper: Published, task: str, metric: str) -> tuple[str, str]:
    """Returns the task and the metric that were asked for; empty ones for a table of detection, which has its own.

    Args:
        paper: The published table.
        task: An evaluation of classifiers, or empty.
        metric: A metric of classifiers, or empty.
    """
    return (task, metric) if paper.task else ("", "")


def select_results(frame: pd.DataFrame, paper: Published, metric: str) -> pd.DataFrame:
    """Selects the results that a table shows.

    Args:
        frame: What `results.collection.collect.collect` returns.
        paper: The table.
        metric: The metric, if the paper leaves it open; else empty.
    """
    metrics = [metric] if metric else [ours for group in paper.groups for ours in group.metrics]
    methods = [method for method in frame["method"].unique() if has_row(paper, method)]
    shown = frame["metric"].isin(metrics) & frame["method"].isin(methods)
    return frame[shown & (frame["task"] == paper.task)] if paper.task else frame[shown]


def measured_tasks(frame: pd.DataFrame, name: str, metric: str = "") -> list[str]:
    """Returns the tasks of which a table can be made of some results, the best first.

    Everything that shows or judges results chooses its task by this function. Untrained networks do not count: a task
    by which only they were measured would show none of the trained ones.

    Args:
        frame: What `results.collection.collect.collect` returns.
        name: The name of the table.
        metric: The metric; empty: the table's first.

    Returns:
        Tasks as `results.tables.rendering.render` takes them: the paper's own, which is empty, then those of
        `NEXT_BEST`, then others.
    """
    paper = published(name)
    # Without the task of the table, so that rows of all tasks are selected.
    rows = select_results(without_untrained(frame), replace(paper, task=""), metric)
    if not paper.task:
        return [] if rows.empty else [paper.task]
    measured = set(rows["task"].astype(str)) - set(DETECTION_TASKS)
    ranking = [paper.task, *NEXT_BEST]
    ordered = [*(task for task in ranking if task in measured), *sorted(measured - set(ranking))]
    return ["" if task == paper.task else task for task in ordered]


def measured_task(frame: pd.DataFrame, name: str, metric: str = "") -> str | None:
    """Returns the first of `measured_tasks`; None where there is none."""
    return next(iter(measured_tasks(frame, name, metric)), None)


def fuller_task(frame: pd.DataFrame, name: str, metric: str = "") -> str:
    """Returns a hint if more rows of a table have another task than the one of which it is made; else empty.

    Args:
        frame: What `results.collection.collect.collect` returns.
        name: The name of the table.
        metric: The metric; empty: the table's first.
    """
    paper = published(name)
    tasks = measured_tasks(frame, name, metric)
    if len(tasks) < 2:
        return ""
    shown = metric or paper.metrics[0]
    trained = without_untrained(frame)
    rows = {task: select_results(trained, by_task(paper, task), shown)["method"].nunique() for task in tasks}
    fullest = max(rows, key=lambda task: rows[task])
    chosen = tasks[0] or paper.task
    return (
        f"rows with a number: {rows[tasks[0]]} by {chosen} (shown), {rows[fullest]} by {fullest} (--task {fullest})"
        if rows[fullest] > rows[tasks[0]]
        else ""
    )


def judged_task(frame: pd.DataFrame | None, task: str = "", metric: str = "") -> str:
    """Returns the task by which a page judges its runs: the one that was asked for, else the best that was measured.

    The paper's linear probe comes first if any trained network has it, and is returned as an empty text.

    Args:
        frame: What `results.collection.collect.collect` returns; None if nothing was evaluated.
        task: The task that was asked for, or empty.
        metric: The metric that was asked for, or empty.

    Raises:
        UserError: As of `refuse_unknown`; or no trained network has what was asked for.
    """
    refuse_unknown(frame, task, metric)
    usual = published("table1").task
    if frame is not None:
        measured = [name or usual for table in ("table1", "table3") for name in measured_tasks(frame, table, metric)]
        if (task or metric) and (task not in measured if task else not measured):
            what = f"no result is {metric or published('table1').metrics[0]}" + (f" by {task}" if task else "")
            raise UserError(what, mend=f"give one that was measured: {_measures(frame) or 'there is none'}")
        task = task or (usual if usual in measured else next(iter(measured), ""))
    return "" if task == usual else task


def _measures(frame: pd.DataFrame) -> str:
    """Returns the measured tasks of classifiers, each with its metrics, `knn (top1, top5)`."""
    rows = frame[frame["metric"].isin(METRICS) & ~frame["task"].isin(DETECTION_TASKS)]
    measured = {str(task): set(of_task["metric"]) for task, of_task in rows.groupby("task", observed=True)}
    return "; ".join(f"{task} ({', '.join(name for name in METRICS if name in its)})" for task, its in measured.items())


def refuse_unknown(frame: pd.DataFrame | None, task: str = "", metric: str = "") -> None:
    """Refuses an unknown task or metric, for which a page would call everything "not run".

    Args:
        frame: What `results.collection.collect.collect` returns; None if nothing was evaluated.
        task: The task that was asked for, or empty.
        metric: The metric that was asked for, or empty.

    Raises:
        UserError: No result has it, and it is none of ours; or the metric is not an accuracy.
    """
    refuse_no_accuracy(metric)
    for what, name, ours in (("task", task, PROTOCOLS), ("metric", metric, METRICS)):
        measured = [] if frame is None else sorted(filter(is_accuracy, map(str, frame[what].unique())))
        if name and name not in ours and name not in measured:
            raise UserError(f"no {what} '{name}'", mend=nearest(name, dict.fromkeys([*ours, *measured])))


def judged_by(task: str, metric: str = "") -> str:
    """Returns the sentence that says by what runs are judged; empty if task and metric are the paper's."""
    of_metric = f"Judged by {metric}; the paper prints top-1." if metric else ""
    return " ".join(
        filter(None, [f"Judged by {task}; the paper evaluates by linear classifiers." if task else "", of_metric])
    )


def measured_columns(
    frame: pd.DataFrame, paper: Published, *, task: str = "", metric: str = ""
) -> list[tuple[Column, ValuesByCell]]:
    """Returns our columns of a table that hold results, each with its values.

    If the paper leaves the metric open, these are of one metric, by default top-1 of the last epoch: to judge the best
    epoch as well would be a second look at the same runs.

    Args:
        frame: What `results.collection.collect.collect` returns.
        paper: The table.
        task: The task; empty: the table's own. A table of detection always has its own.
        metric: The metric; empty: the table's first. A table of detection always has its own.

    Raises:
        UserError: Runs that must not be averaged (`refuse_mixed`).
    """
    task, metric = asked_of(paper, task, metric)
    paper = by_task(paper, task)
    shown = metric or (paper.metrics[0] if paper.metrics else "")
    results = select_results(frame, paper, shown)
    refuse_mixed(results)
    columns = find_columns(results, paper, shown, every=False)
    return [(column, values_by_cell(column, results)) for column in columns]


def frameworks_of(frame: pd.DataFrame) -> dict[str, str]:
    """Returns method -> framework, of each method that has results."""
    return dict(zip(frame["method"].astype(str), frame["framework"].astype(str), strict=True))
