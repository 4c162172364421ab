"""The reader of result files into one Arrow table: whole files at the speed of a parser, damaged ones line by line."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json

from repro.errors import UserError
from repro.filesystem.files import read_regular
from repro.runs.records import ADDED, FIELDS, SCHEMA, Result, is_time, read_rows

BATCH_BYTES = 32 * 2**20
"""Files are parsed together up to this size: a run's own file is too short to be worth a call."""

# The types are given, not inferred: a file whose values all look like whole numbers would get another type.
_ARROW = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_()}
_SCHEMA = pa.schema([(name, _ARROW[kind]) for name, kind in get_type_hints(Result).items()])
_PARSE = arrow_json.ParseOptions(explicit_schema=_SCHEMA, unexpected_field_behavior="error")


@dataclass(frozen=True)
class _File:
    path: Path
    content: bytes

    @property
    def lines(self) -> int:
        """The number of whole lines, empty ones included."""
        return self.content.count(b"\n")


def read_table(paths: Sequence[Path]) -> tuple[pa.Table, list[str]]:
    """Reads result files.

    Args:
        paths: Files of `repro.runs.records`.

    Returns:
        A table with the columns of `repro.runs.records.FIELDS` and `path`, texts dictionary-encoded, in the order of
        the files and their lines; and the warnings of `repro.runs.records.read`.

    Raises:
        UserError: A file cannot be read.
    """
    tables, warnings = [_empty()], []  # the empty one gives the columns if there is no file
    for batch in _batches(paths):
        table_of_batch = _parse_whole(batch)
        if table_of_batch is not None:
            tables.append(table_of_batch)
            continue
        # The batch has a damaged file: each file is parsed alone, and only the damaged ones line by line.
        for file in batch:
            table = _parse_whole([file])
            if table is None:  # the slow reader says what is wrong with which line
                rows, troubles = read_rows(file.path)
                warnings += troubles
                table = _from_rows(rows, file.path)
            tables.append(table)
    return pa.concat_tables(tables).unify_dictionaries(), warnings


def _batches(paths: Sequence[Path]) -> Iterator[list[_File]]:
    """Reads the files, and yields them in batches of about `BATCH_BYTES` in their order."""
    batch: list[_File] = []
    size = 0
    for path in paths:
        try:
            file = _File(path, read_regular(path, sys.maxsize))
        except OSError as error:
            mend = "check the path and its permissions"
            raise UserError(f"cannot read {path}: {error.strerror}", mend=mend) from error
        batch.append(file)
        size += len(file.content)
        if size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _parse_whole(files: Sequence[_File]) -> pa.Table | None:
    """Parses files that hold nothing but good records of this schema; returns None if any holds anything else."""
    filled = [file for file in files if file.content]
    if not filled:
        return _empty()
    if not all(_is_parsable(file) for file in filled):
        return None
    try:
        table = arrow_json.read_json(
            pa.BufferReader(b"".join(file.content for file in filled)), parse_options=_PARSE
        ).select(FIELDS)
    except (pa.ArrowInvalid, KeyError):
        return None
    for name, absent in ADDED.items():
        table = table.set_column(table.schema.get_field_index(name), name, pc.fill_null(table[name], absent))
    # Arrow skips empty lines and reads several objects on one line: then line counts would give rows to wrong files.
    counts = [file.lines for file in filled]
    if table.num_rows != sum(counts) or not _is_good(table):
        return None
    return _with_paths(table, [file.path for file in filled], counts)


def _is_parsable(file: _File) -> bool:
    """Whether a file is UTF-8 text whose lines begin with `{` and end with a newline; only such files go to Arrow.

    Files are joined, so a last line without an end would run into the next file. A `null` at the start of a block of
    Arrow's, which may be any line, crashes the process (apache/arrow#47409). Arrow takes a carriage return for the end
    of a line, too. Bytes that are no UTF-8 are read, and fail only when they are used.
    """
    try:
        file.content.decode()
    except UnicodeDecodeError:
        return False
    begun = file.content.count(b"\n{") + file.content.startswith(b"{")
    return begun == file.lines and file.content.endswith(b"\n") and b"\r" not in file.content


def _is_good(table: pa.Table) -> bool:
    """Whether all rows pass the checks of `repro.runs.records`, which are made on whole columns here."""
    if any(column.null_count for column in table.columns):
        return False
    finite = pc.and_(pc.is_finite(table["value"]), pc.is_finite(table["duration_s"]))
    if not pc.all(finite).as_py() or pc.unique(table["schema"]).to_pylist() != [SCHEMA]:
        return False
    # Not by Arrow, which accepts times that `repro.runs.records` does not.
    return all(map(is_time, pc.unique(table["started"]).to_pylist()))


def _from_rows(rows: Sequence[tuple[object, ...]], path: Path) -> pa.Table:
    """Returns rows of `repro.runs.records.read_rows` as a table like the parser's."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(FIELDS)
    arrays = [pa.array(values, kind) for values, kind in zip(columns, _SCHEMA.types, strict=True)]
    return _with_paths(pa.Table.from_arrays(arrays, schema=_SCHEMA), [path], [len(rows)])


def _with_paths(table: pa.Table, paths: Sequence[Path], counts: Sequence[int]) -> pa.Table:
    """Adds the column `path`, in which each path fills as many rows as its count says; dictionary-encodes the texts."""
    columns = [column.dictionary_encode() if pa.types.is_string(column.type) else column for column in table.columns]
    indices = pa.array(np.repeat(np.arange(len(paths), dtype=np.int32), counts))
    path = pa.DictionaryArray.from_arrays(indices, pa.array([str(path) for path in paths], pa.string()))
    return pa.table([*columns, pa.chunked_array([path])], [*FIELDS, "path"])


def _empty() -> pa.Table:
    return _from_rows([], Path())
