"""Results of many runs are collected once each into one long table, whatever a file contains."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from error_samples import message_of
from hypothesis import given
from hypothesis import strategies as st
from record_samples import RESULT, record, save, write_records
from run_samples import finished

from baselines import resolve
from repro.errors import UserError
from repro.runs.provenance import SNAPSHOT
from repro.runs.records import FIELDS, Result, latest, read, read_rows
from results.bench import collecting
from results.collection import reading
from results.collection.collect import collect, collect_runs, export, refuse_mixed
from results.collection.gathering import results_of
from results.collection.runs import find_runs
from results.tables.absence import lacking_a_number
from slurm.sweep_folder.ledger import Ledger


def runs(*values: float, **changes: Any) -> list[Result]:
    """One run per value, with seeds from 0."""
    return [replace(RESULT, run_id=f"run{seed}", seed=seed, value=v, **changes) for seed, v in enumerate(values)]


def test_collect_finds_every_run_below_overlapping_roots_once(tmp_path: Path) -> None:
    save(tmp_path, *runs(1.0, 2.0), replace(RESULT, sweep="other", method="simclr", value=3.0))
    frame = collect([tmp_path, tmp_path / "demo"])
    assert list(frame.columns) == [*FIELDS, "path", "recorded_sweep", "trained_on", "departures", "recorded_fidelity"]
    assert sorted(frame["value"]) == [1.0, 2.0, 3.0]
    assert frame["seed"].dtype == "int64"
    assert frame["value"].dtype == "float64"
    assert frame["dirty"].dtype == "bool"
    assert frame["started"].dt.tz is not None
    assert frame.attrs["warnings"] == []
    assert set(frame["path"]) == {str(path) for path in tmp_path.rglob("results.jsonl")}


def test_runs_recorded_in_a_copy_of_the_code_are_no_runs_of_the_sweep(tmp_path: Path) -> None:
    finished(tmp_path, "mocov2", 0, {("scenes", "top1"): 1.0})
    code = tmp_path / "full" / "code" / "0123456789ab"
    finished(code / "results", "mocov2", 1, {("scenes", "top1"): 2.0})
    assert len(collect([tmp_path])) == 2
    (code / SNAPSHOT).touch()
    assert collect([tmp_path])["seed"].tolist() == [0]


def test_a_measurement_made_again_replaces_the_earlier_one_and_is_said_once(tmp_path: Path) -> None:
    first, second = runs(1.0, 2.0)
    save(tmp_path, first, second, replace(first, value=5.0), replace(second, value=6.0))
    frame = collect([tmp_path])
    assert list(frame["value"]) == [5.0, 6.0]
    (warning,) = frame.attrs["warnings"]
    assert warning.startswith("2 rows measured again later")
    assert first.run_id in warning


def test_of_one_file_the_lower_line_counts_whatever_its_nodes_clock_said(tmp_path: Path) -> None:
    save(tmp_path, RESULT, replace(RESULT, value=5.0, started="2020-01-01T00:00:00Z"))
    frame = collect([tmp_path])
    path = frame["path"][0]
    assert list(frame["value"]) == [5.0] == [result.value for result in latest(read(Path(path))[0])]


def test_the_later_measurement_wins_across_files_whatever_their_names(tmp_path: Path) -> None:
    later = replace(RESULT, sweep="a", value=9.0, started="2026-11-23T00:00:00Z")
    save(tmp_path, later, replace(RESULT, sweep="b"))
    frame = collect([tmp_path])
    assert list(frame["value"]) == [9.0]
    (warning,) = frame.attrs["warnings"]
    assert warning.startswith("1 run in several folders, of which the later measurement counts: 1 row left out; ")
    assert f"of run {RESULT.run_id} in {tmp_path / 'b'}" in warning


def test_copies_of_a_run_that_tell_another_value_are_told_from_those_that_agree(tmp_path: Path) -> None:
    rows = [replace(RESULT, metric=metric, value=value) for value, metric in enumerate(("top1", "top5"), 1)]
    save(tmp_path, *rows, *(replace(row, sweep="e") for row in rows))
    (agreeing,) = collect([tmp_path]).attrs["warnings"]
    assert "another value" not in agreeing
    save(tmp_path, replace(rows[0], sweep="c"), replace(rows[1], sweep="c", value=9.0))
    frame = collect([tmp_path])
    assert list(frame["value"]) == [1.0, 2.0]
    (warning,) = frame.attrs["warnings"]
    assert "2 rows left out; first: top1 on" in agreeing
    assert "4 rows left out; first: top1 on" in warning
    assert "; left out with another value: 1, first: top5 on scenes of run" in warning
    assert warning.endswith(str(Path("c", RESULT.method, f"s{RESULT.seed}-{RESULT.run_id}", "results.jsonl")))


def test_of_a_run_that_was_trained_again_both_can_be_kept(tmp_path: Path) -> None:
    save(tmp_path, replace(RESULT, sweep="a", value=9.0, started="2026-11-23T00:00:00Z"), replace(RESULT, sweep="b"))
    frame = collect_runs(find_runs([tmp_path]), every_folder=True)
    assert list(frame["value"]) == [9.0, RESULT.value]
    assert frame.attrs["warnings"] == []


def test_another_metric_or_task_of_the_same_run_is_no_repetition(tmp_path: Path) -> None:
    save(tmp_path, RESULT, replace(RESULT, metric="top5"), replace(RESULT, task="knn"))
    frame = collect([tmp_path])
    assert len(frame) == 3
    assert frame.attrs["warnings"] == []


def test_trouble_in_a_file_is_handed_on_and_costs_only_its_lines(tmp_path: Path) -> None:
    save(tmp_path, *runs(1.0, 2.0))
    path = sorted(tmp_path.rglob("results.jsonl"))[0]
    with path.open("a") as file:
        file.write('{"run_id": "to')
    frame = collect([tmp_path])
    assert list(frame["value"]) == [1.0, 2.0]
    assert frame.attrs["warnings"] == [f"{path}:2: the last line is torn (a write was cut off); skipped"]


def test_what_was_submitted_is_passed_over_as_its_owner_alone_may_look_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, *runs(1.0, 2.0))
    sweep = tmp_path / "demo"
    (private := sweep / "logs" / "demo-pretrain-0123abcd").mkdir(parents=True)
    scandir = os.scandir

    def closed(path: Any) -> Any:  # root, who may run tests, could look into any folder
        if str(path) == str(private):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UserError, match=r"cannot look into .*demo-pretrain-0123abcd: Permission denied"):
        find_runs([tmp_path])
    Ledger(sweep).path.touch()  # now it is a sweep's folder
    assert [run.path.parent.parent for run in find_runs([tmp_path])] == [sweep, sweep]


def test_nothing_to_collect_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no results\.jsonl below .*give a folder in which a run has been evaluated"):
        collect([tmp_path])
    with pytest.raises(UserError, match=r"no folder .*absent"):
        collect([tmp_path / "absent"])
    (tmp_path / "results.jsonl").touch()
    with pytest.raises(UserError, match=r"no result in the 1 file below .*; mend: evaluate a run first"):
        collect([tmp_path])
    (tmp_path / "results.jsonl").write_text("{\n")
    with pytest.raises(UserError, match=r"no result in the 1 file.*results\.jsonl:1: not a line of JSON; skipped"):
        collect([tmp_path])


def test_a_file_that_a_full_disk_left_empty_holds_no_result_and_the_run_is_shown_all_the_same(tmp_path: Path) -> None:
    folder = finished(tmp_path, "mocov2", 0, {("imagenet100", "top1"): 70.0})
    (run,) = find_runs([tmp_path])
    assert run.state == "done"
    folder.results.write_bytes(b"")
    assert results_of([run]) == (None, [])
    assert run.state == "pretrained"
    assert [each.state for each in lacking_a_number([run])] == ["pretrained"]
    folder.results.write_text("{\n")
    assert results_of([run]) == (None, [f"{folder.results}:1: not a line of JSON; skipped"])
    folder.results.unlink()
    assert results_of([run]) == (None, ())


def test_results_that_are_no_file_are_told_and_no_run_is_left_out_for_it(tmp_path: Path) -> None:
    save(tmp_path, *runs(1.0, 2.0))
    path = sorted(tmp_path.rglob("results.jsonl"))[0]
    path.unlink()
    path.mkdir()
    (path.parent / "run.yaml").touch()  # makes the folder a run's
    with pytest.raises(UserError, match=r"results\.jsonl is not a regular file; mend: put a file in its place"):
        collect([tmp_path])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Path, most: int) -> bytes:  # as a file of mode 000 is to anybody but root
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    save(tmp_path, RESULT)
    (path,) = tmp_path.rglob("results.jsonl")
    monkeypatch.setattr(reading, "read_regular", closed)
    line = f"cannot read {path}: Permission denied; mend: check the path and its permissions"
    assert message_of(lambda: collect([tmp_path])) == line


def test_large_files_are_read_in_batches_and_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, *runs(1.0, 2.0, 3.0))
    whole = collect([tmp_path])
    monkeypatch.setattr(reading, "BATCH_BYTES", 1)
    assert collect([tmp_path]).equals(whole)


def test_one_sweep_can_be_chosen(tmp_path: Path) -> None:
    save(tmp_path, *runs(1.0, 2.0), replace(RESULT, sweep="other", value=3.0))
    assert list(collect([tmp_path], sweep="other")["value"]) == [3.0]
    with pytest.raises(UserError, match=r"no sweep 'oter' below .*; mend: did you mean 'other'\? known: demo, other"):
        collect([tmp_path], sweep="oter")


def test_a_damaged_file_costs_the_others_of_its_batch_nothing(tmp_path: Path) -> None:
    save(tmp_path, *runs(1.0, 2.0, 3.0))
    broken = sorted(tmp_path.rglob("results.jsonl"))[1]
    broken.write_text(broken.read_text().replace('"schema": 1', '"schema": 9'))
    frame = collect([tmp_path])
    assert list(frame["value"]) == [1.0, 3.0]
    assert frame.attrs["warnings"] == [f"{broken}:1: schema 9 is unknown, this version reads 1; skipped"]


def test_accuracies_that_are_no_percentages_are_told(tmp_path: Path) -> None:
    """A row of 173 % led its table and supported its claim without a warning."""
    rates = [replace(RESULT, metric=metric, value=8.5e5) for metric in ("lr", "l2", "l2@split=0")]
    save(tmp_path, *runs(0.0, 100.0, 173.0, -1.0), *rates)
    (odd,) = tmp_path.rglob("*run2/results.jsonl")
    (warning,) = collect([tmp_path]).attrs["warnings"]
    assert warning.startswith("2 values below 0 or above 100 %; first: top1 on scenes of run run2 in ")
    assert warning.endswith(str(odd))


TIMES = st.sampled_from(
    ["2026-W01-1", "2026-02-30", "20260101", "2026-01-01 10", "9999-12-31T23:59:59", "0001-01-01", "2026-01-01X10"]
)
NUMBERS = st.integers() | st.floats() | st.sampled_from([2**63, -(2**64), 10**320])
ODD = st.none() | st.booleans() | st.just([1]) | st.just({}) | st.text(max_size=9) | st.just("\ud800") | TIMES | NUMBERS
"""What a person or a broken writer may put in place of a value."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "demo" / "mocov2" / "s0-0a1b2c3d" / "results.jsonl"
    path.parent.mkdir(parents=True)
    return path


