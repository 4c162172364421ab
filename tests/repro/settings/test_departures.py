"""Every setting in which a run departs from its method's row is named, and no setting that plays a part in neither."""

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest

from baselines import METHODS, TABLE1, resolve
from repro.errors import UserError
from repro.settings.comparison import PARTS, departures, plays_a_part, settings, sizes_below_recipe
from repro.settings.departures import Departure, common_sizes, scale_of
from repro.settings.detection import recorded_sizes
from repro.settings.identity import added, keys
from repro.settings.reading import build
from repro.settings.run import Run
from results.collection.row_comparison import RowComparison, words

SETTINGS = settings(Run())
CONTEXTS: Mapping[str, Mapping[str, Any]] = {
    "data.scenes.context": {"data.dataset": "scenes", "data.scenes.grounds": 20},
    "data.scenes.": {"data.dataset": "scenes"},
    "data.masks_sha256": {"localizer.source": "truth", "data.masks": "DIR"},
    "localizer.files_sha256": {"localizer.source": "maps", "localizer.files": "DIR"},
    "localizer.image_side": {"localizer.map": "image"},
    "localizer.sha256": {"localizer.network": "checkpoint"},
    "optimization.step_share": {"optimization.schedule": "steps"},
}
"""Settings that play a part in hardly any row -> other settings with which they do."""
UNCOMPARED = {"imported.weights", "imported.input_filter", "localizer.files"}
"""Settings of weights from elsewhere, which have no row to be compared with; and a folder that no row has, in whose
place stands the hash of its files."""
COMPARED = sorted(SETTINGS.keys() - UNCOMPARED)


@cache
def row(name: str) -> Run:
    return resolve(name)


def changed(run: Run, changes: Mapping[str, Any]) -> Run:
    """The run with some settings of it, by `section.key`, replaced."""
    return build([changes], base=run)


@cache
def rows_with(name: str) -> list[tuple[str, Run]]:
    """The rows in which a setting plays a part, each with the other settings that this needs."""
    context = next((context for beginning, context in CONTEXTS.items() if name.startswith(beginning)), {})
    runs = ((method, _valid(row(method), context)) for method in METHODS)
    fitting = [(method, run) for method, run in runs if run is not None and plays_a_part(name, run)]
    return [(method, run) for method, run in fitting if method in TABLE1] or fitting


def _valid(run: Run, changes: Mapping[str, Any]) -> Run | None:
    try:
        return changed(run, changes)
    except UserError:
        return None


