"""Compares two methods, sweeps or single runs, image by image if predictions are at hand."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from repro.errors import UserError, first_few
from repro.quantities import number_text
from repro.runs.evaluation import NEXT_BEST, is_accuracy, refuse_no_accuracy
from repro.runs.folder import RunFolder
from repro.runs.predictions import FileReference, Predictions, read
from repro.settings.comparison import at_work_in_first, difference_texts
from results.collection.collect import NOT_ONE_STATE, code_states, is_of_one_known_state, refuse_mixed
from results.collection.row_comparison import TINY
from results.collection.runs import RunRecord, symptoms_text
from results.collection.training_images import unlike_training_images
from results.comparison.head_to_head import HeadToHead, Side
from results.comparison.sides import COLUMN, SideRows, select
from results.paper.published import published
from results.statistics.imagewise import Difference, McNemar, difference_of_images, difference_of_seeds, mcnemar

_ONE_SIDE = [*COLUMN, "metric", "method"]
"""Columns in which the runs of one side agree."""
_NARROWER = "give SWEEP/METHOD for the runs of one sweep, a run's folder, or a narrower --runs"
IMAGEWISE = ("top1", "top5", "mean_per_class")
"""Metrics that predictions give image by image."""
ROUNDING = 1e-3
"""Points by which the accuracy of predictions may differ from the result that names them.

Both count the same images, so they differ by rounding alone; one of 50,000 images is 0.002 points.
"""
USUAL_TASK = "linear"
"""The paper's evaluation."""
_RANKING = {task: rank for rank, task in enumerate((USUAL_TASK, *NEXT_BEST))}
"""The order in which evaluations are shown; others come last."""


def compare(
    frame: pd.DataFrame, runs: Sequence[RunRecord], first: str, second: str, *, task: str = "", metric: str = ""
) -> list[HeadToHead]:
    """Compares two methods, sweeps or single runs in every column that both have.

    Args:
        frame: What `results.collection.collect.collect_runs` returns.
        runs: The run folders at hand.
        first: A method, `SWEEP/METHOD`, a sweep, a run's folder, name or id.
        second: The same; of two sweeps each method is compared with itself.
        task: The evaluation; by default linear if both sides were measured by it, else every one that they share.
        metric: The metric; by default the first of each evaluation that both sides have.

    Raises:
        UserError: Nothing has such a name, the metric is not an accuracy, the sides have no measurement in common or
            share a run, or one side has runs that must not be averaged (`refuse_mixed`).
    """
    refuse_no_accuracy(metric)
    words = (first, second)
    sides = [select(runs, word) for word in words]
    methods = [list(dict.fromkeys(run.method for run in side)) for side in sides]
    if len(methods[0]) == 1 and len(methods[1]) == 1:
        pairs = [(methods[0][0], methods[1][0])]
    else:
        pairs = [(method, method) for method in methods[0] if method in methods[1]]
    comparisons = []
    for pair in pairs:
        of_sides = [[run for run in side if run.method == method] for side, method in zip(sides, pair, strict=True)]
        _refuse_shared(of_sides[0], of_sides[1], words)
        of_first, of_second = (SideRows.of(frame, runs, word) for runs, word in zip(of_sides, words, strict=True))
        comparisons += _of_pair(of_first, of_second, task, metric)
    if len(comparisons) > 1:
        among = f"One of {len(comparisons)} comparisons: its p is not corrected for their number."
        return [replace(comparison, remarks=(*comparison.remarks, among)) for comparison in comparisons]
    if not comparisons:
        rows = frame[frame["task"] == task] if task else frame
        others = {*filter(is_accuracy, (rows["metric"] if metric and len(rows) else frame["task"]).astype(str))}
        # Unless a task or a metric was asked for, all that they have has been looked at.
        another = f", or ask for another of {', '.join(sorted(others))}" if task or metric else ""
        raise UserError(
            f"{first} and {second} have no {metric or 'measurement'}{f' by {task}' if task else ''} in common",
            mend=f"evaluate both alike{another}",
        )
    return comparisons


