"""Two methods, sweeps or single runs against each other, image by image where predictions are at hand."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from repro.errors import UserError, nearest
from repro.presence import is_folder
from repro.runs.comparison import at_work_in_first, difference_texts
from repro.runs.evaluation import NEXT_BEST, is_accuracy, refuse_no_accuracy
from repro.runs.folder import RunFolder
from repro.runs.predictions import FileReference, Predictions, read
from repro.runs.run_name import RunName
from results.collection.collect import NOT_ONE_STATE, code_states, is_of_one_known_state, refuse_mixed
from results.collection.row_comparison import TINY
from results.collection.runs import RunRecord, by_path_of_rows, symptoms_text
from results.collection.training_images import unlike_training_images
from results.comparison.head_to_head import HeadToHead, Side
from results.paper.published import published
from results.statistics.imagewise import Difference, McNemar, difference_of_images, difference_of_seeds, mcnemar

COLUMN = ["task", "dataset", "split", "protocol"]
"""What two runs must agree in to be compared; their sizes and recipes may differ, but not within one of the two."""
_ONE_SIDE = [*COLUMN, "metric", "method"]
"""What the runs of one of the two agree in."""
_NARROWER = "give SWEEP/METHOD for the runs of one sweep, a run's folder, or a narrower --runs"
IMAGEWISE = ("top1", "top5", "mean_per_class")
"""Measures that predictions give image by image."""
ROUNDING = 1e-3
"""Points by which predictions may miss the row that names them.

Both count the same images, so that nothing but rounding is between them; one of 50,000 images is 0.002 points.
"""
USUAL_TASK = "linear"
"""The paper's own."""
_RANKING = {task: rank for rank, task in enumerate((USUAL_TASK, *NEXT_BEST))}
"""Which evaluation is shown before which; others come last."""


@dataclass(frozen=True)
class SideRows:
    """What was measured of one of the two, and by which runs.

    Attributes:
        rows: Rows of what `results.collection.collect.collect_runs` returns.
        records: The runs that they are of, and perhaps others, by the `path` of their rows.
        word: What they were asked for by.
    """

    rows: pd.DataFrame
    records: Mapping[str, RunRecord]
    word: str

    @classmethod
    def of(cls, frame: pd.DataFrame, runs: Sequence[RunRecord], word: str) -> "SideRows":
        """Returns what was measured of some runs.

        Args:
            frame: What `results.collection.collect.collect_runs` returns.
            runs: The runs.
            word: What they were asked for by.
        """
        records = by_path_of_rows(runs)
        return cls(frame[frame["path"].isin(list(records))], records, word)

    @property
    def columns(self) -> list[tuple[str, ...]]:
        """The different values of `COLUMN` of its rows, in the rows' order."""
        return list(dict.fromkeys(self.rows[COLUMN].astype(str).itertuples(index=False, name=None)))

    @property
    def metrics(self) -> list[str]:
        """The measures of its rows, in the rows' order."""
        return list(dict.fromkeys(self.rows["metric"].astype(str)))

    @property
    def scale(self) -> str:
        """The size of its runs, which `refuse_mixed` holds to be one; empty at the paper's."""
        return str(self.rows["scale"].iloc[0])

    def by_tasks(self, tasks: Iterable[str]) -> "SideRows":
        """Returns what was measured by some evaluations."""
        return replace(self, rows=self.rows[self.rows["task"].isin(list(tasks))])

    def in_column(self, column: tuple[str, ...]) -> "SideRows":
        """Returns what was measured in one column, one of `columns`."""
        wanted = pd.Series(column, index=COLUMN)  # a bare tuple is one value to pandas 4
        return replace(self, rows=self.rows[(self.rows[COLUMN].astype(str) == wanted).all(axis=1)])

    def by_metric(self, metric: str) -> "SideRows":
        """Returns what was measured of one measure."""
        return replace(self, rows=self.rows[self.rows["metric"] == metric])


