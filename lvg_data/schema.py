"""The tables on disk: a pyarrow schema for every row type, written and read with its version."""

from __future__ import annotations

import itertools
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from lvg_data import records
from lvg_data.errors import DatasetError
from lvg_data.records import TABLES

#: raised when a column changes its name, type or meaning
SCHEMA_VERSION = 1
_GROUP_ROWS = 4096
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
    try:
        # One thread: tables are small, and pyarrow's I/O threads can abort a process that ends soon after.
        file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False, page_checksum_verification=True)
        table = file.read(use_threads=False)
        _check_schema(typing.cast(type[TableRow], row_type), table.schema, name)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as err:
        raise DatasetError(f"{name} is not a readable Parquet file ({err}); build the dataset again") from err
    return [_row(row_type, values) for values in table.to_pylist()]


def read_parquet(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of the columns, and the rows as plain Python values, of a Parquet file that others wrote.

    Raises:
      ValueError or OSError: it is none.
    """
    table = pq.ParquetFile(path, pre_buffer=False).read(use_threads=False)
    return list(table.column_names), table.to_pylist()


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
