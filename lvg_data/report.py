"""A dataset for people: counts and hours, and one contact sheet of its clips."""

from __future__ import annotations

import io
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, ImageDraw

from lvg_data import ids, store
from lvg_data.dataset import Tables, read_description, read_tables, shard_path
from lvg_data.records import Clip, Part

_BACKGROUND, _INK, _FAINT = (24, 26, 30), (235, 235, 235), (150, 155, 165)


def summarise(dataset: str) -> dict[str, Any]:
    """Counts, hours, bytes and rejects of a dataset, as JSON values."""
    description, tables = read_description(dataset), read_tables(dataset)
    return {
        "name": description["name"],
        "licence": description["licence"],
        "fingerprint": description["fingerprint"],
        **description["counts"],
        "source_hours": round(sum(v.duration_s for v in tables.videos) / 3600, 4),
        "clip_hours": round(sum(clip_seconds(c) for c in tables.clips) / 3600, 4),
        "splits": dict(sorted(Counter(c.split for c in tables.clips).items())),
        "frame_rates": dict(sorted(Counter(v.frame_rate for v in tables.videos).items())),
        "frame_rate_warning": frame_rate_warning(tables, description["recipe"]["frame_rate"]),
    }


def clip_seconds(clip: Clip) -> float:
    return float(Fraction(clip.stop_s) - Fraction(clip.start_s))


def frame_rate_warning(tables: Tables, frame_rate: str) -> str | None:
    """Words of warning when native frame rates differ by more than 10%, so that speeds of motion mix."""
    rates = sorted({Fraction(v.frame_rate) for v in tables.videos})
    if frame_rate != "native" or not rates or rates[-1] <= rates[0] * Fraction(11, 10):
        return None
    return (
        f"videos run at {float(rates[0]):g} to {float(rates[-1]):g} frames/s, so motion has different speeds; "
        "set frame_rate in the card to resample"
    )


# ---- contact sheet --------------------------------------------------------------------------------


def contact_sheet(dataset: str, num_clips: int = 12, num_frames: int = 8, tile: int = 128) -> Image.Image:
    """One row a clip, frames evenly spread over it, from the high-res shards (low-res where there is none).

    Clips are taken evenly over the whole dataset, in the order of the tables.
    """
    description, tables = read_description(dataset), read_tables(dataset)
    recipe = description["recipe"]
    chosen = _spread(tables.clips, num_clips)
    width = tile * recipe["high"]["width"] // max(recipe["high"]["height"], 1)
    label = 34
    size = (num_frames * (width + 4) + 4, max(1, len(chosen)) * (tile + label) + 40)
    sheet = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((8, 10), _sheet_title(description), _INK, font_size=18)
    parts = _parts_by_clip(tables)
    for row, clip in enumerate(chosen):
        top = 40 + row * (tile + label)
        draw.text((8, top + 4), _clip_label(clip, tables), _FAINT, font_size=14)
        for column, frame in enumerate(_spread(range(clip.num_frames), num_frames)):
            picture = _read_frame(dataset, recipe, tables, parts, clip, frame)
            image = Image.fromarray(picture).resize((width, tile), Image.Resampling.LANCZOS)
            sheet.paste(image, (4 + column * (width + 4), top + 26))
    return sheet


def _sheet_title(description: dict[str, Any]) -> str:
    counts = description["counts"]
    name = description["name"]
    return f"{name}: {counts['clips']} clips, {counts['clip_frames']:,} frames, {counts['videos']} videos"


def _clip_label(clip: Clip, tables: Tables) -> str:
    video = next(v for v in tables.videos if v.video_id == clip.video_id)
    start, stop = float(Fraction(clip.start_s)), float(Fraction(clip.stop_s))
    where = "+".join(role for role, there in (("low", clip.in_low), ("high", clip.in_high)) if there)
    return f"{video.origin}  {start:.2f} to {stop:.2f} s  {clip.num_frames} frames  {clip.split}  {where}"


def _spread(items: Any, count: int) -> list[Any]:
    """Up to `count` items, evenly spread, the first and the last among them."""
    if not len(items):
        return []
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[int(place)] for place in places]


def _parts_by_clip(tables: Tables) -> dict[tuple[str, str], list[Part]]:
    found: dict[tuple[str, str], list[Part]] = {}
    for part in tables.parts:
        found.setdefault((part.clip_id, part.role), []).append(part)
    return found


def _read_frame(
    dataset: str, recipe: dict[str, Any], tables: Tables, parts: Any, clip: Clip, frame: int
) -> np.ndarray:
    """uint8 [H, W, 3]: one frame of a clip by random access into its shard."""
    role = "high" if clip.in_high else "low"
    part = next(p for p in parts[clip.clip_id, role] if p.start_frame <= frame < p.stop_frame)
    row = next(s for s in tables.shards if (s.role, s.name) == (role, part.shard))
    inside = frame - part.start_frame
    name = f"f{inside:03d}.jpg" if role == "high" else "npy"
    member = next(m for m in part.members if m.name == name)
    url = f"{dataset.rstrip('/')}/{shard_path(recipe, row)}"
    data = _read_range(url, member.offset_bytes, member.size_bytes)
    if role == "high":
        return simplejpeg.decode_jpeg(data)
    return np.load(io.BytesIO(data), allow_pickle=False)[inside]


def _read_range(url: str, offset: int, size: int) -> bytes:
    import fsspec

    with fsspec.open(url, "rb") as file:
        file.seek(offset)
        return file.read(size)


__all__ = ["clip_seconds", "contact_sheet", "frame_rate_warning", "ids", "store", "summarise"]
