"""The tables on disk: a pyarrow schema for every row type, written and read with its version."""

from __future__ import annotations

import contextlib
import itertools
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lvg_data import records
from lvg_data.errors import DatasetError
from lvg_data.records import TABLES

#: raised when a column changes its name, type or meaning
SCHEMA_VERSION = 1
_GROUP_ROWS = 4096
#: what a list that others wrote may unpack to: a small file can claim any number of equal rows
MAX_LIST_ROWS, MAX_LIST_BYTES = 5_000_000, 256 << 20
_LIST_BATCH_ROWS = 64
_PART_COLUMNS = ("role", "key", "clip_id", "shard", "start_frame", "stop_frame", "members")
Row = TypeVar("Row")


class TableRow(Protocol):
    """A dataclass whose instances are rows of the table `TABLE`."""

    TABLE: ClassVar[str]


_SCALARS: dict[Any, pa.DataType] = {
    str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()
}  # fmt: skip


def _arrow_type(hint: Any) -> tuple[pa.DataType, bool]:
    """Arrow type and nullability of a field's type hint."""
    if isinstance(hint, types.UnionType):
        inner = next(arg for arg in typing.get_args(hint) if arg is not type(None))
        return _arrow_type(inner)[0], True
    if typing.get_origin(hint) is tuple:
        return pa.list_(pa.field("item", _arrow_type(typing.get_args(hint)[0])[0], False)), False
    if is_dataclass(hint):
        return pa.struct(_arrow_fields(typing.cast(type, hint))), False
    return _SCALARS[hint], False


def _arrow_fields(row_type: type) -> list[pa.Field]:
    hints = typing.get_type_hints(row_type, vars(records))
    columns = [(f.name, *_arrow_type(hints[f.name])) for f in fields(row_type)]
    return [pa.field(name, kind, nullable) for name, kind, nullable in columns]


def schema_of(row_type: type[TableRow]) -> pa.Schema:
    """The table's schema; its metadata carries the table's name and `SCHEMA_VERSION`."""
    metadata = {"lvg_table": row_type.TABLE, "lvg_schema_version": str(SCHEMA_VERSION)}
    return pa.schema(_arrow_fields(row_type), metadata=metadata)


def encode_table(row_type: type[Row], rows: Iterable[Row]) -> bytes:
    """Rows as Parquet, byte for byte the same for the same rows in the same order; read once, in groups."""
    columns = schema_of(typing.cast(type[TableRow], row_type))
    remaining = iter(rows)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, columns, compression="zstd", write_page_checksum=True) as writer:
        while group := list(itertools.islice(remaining, _GROUP_ROWS)):
            values = [asdict(typing.cast(Any, row)) for row in group]
            writer.write_table(pa.Table.from_pylist(values, columns))
    return sink.getvalue().to_pybytes()


def decode_table(row_type: type[Row], data: bytes, name: str) -> list[Row]:
    """The rows of a table that `encode_table` wrote.

    Raises:
      DatasetError: it is no Parquet file, or one of another table, version or schema.
    """
    with _named_errors(name):
        file = _open_parquet(data)
        table = file.read(use_threads=False)
        _check_schema(typing.cast(type[TableRow], row_type), table.schema, name)
    return [_row(row_type, values) for values in table.to_pylist()]


def _open_parquet(data: bytes) -> pq.ParquetFile:
    # One thread: tables are small, and pyarrow's I/O threads can abort a process that ends soon after.
    return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False, page_checksum_verification=True)


@contextlib.contextmanager
def _named_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as err:
        raise DatasetError(f"{name} is not a readable Parquet file ({err}); build the dataset again") from err


# ---- the parts table by columns: with a member a frame, its rows as objects would fill the memory -----------


@dataclass(frozen=True)
class Words:
    """A column of strings: that of row r is `values[codes[r]]`."""

    codes: np.ndarray
    values: list[str]


@dataclass(frozen=True)
class PartColumns:
    """The parts table, N rows with M members in all, in the order of the file; see `records.Part`.

    Attributes:
      start_frame, stop_frame: int64 [N].
      num_members: int32 [N]; those of a row come one after the other in the columns of the M.
      offset_bytes, size_bytes: int64 [M].
    """

    role: Words
    key: Words
    clip_id: Words
    shard: Words
    start_frame: np.ndarray
    stop_frame: np.ndarray
    num_members: np.ndarray
    member_name: Words
    offset_bytes: np.ndarray
    size_bytes: np.ndarray