@given(damaged=st.dictionaries(st.sampled_from([*FIELDS, "more"]), ODD, min_size=1, max_size=2))
def test_whatever_stands_in_a_row_the_others_are_collected(file: Path, damaged: dict[str, Any]) -> None:
    write_records(file, record(), {**record(metric="top5"), **damaged}, record(metric="top1_best"))
    results, warnings = read(file)
    frame = collect([file.parents[2]])
    assert {"top1", "top1_best"} <= set(frame["metric"])
    assert frame.attrs["warnings"][: len(warnings)] == warnings
    assert len(results) == 3 or any(f"{file}:2:" in warning for warning in warnings)


@pytest.mark.parametrize(
    "line",
    [
        '{"value": NaN}',
        '{"seed": "0"}',
        '{"started": "soon"}',
        '{"started": "2026-11-22T10Z"}',  # which other readers of ISO 8601 accept, Arrow among them
        '{"started": "2026-11-22T10:00:00+01"}',
        '{"started": "0000-01-01T00:00:00Z"}',
        '{"value": true}',
    ],
)
def test_the_fast_reader_skips_what_the_careful_one_skips(tmp_path: Path, line: str) -> None:
    save(tmp_path, RESULT)
    path = next(tmp_path.rglob("results.jsonl"))
    path.write_text(path.read_text() + json.dumps(record(**json.loads(line))) + "\n")
    frame = collect([tmp_path])
    _, warnings = read(path)
    assert len(frame) == 1
    assert frame.attrs["warnings"] == warnings != []


