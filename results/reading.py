"""Result files as one Arrow table: whole files at the speed of a parser, damaged ones line by line."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json

from repro.errors import UserError
from repro.runs.records import FIELDS, SCHEMA, Result, read_rows

BATCH_BYTES = 32 * 2**20
"""Files are parsed together up to this size: a run's own file is too short to be worth a call."""

_ARROW = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_()}
_SCHEMA = pa.schema([(name, _ARROW[kind]) for name, kind in get_type_hints(Result).items()])
_PARSE = arrow_json.ParseOptions(explicit_schema=_SCHEMA, unexpected_field_behavior="error")


@dataclass(frozen=True)
class _File:
    path: Path
    content: bytes

    @property
    def lines(self) -> int:
        return self.content.count(b"\n")


def read_table(paths: Sequence[Path]) -> tuple[pa.Table, list[str]]:
    """Read result files.

    Args:
        paths: Files of `repro.runs.records`.

    Returns:
        A table with the columns of `FIELDS` and `path`, texts dictionary-encoded, in the order of the files and their
        lines; and the warnings of `repro.runs.records.read`.

    Raises:
        UserError: A file cannot be read.
    """
    parts, warnings = [_empty()], []
    for batch in _batches(paths):
        whole = _parse_whole(batch)
        if whole is not None:
            parts.append(whole)
            continue
        for file in batch:
            alone = _parse_whole([file])
            if alone is None:  # the careful reader says what is wrong with which line
                rows, troubles = read_rows(file.path)
                warnings += troubles
                alone = _from_rows(rows, file.path)
            parts.append(alone)
    return pa.concat_tables(parts).unify_dictionaries(), warnings


def _batches(paths: Sequence[Path]) -> Iterator[list[_File]]:
    batch: list[_File] = []
    size = 0
    for path in paths:
        try:
            file = _File(path, path.read_bytes())
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; check the path and its permissions") from error
        batch.append(file)
        size += len(file.content)
        if size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _parse_whole(files: Sequence[_File]) -> pa.Table | None:
    """Parse files that hold nothing but good records of this schema; None where any holds anything else."""
    filled = [file for file in files if file.content]
    if not filled:
        return _empty()
    if not all(file.content.endswith(b"\n") for file in filled):
        return None
    try:
        table = arrow_json.read_json(
            pa.BufferReader(b"".join(file.content for file in filled)), parse_options=_PARSE
        ).select(FIELDS)
    except (pa.ArrowInvalid, KeyError):
        return None
    counts = [file.lines for file in filled]
    if table.num_rows != sum(counts) or not _is_good(table):
        return None
    return _with_paths(table, [file.path for file in filled], counts)


def _is_good(table: pa.Table) -> bool:
    if any(column.null_count for column in table.columns):
        return False
    finite = pc.and_(pc.is_finite(table["value"]), pc.is_finite(table["duration_s"]))
    return bool(pc.all(finite).as_py()) and pc.unique(table["schema"]).to_pylist() == [SCHEMA] and _has_times(table)


def _has_times(table: pa.Table) -> bool:
    try:
        pc.cast(pc.unique(table["started"]), pa.timestamp("us", tz="UTC"))
    except pa.ArrowInvalid:
        return False
    return True


def _from_rows(rows: Sequence[tuple[object, ...]], path: Path) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(FIELDS)
    arrays = [pa.array(values, kind) for values, kind in zip(columns, _SCHEMA.types, strict=True)]
    return _with_paths(pa.Table.from_arrays(arrays, schema=_SCHEMA), [path], [len(rows)])


def _with_paths(table: pa.Table, paths: Sequence[Path], counts: Sequence[int]) -> pa.Table:
    columns = [column.dictionary_encode() if pa.types.is_string(column.type) else column for column in table.columns]
    indices = pa.array(np.repeat(np.arange(len(paths), dtype=np.int32), counts))
    path = pa.DictionaryArray.from_arrays(indices, pa.array([str(path) for path in paths], pa.string()))
    return pa.table([*columns, pa.chunked_array([path])], [*FIELDS, "path"])


def _empty() -> pa.Table:
    return _from_rows([], Path())
