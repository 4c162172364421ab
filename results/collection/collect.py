"""Reads run folders into one long table of results, and says which of its rows may be averaged."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from repro.errors import UserError
from repro.filesystem.files import write_bytes
from repro.filesystem.presence import exists
from repro.quantities import counted
from repro.runs.evaluation import is_accuracy
from repro.settings.comparison import difference_texts
from repro.settings.departures import scale_of_both
from repro.settings.detection import recorded_sizes
from results.collection.reading import read_table
from results.collection.row_comparison import Recipe, RowComparison
from results.collection.runs import (
    RESULTS,
    RunRecord,
    by_path_of_rows,
    code_label,
    find_runs,
    listed,
    method_name,
)
from results.collection.scored_images import unlike_images
from results.collection.training_images import unlike_training_images
from results.formats.spreadsheet import harmless

MEASUREMENT = ["run_id", "method", "task", "dataset", "split", "protocol", "metric"]
"""Rows that agree in all of these are the same measurement; the later one counts."""

KEYS = ["dataset", "split", "protocol", "fidelity", "scale"]
"""Runs that differ in any of these are never averaged."""

CELL = [*KEYS, "task", "metric", "method"]
"""Rows that agree in all of these are averaged: they are the seeds of one cell."""

_APART = ("fidelity", "scale")
"""Runs of one name that differ in any of these, or in their recipe, are no seeds of one cell."""

ENOUGH_SEEDS = 3
"""From this number of seeds on, pages call the spread of a cell known."""


NOT_ONE_STATE = "Not measured by a single clean commit"
"""Said of compared results before the states of the code that measured them; see `is_of_one_known_state`."""


class NothingMeasuredError(UserError):
    """There are run folders, but none holds a result.

    Attributes:
        warnings: One line for each kind of trouble with the result files, as in `collect`.
    """

    def __init__(self, what: str, *, mend: str, warnings: Sequence[str] = ()) -> None:
        super().__init__(what, mend=mend)
        self.warnings = warnings


def collect(roots: Sequence[Path], recipe: Recipe | None = None, *, sweep: str = "") -> pd.DataFrame:
    """Reads every `results.jsonl` below some folders.

    A run that was evaluated twice has two rows for the same measurement. Within a file the lower line is kept; of
    several files, the measurement that started later.

    Args:
        roots: Run folders, sweep folders, or any folder above them (`runs/<sweep>/<method>/s<seed>-<id>/`).
        recipe: As in `find_runs`.
        sweep: Only runs of this sweep; empty: all.

    Returns:
        One row per result, ordered by path and line, with the fields of `repro.runs.records.Result`. Texts are
        categories, `started` is a UTC timestamp, and `method` is by `method_name`. `scale` is computed from the run's
        settings, `fidelity` is by `RowComparison.fidelity`, `evaluation_scale` is filled in for versions without that
        field, and `sweep` is the name of the sweep's folder, as `--sweep` takes it. Further columns are `path`, the
        file of the result; `recorded_sweep` and `recorded_fidelity`, as they were written with it; `trained_on`, the
        fingerprint of the images on which its run was trained (empty: unknown); and `departures`, the `RowComparison`
        of its run. `attrs["warnings"]` holds one line for each kind of trouble.

    Raises:
        NothingMeasuredError: No result was found.
        UserError: A root is missing, there is no such sweep, or a folder or a result file cannot be read.
    """
    return collect_runs(find_runs(roots, recipe, sweep=sweep), listed(roots))


def collect_runs(
    runs: Sequence[RunRecord], origin: str = "the given runs", *, every_folder: bool = False
) -> pd.DataFrame:
    """Reads the results of run folders that were found already.

    Args:
        runs: What `find_runs` returns.
        origin: Where they were looked for, for messages.
        every_folder: Whether a run that is in several folders keeps the measurements of each, so that these can be
            compared. Else the later ones count.

    Returns:
        What `collect` returns.

    Raises:
        NothingMeasuredError: None of them holds a result.
        UserError: A result file cannot be read.
    """
    paths = [run.folder.results for run in runs if exists(run.folder.results)]
    if not paths:
        mend = "give a folder in which a run has been evaluated"
        raise NothingMeasuredError(f"no {RESULTS} below {origin}", mend=mend)
    table, warnings = read_table(paths)
    if not table.num_rows:
        reason = f"; the first trouble: {warnings[0]}" if warnings else ""
        what = f"no result in the {counted(len(paths), 'file')} below {origin}{reason}"
        raise NothingMeasuredError(what, mend="evaluate a run first", warnings=warnings)
    frame = table.to_pandas(self_destruct=True)  # frees each Arrow column once it is converted
    # Texts are categories: what follows parses or maps each different text once, not each of a million rows.
    times = frame["started"].cat
    frame["started"] = pd.to_datetime(times.categories, format="ISO8601", utc=True).take(times.codes)
    frame = _with_imported_apart(_with_facts_of_runs(frame, runs))
    frame = _compared(_with_evaluation_scales(frame), runs)
    frame = _keep_last(frame, warnings, every_folder=every_folder)
    # Last, as many operations of pandas drop `attrs`.
    doubted = [*_no_percentages(frame), *unlike_images(frame, KEYS), *unlike_training_images(frame)]
    frame.attrs["warnings"] = [*warnings, *doubted]
    return frame


def _no_percentages(frame: pd.DataFrame) -> list[str]:
    """Returns a warning about accuracies outside 0 to 100 %, as edits or a broken disk leave them; or none."""
    odd = frame[~frame["value"].between(0, 100)]
    odd = odd[odd["metric"].map(is_accuracy).astype(bool)]
    return [f"{counted(len(odd), 'value')} below 0 or above 100 %; {_first(odd)}"] if len(odd) else []


def _with_facts_of_runs(frame: pd.DataFrame, runs: Sequence[RunRecord]) -> pd.DataFrame:
    """Adds the images on which each row's run was trained, and names its sweep after the folder.

    Pages and commands know a sweep by that name alone.
    """
    records = by_path_of_rows(runs)
    paths = frame["path"].cat.remove_unused_categories().cat
    of_paths, codes = [records[path] for path in paths.categories], paths.codes.to_numpy()
    sweeps, images = (
        pd.Series(facts, dtype="category").take(codes).array
        for facts in ([run.sweep for run in of_paths], [run.trained_on for run in of_paths])
    )
    return frame.assign(recorded_sweep=frame["sweep"], sweep=sweeps, trained_on=images)


def _with_imported_apart(frame: pd.DataFrame) -> pd.DataFrame:
    """Renames the methods of imported weights, so that these stand in rows of their own."""
    names = frame[["method", "framework"]].drop_duplicates()
    renamed = {pair: method_name(*pair) for pair in names.itertuples(index=False, name=None)}
    if all(name == method for (method, _), name in renamed.items()):
        return frame
    pairs = pd.MultiIndex.from_frame(frame[["method", "framework"]].astype(str))
    return frame.assign(method=pd.Categorical(pairs.map(renamed)))


def _with_evaluation_scales(frame: pd.DataFrame) -> pd.DataFrame:
    """Fills in `evaluation_scale` for results of older versions, which recorded it as a part of `scale` alone."""
    scales = frame["scale"].cat
    sizes = np.array([recorded_sizes(scale) for scale in scales.categories], dtype=object)
    if not sizes.any():
        return frame
    recorded = frame["evaluation_scale"].astype(object)
    return frame.assign(evaluation_scale=recorded.where(recorded != "", sizes[scales.codes]).astype("category"))


def _compared(frame: pd.DataFrame, runs: Sequence[RunRecord]) -> pd.DataFrame:
    """Adds the `RowComparison` of each run, and computes its scale and its fidelity from that.

    The recorded scale is only as complete as the version that wrote it, and counts if the run cannot be compared with a
    row. The scale of the evaluation is the recorded one: no run's settings say on how much data a detector was trained.
    """
    records = by_path_of_rows(runs)
    # Seeds of one recipe differ in nothing that is compared, so only one `run.yaml` is read, which is slow.
    recipes = frame.groupby(["method", "recipe"], observed=True, sort=False).ngroup().to_numpy()
    comparisons: dict[int, RowComparison] = {}
    for recipe, path in pd.DataFrame({"recipe": recipes, "path": frame["path"]}).drop_duplicates().to_numpy():
        if recipe not in comparisons or comparisons[recipe].run is None:
            comparisons[recipe] = records[path].comparison
    different = {comparison: code for code, comparison in enumerate(dict.fromkeys(comparisons.values()))}
    codes = np.array([different[comparisons[recipe]] for recipe in range(len(comparisons))])
    frame["departures"] = pd.Categorical.from_codes(codes[recipes], pd.Index(list(different), dtype=object))
    # Each different group gets its scale and its fidelity once, not each of a million rows.
    scales, evaluations, fidelities = (frame[name].cat for name in ("scale", "evaluation_scale", "fidelity"))
    groups = pd.DataFrame(
        {"recipe": recipes, "scale": scales.codes, "evaluation": evaluations.codes, "fidelity": fidelities.codes}
    )
    rows = groups.groupby(list(groups), sort=False).ngroup().to_numpy()
    of_groups = [
        (
            _scale(comparisons[recipe], scales.categories[scale], evaluations.categories[evaluation]),
            _fidelity(comparisons[recipe], fidelities.categories[fidelity]),
        )
        for recipe, scale, evaluation, fidelity in groups.drop_duplicates().itertuples(index=False)
    ]
    frame["recorded_fidelity"] = frame["fidelity"]
    for name, texts in zip(("scale", "fidelity"), zip(*of_groups, strict=True), strict=True):
        frame[name] = pd.Series(texts, dtype="category").take(rows).array
    return frame


def _scale(comparison: RowComparison, recorded: str, of_evaluation: str) -> str:
    """Returns the scale of results: by the run's settings if they can be compared with a row, else as recorded."""
    return recorded if comparison.row is None else scale_of_both(comparison.scale, of_evaluation)


