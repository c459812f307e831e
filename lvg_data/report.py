"""A dataset for people: counts and hours, and one contact sheet of its clips."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import fsspec
import numpy as np
import simplejpeg
from PIL import Image, ImageDraw

from lvg_data.arrays import load_array
from lvg_data.finished import read_description, read_part_columns, read_table, shard_path
from lvg_data.part_index import PartIndex
from lvg_data.records import Clip, Member, Shard, Video
from lvg_data.shard import read_member

_BACKGROUND, _INK, _FAINT = (24, 26, 30), (235, 235, 235), (150, 155, 165)


def summarise(dataset: str) -> dict[str, Any]:
    """Counts, hours, bytes and rejects of a dataset, as JSON values."""
    description = read_description(dataset)
    videos: list[Video] = read_table(dataset, Video)
    clips: list[Clip] = read_table(dataset, Clip)
    return {
        "name": description["name"],
        "licence": description["licence"],
        "fingerprint": description["fingerprint"],
        **description["counts"],
        "source_hours": round(sum(v.duration_s for v in videos) / 3600, 4),
        "clip_hours": round(sum(clip_seconds(c) for c in clips) / 3600, 4),
        "splits": dict(sorted(Counter(c.split for c in clips).items())),
        "frame_rates": dict(sorted(Counter(v.frame_rate for v in videos).items())),
        "frame_rate_warning": frame_rate_warning(
            [Fraction(v.frame_rate if v.grid_rate == "native" else v.grid_rate) for v in videos]
        ),
    }


def clip_seconds(clip: Clip) -> float:
    return float(Fraction(clip.stop_s) - Fraction(clip.start_s))


def frame_rate_warning(frame_rates: Sequence[Fraction]) -> str | None:
    """Words of warning when a dataset's frame rates differ by more than 10%, so that speeds of motion mix."""
    rates = sorted(set(frame_rates))
    if not rates or rates[-1] <= rates[0] * Fraction(11, 10):
        return None
    return (
        f"videos run at {float(rates[0]):g} to {float(rates[-1]):g} frames/s, so motion has different speeds; "
        "set frame_rate in the card to resample"
    )


# ---- frames by random access --------------------------------------------------------------------------


class FrameSource:
    """Single frames of a dataset's clips, each by one read of its own bytes, on a local disk or a remote one.

    `lvg_data.open` copies the shards of a remote dataset to this disk first: for training, which reads
    all of them, but not for a dozen frames out of as many shards.

    Attributes:
      clips: rows of the clips table.
    """

    def __init__(self, dataset: str) -> None:
        self.dataset, self.description = dataset.rstrip("/"), read_description(dataset)
        self.clips: list[Clip] = read_table(dataset, Clip)
        self.recipe = self.description["recipe"]
        self.high_size = (self.recipe["high"]["height"], self.recipe["high"]["width"])
        self._shards: list[Shard] = read_table(dataset, Shard)
        self._parts = PartIndex(read_part_columns(dataset), self._shards, dataset)

    def read(self, clip: Clip, frame: int) -> np.ndarray:
        """uint8 [H, W, 3]: a frame of a clip at high resolution, at low where the clip has no other."""
        role = "high" if clip.in_high else "low"
        ((part, (inside,)),) = self._parts.of_clip(clip.clip_id, role).split(range(frame, frame + 1))
        name = f"f{inside:03d}.jpg" if role == "high" else "npy"
        with fsspec.open(f"{self.dataset}/{shard_path(self.recipe, self._shards[part.shard])}", "rb") as file:
            data = read_member(file, Member(name, *part.place(name)))
        if role == "high":
            return simplejpeg.decode_jpeg(data)
        return load_array(io.BytesIO(data))[inside]


# ---- contact sheet --------------------------------------------------------------------------------


def contact_sheet(dataset: str, num_clips: int = 12, num_frames: int = 8, tile: int = 128) -> Image.Image:
    """One row a clip, frames evenly spread over it, at high resolution where the clip has it.

    Clips are taken evenly over the whole dataset, in the order of the tables.
    """
    source = FrameSource(dataset)
    chosen = spread(source.clips, num_clips)
    width = tile * source.high_size[1] // source.high_size[0]
    label = 34
    size = (num_frames * (width + 4) + 4, max(1, len(chosen)) * (tile + label) + 40)
    sheet = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((8, 10), _sheet_title(source.description), _INK, font_size=18)
    origins = {video.video_id: video.origin for video in read_table(dataset, Video)}
    for row, clip in enumerate(chosen):
        top = 40 + row * (tile + label)
        draw.text((8, top + 4), _clip_label(clip, origins[clip.video_id]), _FAINT, font_size=14)
        for column, frame in enumerate(spread(range(clip.num_frames), num_frames)):
            image = Image.fromarray(source.read(clip, frame))
            image = image.resize((width, tile), Image.Resampling.LANCZOS)
            sheet.paste(image, (4 + column * (width + 4), top + 26))
    return sheet


def _sheet_title(description: dict[str, Any]) -> str:
    counts, name = description["counts"], description["name"]
    return f"{name}: {counts['clips']} clips, {counts['clip_frames']:,} frames, {counts['videos']} videos"


def _clip_label(clip: Clip, origin: str) -> str:
    start, stop = float(Fraction(clip.start_s)), float(Fraction(clip.stop_s))
    where = "+".join(role for role, there in (("low", clip.in_low), ("high", clip.in_high)) if there)
    return f"{origin}  {start:.2f} to {stop:.2f} s  {clip.num_frames} frames  {clip.split}  {where}"


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """Up to `count` items, evenly spread, the first and the last among them."""
    if not len(items):
        return []
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[int(place)] for place in places]