def _refuse_shared(first: Sequence[RunRecord], second: Sequence[RunRecord], words: tuple[str, str]) -> None:
    """Refuses runs that are on both sides, as the tests take the sides for independent runs."""
    of_second = {run.path for run in second}
    shared = [run.name for run in first if run.path in of_second]
    if shared:
        every = len(shared) == len(first) == len(second)
        what = "are the same runs" if every else f"have {shared[0]}"
        raise UserError(f"{' and '.join(words)}: both sides {what}", mend="name two")


def _of_pair(first: SideRows, second: SideRows, task: str, metric: str) -> list[HeadToHead]:
    """Compares two methods' runs in every column that both have."""
    if metric:
        first, second = first.by_metric(metric), second.by_metric(metric)
    # By columns, not by tasks: linear probes on two different data sets are nothing in common.
    shared = {task_of_column for task_of_column, *_ in set(first.columns) & set(second.columns)}
    wanted = {task} if task else ({USUAL_TASK} if USUAL_TASK in shared else shared)
    first, second = first.by_tasks(wanted), second.by_tasks(wanted)
    columns_of_second = set(second.columns)
    shared_columns = [column for column in first.columns if column in columns_of_second]
    comparisons = []
    # In the order in which tables choose an evaluation: most readers take the first for the answer.
    for column in sorted(shared_columns, key=lambda column: _RANKING.get(column[0], len(_RANKING))):
        here = first.in_column(column), second.in_column(column)
        chosen = next((name for name in here[0].metrics if name in here[1].metrics), None)
        if chosen is not None:
            measured = [of_side.by_metric(chosen) for of_side in here]
            for of_side in measured:
                refuse_mixed(of_side.rows, _ONE_SIDE, mend=_NARROWER)
            comparisons.append(_compare(measured[0], measured[1], column, chosen))
    return comparisons


def _compare(of_first: SideRows, of_second: SideRows, column: tuple[str, ...], metric: str) -> HeadToHead:
    """Compares two sides in one column, by one metric."""
    (first, notes_on_first), (second, notes_on_second) = _side(of_first, metric), _side(of_second, metric)
    if first.method == second.method:
        origins = _origins((first, second), (of_first.word, of_second.word))
        first, second = (replace(side, origin=origin) for side, origin in zip((first, second), origins, strict=True))
    (first, second), notes_on_images = _of_the_same_images(first, second)
    exact, notes_on_exact = _exact_tests(first, second, metric) if first.predictions else ({}, [])
    scales = _sizes((of_first, of_second), (first, second))
    remarks = [
        *_left_out((of_first, of_second), metric),
        *notes_on_first,
        *notes_on_second,
        *notes_on_images,
        *notes_on_exact,
        *_unequal_numbers(len(first.values), len(second.values)),
        *_warned_of(first, second),
        *_differing_settings(first, second),
        *_differing_code((of_first, of_second), (first, second)),
        *(f"{told}." for told in unlike_training_images(pd.concat([of_first.rows, of_second.rows]))),
    ]
    remarks = list(dict.fromkeys(remarks))  # both sides have the same note if the metric is none of single images
    published_difference = _published((of_first, of_second), column, metric)
    difference = _how_sure(first, second, column, metric)
    return HeadToHead(
        first, second, column, metric, difference, exact, published_difference, tuple(scales), tuple(remarks)
    )


def _how_sure(first: Side, second: Side, column: tuple[str, ...], metric: str) -> Difference:
    """Returns the difference of two sides: of images if both have predictions, else of seeds.

    The names of the random draws come from sides, column and metric. So the same question always has the same p value,
    whatever else is asked and whichever side comes first.
    """
    high, low = sorted((first, second), key=lambda side: side.name, reverse=True)
    names = map(ord, f"{high.name}|{low.name}|{'|'.join(column)}|{metric}")
    if first.predictions:
        difference = difference_of_images(high.points(metric), low.points(metric), *names)
    else:
        difference = difference_of_seeds(list(high.values.values()), list(low.values.values()), *names)
    return difference if high is first else difference.reversed()