def _fidelity(comparison: RowComparison, recorded: str) -> str:
    """Returns the fidelity of results: beside that of the run's row if there is one, else as recorded."""
    return recorded if comparison.row is None else comparison.fidelity


def _keep_last(frame: pd.DataFrame, warnings: list[str], *, every_folder: bool) -> pd.DataFrame:
    """Returns the last row of each measurement, and adds a warning about those left out."""
    # Within a file the lower line is the later one, whatever it says: the clocks of two nodes may differ.
    is_again = frame.duplicated([*MEASUREMENT, "path"], keep="last")
    if is_again.any():
        frame, again = frame[~is_again].reset_index(drop=True), frame[is_again]
        same = f"same {', '.join(MEASUREMENT)}"
        warnings.append(f"{counted(len(again), 'row')} measured again later ({same}) and left out; {_first(again)}")
    if every_folder:
        return frame
    if frame.duplicated(MEASUREMENT).any():
        latest = frame.sort_values("started", kind="stable").drop_duplicates(MEASUREMENT, keep="last").index
        frame, elsewhere = frame.loc[latest.sort_values()].reset_index(drop=True), frame.drop(latest)
        runs = elsewhere["run_id"].nunique()
        counting = elsewhere[MEASUREMENT].merge(frame[[*MEASUREMENT, "value"]], how="left", on=MEASUREMENT)["value"]
        other = elsewhere[elsewhere["value"].to_numpy() != counting.to_numpy()]
        # Copies say the same; what was measured twice, or edited, may not.
        differing = f"; left out with another value: {len(other)}, {_first(other)}" if len(other) else ""
        warnings.append(
            f"{counted(runs, 'run')} in several folders, of which the later measurement counts: "
            f"{counted(len(elsewhere), 'row')} left out; {_first(elsewhere)}{differing}"
        )
    return frame


