"""Tables: what is written is read back, and anything else is refused by name."""

from __future__ import annotations

import types
import typing
from dataclasses import fields

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvg_data import records, schema
from lvg_data.errors import DatasetError
from lvg_data.records import TABLES, Member, Part, Reject, Scene, Shard
from lvg_data.schema import decode_table, encode_table, schema_of, table_files

SHARDS = [Shard("low", f"train-{n:05d}.tar", "train", 3, 90 + n, 5000, "ab" * 32) for n in range(20)]

VALUES = {
    str: st.text(max_size=8),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
}


def rows_of(row_type: type) -> st.SearchStrategy:
    hints = typing.get_type_hints(row_type, vars(records))
    return st.builds(row_type, **{f.name: values_of(hints[f.name]) for f in fields(row_type)})


def values_of(hint: object) -> st.SearchStrategy:
    if isinstance(hint, types.UnionType):
        return st.none() | values_of(next(a for a in typing.get_args(hint) if a is not type(None)))
    if typing.get_origin(hint) is tuple:
        return st.lists(rows_of(typing.get_args(hint)[0]), max_size=3).map(tuple)
    return VALUES[hint]


@pytest.mark.parametrize("row_type", TABLES)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_every_table_reads_back_the_rows_that_were_written(row_type, data):
    rows = data.draw(st.lists(rows_of(row_type), max_size=4))

    assert decode_table(row_type, encode_table(row_type, rows), "t") == rows


def test_a_missing_value_stays_missing():
    row = Reject("source", "v", "v", "a.mp4", "not_found", False)

    (found,) = decode_table(Reject, encode_table(Reject, [row]), "t")
    assert found == row
    assert (found.start_frame, found.value) == (None, None)


def test_the_members_of_a_part_read_back_in_order():
    members = (Member("json", 512, 300), Member("npy", 1536, 9000))
    row = Part("low", "k-0000", "k", 0, 0, 30, 0, 22, "train-00000.tar", members)

    (found,) = decode_table(Part, encode_table(Part, [row]), "t")
    assert found.members == members


def test_the_same_rows_are_the_same_bytes_and_another_order_is_not():
    assert encode_table(Shard, SHARDS) == encode_table(Shard, list(SHARDS))
    assert encode_table(Shard, iter(SHARDS)) == encode_table(Shard, SHARDS)
    assert encode_table(Shard, SHARDS[::-1]) != encode_table(Shard, SHARDS)


def test_a_column_that_must_be_there_is_not_written_empty():
    with pytest.raises(pa.ArrowException, match="name"):
        encode_table(Shard, [Shard("low", None, "train", 1, 2, 3, "x")])  # type: ignore[arg-type]


def test_columns_carry_their_types_and_the_table_its_name_and_version():
    table = schema_of(Scene)

    assert table.field("start_frame") == pa.field("start_frame", pa.int64(), False)
    assert table.field("given_start_s") == pa.field("given_start_s", pa.string(), True)
    assert table.metadata == {b"lvg_table": b"scenes", b"lvg_schema_version": b"1"}


def test_every_table_has_its_file():
    assert {name: row_type.TABLE for name, row_type in table_files().items()} == {
        f"tables/{name}.parquet": name for name in ("videos", "scenes", "clips", "parts", "shards", "rejects")
    }


# ---- what is refused


def test_another_table_is_refused_with_the_columns_that_differ():
    data = encode_table(Scene, [])

    with pytest.raises(
        DatasetError, match=r"x/shards\.parquet is not a shards table: .*kind.*num_frames.* differ"
    ):
        decode_table(Shard, data, "x/shards.parquet")


def test_a_column_of_another_type_is_refused():
    fields_ = [f.with_type(pa.int32()) if f.name == "num_parts" else f for f in schema_of(Shard)]
    other = pa.schema(fields_, metadata=schema_of(Shard).metadata)

    with pytest.raises(DatasetError, match="s is not a shards table: types differ"):
        decode_table(Shard, parquet(pa.Table.from_pylist([], other)), "s")


@pytest.mark.parametrize(("metadata", "found"), [({"lvg_schema_version": "99"}, "99"), ({}, "none")])
def test_another_version_is_refused(metadata, found):
    table = pa.Table.from_pylist([], schema_of(Shard).with_metadata(metadata))

    with pytest.raises(
        DatasetError, match=f"s has schema version {found}; this lvg reads {schema.SCHEMA_VERSION}"
    ):
        decode_table(Shard, parquet(table), "s")


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "damage", [lambda d: b"", lambda d: b"PAR1", lambda d: d[:-1], lambda d: d[: len(d) // 2]]
)
def test_a_table_that_was_cut_off_is_named(damage):
    with pytest.raises(
        DatasetError, match=r"tables/x\.parquet is not a readable Parquet file .*build the dataset again"
    ):
        decode_table(Shard, damage(encode_table(Shard, SHARDS)), "tables/x.parquet")


def test_a_column_name_that_is_no_text_is_named_as_damage():
    damaged = encode_table(Shard, SHARDS).replace(b"num_parts", b"num_p\xffrts")

    with pytest.raises(DatasetError, match=r"s\.parquet is not a readable Parquet file"):
        decode_table(Shard, damaged, "s.parquet")


_ENCODED = encode_table(Shard, SHARDS)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_flipped_bit_is_noticed_or_harmless(data):
    damaged = bytearray(_ENCODED)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))

    try:
        found = decode_table(Shard, bytes(damaged), "shards.parquet")
    except DatasetError as err:
        assert "shards.parquet" in str(err)
    else:
        assert found == SHARDS