def _exact_tests(first: Side, second: Side, metric: str) -> tuple[dict[int, McNemar], list[str]]:
    """Returns McNemar's test of each seed that both sides have; without tests, a sentence that says why."""
    splits = next(iter(first.predictions.values())).drawn_splits
    if splits > 1:
        return {}, [f"No McNemar's test: it would count an image of {splits} drawn splits as several."]
    tests = {
        seed: mcnemar(first.predictions[seed].correct(metric), second.predictions[seed].correct(metric))
        for seed in first.values
        if seed in second.values
    }
    return tests, []


def _sizes(measured: Sequence[SideRows], sides: Sequence[Side]) -> list[str]:
    """Returns a sentence for each scale that is not the paper's; it names the side if the two differ."""
    scales = [of_side.scale for of_side in measured]
    whose = ["" if scales[0] == scales[1] else f"{side.name}: " for side in sides]
    tiny = [
        f"{of}{TINY} MODE – {scale}: not comparable with the published numbers."
        for of, scale in zip(whose, scales, strict=True)
        if scale
    ]
    return list(dict.fromkeys(tiny))


def _left_out(measured: Sequence[SideRows], metric: str) -> list[str]:
    """Returns a sentence on runs without a number here: those that have one may be the lucky ones."""
    told = [run.name for of_side in measured for run in of_side.without_a_row]
    return [f"Left out, as they have no {metric} here: {first_few(told)}."] if told else []


def _origins(sides: Sequence[Side], words: Sequence[str]) -> Sequence[str]:
    """Returns what tells two sides of one method apart: a single run by its name, several by their sweeps.

    If these are the same, as two machines may have sweeps and runs of the same names: the words that named the sides.
    """
    origins = [_origin(side) for side in sides]
    return words if origins[0] == origins[1] else origins


def _origin(side: Side) -> str:
    runs = list(side.runs.values())
    return runs[0].name if len(runs) == 1 else ", ".join(sorted({run.sweep for run in runs}))


def _side(of_side: SideRows, metric: str) -> tuple[Side, list[str]]:
    """Returns one side, and sentences that say why its predictions cannot be used."""
    rows = of_side.rows.sort_values("seed")
    method = str(rows["method"].iloc[0])
    of_seed = {row["seed"]: row for row in rows.to_dict("records")}
    predictions, notes = _predictions(method, of_seed, metric)
    values = {seed: float(row["value"]) for seed, row in of_seed.items()}
    runs = {seed: of_side.records[row["path"]] for seed, row in of_seed.items()}
    return Side(method, values, predictions, runs), notes


def _predictions(
    method: str, of_seed: Mapping[int, Mapping[Any, Any]], metric: str
) -> tuple[dict[int, Predictions], list[str]]:
    """Returns the predictions of a side's runs, of all or of none, and sentences that say why some cannot be used."""
    if metric not in IMAGEWISE:
        return {}, [f"{metric} is not a measure of single images: the seeds alone are compared."]
    found: dict[int, Predictions] = {}
    without = [seed for seed, row in of_seed.items() if not row["predictions"]]
    seeds = f"seed{'s' if len(without) > 1 else ''} {', '.join(map(str, without))}"
    why = "the task keeps none, or an older version measured it"
    notes = [f"{method}, {seeds}, without predictions: {why}."] if without else []
    for seed, row in of_seed.items():
        if not row["predictions"]:
            continue
        said, note = _predictions_of_run(f"{method}, seed {seed}", row, metric)
        if said is None:
            notes.append(note)
        else:
            found[seed] = said
    return found if len(found) == len(of_seed) else {}, notes


