"""What a reader should know first: everything about the runs that speaks against trusting a number."""

from collections.abc import Iterator, Sequence

import pandas as pd

from repro.errors import first_few
from repro.filesystem.presence import is_filled
from repro.quantities import counted
from repro.settings.departures import scale_of
from results.collection.collect import ENOUGH_SEEDS, seeds_by_cell
from results.collection.row_comparison import ALTERED
from results.collection.runs import RESULTS, RunRecord
from results.collection.training_images import unlike_training_images, unlike_trainings
from results.tables.absence import UNFINISHED
from results.tables.references import without_untrained


def doubts(runs: Sequence[RunRecord], frame: pd.DataFrame | None) -> list[str]:
    """Lists the doubts, the gravest first, one line each.

    Args:
        runs: The run folders at hand.
        frame: Their results; None if nothing was evaluated.
    """
    warnings: Sequence[str] = []
    if frame is not None:
        # `_of_runs` says the same of all runs at hand, and not only of those that have a result.
        told = unlike_training_images(frame)
        warnings = [warning for warning in frame.attrs.get("warnings", []) if warning not in told]
    return [*_of_results(runs, frame), *_of_runs(runs), *warnings]


def _of_results(runs: Sequence[RunRecord], frame: pd.DataFrame | None) -> Iterator[str]:
    if frame is None:
        damaged = [run.name for run in runs if is_filled(run.folder.results)]
        why = f"no line can be read in {RESULTS} of {first_few(damaged)}" if damaged else "no run has been evaluated"
        yield f"{why}: every measured cell is empty"
        return
    for scale in sorted({str(scale) for scale in frame["scale"] if scale}):
        yield f"TINY MODE – {scale}: not comparable with the published numbers"
    yield from _of_settings(frame)
    seeds = seeds_by_cell(without_untrained(frame))  # of an untrained network one seed is enough
    if int(seeds.min()) < ENOUGH_SEEDS:
        methods = seeds[seeds < ENOUGH_SEEDS].reset_index()["method"].astype(str)
        names = first_few(sorted(set(methods)))
        yield f"fewer than {ENOUGH_SEEDS} seeds behind {counted(len(methods), 'cell')}: {names}"
    if frame["dirty"].any():
        yield f"measured with uncommitted changes: {first_few(sorted(set(frame[frame['dirty']]['run_id'])))}"
    commits = sorted({str(commit)[:7] for commit in frame["commit"]})  # "unknown" has seven letters too
    if "unknown" in commits:
        yield "some results do not name the commit of their code"
    if len(commits) > 1:
        yield f"results of {len(commits)} commits stand side by side: {first_few(commits)}"


def _of_settings(frame: pd.DataFrame) -> Iterator[str]:
    """Yields how the settings of runs depart from their methods' rows; methods that depart alike share a line."""
    methods: dict[str, set[str]] = {}
    for row in frame[["method", "departures"]].drop_duplicates().to_dict("records"):
        comparison = row["departures"]
        text = comparison.unknown or (f"{ALTERED} – {scale_of(comparison.altered)}" if comparison.altered else "")
        if text:
            methods.setdefault(text, set()).add(str(row["method"]))
    for text in sorted(methods):
        yield f"{text}: {first_few(sorted(methods[text]))}"


def _of_runs(runs: Sequence[RunRecord]) -> Iterator[str]:
    for state, text in UNFINISHED.items():
        names = [run.name for run in runs if run.state == state]
        if names:
            yield f"{counted(len(names), 'run')} {text}: {first_few(names)}"
    warned = [f"{run.name} ({', '.join(symptom.kind for symptom in run.symptoms)})" for run in runs if run.symptoms]
    if warned:
        yield f"{counted(len(warned), 'run')} with warnings while training, see health.json: {first_few(warned)}"
    unreadable = [run.name for run in runs if run.run is None]
    if unreadable:
        many = counted(len(unreadable), "run")
        yield f"{many} whose run.yaml is missing or of another version: {first_few(unreadable)}"
    yield from unlike_trainings(runs)
    versions = {str(run.last_attempt.get("packages", {}).get("torch")) for run in runs if run.attempts}
    if len(versions) > 1:
        yield f"runs of {len(versions)} versions of torch stand side by side: {first_few(sorted(versions))}"
    devices = sorted({str(run.last_attempt.get("device")) for run in runs if run.attempts})
    if len(devices) > 1:
        yield f"runs on {len(devices)} kinds of device: {first_few(devices)}"
