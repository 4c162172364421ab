"""One measured number with its provenance, kept as append-only JSON lines.

A run's `results.jsonl` holds one JSON object per line. Lines are only ever added, so a crash can cost the line that was
being written and no other; a reader warns of lines that it cannot read, and goes on.
"""

import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, get_type_hints

from repro.errors import UserError, system_mend
from repro.filesystem.files import append_lines, read_regular
from repro.quantities import counted

SCHEMA = 1
"""Version of the records' layout."""


@dataclass(frozen=True)
class Result:
    """One measured number and what it takes to trace it to its run.

    Attributes:
        run_id: Hash of the run's content; the same run has the same id everywhere.
        recipe: Hash of the run's content without its seed; only runs of one recipe may be averaged.
        sweep: Name of the sweep that the run belongs to.
        method: A row of the paper's tables, e.g. `mocov2+ours-hp`.
        framework: `mocov2`, `simclr`, `supervised` or `external` (weights that were imported).
        strategy: `none`, `high_pass`, `strong_blur`, `mean_fill` or `learned`.
        fidelity: `paper`, `released`, or the paper's equations with the released parts named.
        seed: Seed of the run.
        task: What was done with the checkpoint, e.g. `linear`.
        dataset: Dataset that the number was measured on.
        split: Split of that dataset, e.g. `val`.
        protocol: Name and version of the evaluation, with its departures, e.g. `linear-moco-v1[epochs=10]`.
        metric: What was measured, e.g. `top1` (the last epoch) or `top1_best`.
        value: The number; percent for accuracies. Always finite.
        scale: The sizes of pretraining and evaluation that are smaller than the paper's, as far as the run alone tells;
            empty if none are. Tables compare the run's settings with its method's row
            (`results.collection.row_comparison`).
        commit: Commit of the code that measured it.
        dirty: Whether the work tree had uncommitted changes.
        device: What it was measured on.
        started: When the evaluation started, ISO 8601, UTC.
        duration_s: How long it took, in seconds.
        schema: Version of this record's layout.
        predictions: File in the run's folder that the number is computed from, by image (`repro.runs.predictions`) or
            by detection; empty if none was kept.
        predictions_sha256: Checksum of that file, 64 hex digits; empty where there is none.
        evaluation_scale: The evaluation's part of `scale`, such as a detector's training; empty if that has the paper's
            size.
    """

    run_id: str
    recipe: str
    sweep: str
    method: str
    framework: str
    strategy: str
    fidelity: str
    seed: int
    task: str
    dataset: str
    split: str
    protocol: str
    metric: str
    value: float
    scale: str
    commit: str
    dirty: bool
    device: str
    started: str
    duration_s: float
    schema: int = SCHEMA
    predictions: str = ""
    predictions_sha256: str = ""
    evaluation_scale: str = ""


# Looked up once: a million rows are checked against them, and dataclasses' own functions are slow.
_TYPES: dict[str, type] = get_type_hints(Result)
FIELDS: tuple[str, ...] = tuple(_TYPES)
"""Names of a record's fields, in the order in which they are written."""
ADDED: dict[str, str] = {"predictions": "", "predictions_sha256": "", "evaluation_scale": ""}
"""Fields that older files lack -> what stands for them; there, `scale` alone tells the evaluation's scale."""
_EXACT = tuple(_TYPES.values())
_NUMBERS = (FIELDS.index("value"), FIELDS.index("duration_s"))
_STARTED = FIELDS.index("started")
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:?[0-9]{2})?)?"
)
"""Times that every reader of ISO 8601 accepts; Python's accepts week dates and odd separators too, pandas does not."""
_WHOLE_NUMBERS = range(-(2**63), 2**63)
"""Columns of whole numbers have 64 bits."""


def latest(rows: Iterable[Result]) -> list[Result]:
    """Returns the rows without those that were measured again later: files of rows are only appended to.

    Args:
        rows: The rows, in the order of their file.
    """
    newest: dict[tuple[str, ...], Result] = {}
    for row in rows:
        newest[row.run_id, row.method, row.task, row.dataset, row.split, row.protocol, row.metric] = row
    return list(newest.values())


def append(path: Path, results: Sequence[Result]) -> None:
    """Adds results to a file: all of them, or none.

    The lines go out in one write, followed by fsync. Where an earlier write was cut off in the middle of a line, the
    new lines start on a line of their own, so that the torn one spoils nothing.

    Args:
        path: The run's `results.jsonl`; made if it is not there. Its folder must exist.
        results: What to add; nothing is written if it is empty.

    Raises:
        UserError: A result holds a wrong type or a number that is not finite, or the file cannot be written.
    """
    if not results:
        return
    # Every record is checked before the first is written.
    payload = "".join(_line(result) for result in results).encode()
    try:
        append_lines(path, payload)
    except OSError as error:
        mend = system_mend(error, "check the disk's space and the folder's permissions, and evaluate again")
        raise UserError(f"cannot add results to {path}: {error.strerror}; nothing was added", mend=mend) from error