def _predictions_of_run(whose: str, row: Mapping[Any, Any], metric: str) -> tuple[Predictions | None, str]:
    """Returns the predictions that a result names; if they cannot be used, None and a sentence that says why."""
    named = FileReference(str(row["predictions"]), str(row["predictions_sha256"]))
    try:
        said = read(RunFolder(Path(row["path"]).parent), named)
    except UserError as trouble:
        return None, f"{trouble}."
    given = said.accuracy(metric)
    if abs(given - row["value"]) > ROUNDING:
        return None, f"{whose}: its predictions give {number_text(given, 3)}, the row {number_text(row['value'], 3)}."
    return said, ""


def same_images(predictions: Sequence[Predictions]) -> bool:
    """Returns whether runs were scored on the same images of the same classes, so that they can be paired."""
    return len({(of_run.images, of_run.classes, of_run.label.tobytes()) for of_run in predictions}) == 1


def _of_the_same_images(first: Side, second: Side) -> tuple[tuple[Side, Side], list[str]]:
    """Returns both sides, without predictions unless these are of the same images, and then a sentence about that."""
    without = replace(first, predictions={}), replace(second, predictions={})
    if not first.predictions or not second.predictions:
        return without, []
    if not same_images([*first.predictions.values(), *second.predictions.values()]):
        return without, ["Their predictions are of different images: the seeds alone are compared."]
    return (first, second), []


def _unequal_numbers(first: int, second: int) -> list[str]:
    """Returns a sentence on what is assumed if the sides have different numbers of runs."""
    if first == second:
        return []
    assumed = "the interval assumes that both sides spread alike from seed to seed"
    return [f"{first} and {second} runs: {assumed}. If the side with fewer runs spreads more, it is too narrow."]


def _warned_of(*sides: Side) -> list[str]:
    """Returns a sentence for each side with trainings that warned: to beat a collapsed one shows nothing."""
    texts = [(side.name, symptoms_text(side.runs.values(), len(side.runs))) for side in sides]
    return [f"Warnings in training of {name}: {text}." for name, text in texts if text]


def _differing_settings(first: Side, second: Side) -> list[str]:
    """Returns sentences on the settings in which the sides differ, and on those with an effect in one side alone."""
    one, other = (next(iter(side.runs.values())).run for side in (first, second))
    if one is None or other is None:
        return ["Settings are not compared: a run.yaml is missing or of another version."]
    listed = difference_texts(one, other)
    notes = [f"They differ in {', '.join(listed)}."] if listed else []
    for side, sections in ((first, at_work_in_first(one, other)), (second, at_work_in_first(other, one))):
        if sections:
            told = ", ".join(f"{section} ({text})" for section, text in sections.items())
            notes.append(f"Has an effect in {side.name} only: {told}.")
    return notes


def _differing_code(measured: Sequence[SideRows], sides: Sequence[Side]) -> list[str]:
    """Returns a sentence on the code that measured each side, unless it is one known commit without changes."""
    states = [code_states(of_side.rows) for of_side in measured]
    if is_of_one_known_state(pd.concat([of_side.rows for of_side in measured])):
        return []
    told = "; ".join(f"{side.name} at {', '.join(its)}" for side, its in zip(sides, states, strict=True))
    return [f"{NOT_ONE_STATE}: {told}."]


def _published(measured: Sequence[SideRows], column: tuple[str, ...], metric: str) -> float | None:
    """Returns the paper's difference if the runs of both sides are as in the paper; else None.

    The paper has no difference between a method and itself, as two sweeps are compared.
    """
    task, dataset, _, protocol = column
    firsts = [of_side.rows.iloc[0] for of_side in measured]
    if firsts[0]["method"] == firsts[1]["method"]:
        return None
    for row in firsts:
        comparison = row["departures"]
        if row["scale"] or not comparison.is_the_row or not comparison.measured_by_protocol(task, dataset, protocol):
            return None
    for name in ("table1", "table2"):
        paper = published(name)
        for group in paper.groups:
            if group.dataset != dataset or metric not in group.metrics or (paper.task or group.dataset) != task:
                continue
            values = [paper.values.get((str(row["method"]), group.name, group.metrics[metric])) for row in firsts]
            if values[0] is not None and values[1] is not None:
                return round(values[0] - values[1], 2)
    return None
