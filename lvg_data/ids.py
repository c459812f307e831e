"""Identity: canonical hashes, and the names of videos, scenes, clips, parts and shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from fractions import Fraction
from typing import Any


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Fraction):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no canonical form: {value!r}")


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)


def canonical_hash(value: Any) -> str:
    """sha256 of the canonical JSON, 64 hex digits; equal in every process and on every machine."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def joint_version(*versions: int) -> int:
    """One number for the versions of all the code that makes an artefact."""
    return sum(100**place * version for place, version in enumerate(reversed(versions)))


def unit_interval(*parts: str | int) -> float:
    """A uniform number in [0, 1) that is a pure function of `parts`."""
    return int(canonical_hash(parts)[:13], 16) / 16**13


def video_id(row: Any) -> str:
    """The id of a video whose source row declares none: 16 hex digits."""
    return canonical_hash(["video", row])[:16]


def scene_id(video: str, start_frame: int, stop_frame: int) -> str:
    return canonical_hash(["scene", video, start_frame, stop_frame])[:20]


def clip_id(video: str, start_frame: int, stop_frame: int) -> str:
    return canonical_hash(["clip", video, start_frame, stop_frame])[:20]


def part_key(clip: str, index: int) -> str:
    """WebDataset key of a part; the same key never names two samples of one resolution."""
    return f"{clip}-{index:04d}"


def shard_name(split: str, index: int) -> str:
    return f"{split}-{index:05d}.tar"


def resolution_folder(role: str, height: int, width: int) -> str:
    """Folder of one resolution's shards, e.g. `low-064x064` (height x width)."""
    return f"{role}-{height:03d}x{width:03d}"


def split_of(video: str, shares: Mapping[str, float]) -> str:
    """The split of a video: `shares` of each held-out split, the rest is `train`.

    Stable: it depends on the id alone, so that a new video never moves an old one.
    """
    draw = unit_interval("split", video)
    for name, share in sorted(shares.items()):
        if draw < share:
            return name
        draw -= share
    return "train"