def _first(rows: pd.DataFrame) -> str:
    row = rows.iloc[0]
    return f"first: {row['metric']} on {row['dataset']} of run {row['run_id']} in {row['path']}"


def refuse_mixed(frame: pd.DataFrame, cell: Sequence[str] = CELL, *, mend: str = "") -> None:
    """Refuses rows that would be averaged although they are of different recipes, or are of the same seed.

    Args:
        frame: Rows of one task and metric, or several metrics of the same runs.
        cell: Rows that agree in these columns are averaged. Fidelity and scale must agree in any case.
        mend: The remedy; empty: how to leave out one of the two runs that the error names.

    Raises:
        UserError: Names two runs that must not be averaged, and how they differ.
    """
    # Recipes first: two recipes under one name usually have two runs of one seed as well, and their different settings
    # are the better message.
    keys = list(cell)
    recipes = frame.drop_duplicates(list(dict.fromkeys([*keys, *_APART, "recipe"])))
    _refuse(recipes[recipes.duplicated(keys, keep=False)], keys, "runs of different recipes", mend)
    seed_of_cell = [*keys, "seed"]
    _refuse(frame[frame.duplicated(seed_of_cell, keep=False)], seed_of_cell, "several runs", mend)


def _refuse(rivals: pd.DataFrame, keys: list[str], trouble: str, mend: str) -> None:
    """Raises a UserError about the first two rivals that agree in the keys, if there are any rivals."""
    if rivals.empty:
        return
    first = rivals.iloc[0]
    second = rivals[(rivals[keys] == first[keys]).all(axis=1)].iloc[1]
    of_seed = f" with seed {first['seed']}" if "seed" in keys else ""
    raise UserError(
        f"{first['method']}{of_seed} on {first['dataset']} has {trouble} under one name: {first['run_id']} "
        f"({first['path']}) and {second['run_id']} ({second['path']}){_difference(first, second)}",
        mend=mend or _narrower(first, second),
    )