def compare(
    frame: pd.DataFrame, runs: Sequence[RunRecord], first: str, second: str, *, task: str = "", metric: str = ""
) -> list[HeadToHead]:
    """Compares two methods, sweeps or single runs in every column that both have.

    Args:
        frame: What `results.collection.collect.collect_runs` returns.
        runs: The run folders at hand.
        first: A method, `SWEEP/METHOD`, a sweep, a run's folder, name or id.
        second: The same; of two sweeps each method is compared with itself.
        task: Which evaluation; by default linear where both have the measure by it, else all by which both have it.
        metric: Which measure; by default the task's first.

    Raises:
        UserError: Nothing goes by such a name, the measure is no accuracy, both have nothing in common or share a run,
            or runs exclude each other.
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
        return [replace(comparison, notes=(*comparison.notes, among)) for comparison in comparisons]
    if not comparisons:
        rows = frame[frame["task"] == task] if task else frame
        others = {*filter(is_accuracy, (rows["metric"] if metric and len(rows) else frame["task"]).astype(str))}
        raise UserError(
            f"{first} and {second} have no {metric or 'measurement'}{f' by {task}' if task else ''} in common",
            mend=f"evaluate both alike, or ask for another of {', '.join(sorted(others))}",
        )
    return comparisons


def _refuse_shared(first: Sequence[RunRecord], second: Sequence[RunRecord], words: tuple[str, str]) -> None:
    """Raises a UserError where a run stands on both sides: the tests take the two for runs of their own."""
    of_second = {run.path for run in second}
    shared = [run.name for run in first if run.path in of_second]
    if shared:
        every = len(shared) == len(first) == len(second)
        what = "are the same runs" if every else f"have {shared[0]}"
        raise UserError(f"{' and '.join(words)}: both sides {what}", mend="name two")


def select(runs: Sequence[RunRecord], word: str) -> list[RunRecord]:
    """Returns the runs that a word names.

    Args:
        runs: The run folders at hand.
        word: A method, `SWEEP/METHOD`, a sweep, a run's folder, its name or the beginning of its id.

    Raises:
        UserError: There are none.
    """
    path = Path(word)
    below = [run for run in runs if is_folder(path) and run.path.resolve().is_relative_to(path.resolve())]
    named = [run for run in runs if _is_meant(run, word)]
    if not named and not below:
        known = list(dict.fromkeys(name for run in runs for name in (run.method, run.sweep)))
        raise UserError(f"no method, sweep or run '{word}'", mend=nearest(word, known))
    return named or below


def _is_meant(run: RunRecord, word: str) -> bool:
    name = RunName(run.sweep, run.method, run.path.name)
    return word in (run.method, run.sweep, f"{run.sweep}/{run.method}", run.name) or name.is_meant_by(word)


def _of_pair(first: SideRows, second: SideRows, task: str, metric: str) -> list[HeadToHead]:
    """Compares two methods' runs in every column that both have."""
    if metric:
        first, second = first.by_metric(metric), second.by_metric(metric)
    # Of columns, not of tasks: linear probes on two data sets are nothing that both have.
    shared = {task_of_column for task_of_column, *_ in set(first.columns) & set(second.columns)}
    wanted = {task} if task else ({USUAL_TASK} if USUAL_TASK in shared else shared)
    first, second = first.by_tasks(wanted), second.by_tasks(wanted)
    columns_of_second = set(second.columns)
    shared_columns = [column for column in first.columns if column in columns_of_second]
    comparisons = []
    # As tables choose: what stands first is what most readers will take for the answer.
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
    """Compares two methods in one column, by one measure."""
    (first, notes_on_first), (second, notes_on_second) = _side(of_first, metric), _side(of_second, metric)
    if first.method == second.method:
        origins = _origins((first, second), (of_first.word, of_second.word))
        first, second = (replace(side, origin=origin) for side, origin in zip((first, second), origins, strict=True))
    (first, second), notes_on_images = _of_the_same_images(first, second)
    exact, notes_on_exact = _exact_tests(first, second, metric) if first.predictions else ({}, [])
    notes = [
        *_sizes((of_first, of_second), (first, second)),
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
    notes = list(dict.fromkeys(notes))  # of a measure that is none of single images either side says so
    published_difference = _published((of_first, of_second), column, metric)
    difference = _how_sure(first, second, column, metric)
    return HeadToHead(first, second, column, metric, difference, exact, published_difference, tuple(notes))


def _how_sure(first: Side, second: Side, column: tuple[str, ...], metric: str) -> Difference:
    """Returns the difference of two sides, of images where both have predictions, else of seeds.

    The draws are named by what is asked: the same question has the same p value, whatever is asked beside it, and
    whichever of the two is asked for first.
    """
    high, low = sorted((first, second), key=lambda side: side.name, reverse=True)
    names = map(ord, f"{high.name}|{low.name}|{'|'.join(column)}|{metric}")
    if first.predictions:
        difference = difference_of_images(high.points(metric), low.points(metric), *names)
    else:
        difference = difference_of_seeds(list(high.values.values()), list(low.values.values()), *names)
    return difference if high is first else difference.reversed()


def _exact_tests(first: Side, second: Side, metric: str) -> tuple[dict[int, McNemar], list[str]]:
    """Returns McNemar's test of each seed that both have, and a sentence on why there is none."""
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
    """Returns a sentence for each size of runs that is not the paper's, with whose it is where only one has it."""
    scales = [of_side.scale for of_side in measured]
    whose = ["" if scales[0] == scales[1] else f"{side.name}: " for side in sides]
    tiny = [
        f"{of}{TINY} MODE – {scale}: not comparable with the published numbers."
        for of, scale in zip(whose, scales, strict=True)
        if scale
    ]
    return list(dict.fromkeys(tiny))


def _origins(sides: Sequence[Side], words: Sequence[str]) -> Sequence[str]:
    """Returns what tells two sides of one method apart: the run of a single one, else the sweeps.

    Folders of two machines may hold sweeps and runs of the same names: then the words that were asked for tell.
    """
    origins = [_origin(side) for side in sides]
    return words if origins[0] == origins[1] else origins


def _origin(side: Side) -> str:
    runs = list(side.runs.values())
    return runs[0].name if len(runs) == 1 else ", ".join(sorted({run.sweep for run in runs}))


def _side(of_side: SideRows, metric: str) -> tuple[Side, list[str]]:
    """Returns one side, and sentences on what keeps its predictions from being used."""
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
    """Returns the predictions of a side's runs, of all or of none, and sentences on what keeps them from being used."""
    if metric not in IMAGEWISE:
        return {}, [f"{metric} is no measure of single images: the seeds alone are compared."]
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
    """Returns the predictions that a row names; None where they cannot be used, and then a sentence on why."""
    named = FileReference(str(row["predictions"]), str(row["predictions_sha256"]))
    try:
        said = read(RunFolder(Path(row["path"]).parent), named)
    except UserError as trouble:
        return None, f"{trouble}."
    given = said.accuracy(metric)
    if abs(given - row["value"]) > ROUNDING:
        return None, f"{whose}: its predictions give {given:.3f}, the row {row['value']:.3f}."
    return said, ""


def same_images(predictions: Sequence[Predictions]) -> bool:
    """Returns whether runs were scored on the same images of the same classes, so that they can be paired."""
    return len({(of_run.images, of_run.classes, of_run.label.tobytes()) for of_run in predictions}) == 1


def _of_the_same_images(first: Side, second: Side) -> tuple[tuple[Side, Side], list[str]]:
    """Returns both sides, without predictions unless both have them, of the same images; and a sentence on why not."""
    without = replace(first, predictions={}), replace(second, predictions={})
    if not first.predictions or not second.predictions:
        return without, []
    if not same_images([*first.predictions.values(), *second.predictions.values()]):
        return without, ["Their predictions are of different images: the seeds alone are compared."]
    return (first, second), []


def _unequal_numbers(first: int, second: int) -> list[str]:
    """Returns a sentence on what is assumed of sides that have unlike numbers of runs."""
    if first == second:
        return []
    assumed = "the interval assumes that both sides spread alike from seed to seed"
    return [f"{first} and {second} runs: {assumed}. If the side with fewer runs spreads more, it is too narrow."]


def _warned_of(*sides: Side) -> list[str]:
    """Returns a sentence for each side of whose trainings some warned: a collapsed one is no rival."""
    texts = [(side.name, symptoms_text(side.runs.values(), len(side.runs))) for side in sides]
    return [f"{name} warned of while it trained: {text}." for name, text in texts if text]


def _differing_settings(first: Side, second: Side) -> list[str]:
    """Returns sentences on the settings in which the runs differ, and on those at work in one side alone."""
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
    """Returns a sentence on the code that measured either side, unless it is one known commit without changes."""
    states = [code_states(of_side.rows) for of_side in measured]
    if is_of_one_known_state(pd.concat([of_side.rows for of_side in measured])):
        return []
    told = "; ".join(f"{side.name} by {', '.join(its)}" for side, its in zip(sides, states, strict=True))
    return [f"{NOT_ONE_STATE}: {told}."]


def _published(measured: Sequence[SideRows], column: tuple[str, ...], metric: str) -> float | None:
    """Returns the paper's difference where both sides are as the paper has them; else None.

    Of a method to itself, as of two sweeps, the paper has none.
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