def other_values(name: str, run: Run) -> list[Any]:
    """Values of a setting other than the run's own; some may exclude its other settings."""
    value, kind = settings(run)[name].value, keys(Run)[name]
    if kind is bool:
        return [not value]
    if hasattr(kind, "__members__"):
        return [member.value for member in kind if member.name != value]
    if kind is int:
        others = (value - 1, value // 2, value + 1, 2 * value, 4 * value, value + 256)
        return [other for other in others if other != value]
    if kind is float:
        return [other for other in (0.0, 0.07, 0.3, value * (1 + 1e-12) + 1e-12, 1.5 * value) if other != value]
    return ["resnet18", "resnet101", "efficientnet-lite0", "caltech101", "scenes", "0a1b", "centre", "inverted"]


@pytest.mark.parametrize("name", COMPARED)
def test_any_one_setting_that_is_changed_is_named(name: str) -> None:
    tried = 0
    for method, run in rows_with(name):
        for value in other_values(name, run):
            other = _valid(run, {name: value})
            if other is None:
                continue  # excluded by the run's other settings
            tried += 1
            comparison, context = RowComparison.of(other, row), {d.what for d in departures(run, row(method))}
            assert comparison.by_name.keys() - context == {name}
            departure = comparison.by_name[name]
            # A default of ours that plays no part in the paper's run is not a value of the paper.
            of_paper = settings(row(method))[name].value if plays_a_part(name, row(method)) else None
            assert departure.paper == of_paper
            assert str(departure.here).startswith(str(settings(other)[name].value))
            assert not comparison.is_the_row
            # The name of a drawn data set tells some of its settings.
            told = str(departure.here) if name.startswith("data.scenes.") else departure.in_full
            assert told in str(comparison)
    assert tried


def test_every_setting_of_a_run_is_tried() -> None:
    outside = {"seed", "method", "imported.origin", "data.masks"}
    sections = ("machine.", "probe.", "logistic.", "knn.", "finetune.", "detection.")
    assert set(SETTINGS) == {name for name in keys(Run) if name not in outside and not name.startswith(sections)}
    assert all(rows_with(name) for name in COMPARED)


def test_a_setting_that_is_added_is_found_by_itself() -> None:
    wider = dataclasses.make_dataclass("Wider", [("extra", int, added(1, absent=1))], bases=(Run,), frozen=True)
    (departure,) = departures(wider(extra=2), wider())
    assert departure == Departure("extra", 2, 1, smaller=False)


@pytest.mark.parametrize("method", TABLE1)
def test_what_plays_no_part_is_not_named(method: str) -> None:
    run = row(method)
    idle = [name for name in COMPARED if not plays_a_part(name, run)]
    assert idle
    for name in idle:
        kind, value = keys(Run)[name], settings(run)[name].value
        changes: Any = {bool: not value, int: [value * 2, 1], float: 0.5}.get(kind, "random")
        if hasattr(kind, "__members__"):
            changes = [member.value for member in kind]
        for change in changes if isinstance(changes, list) else [changes]:
            other = _valid(run, {name: change})
            # A change may itself make the setting count, as released counts do.
            assert other is None or plays_a_part(name, other) or departures(other, run) == (), name
    assert departures(run, run) == ()


NEITHER = (
    *("data.scenes.", "simclr.", "adios.", "imported.", "optimization.lars_eta", "optimization.step_share"),
    *("data.masks", "localizer.image_side", "fidelity.negative_count"),
)
"""Beginnings of the names of settings that play no part in the paper's MoCo v2, with and without masks."""


@pytest.mark.parametrize(
    ("method", "idle"),
    [
        ("mocov2+ours-hp", NEITHER),
        ("mocov2", (*NEITHER, "localizer.", "fidelity.", "masking.", "moco.hard_negative")),
    ],
)
def test_all_else_plays_a_part_in_the_papers_own_rows(method: str, idle: tuple[str, ...]) -> None:
    """If a setting wrongly played no part, a run that departs in it would pass for the row itself."""
    taking_part = {name for name in SETTINGS if plays_a_part(name, row(method))}
    assert taking_part == {name for name in SETTINGS if not name.startswith(idle)} | {"masking.strategy"}


def test_a_switch_of_a_whole_sweep_alters_no_row_that_it_does_nothing_to() -> None:
    """Plain rows used to be ALTERED by where high-pass noise is drawn, and supervised training by an unused blur."""
    sweep = {"masking.noise_area": "masked", "augmentation.blur": "box"}
    altered = {
        method: {departure.what for departure in departures(changed(row(method), sweep), row(method))}
        for method in ("mocov2+ours-hp", "mocov2+ours-blur", "mocov2", "supervised")
    }
    assert altered == {
        "mocov2+ours-hp": set(sweep),
        "mocov2+ours-blur": {"augmentation.blur"},
        "mocov2": {"augmentation.blur"},
        "supervised": set(),
    }


def test_every_line_about_parts_speaks_of_a_setting() -> None:
    assert [beginning for beginning in PARTS if not any(name.startswith(beginning) for name in SETTINGS)] == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"optimization.epochs": 400}, "ALTERED: 400 epochs"),
        ({"optimization.epochs": 100}, "TINY: 100 epochs"),
        ({"optimization.epochs": 1}, "TINY: 1 epoch"),
        ({"optimization.batch": 256}, "ALTERED: batch 256"),
        ({"optimization.precision": "bf16"}, "ALTERED: optimization.precision=bf16"),
        ({"moco.bn_splits": 1}, "ALTERED: moco.bn_splits=1"),
        ({"data.dataset": "caltech101"}, "ALTERED: caltech101"),
        ({"encoder.arch": "resnet34"}, "TINY: resnet34"),
        ({"encoder.arch": "wide_resnet50_2"}, "ALTERED: wide_resnet50_2"),
        ({"masking.hard_negative": False}, "ALTERED: masking.hard_negative=false"),
        # The localizer no longer matters, but the paper's row has another one.
        (
            {"masking.guidance": "random", "localizer.weights": "random"},
            "ALTERED: localizer.weights=random, masking.guidance=random",
        ),
        (
            # The name of the data set tells its classes, but not the size of its scenes.
            {"data.dataset": "scenes", "data.crop": 64, "data.scenes.classes": 20, "data.scenes.size": 80},
            "TINY: scenes (20 classes, 1024 images), 64 px, data.scenes.size=80",
        ),
    ],
)
def test_smaller_is_tiny_and_anything_else_is_altered(changes: dict[str, Any], text: str) -> None:
    run = resolve("mocov2+ours-hp", changes)
    assert words(departures(run, row("mocov2+ours-hp"))) == [text]


def test_sizes_without_the_row_are_those_below_the_frameworks_recipe() -> None:
    run = resolve("simclr+ours-hp", {"optimization.epochs": 100, "optimization.batch": 64, "optimization.lr": 1.0})
    assert scale_of(sizes_below_recipe(run)) == "100 epochs, batch 64"
    assert sizes_below_recipe(Run(framework=run.framework, data=run.data)) == (
        Departure("optimization.batch", 128, 256),
    )


def test_batch_and_queue_decide_a_column_only_where_nothing_else_is_smaller() -> None:
    batch, queue = Departure("optimization.batch", 64), Departure("moco.queue", 1024)
    crop, epochs = Departure("data.crop", 64), Departure("optimization.epochs", 2)
    assert common_sizes([queue, batch, epochs, crop]) == [crop, epochs]
    assert common_sizes([queue, batch]) == [batch, queue]
    assert common_sizes([]) == []


def test_of_an_older_results_scale_the_detectors_part_is_kept() -> None:
    detection = Departure("detection", "9 iterations, 64 px")
    sizes = [Departure("encoder.arch", "resnet18"), Departure("data.crop", 64), Departure("data.scenes.size", 80)]
    data = Departure("detection data", "voc07+12 on scenes (10 classes, 1024 images)")
    scale = scale_of([*sizes, detection])
    assert scale == "resnet18, 64 px, detection of 9 iterations, 64 px, data.scenes.size=80"
    assert recorded_sizes(scale) == "detection of 9 iterations, 64 px"
    assert recorded_sizes(scale_of([*sizes, data])) == str(data)
    assert recorded_sizes(scale_of([*sizes, detection, data])) == f"detection of 9 iterations, 64 px, {data}"
    assert recorded_sizes(scale_of(sizes)) == ""