def _narrower(first: "pd.Series[str]", second: "pd.Series[str]") -> str:
    """Returns how to leave out one of two runs: by its sweep, if their sweeps differ."""
    if first["sweep"] != second["sweep"]:
        return "name one sweep with --sweep, or give a narrower path"
    return (
        "both are in one sweep, so --sweep cannot leave one out: "
        "name the folders of the runs that you want, each with --runs, or move the others away"
    )


def _difference(first: "pd.Series[str]", second: "pd.Series[str]") -> str:
    """Returns how the runs of two rows differ, by the settings in their folders."""
    first_run, second_run = (RunRecord(Path(row["path"]).parent).run for row in (first, second))
    if first_run is None or second_run is None:
        return ", whose run.yaml is not there to tell the difference" if first["recipe"] != second["recipe"] else ""
    settings = difference_texts(first_run, second_run)
    # A detector's training has a scale of its own, which is in no run's settings. The paper's scale is an empty text.
    apart = {name: [row[name] or "the paper's" for row in (first, second)] for name in _APART}
    settings = settings or [f"{name} ({one} and {other})" for name, (one, other) in apart.items() if one != other]
    return f", which differ in {', '.join(settings)}" if settings else ""


def code_states(results: pd.DataFrame) -> list[str]:
    """Returns the different states of the code that measured some results."""
    states = sorted(set(zip(results["commit"], results["dirty"], strict=True)))
    return [code_label(commit[:7], dirty=dirty) for commit, dirty in states]


def is_of_one_known_state(results: pd.DataFrame) -> bool:
    """Returns whether a single known commit without changes measured some results; if not, say `NOT_ONE_STATE`."""
    return results["commit"].nunique() == 1 and "unknown" not in set(results["commit"]) and not results["dirty"].any()


def seeds_by_cell(frame: pd.DataFrame) -> "pd.Series[int]":
    """Counts the seeds behind each cell.

    Args:
        frame: What `collect` returns.

    Returns:
        The number of different seeds, indexed by the columns of `CELL`.
    """
    return frame.groupby(CELL, observed=True)["seed"].nunique()


def seeds_text(counts: "pd.Series[int]") -> str:
    """Returns numbers of seeds for people: `3 seeds` where all are the same, else `2 to 5 seeds`."""
    fewest, most = int(counts.min()), int(counts.max())
    return counted(most, "seed") if fewest == most else f"{fewest} to {most} seeds"


def export(frame: pd.DataFrame, path: Path) -> None:
    """Writes the long table, and leaves an older file as it was if that fails.

    Args:
        frame: What `collect` returns.
        path: `.parquet` or `.csv`.

    Raises:
        UserError: The suffix is another one, or the file cannot be written.
    """
    if path.suffix not in (".parquet", ".csv"):
        raise UserError(f"cannot export to {path}", mend="give a name that ends in .parquet or .csv")
    write_bytes(path, export_bytes(frame, path.suffix))


def export_bytes(frame: pd.DataFrame, suffix: str) -> bytes:
    """Returns the long table as the content of a `.parquet` or `.csv` file."""
    buffer = io.BytesIO()
    frame = frame.assign(departures=frame["departures"].astype(str).astype("category"))  # as text, each in full
    if suffix == ".parquet":
        frame.to_parquet(buffer, index=False)
    else:
        harmless(frame).to_csv(buffer, index=False, lineterminator="\n")
    return buffer.getvalue()
