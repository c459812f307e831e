"""The bytes of a shard: the only code that knows the tar format.

    low    <key>.json  <key>.npy  <key>.times.npy
    high   <key>.f000.jpg ... <key>.json  <key>.low.npy  <key>.times.npy
    both   <key>.intrinsics.npy  <key>.poses.npy     of clips with a camera track

USTAR headers with time, owner and mode fixed; members stored plain and sorted by name, so that the offset
and size of each (columns of the parts table) give random access.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lvg_data import ids, poses
from lvg_data.arrays import npy_bytes
from lvg_data.config import Card
from lvg_data.records import (
    Clip,
    Member,
    Part,
    PlannedPart,
    PlannedShard,
    RenderedVideo,
    Source,
    Track,
    WrittenShard,
)
from lvg_data.spans import RenderedFrames, crop_of, geometry_of, load_grid
from lvg_data.store import Key, read_bytes
from lvg_data.timeline import Grid

#: raised when the same parts would give other bytes
VERSION = 1
TAR_NAME, PARTS_NAME = "shard.tar", "parts.json"


def shard_key(planned: PlannedShard, card: Card) -> Key:
    """What a shard's bytes depend on; not its name, so that a shard whose number changes is kept."""
    parts = [asdict(part) for part in planned.parts]
    videos = [_video_inputs(v) for v in planned.videos]
    config = {"dataset": card.name, "role": planned.role, "low": card.low, "high": card.high}
    config = {k: v.model_dump() if hasattr(v, "model_dump") else v for k, v in config.items()}
    return Key("write_shard", ids.joint_version(poses.VERSION, VERSION), config, (parts, videos))


def _video_inputs(video: RenderedVideo) -> Any:
    spans = [span.address.rsplit("/", 1)[-1] for span in video.spans]
    source = video.probed.source
    return [asdict(video.probed.video), spans, track_inputs(source.tracks), source.interval_extras]


def track_inputs(tracks: tuple[Track, ...]) -> list[Any]:
    """What camera tracks hold, wherever their store is: the name of a pose table depends on its content."""
    return [replace(track, address="/".join(track.address.rsplit("/", 3)[-3:])) for track in tracks]


class _TarWriter:
    """Writes members one after the other, and hashes what it writes.

    tarfile makes the headers; its own writing would copy every member in pieces of 16 kB.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.size_bytes = file, hashlib.sha256(), 0

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.size_bytes += len(data)

    def add(self, name: str, data: bytes) -> tuple[int, int]:
        """Appends a member; returns the offset of its bytes in the tar, and their number."""
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        offset = self.size_bytes
        self._write(data)
        self._write(bytes(-len(data) % tarfile.BLOCKSIZE))
        return offset, len(data)

    def close(self) -> None:
        """Ends the archive: two empty blocks, filled up to a whole record."""
        end = self.size_bytes + 2 * tarfile.BLOCKSIZE
        self._write(bytes(end - self.size_bytes + -end % tarfile.RECORDSIZE))


def write_shard(planned: PlannedShard, card: Card, folder: Path) -> dict[str, Any]:
    """Writes `shard.tar` and `parts.json`, its rows of the parts table, to `folder`.

    Returns:
      JSON values: size_bytes and sha256 of the tar.
    """
    videos = {v.probed.video.video_id: v for v in planned.videos}
    low = (card.low.height, card.low.width)

    @functools.lru_cache(maxsize=8)
    def footage(video_id: str) -> tuple[Grid, RenderedFrames]:
        return load_grid(videos[video_id].probed)[1], RenderedFrames(videos[video_id].spans, low)

    rows = []
    with open(folder / TAR_NAME, "wb") as file:
        tar = _TarWriter(file)
        for part in planned.parts:
            grid, frames = footage(part.clip.video_id)
            video = videos[part.clip.video_id]
            members = _add_part(tar, planned.role, part, video, grid, frames, card)
            rows.append(_part_row(planned, part, members))
        tar.close()
    # JSON, because pyarrow's way from rows to columns would import pandas in every child
    (folder / PARTS_NAME).write_text(ids.canonical_json(rows))
    return {"size_bytes": tar.size_bytes, "sha256": tar.digest.hexdigest()}


def _add_part(
    tar: _TarWriter, role: str, part: PlannedPart, video: RenderedVideo, grid: Grid,
    frames: RenderedFrames, card: Card,
) -> list[tuple[str, int, int]]:  # fmt: skip
    files = dict(_low_members(part, grid, frames) if role == "low" else _high_members(part, grid, frames))
    files["times.npy"] = npy_bytes(_times(part, grid))
    if part.clip.has_poses:
        files |= _pose_members(part, video, grid, card)
    files["json"] = ids.canonical_json(part_metadata(role, part, video, grid, card)).encode()
    return [(name, *tar.add(f"{part.key}.{name}", data)) for name, data in sorted(files.items())]


def _ordinals(part: PlannedPart, grid: Grid) -> np.ndarray:
    start = part.clip.start_frame
    return grid.ordinals[start + part.start_frame : start + part.stop_frame]


def _times(part: PlannedPart, grid: Grid) -> np.ndarray:
    """float64 [T]: seconds since the first frame of the video."""
    start = part.clip.start_frame
    return grid.times_s(start + part.start_frame, start + part.stop_frame)


def _low_members(part: PlannedPart, grid: Grid, frames: RenderedFrames) -> Iterator[tuple[str, bytes]]:
    yield "npy", npy_bytes(np.stack(list(frames.low(_ordinals(part, grid)))))


def _high_members(part: PlannedPart, grid: Grid, frames: RenderedFrames) -> Iterator[tuple[str, bytes]]:
    ordinals = _ordinals(part, grid)
    for number, jpeg in enumerate(frames.high(ordinals)):
        yield f"f{number:03d}.jpg", jpeg
    yield "low.npy", npy_bytes(np.stack(list(frames.low(ordinals))))


def _pose_members(part: PlannedPart, video: RenderedVideo, grid: Grid, card: Card) -> dict[str, bytes]:
    """Poses and intrinsics of a part's frames. Matched over the whole clip: its parts must agree."""
    clip, row = part.clip, video.probed.video
    track = next(track for track in video.probed.source.tracks if track.name == clip.track)
    rows = poses.read_track(track)
    matched = poses.match(rows, grid.times_s(clip.start_frame, clip.stop_frame), track.tolerance_s)
    inside = matched[part.start_frame : part.stop_frame]
    geometry = geometry_of(row, card.crop == "squash")
    found, intrinsics = poses.pose_arrays(rows, inside, geometry, crop_of(row, card), row.width, row.height)
    return {"poses.npy": npy_bytes(found), "intrinsics.npy": npy_bytes(intrinsics)}


