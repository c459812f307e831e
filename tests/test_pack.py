"""Clips to shards: everything in its place, whatever the order it came in, and stable when clips come and go."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

import pytest

from lvg_data import ids
from lvg_data.config import Card, FilesSource
from lvg_data.pack import clip_order, part_bytes, plan_parts, plan_shards, resolution
from lvg_data.records import (
    Address,
    Clip,
    CutVideo,
    Fetched,
    PlannedShard,
    Probed,
    RenderedVideo,
    Source,
    Video,
)

TARGET = 1 << 20


def card(target_bytes: int = TARGET, **changes: object) -> Card:
    fields: dict[str, object] = {
        "name": "t", "licence": "x", "attribution": "x", "sources": (FilesSource(kind="files", path="x"),),
        "low": {"height": 16, "width": 16, "min_frames": 64, "window_frames": 32, "part_frames": 128},
        "high": {"height": 32, "width": 32, "min_frames": 8, "window_frames": 8, "part_frames": 24},
        "shards": {"target_bytes": target_bytes},
    }  # fmt: skip
    return Card(**{**fields, **changes})


def filled(row_type: type, **columns: object) -> Any:
    """A row whose other columns are empty, so that a new column is no news here."""
    empty = {"str": "", "int": 0, "float": 0.0, "bool": False}
    return row_type(**{f.name: empty.get(str(f.type)) for f in fields(row_type)} | columns)


def video(name: str, split: str) -> Video:
    return filled(
        Video, video_id=name, origin=name, split=split, width=64, height=64, sample_aspect_ratio="1",
        time_base="1/30", num_frames=9000, frame_rate="30", num_grid_frames=9000, extra="{}",
    )  # fmt: skip


def probed(row: Video) -> Probed:
    source = Source(row.video_id, row.origin, Address(f"{row.video_id}.mp4"), "x", "x")
    return Probed(row, Fetched(source, f"{row.video_id}.mp4", "", 0), "probe")


def clip(row: Video, start: int, num_frames: int) -> Clip:
    in_low, in_high = num_frames >= 64, num_frames >= 8
    stop = start + num_frames
    return filled(
        Clip, clip_id=ids.clip_id(row.video_id, start, stop), video_id=row.video_id, split=row.split,
        start_frame=start, stop_frame=stop, frame_rate="30", in_low=in_low, in_high=in_high,
        low_bytes=num_frames * 768 if in_low else 0, high_bytes=num_frames * 2000 if in_high else 0,
    )  # fmt: skip


def cut_videos(num_videos: int, clips_each: int, splits: Sequence[str] = ("train",)) -> list[CutVideo]:
    """Videos with clips of 8 to 200 frames."""
    rng = random.Random(7)
    cut = []
    for number in range(num_videos):
        row = video(f"video{number:03d}", splits[number % len(splits)])
        clips = tuple(clip(row, 300 * n, rng.randint(8, 200)) for n in range(clips_each))
        rendered = RenderedVideo(probed(row), ())
        cut.append(CutVideo(rendered, (), clips, ()))
    return cut


def contents(shards: Sequence[PlannedShard]) -> set[tuple[str, ...]]:
    return {(s.role, s.split, *(p.key for p in s.parts)) for s in shards}


def clips_of(cut: Sequence[CutVideo]) -> list[Clip]:
    return [c for made in cut for c in made.clips]


# ---- parts


def test_the_parts_of_a_clip_own_every_window_start_once():
    long = clip(video("v", "train"), 100, 300)
    low = plan_parts(long, card().low)

    assert [(p.start_frame, p.stop_frame) for p in low] == [(0, 128), (97, 225), (194, 300)]
    assert [(p.owned_start, p.owned_stop) for p in low] == [(0, 97), (97, 194), (194, 269)]
    assert [p.key for p in low] == [f"{long.clip_id}-{n:04d}" for n in range(3)]


def test_a_clip_shorter_than_a_window_is_one_part_that_owns_its_start():
    short = clip(video("v", "train"), 0, 20)

    (part,) = plan_parts(short, card().low)
    assert (part.start_frame, part.stop_frame, part.owned_start, part.owned_stop) == (0, 20, 0, 1)


# ---- shards


def test_every_part_of_every_clip_is_in_exactly_one_shard_of_its_resolution():
    cut = cut_videos(10, 6)
    shards = plan_shards(cut, card())

    for role in ("low", "high"):
        wanted = Counter(
            part.key
            for c in clips_of(cut)
            if (c.in_low if role == "low" else c.in_high)
            for part in plan_parts(c, resolution(card(), role))
        )
        assert Counter(p.key for s in shards if s.role == role for p in s.parts) == wanted
        assert set(wanted.values()) == {1}
        assert sum(wanted.values()) > 30


def test_the_plan_does_not_depend_on_the_order_of_videos_or_clips():
    cut = cut_videos(12, 5, ("train", "val"))
    rng = random.Random(1)
    mixed = [CutVideo(c.rendered, (), tuple(rng.sample(c.clips, len(c.clips))), ()) for c in cut]
    rng.shuffle(mixed)

    assert plan_shards(mixed, card()) == plan_shards(cut, card())


def test_shards_are_named_in_order_without_gaps():
    shards = plan_shards(cut_videos(12, 5, ("train", "val")), card())

    for role in ("low", "high"):
        for split in ("train", "val"):
            names = [s.name for s in shards if (s.role, s.split) == (role, split)]
            assert names == [f"{split}-{n:05d}.tar" for n in range(len(names))]
            assert names


def test_a_shard_names_the_videos_that_its_parts_are_cut_from():
    for planned in plan_shards(cut_videos(12, 5), card()):
        used = sorted({part.clip.video_id for part in planned.parts})
        assert [v.probed.video.video_id for v in planned.videos] == used


def test_no_shard_is_larger_than_the_target_and_few_are_smaller_than_half():
    shards = plan_shards(cut_videos(40, 10), card())

    sizes = [sum(part_bytes(part, s.role) for part in s.parts) for s in shards]
    assert len(sizes) > 50
    assert max(sizes) <= TARGET
    assert sum(size < TARGET / 2 for size in sizes) <= 2  # the last of each resolution


def test_a_part_larger_than_the_target_has_a_shard_to_itself():
    shards = plan_shards(cut_videos(3, 2), card(target_bytes=1 << 16))

    for planned in shards:
        if sum(part_bytes(part, planned.role) for part in planned.parts) > 1 << 16:
            assert len(planned.parts) == 1


def test_splits_never_mix_and_a_video_is_in_one_split():
    shards = plan_shards(cut_videos(20, 6, ("train", "val", "test")), card())

    splits_of: dict[str, set[str]] = {}
    for planned in shards:
        for part in planned.parts:
            assert part.clip.split == planned.split
            splits_of.setdefault(part.clip.video_id, set()).add(planned.split)
    assert len(splits_of) == 20
    assert all(len(splits) == 1 for splits in splits_of.values())


def test_a_clip_goes_to_the_resolutions_that_it_is_long_enough_for():
    row = video("v", "train")
    cut = [CutVideo(RenderedVideo(probed(row), ()), (), (clip(row, 0, 30), clip(row, 50, 90)), ())]

    found = {s.role: {p.clip.num_frames for p in s.parts} for s in plan_shards(cut, card())}
    assert found == {"low": {90}, "high": {30, 90}}


def test_without_clips_there_are_no_shards():
    assert plan_shards([], card()) == []
    assert plan_shards(cut_videos(2, 0), card()) == []


def test_clips_are_shuffled_by_the_seed():
    clips = clips_of(cut_videos(10, 6))
    first, second = clip_order(clips, 0), clip_order(clips, 1)

    assert first != second
    assert set(first) == set(second) == set(clips)
    # neighbours come from different videos far more often than in the order of the videos
    assert sum(a.video_id != b.video_id for a, b in pairwise(first)) > 40


@pytest.mark.parametrize("change", ["remove", "add"])
@pytest.mark.parametrize("number", [0, 17, 33, 49])
def test_one_clip_of_500_more_or_less_leaves_nearly_all_shards_as_they_are(change, number):
    cut = cut_videos(50, 10)
    assert len(clips_of(cut)) == 500
    before = contents(plan_shards(cut, card()))

    altered = cut[number]
    clips = (
        altered.clips[1:]
        if change == "remove"
        else (*altered.clips, clip(altered.rendered.probed.video, 8000, 90))
    )
    after = contents(
        plan_shards([*cut[:number], CutVideo(altered.rendered, (), clips, ()), *cut[number + 1 :]], card())
    )

    assert len(before) > 80
    assert len(before - after) < 0.2 * len(before)


def test_a_new_video_moves_no_other_to_another_split():
    cut = cut_videos(12, 5, ("train", "val"))
    before = {p.key: s.split for s in plan_shards(cut[:-1], card()) for p in s.parts}
    after = {p.key: s.split for s in plan_shards(cut, card()) for p in s.parts}

    assert before.items() <= after.items()