def decode_part_columns(data: bytes, name: str) -> PartColumns:
    """The columns of a parts table that say where frames are; raises DatasetError as `decode_table` does."""
    groups = [_part_columns(schema_of(records.Part).empty_table())]
    with _named_errors(name):
        file = _open_parquet(data)
        _check_schema(records.Part, file.schema_arrow, name)
        for number in range(file.num_row_groups):
            groups.append(_part_columns(file.read_row_group(number, _PART_COLUMNS, use_threads=False)))
    pieces = {field.name: [getattr(group, field.name) for group in groups] for field in fields(PartColumns)}
    return PartColumns(**{column: _join(found) for column, found in pieces.items()})


def _part_columns(table: pa.Table) -> PartColumns:
    lists = table["members"].combine_chunks()
    members = lists.flatten()
    return PartColumns(
        **{column: _words(table[column].combine_chunks()) for column in ("role", "key", "clip_id", "shard")},
        start_frame=table["start_frame"].to_numpy(),
        stop_frame=table["stop_frame"].to_numpy(),
        num_members=lists.value_lengths().to_numpy(),
        member_name=_words(members.field("name")),
        offset_bytes=members.field("offset_bytes").to_numpy(),
        size_bytes=members.field("size_bytes").to_numpy(),
    )


def _join(pieces: list[Any]) -> Any:
    """One column of its pieces, arrays or `Words`."""
    if not isinstance(pieces[0], Words):
        return np.concatenate(pieces)
    codes: dict[str, int] = {}
    renamed = [
        np.array([codes.setdefault(v, len(codes)) for v in p.values], np.int32)[p.codes] for p in pieces
    ]
    return Words(np.concatenate(renamed), list(codes))


def _words(strings: pa.Array) -> Words:
    coded = strings.dictionary_encode()
    return Words(coded.indices.to_numpy(), coded.dictionary.to_pylist())


def read_parquet(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of the columns, and the rows as plain Python values, of a Parquet file that others wrote.

    Raises:
      ValueError or OSError: it is none, or unpacks to more than MAX_LIST_ROWS or MAX_LIST_BYTES.
    """
    file = pq.ParquetFile(path, pre_buffer=False)
    meta = file.metadata
    if meta.num_rows > MAX_LIST_ROWS:
        raise ValueError(f"it has {meta.num_rows:,} rows; at most {MAX_LIST_ROWS:,}")
    too_large = f"it unpacks to more than {MAX_LIST_BYTES:,} bytes"
    if sum(meta.row_group(group).total_byte_size for group in range(meta.num_row_groups)) > MAX_LIST_BYTES:
        raise ValueError(too_large)
    rows: list[dict[str, Any]] = []
    left_bytes = MAX_LIST_BYTES
    for batch in file.iter_batches(_LIST_BATCH_ROWS, use_threads=False):
        left_bytes -= sum(map(_unpacked_bytes, batch.columns))
        if left_bytes < 0:
            raise ValueError(too_large)
        rows += batch.to_pylist()
    return list(file.schema_arrow.names), rows


def _unpacked_bytes(column: pa.Array) -> int:
    """What a column takes where every value is written out; a dictionary has each value once."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    sizes = pc.binary_length(column.dictionary.cast(pa.large_string()))
    return int(pc.sum(pc.take(sizes, column.indices)).as_py() or 0)


def _check_schema(row_type: type[TableRow], found: pa.Schema, name: str) -> None:
    expected = schema_of(row_type)
    version = (found.metadata or {}).get(b"lvg_schema_version", b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise DatasetError(f"{name} has schema version {version}; this lvg reads {SCHEMA_VERSION}")
    if not found.equals(expected):
        odd = set(found.names) ^ set(expected.names) or {"types"}
        raise DatasetError(f"{name} is not a {row_type.TABLE} table: {', '.join(sorted(odd))} differ")


def _row(row_type: type[Row], values: dict[str, Any]) -> Row:
    if row_type is records.Part:
        members: Sequence[dict[str, Any]] = values["members"]
        values = values | {"members": tuple(records.Member(**member) for member in members)}
    return row_type(**values)


def table_files() -> dict[str, type[TableRow]]:
    """File name of each table, with its row type."""
    return {f"tables/{row_type.TABLE}.parquet": row_type for row_type in TABLES}