def test_two_rows_in_one_line_are_skipped_by_the_fast_reader_too(tmp_path: Path) -> None:
    """Arrow reads both rows of a line that every other reader takes for damaged."""
    save(tmp_path, *runs(1.0, 2.0))
    path = sorted(tmp_path.rglob("results.jsonl"))[0]
    path.write_text(path.read_text() + 2 * json.dumps(record(metric="top5")) + "\n")
    frame = collect([tmp_path])
    assert list(frame["value"]) == [1.0, 2.0]
    assert frame.attrs["warnings"] == [f"{path}:2: not a line of JSON; skipped"]


def test_whole_files_are_left_to_the_fast_reader_and_damaged_ones_alone_to_the_careful_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line by line, a million rows take minutes; the result alone would not show which reader was used."""
    save(tmp_path, *runs(1.0, 2.0, 3.0))
    read_with_care: list[Path] = []
    monkeypatch.setattr(reading, "read_rows", lambda path: (read_with_care.append(path), read_rows(path))[1])
    assert list(collect([tmp_path])["value"]) == [1.0, 2.0, 3.0]
    assert read_with_care == []
    torn = sorted(tmp_path.rglob("results.jsonl"))[1]
    torn.write_text(torn.read_text() + '{"run_id": ')
    assert list(collect([tmp_path])["value"]) == [1.0, 2.0, 3.0]
    assert read_with_care == [torn]


def test_the_careful_reader_takes_the_numbers_that_the_fast_one_takes(tmp_path: Path) -> None:
    save(tmp_path, RESULT, replace(RESULT, metric="top5", seed=-(2**63)), replace(RESULT, run_id="b", seed=2**63 - 1))
    assert sorted(collect([tmp_path])["seed"]) == [-(2**63), RESULT.seed, 2**63 - 1]
    for path in tmp_path.rglob("results.jsonl"):
        assert read(path)[1] == []


@pytest.mark.parametrize("name", ["demo", "mocov2", "linear"])
def test_bytes_that_are_no_text_cost_only_their_line(tmp_path: Path, name: str) -> None:
    save(tmp_path, RESULT)
    path = next(tmp_path.rglob("results.jsonl"))
    row = json.dumps(record(metric="top5")).encode()
    assert name.encode() in row
    path.write_bytes(path.read_bytes() + row.replace(name.encode(), name[:-1].encode() + b"\xff") + b"\n")
    frame = collect([tmp_path])
    assert list(frame["metric"]) == [RESULT.metric]
    assert frame.attrs["warnings"] == [f"{path}:2: not a line of JSON; skipped"]


@pytest.mark.parametrize(
    "spoilt",
    [
        pytest.param("null\n{row}\n", id="first"),
        pytest.param("nullx{row}\n{row}\n", id="within"),
        pytest.param("\n\n null\n{row}\n", id="after empty lines"),
        pytest.param("{row}\n" + "null\n" * 220_000, id="at a block"),
        pytest.param("{row}\n{row}\r" + "null\r" * 220_000 + "\n", id="after a carriage return"),
    ],
)
def test_a_null_in_the_place_of_a_row_does_not_end_the_program(tmp_path: Path, spoilt: str) -> None:
    save(tmp_path, RESULT)
    path = next(tmp_path.rglob("results.jsonl"))
    row = json.dumps(record())
    path.write_text(spoilt.replace("{row}", row), newline="")
    frame = collect([tmp_path])
    _, warnings = read(path)
    assert len(frame) == 1
    assert frame.attrs["warnings"] == warnings != []


def test_what_is_exported_is_read_back_with_its_types(tmp_path: Path) -> None:
    save(tmp_path, *runs(1.0, 2.0))
    frame = collect([tmp_path])
    export(frame, tmp_path / "out.parquet")
    export(frame, tmp_path / "out.csv")
    back = pd.read_parquet(tmp_path / "out.parquet")
    assert list(back.columns) == list(frame.columns)
    assert (back.dtypes.drop(["started", "departures"]) == frame.dtypes.drop(["started", "departures"])).all()
    assert back.astype(str).equals(frame.astype(str))
    assert list(pd.read_csv(tmp_path / "out.csv")["value"]) == [1.0, 2.0]
    with pytest.raises(UserError, match=r"cannot export to .*; mend: give a name that ends in \.parquet or \.csv"):
        export(frame, tmp_path / "out.xlsx")


def test_many_rows_are_collected_and_printed_quickly() -> None:
    took = collecting(20_000)
    assert took["rows"] == 20_000
    assert took["collect_s"] + took["render_s"] < 5  # limit for a million: 10 s on two cores


def test_rows_of_one_sweep_share_a_scale_whatever_their_frameworks_batch_and_queue(tmp_path: Path) -> None:
    small = {"data__dataset": "scenes", "optimization__epochs": 20}
    finished(tmp_path, "mocov2", 0, {("scenes", "top1"): 1.0}, **small, optimization__batch=256, moco__queue=4096)
    finished(tmp_path, "mocov2+ours-hp", 0, {("scenes", "top1"): 1.0}, **small)
    frame = collect([tmp_path], resolve)
    assert set(frame["scale"]) == {"scenes (10 classes, 1024 images), 20 epochs"}
    finished(tmp_path, "mocov2", 1, {("scenes", "top1"): 1.0}, **small)
    with pytest.raises(UserError, match=r"runs of different recipes .* optimization.batch \(256 and 128\)"):
        refuse_mixed(collect([tmp_path], resolve))


def test_a_run_without_settings_departs_as_its_other_seeds_do(tmp_path: Path) -> None:
    folders = [
        finished(tmp_path, "mocov2", seed, {("imagenet100", "top1"): 60.0}, optimization__epochs=20)
        for seed in range(2)
    ]
    folders[0].run_yaml.unlink()  # the first by path, whose folder stands for all of them
    assert set(collect([tmp_path], resolve)["departures"].astype(str)) == {"20 epochs (paper: 200)"}
    folders[1].run_yaml.unlink()
    assert set(collect([tmp_path], resolve)["departures"].astype(str)) == {
        "settings unknown: no run.yaml that this version reads"
    }


def test_each_row_keeps_its_own_scale_whichever_runs_lie_between(tmp_path: Path) -> None:
    # In the order of paths: a recipe, another one, and the first again, evaluated at another scale.
    scales = {"a": "64 px", "b": "96 px", "c": "64 px, 2 epochs"}
    for sweep, scale in scales.items():
        save(tmp_path, replace(RESULT, sweep=sweep, recipe="b" if sweep == "b" else "a", run_id=sweep, scale=scale))
    frame = collect([tmp_path])
    assert dict(zip(frame["sweep"], frame["scale"], strict=True)) == scales
