"""Two sweeps side by side: what both measured, one recipe per number, and the settings in which they differ."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prediction_samples import rewritten
from run_samples import finished

from baselines import resolve
from repro.runs.records import append, read
from results.collection.collect import collect_runs
from results.collection.runs import find_runs
from results.report import page as report_page
from results.report.page import build
from results.tables.sweep_pairs import sweep_pairs


def test_two_sweeps_are_compared_where_they_measured_the_same(tmp_path: Path) -> None:
    for seed in range(3):
        finished(tmp_path, "mocov2", seed, {("imagenet100", "top1"): 60.0 + seed}, sweep="one")
        finished(
            tmp_path, "mocov2", seed, {("imagenet100", "top1"): 62.0 + 2 * seed}, sweep="two", optimization__lr=1.0
        )
    finished(tmp_path, "simclr", 0, {("imagenet100", "top1"): 60.0}, sweep="two")
    finished(tmp_path, "mocov2+mscn", 0, {("imagenet100", "top1"): 60.0}, sweep="one")
    runs = find_runs([tmp_path], resolve)
    (pair,) = sweep_pairs(collect_runs(runs))
    assert (pair.first, pair.second, pair.settings) == ("one", "two", {"optimization.lr": "0.015 → 1.0"})
    (line,) = pair.lines
    assert (line.label, line.first, line.second) == ("MoCo v2", "61.00 ± 1.00 (3)", "64.00 ± 2.00 (3)")
    assert line.comparison.differences == (2.0, 3.0, 4.0)
    assert sweep_pairs(None) == []


def test_two_sweeps_are_compared_by_each_protocol_that_both_have(tmp_path: Path) -> None:
    """Of two numbers of neighbours by kNN, only the alphabetically first used to be told."""
    for sweep, more in (("one", 0.0), ("two", 2.0)):
        settings: dict[str, Any] = {"sweep": sweep, "optimization__lr": 0.1 + more}
        results = finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 60.0 + more}, **settings).results
        (row,) = read(results)[0]
        results.unlink()
        measured = [(f"knn-v1[k={k}]", row.value - k / 100) for k in (20, 200, *([5] if more else []))]
        append(results, [replace(row, task="knn", protocol=protocol, value=value) for protocol, value in measured])
    (pair,) = sweep_pairs(collect_runs(find_runs([tmp_path], resolve)))
    assert [(line.measure, line.first, line.second) for line in pair.lines] == [
        ("imagenet100, knn-v1[k=20]", "59.80 (1)", "61.80 (1)"),
        ("imagenet100, knn-v1[k=200]", "58.00 (1)", "60.00 (1)"),
    ]


def test_where_no_protocol_is_of_both_the_line_names_either(tmp_path: Path) -> None:
    for sweep, epochs in (("one", 10), ("two", 20)):
        results = finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 50.0 + epochs}, sweep=sweep).results
        rewritten(results, protocol=f"linear-moco-v1[epochs={epochs}]")
    (pair,) = sweep_pairs(collect_runs(find_runs([tmp_path], resolve)))
    assert [(line.measure, line.first, line.second) for line in pair.lines] == [
        ("imagenet100, linear-moco-v1[epochs=10] / linear-moco-v1[epochs=20]", "60.00 (1)", "70.00 (1)")
    ]


def test_a_page_shows_fifteen_pairs_those_with_most_in_common(tmp_path: Path) -> None:
    for place, sweep in enumerate("abcdefg"):  # 21 pairs
        values = {(dataset, "top1"): 60.0 for dataset in ("imagenet100", *(["flowers102"] if sweep in "fg" else []))}
        finished(tmp_path, "mocov2", 0, values, sweep=sweep, optimization__epochs=2 + place)
    pairs = sweep_pairs(collect_runs(find_runs([tmp_path], resolve)))
    assert len(pairs) == 15
    assert [(pair.first, pair.second) for pair in pairs if len(pair.lines) == 2] == [("f", "g")]
    assert pairs == sorted(pairs, key=lambda pair: (pair.first, pair.second))


def test_runs_of_two_recipes_are_no_number_of_a_sweep(tmp_path: Path) -> None:
    """They used to be averaged, which no table does."""
    for sweep, rates in (("one", (0.03, 0.03)), ("two", (0.06, 0.03))):
        for seed, rate in enumerate(rates):
            finished(tmp_path, "mocov2", seed, {("imagenet100", "top1"): 60.0}, sweep=sweep, optimization__lr=rate)
    runs = find_runs([tmp_path], resolve)
    assert sweep_pairs(collect_runs(runs)) == []
    for sweep, rate in (("one", 0.5), ("two", 0.7)):
        finished(tmp_path, "simclr", 0, {("imagenet100", "top1"): 60.0}, sweep=sweep, optimization__lr=rate)
    runs = find_runs([tmp_path], resolve)
    (pair,) = sweep_pairs(collect_runs(runs))
    assert ([line.label for line in pair.lines], pair.settings) == (
        ["SimCLR"],
        {"optimization.lr": "0.5 → 0.7"},  # a method that is left out has two rates, which are not told
    )


def test_of_two_sweeps_settings_that_cannot_be_read_are_not_said_to_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to say `Settings that differ: none`, of runs whose settings could not be read."""
    for sweep, epochs in (("one", 2), ("two", 3)):
        for method in ("mocov2", "simclr"):
            values = {("imagenet100", "top1"): 60.0}
            folder = finished(tmp_path, method, 0, values, sweep=sweep, optimization__epochs=epochs)
            if (sweep, method) == ("two", "simclr"):
                folder.run_yaml.unlink()
    runs = find_runs([tmp_path], resolve)
    (pair,) = sweep_pairs(collect_runs(runs))
    assert (pair.settings, pair.unknown) == ({"optimization.epochs": "2 → 3"}, ("SimCLR",))
    monkeypatch.setattr(report_page, "_plots", lambda *_: ([], []))
    shown = build(runs, collect_runs(runs))
    told = "Not compared are those of SimCLR: a run.yaml is missing or of another version.</p>"
    assert f"Settings that differ: optimization.epochs 2 → 3. {told}" in shown
    runs = [run for run in runs if run.method == "simclr"]
    assert f"Settings that differ: none that is known. {told}" in build(runs, collect_runs(runs))


def test_it_is_the_same_whichever_sweeps_settings_cannot_be_read(tmp_path: Path) -> None:
    for sweep, epochs in (("one", 2), ("two", 3)):
        values = {("imagenet100", "top1"): 60.0}
        folder = finished(tmp_path, "mocov2", 0, values, sweep=sweep, optimization__epochs=epochs)
        if sweep == "one":
            folder.run_yaml.unlink()
    (pair,) = sweep_pairs(collect_runs(find_runs([tmp_path], resolve)))
    assert (pair.settings, pair.unknown) == ({}, ("MoCo v2",))


@pytest.mark.parametrize("key", ["protocol", "split"])
def test_what_tables_keep_apart_is_no_number_of_a_sweep(tmp_path: Path, key: str) -> None:
    """Seeds with different measurements used to be averaged, under the first one's heading."""
    for sweep, values in (("one", ("a", "a")), ("two", ("b", "c"))):
        for seed, value in enumerate(values):
            results = finished(tmp_path, "mocov2", seed, {("imagenet100", "top1"): 60.0}, sweep=sweep).results
            (row,) = read(results)[0]
            results.unlink()
            append(results, [replace(row, **{key: f"{getattr(row, key)}[{value}=1]"})])
    runs = find_runs([tmp_path], resolve)
    assert sweep_pairs(collect_runs(runs)) == []
