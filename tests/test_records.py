"""Results are appended whole, read back exactly and collected once; damage to a file costs no more than its line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_rows import write_rows
from run_samples import finished
from table_samples import BASE

from baselines import resolve
from repro.errors import UserError
from repro.runs.provenance import SNAPSHOT
from repro.runs.records import FIELDS, Result, append, read
from results.bench import collecting
from results.collection.collect import collect, collect_runs, export, refuse_mixed
from results.collection.runs import find_runs

RESULT = replace(
    BASE,
    run_id="0a1b2c3d",
    sweep="demo",
    method="mocov2+ours-hp",
    strategy="high_pass",
    dataset="scenes",
    protocol="linear-moco-v1[epochs=10]",
    value=41.30000000000001,
    scale="resnet18, 64 px – 6 epochs",
    dirty=True,
    device="cpu",
    started="2026-11-22T10:00:00+00:00",
    duration_s=3.5,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def record(**changes: Any) -> dict[str, Any]:
    return {**vars(RESULT), **changes}


def write_records(path: Path, *records: dict[str, Any]) -> None:
    write_rows(path, records)


def test_what_is_appended_is_read_back_exactly_and_in_order(path: Path) -> None:
    results = [replace(RESULT, seed=seed, value=seed / 3) for seed in range(5)]
    append(path, results[:2])
    append(path, results[2:])
    assert read(path) == (results, [])
    assert path.read_bytes().count(b"\n") == 5


def test_appending_nothing_makes_no_file(path: Path) -> None:
    append(path, [])
    assert not path.exists()


def test_a_numpy_float_is_stored_as_a_plain_number(path: Path) -> None:
    append(path, [replace(RESULT, value=np.float64(12.5))])
    (result,), _ = read(path)
    assert result.value == 12.5
    assert type(result.value) is float


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"value": float("nan")}, "value is nan, not a finite number"),
        ({"duration_s": float("inf")}, "duration_s is inf, not a finite number"),
        ({"seed": "0"}, "field 'seed' is str, not int"),
        ({"dirty": 1}, "field 'dirty' is int, not bool"),
        ({"started": "yesterday"}, "not an ISO 8601 time"),
        ({"schema": 2}, "schema 2 is unknown"),
    ],
)
def test_one_bad_result_keeps_the_whole_batch_out(path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        append(path, [RESULT, replace(RESULT, **changes)])
    assert not path.exists()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot add results to .*missing/results\.jsonl: No such file"):
        append(tmp_path / "missing" / "results.jsonl", [RESULT])


def test_a_write_that_fails_halfway_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(path, [RESULT])
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("repro.files.os.fsync", full)
    with pytest.raises(
        UserError,
        match=r"the disk of .* is full, or its quota \(\d\.\d kB are .*B are free\); nothing was added",
    ):
        append(path, [RESULT, RESULT])
    assert path.read_bytes() == before


def test_a_file_that_cannot_be_read_is_named(path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*results\.jsonl: No such file"):
        read(path)


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_a_torn_last_line_is_skipped_and_said(path: Path, cut: int) -> None:
    append(path, [RESULT, RESULT])
    path.write_bytes(path.read_bytes()[: -1 - cut])
    results, warnings = read(path)
    assert results == [RESULT]
    assert warnings == [f"{path}:2: the last line is torn (a write was cut off); skipped"]


def test_a_last_line_that_lacks_only_its_newline_counts(path: Path) -> None:
    append(path, [RESULT])
    path.write_bytes(path.read_bytes()[:-1])
    assert read(path) == ([RESULT], [])


@pytest.mark.parametrize("tail", [b'{"run_id": "0a', b"\0\0\0\0", b"\xc3"])
def test_appending_after_a_torn_line_starts_a_line_of_its_own(path: Path, tail: bytes) -> None:
    append(path, [RESULT])
    with path.open("ab") as file:
        file.write(tail)
    append(path, [replace(RESULT, seed=1)])
    results, warnings = read(path)
    assert [result.seed for result in results] == [0, 1]
    assert warnings == [f"{path}:2: not a line of JSON; skipped"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema": 7}, "schema 7 is unknown, this version reads 1; skipped"),
        ({"value": "high"}, "field 'value' is str, not float; skipped"),
        ({"value": True}, "field 'value' is bool, not float; skipped"),
        ({"value": float("nan")}, "value is nan, not a finite number; skipped"),
        ({"seed": 0.0}, "field 'seed' is float, not int; skipped"),
        ({"method": None}, "field 'method' is NoneType, not str; skipped"),
        ({"started": "2026-22-11"}, "started is '2026-22-11', not an ISO 8601 time; skipped"),
        ({"started": "2026-W22-1"}, "started is '2026-W22-1', not an ISO 8601 time; skipped"),  # Python reads it
        ({"seed": 10**30}, "seed is a number of more than 64 bits; skipped"),
        ({"value": 10**400}, "value is inf, not a finite number; skipped"),
        ({"device": "gpu\ud800"}, "device is 'gpu\\ud800', which is no Unicode text; skipped"),
    ],
)
def test_a_line_that_cannot_be_used_is_skipped_with_file_and_line(
    path: Path, changes: dict[str, Any], reason: str
) -> None:
    write_records(path, record(), record(**changes), record(seed=1))
    results, warnings = read(path)
    assert [result.seed for result in results] == [0, 1]
    assert warnings == [f"{path}:2: {reason}"]


def test_a_missing_field_is_named_but_an_old_file_without_schema_is_read(path: Path) -> None:
    short, old = record(), record()
    del short["metric"], old["schema"]
    write_records(path, short, old)
    results, warnings = read(path)
    assert results == [RESULT]
    assert warnings == [f"{path}:1: field 'metric' is missing; skipped"]


def test_lines_that_are_json_but_no_record_are_skipped(path: Path) -> None:
    path.write_text("[1, 2]\n\n17\n")
    assert read(path) == ([], [f"{path}:1: not a JSON object; skipped (and 1 more lines)"])


def test_an_unknown_field_is_ignored_and_said_once_for_many_lines(path: Path) -> None:
    write_records(path, record(), *[record(colour="red")] * 3)
    results, warnings = read(path)
    assert results == [RESULT] * 4
    assert warnings == [f"{path}:2: unknown field 'colour'; ignored (and 2 more lines)"]


def test_a_record_in_another_order_with_a_whole_number_is_the_same_record(path: Path) -> None:
    write_records(path, dict(reversed(record(value=41, duration_s=3).items())))
    (result,), warnings = read(path)
    assert result == replace(RESULT, value=41.0, duration_s=3.0)
    assert type(result.value) is float
    assert warnings == []


def test_the_fields_are_the_ones_of_the_file(path: Path) -> None:
    append(path, [RESULT])
    assert tuple(json.loads(path.read_text())) == FIELDS


# --- collecting


def runs(*values: float, **changes: Any) -> list[Result]:
    """One run per value, with seeds from 0."""
    return [replace(RESULT, run_id=f"run{seed}", seed=seed, value=v, **changes) for seed, v in enumerate(values)]


def save(root: Path, *results: Result) -> None:
    for result in results:
        folder = root / result.sweep / result.method / f"s{result.seed}-{result.run_id}"
        folder.mkdir(parents=True, exist_ok=True)
        append(folder / "results.jsonl", [result])


def test_collect_finds_every_run_below_overlapping_roots_once(tmp_path: Path) -> None:
    save(tmp_path, *runs(1.0, 2.0), replace(RESULT, sweep="other", method="simclr", value=3.0))
    frame = collect([tmp_path, tmp_path / "demo"])
    assert list(frame.columns) == [*FIELDS, "path", "recorded_sweep", "departures"]
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


def test_the_later_measurement_wins_across_files_whatever_their_names(tmp_path: Path) -> None:
    later = replace(RESULT, sweep="a", value=9.0, started="2026-11-23T00:00:00Z")
    save(tmp_path, later, replace(RESULT, sweep="b"))
    frame = collect([tmp_path])
    assert list(frame["value"]) == [9.0]
    (warning,) = frame.attrs["warnings"]
    assert warning.startswith("1 run in several folders, of which the later measurement counts; 1 row left out: ")
    assert f"of run {RESULT.run_id} in {tmp_path / 'b'}" in warning


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


def test_nothing_to_collect_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no results\.jsonl below .*give a folder in which a run has been evaluated"):
        collect([tmp_path])
    with pytest.raises(UserError, match=r"no folder .*absent"):
        collect([tmp_path / "absent"])
    (tmp_path / "results.jsonl").write_text("{\n")
    with pytest.raises(UserError, match=r"no result in the 1 file.*results\.jsonl:1: not a line of JSON; skipped"):
        collect([tmp_path])


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


TIMES = st.sampled_from(
    ["2026-W01-1", "2026-02-30", "20260101", "2026-01-01 10", "9999-12-31T23:59:59", "0001-01-01", "2026-01-01X10"]
)
NUMBERS = st.integers() | st.floats() | st.sampled_from([2**63, -(2**64), 10**320])
ODD = st.none() | st.booleans() | st.just([1]) | st.just({}) | st.text(max_size=9) | st.just("\ud800") | TIMES | NUMBERS
"""What a hand or a broken writer may put where a value belongs."""


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


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
OF_TYPE: dict[type, st.SearchStrategy[Any]] = {
    str: WORDS,
    int: st.integers(-(2**63) + 1, 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
}
FIXED = {
    "schema": st.just(1),
    "started": st.datetimes().map(lambda time: f"{time.replace(microsecond=0).isoformat()}Z"),
}
RESULTS = st.fixed_dictionaries({name: FIXED.get(name, OF_TYPE[kind]) for name, kind in get_type_hints(Result).items()})


@given(contents=st.lists(RESULTS, max_size=4))
def test_what_is_measured_is_read_back_exactly(file: Path, contents: list[dict[str, Any]]) -> None:
    file.unlink(missing_ok=True)
    results = [Result(**content) for content in contents]
    append(file, results[:1])
    append(file, results[1:])
    assert not results or read(file) == (results, [])


def test_a_line_of_brackets_without_end_is_left_out(path: Path) -> None:
    path.write_text("[" * 100_000 + "\n" + json.dumps(record()) + "\n")
    assert read(path) == ([RESULT], [f"{path}:1: not a line of JSON; skipped"])


@pytest.mark.parametrize("line", ['{"value": NaN}', '{"seed": "0"}', '{"started": "soon"}', '{"value": true}'])
def test_the_fast_reader_skips_what_the_careful_one_skips(tmp_path: Path, line: str) -> None:
    save(tmp_path, RESULT)
    path = next(tmp_path.rglob("results.jsonl"))
    path.write_text(path.read_text() + json.dumps(record(**json.loads(line))) + "\n")
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
    assert took["collect_s"] + took["render_s"] < 5  # a million must stay below 10 s on two cores


def test_rows_of_one_sweep_share_a_scale_whatever_their_frameworks_batch_and_queue(tmp_path: Path) -> None:
    small = {"data__dataset": "scenes", "optimization__epochs": 20}
    finished(tmp_path, "mocov2", 0, {("scenes", "top1"): 1.0}, **small, optimization__batch=256, moco__queue=4096)
    finished(tmp_path, "mocov2+ours-hp", 0, {("scenes", "top1"): 1.0}, **small)
    frame = collect([tmp_path], resolve)
    assert set(frame["scale"]) == {"scenes (10 classes, 1024 images), 20 epochs"}
    finished(tmp_path, "mocov2", 1, {("scenes", "top1"): 1.0}, **small)
    with pytest.raises(UserError, match=r"runs of different recipes .* optimization.batch \(256 and 128\)"):
        refuse_mixed(collect([tmp_path], resolve))
