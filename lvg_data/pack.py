"""Clips to parts to shards: which sample lies where. Deterministic; the bytes are `shard`'s."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from lvg_data import ids
from lvg_data.config import Card, ResolutionConfig
from lvg_data.records import Clip, CutVideo, PlannedPart, PlannedShard, RenderedVideo
from lvg_data.timeline import owned_starts, part_ranges

ROLES = ("low", "high")
#: tar headers, padding and metadata of a part, and the same of each further member
_PART_OVERHEAD_BYTES, _MEMBER_OVERHEAD_BYTES = 4096, 768


def resolution(card: Card, role: str) -> ResolutionConfig:
    return card.low if role == "low" else card.high


def plan_parts(clip: Clip, config: ResolutionConfig) -> list[PlannedPart]:
    """The parts of a clip at one resolution; together they own every window start once."""
    ranges = part_ranges(clip.num_frames, config.part_frames, min(config.window_frames, clip.num_frames))
    span = min(config.window_frames, clip.num_frames)
    parts = []
    for index, frames in enumerate(ranges):
        owned = owned_starts(ranges, index, span)
        key = ids.part_key(clip.clip_id, index)
        parts.append(PlannedPart(key, clip, index, frames.start, frames.stop, owned.start, owned.stop))
    return parts


def part_bytes(part: PlannedPart, role: str) -> int:
    """Size of a part in a tar, estimated from the clip's mean frame; exact for raw frames."""
    num_frames, clip = part.stop_frame - part.start_frame, part.clip
    if role == "low":
        return clip.low_bytes * num_frames // clip.num_frames + _PART_OVERHEAD_BYTES
    frame_bytes = clip.high_bytes // clip.num_frames + _MEMBER_OVERHEAD_BYTES
    return frame_bytes * num_frames + _PART_OVERHEAD_BYTES


def clip_order(clips: Iterable[Clip], seed: int) -> list[Clip]:
    """The seeded shuffle of clips. A clip's place depends on its own id, so that others can come and go."""
    return sorted(clips, key=lambda clip: ids.canonical_hash(["order", seed, clip.clip_id]))


def split_into_shards(
    parts: Sequence[PlannedPart], role: str, target_bytes: int, seed: int
) -> Iterator[list[PlannedPart]]:
    """Runs of parts of at most `target_bytes` (one part at least).

    From half of the target on, a part may close its shard by a draw from its own key. Boundaries thus
    depend on content, as in content-defined chunking: after a clip is added or removed the runs fall into
    step again, and only the shards near it change.
    """
    run: list[PlannedPart] = []
    size = 0
    for part in parts:
        part_size = part_bytes(part, role)
        if run and size + part_size > target_bytes:
            yield run
            run, size = [], 0
        run.append(part)
        size += part_size
        closes = ids.unit_interval("boundary", seed, role, part.key) < 4 * part_size / target_bytes
        if size >= target_bytes / 2 and closes:
            yield run
            run, size = [], 0
    if run:
        yield run


def plan_shards(cut: Sequence[CutVideo], card: Card) -> list[PlannedShard]:
    """Every shard of a dataset, in order of role, split and name."""
    videos = {c.rendered.probed.video.video_id: c.rendered for c in cut}
    clips = clip_order((clip for c in cut for clip in c.clips), card.shards.seed)
    shards = []
    for role in ROLES:
        kept = [clip for clip in clips if (clip.in_low if role == "low" else clip.in_high)]
        for split in sorted({clip.split for clip in kept}):
            parts = [p for c in kept if c.split == split for p in plan_parts(c, resolution(card, role))]
            runs = split_into_shards(parts, role, card.shards.target_bytes, card.shards.seed)
            shards += [_planned(role, split, n, run, videos) for n, run in enumerate(runs)]
    return shards


def _planned(
    role: str, split: str, number: int, parts: list[PlannedPart], videos: dict[str, RenderedVideo]
) -> PlannedShard:
    used = {part.clip.video_id: videos[part.clip.video_id] for part in parts}
    name = ids.shard_name(split, number)
    return PlannedShard(role, split, name, tuple(parts), tuple(used[v] for v in sorted(used)))
