"""Results are appended whole and read back exactly; damage to a file costs no more than its line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_samples import RESULT, record, write_records

from repro.errors import UserError
from repro.runs.records import FIELDS, Result, append, read


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


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

    monkeypatch.setattr("repro.filesystem.files.os.fsync", full)
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
        ({"seed": 2**63}, "seed is a number of more than 64 bits; skipped"),
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


def test_a_missing_field_is_named_but_an_old_file_without_the_newer_ones_is_read(path: Path) -> None:
    short, old = record(), record()
    del short["metric"], old["schema"], old["predictions"], old["evaluation_scale"]
    write_records(path, short, old)
    results, warnings = read(path)
    assert results == [RESULT]
    assert warnings == [f"{path}:1: field 'metric' is missing; skipped"]


def test_lines_that_are_json_but_no_record_are_skipped(path: Path) -> None:
    path.write_text("[1, 2]\n\n17\n")
    assert read(path) == ([], [f"{path}:1: not a JSON object; skipped (and 1 more line)"])


def test_an_unknown_field_is_ignored_and_said_once_for_many_lines(path: Path) -> None:
    write_records(path, record(), *[record(colour="red")] * 3)
    results, warnings = read(path)
    assert results == [RESULT] * 4
    assert warnings == [f"{path}:2: unknown field 'colour'; ignored (and 2 more lines)"]


def test_a_record_in_another_order_with_a_whole_number_is_the_same_record(path: Path) -> None:
    write_records(path, dict(reversed(record(value=41, duration_s=3, predictions="predictions/all.parquet").items())))
    (result,), warnings = read(path)
    assert result == replace(RESULT, value=41.0, duration_s=3.0, predictions="predictions/all.parquet")
    assert type(result.value) is float
    assert warnings == []


def test_the_fields_are_the_ones_of_the_file(path: Path) -> None:
    append(path, [RESULT])
    assert tuple(json.loads(path.read_text())) == FIELDS


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "demo" / "mocov2" / "s0-0a1b2c3d" / "results.jsonl"
    path.parent.mkdir(parents=True)
    return path


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