def part_metadata(
    role: str, part: PlannedPart, video: RenderedVideo, grid: Grid, card: Card
) -> dict[str, Any]:
    """The `<key>.json` of a sample: the same keys and types in every sample of every dataset.

    `start_s` and `stop_s` are the part's own times in the video; frame numbers count from the clip's
    first frame except `clip_start_frame`, which counts the video's.
    """
    clip, row = part.clip, video.probed.video
    crop = crop_of(row, card)
    size = card.low if role == "low" else card.high
    start = clip.start_frame + part.start_frame
    last = clip.start_frame + part.stop_frame - 1
    return {
        "key": part.key, "dataset": card.name, "licence": row.licence, "attribution": row.attribution,
        "split": clip.split, "source": row.origin, "video_id": row.video_id, "video_sha256": row.sha256,
        "clip_id": clip.clip_id, "clip_num_frames": clip.num_frames, "clip_start_frame": clip.start_frame,
        "part_index": part.part_index, "start_frame": part.start_frame, "stop_frame": part.stop_frame,
        "owned_start": part.owned_start, "owned_stop": part.owned_stop,
        "start_s": float(grid.time_s(start)), "stop_s": float(grid.time_s(last)),
        "frame_rate": float(Fraction(clip.frame_rate)), "crop": [crop.left, crop.top, crop.right, crop.bottom],
        "resolution": role, "height": size.height, "width": size.width, "has_poses": clip.has_poses,
        "track": clip.track or "",
        "interval_number": -1 if clip.interval_number is None else clip.interval_number,
        "extra": _extra(clip, video.probed.source),
    }  # fmt: skip


def _extra(clip: Clip, source: Source) -> str:
    """Further columns of a clip's video, and of its own interval where the list has a row for each."""
    if clip.interval_number is None or not source.interval_extras:
        return source.extra
    own = json.loads(source.interval_extras[clip.interval_number])
    return ids.canonical_json(json.loads(source.extra) | own)


def _part_row(planned: PlannedShard, part: PlannedPart, members: list[tuple[str, int, int]]) -> Part:
    return Part(
        role=planned.role,
        key=part.key,
        clip_id=part.clip.clip_id,
        part_index=part.part_index,
        start_frame=part.start_frame,
        stop_frame=part.stop_frame,
        owned_start=part.owned_start,
        owned_stop=part.owned_stop,
        shard=planned.name,
        members=tuple(Member(*member) for member in members),
    )


def read_part_rows(written: WrittenShard) -> list[Part]:
    """The rows of the parts table of a shard in the store, under the name that it has now."""
    rows = json.loads(read_bytes(f"{written.address}/{PARTS_NAME}"))
    return [
        Part(**row | {"shard": written.shard.name, "members": tuple(Member(**m) for m in row["members"])})
        for row in rows
    ]


def read_member(file: BinaryIO, member: Member) -> bytes:
    """A member's bytes by random access, without looking at the tar's headers."""
    file.seek(member.offset_bytes)
    return file.read(member.size_bytes)


def read_metadata(data: bytes) -> dict[str, Any]:
    return json.loads(data)
