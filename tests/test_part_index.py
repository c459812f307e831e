"""The parts index: what it says of each part is what its row says."""

from __future__ import annotations

import random
from collections import defaultdict
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvg_data import schema
from lvg_data.errors import DatasetError
from lvg_data.part_index import PartIndex
from lvg_data.records import Member, Part, Shard
from lvg_data.schema import decode_part_columns, encode_table

SHARDS = [
    Shard(role, f"train-{n:05d}.tar", "train", 1, 1, 1, "0") for n in range(2) for role in ("high", "low")
]


def part(role: str, clip: str, frames: range, shard: int = 0, members: tuple[Member, ...] = ()) -> Part:
    key = f"{clip}-{frames.start}"
    name = f"train-{shard:05d}.tar"
    return Part(role, key, clip, 0, frames.start, frames.stop, frames.start, frames.stop, name, members)


def index(rows: list[Part]) -> PartIndex:
    with mock.patch.object(schema, "_GROUP_ROWS", 3):  # several groups in a file
        data = encode_table(Part, rows)
    return PartIndex(decode_part_columns(data, "t"), SHARDS, "the set")


#: as in the pictures of `ClipParts`, and a low-res part of the same clip
A = part("high", "c", range(16), 1, (Member("f000.jpg", 512, 7), Member("low.npy", 1024, 99)))
B = part("high", "c", range(9, 25), 0, (Member("low.npy", 5120, 98),))
LOW = part("low", "c", range(25), 1)


def runs(found) -> list[tuple[str, range]]:
    return [(part.key, inside) for part, inside in found]


def test_frames_are_cut_as_in_the_pictures():
    parts = index([B, LOW, A]).of_clip("c", "high")

    assert runs(parts.split(range(4, 20))) == [("c-0", range(4, 16)), ("c-9", range(7, 11))]
    assert runs(parts.split(range(10, 20))) == [("c-9", range(1, 11))]
    assert runs(parts.split_own(range(4, 20))) == [("c-0", range(4, 9)), ("c-9", range(11))]
    assert runs(parts.split_own(range(10, 20))) == [("c-9", range(1, 11))]
    assert runs(parts.split_own(range(6, 24, 5))) == [("c-0", range(6, 11, 5)), ("c-9", range(2, 17, 5))]
    assert runs(parts.split(range(3, 3))) == []


def test_a_frame_that_no_part_has_is_an_error():
    parts = index([A, part("high", "c", range(18, 25))]).of_clip("c", "high")

    assert runs(parts.split(range(10, 16))) == [("c-0", range(10, 16))]
    with pytest.raises(DatasetError, match=r"no frame 16 of .* part c-0, which holds \[0, 16\); build"):
        list(parts.split(range(10, 20)))


def test_frames_before_the_first_part_are_an_error():
    parts = index([part("high", "c", range(3, 16))]).of_clip("c", "high")

    for split in (parts.split, parts.split_own):
        with pytest.raises(DatasetError, match=r"no frame 2 of .* part c-3, which holds \[3, 16\); build"):
            list(split(range(2, 20)))


@pytest.mark.parametrize(
    ("num_frames", "in_low", "there"), [(24, False, 25), (1 << 40, False, 25), (25, True, 0)]
)
def test_a_clip_of_another_length_than_its_parts_is_refused(num_frames, in_low, there):
    made = index([A, B])
    clip = mock.Mock(clip_id="c", num_frames=num_frames, in_low=in_low, in_high=True)

    with pytest.raises(DatasetError, match=rf"clip c has {num_frames} frames, its \w+-res parts {there};"):
        made.check_clips([clip])
    made.check_clips([mock.Mock(clip_id="c", num_frames=25, in_low=False, in_high=True)])


def test_members_and_shards_are_those_of_the_row():
    made = index([LOW, A, B])
    first, second = made.of_clip("c", "high").parts

    assert (first.place("f000.jpg"), first.place("low.npy")) == ((512, 7), (1024, 99))
    assert second.place("low.npy") == (5120, 98)
    with pytest.raises(KeyError, match=r"f000\.jpg"):
        second.place("f000.jpg")
    with pytest.raises(KeyError, match=r"f001\.jpg"):
        second.place("f001.jpg")
    assert [SHARDS[p.shard].name for p in (first, second)] == ["train-00001.tar", "train-00000.tar"]
    assert made.shards_of(["c"], "high") == {0, 2}
    assert made.shards_of(["c"], "low") == {3}
    with pytest.raises(KeyError):
        made.of_clip("d", "low")


def test_a_table_without_rows_is_an_index_without_clips():
    with pytest.raises(KeyError):
        index([]).of_clip("c", "high")


def test_what_is_no_parts_table_is_refused():
    data = encode_table(Part, [A, B])

    with pytest.raises(DatasetError, match="p is not a parts table"):
        decode_part_columns(encode_table(Shard, SHARDS), "p")
    with pytest.raises(DatasetError, match="p is not a readable Parquet file"):
        decode_part_columns(data[:-20], "p")
    with pytest.raises(DatasetError, match="p is not a readable Parquet file"):
        decode_part_columns(data[:60] + bytes([data[60] ^ 255]) + data[61:], "p")


def test_a_part_of_a_shard_that_is_not_listed_is_refused():
    with pytest.raises(
        DatasetError, match=r"the set names the low-res shard train-00002\.tar, which its shards"
    ):
        index([A, part("low", "c", range(4), 2)])


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_any_table_is_read_as_row_by_row(seed: int):
    """Against the obvious way: the rows as objects, searched in order."""
    rng, rows = random.Random(seed), []
    for clip in range(rng.randrange(5)):
        for role in rng.sample(["high", "low"], rng.randrange(1, 3)):
            start = stop = 0
            for _ in range(rng.randrange(1, 4)):
                frames = range(start, stop + rng.randrange(2, 9))
                names = [f"f{n:03d}.jpg" for n in frames] + ["low.npy"]
                members = tuple(Member(name, rng.randrange(10**6), rng.randrange(10**6)) for name in names)
                rows.append(part(role, f"clip{clip}", frames, rng.randrange(2), members))
                start, stop = rng.randrange(start + 1, frames.stop + 1), frames.stop
    rng.shuffle(rows)
    by_clip = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.start_frame):
        by_clip[row.clip_id, row.role].append(row)

    made = index(rows)

    for (clip_id, role), expected in by_clip.items():
        found = made.of_clip(clip_id, role)
        assert [(p.key, p.start, p.stop) for p in found.parts] == [
            (row.key, row.start_frame, row.stop_frame) for row in expected
        ]
        for p, row in zip(found.parts, expected, strict=True):
            assert (SHARDS[p.shard].role, SHARDS[p.shard].name) == (role, row.shard)
            assert [p.place(m.name) for m in row.members] == [
                (m.offset_bytes, m.size_bytes) for m in row.members
            ]
        for frame in range(max(row.stop_frame for row in expected)):
            holding = [row for row in expected if row.start_frame <= frame < row.stop_frame]
            one = range(frame, frame + 1)
            last = [
                (holding[-1].key, range(frame - holding[-1].start_frame, frame - holding[-1].start_frame + 1))
            ]
            assert runs(found.split(one)) == last == runs(found.split_own(one))