def read(path: Path) -> tuple[list[Result], list[str]]:
    """Reads a file of results.

    Args:
        path: A `results.jsonl`.

    Returns:
        The results in the order of the file, and one warning per kind of trouble, each with file and line.

    Raises:
        UserError: The file cannot be opened.
    """
    rows, warnings = read_rows(path)
    return [Result(*row) for row in rows], warnings


def read_rows(path: Path) -> tuple[list[tuple[Any, ...]], list[str]]:
    """Reads a file of results as plain tuples, for callers that read very many.

    Args:
        path: A `results.jsonl`.

    Returns:
        The values of each result in the order of `FIELDS`, and the warnings of `read`.

    Raises:
        UserError: The file cannot be opened.
    """
    try:
        lines = read_regular(path, sys.maxsize).split(b"\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", mend="check the path and its permissions") from error
    rows: list[tuple[Any, ...]] = []
    line_numbers: dict[str, list[int]] = {}  # by the trouble that they have
    for number, line in enumerate(lines, start=1):
        # Behind the file's last newline `split` leaves an empty piece. Anything else there was not written to its end.
        if not line:
            continue
        try:
            record = _parse(line, last=number == len(lines))
            rows.append(_values(record))
        except ValueError as error:
            line_numbers.setdefault(f"{error}; skipped", []).append(number)
        else:
            for name in record.keys() - _TYPES.keys():
                line_numbers.setdefault(f"unknown field {name!r}; ignored", []).append(number)
    return rows, [_warning(path, trouble, numbers) for trouble, numbers in line_numbers.items()]


def _line(result: Result) -> str:
    """Returns a result as a line of JSON, with its newline.

    Raises:
        UserError: The result holds a wrong type or a number that is not finite. That is a fault of the code that
            measured it, so there is no mend.
    """
    try:
        values = _values(vars(result))
    except ValueError as error:
        raise UserError(
            f"cannot record {result.metric} of {result.method}, run {result.run_id}: {error}; nothing was added"
        ) from error
    return json.dumps(dict(zip(FIELDS, values, strict=True))) + "\n"


def _parse(line: bytes, *, last: bool) -> dict[str, Any]:
    """Returns the JSON object that a line holds.

    Args:
        line: The line, without its newline.
        last: Whether the line is what follows the file's last newline. A write that was cut off leaves its beginning
            there; the next one begins a line of its own, and leaves the torn one in the middle of the file.

    Raises:
        ValueError: It holds none.
    """
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError("the last line is torn (a write was cut off)" if last else "not a line of JSON") from error
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return record


def _values(record: dict[str, Any]) -> tuple[Any, ...]:
    """Returns the values of one record in the order of `FIELDS`, checked.

    Raises:
        ValueError: Unknown schema, missing field, wrong type, a number that is not finite or has more than 64 bits,
            text that is no Unicode, or no ISO 8601 time.
    """
    if (schema := record.get("schema", SCHEMA)) != SCHEMA:
        raise ValueError(f"schema {schema!r} is unknown, this version reads {SCHEMA}")
    values = tuple(record.values())
    # A record that we wrote passes here; the field-by-field check is for the others, and five times slower.
    if tuple(record) != FIELDS or tuple(map(type, values)) != _EXACT:
        values = tuple(_field(record, name, kind) for name, kind in _TYPES.items())
    for index in _NUMBERS:
        if not math.isfinite(values[index]):
            raise ValueError(f"{FIELDS[index]} is {values[index]}, not a finite number")
    for name, value in zip(FIELDS, values, strict=True):
        if type(value) is int and value not in _WHOLE_NUMBERS:
            raise ValueError(f"{name} is a number of more than 64 bits")
        if type(value) is str and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise ValueError(f"{name} is {value!r}, which is no Unicode text")
    if not is_time(values[_STARTED]):
        raise ValueError(f"started is {values[_STARTED]!r}, not an ISO 8601 time")
    return values


def is_time(text: str) -> bool:
    """Returns whether a text is a time in ISO 8601, as rows have it; all readers of rows use this check."""
    try:
        # Both checks: the pattern does not know the lengths of months.
        return _TIME.fullmatch(text) is not None and bool(datetime.fromisoformat(text))
    except ValueError:
        return False


def _field(record: dict[str, Any], name: str, kind: type) -> Any:
    """Returns the value of one field; a whole number is taken where a float belongs.

    Raises:
        ValueError: The field is missing or of another type.
    """
    if name in ADDED and record.get(name) is None:
        return ADDED[name]
    if name not in record:
        if name == "schema":
            return SCHEMA  # the first files had no such field
        raise ValueError(f"field {name!r} is missing")
    value = record[name]
    # NumPy's float64 is a float; a bool is an int, and no number here.
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:  # a whole number may have any length
            return math.inf
    if type(value) is not kind:
        raise ValueError(f"field {name!r} is {type(value).__name__}, not {kind.__name__}")
    return value


def _warning(path: Path, trouble: str, numbers: list[int]) -> str:
    """Returns one warning for all lines of a file with the same trouble, naming the first of them."""
    more = f" (and {counted(len(numbers) - 1, 'more line')})" if len(numbers) > 1 else ""
    return f"{path}:{numbers[0]}: {trouble}{more}"
