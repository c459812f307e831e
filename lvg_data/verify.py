"""Does a dataset keep what it says: hashes, counts, every input row accounted for, frames readable?"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from lvg_data import ids, shard, store
from lvg_data.arrays import load_array
from lvg_data.dataset import shards_below
from lvg_data.finished import Tables, count_rows, read_description, read_tables, shard_path
from lvg_data.pack import plan_parts
from lvg_data.records import Clip, Part, Shard
from lvg_data.store import localized

#: the JPEG of the same frame at low resolution may differ by this mean level from the stored low frame
_MAX_MEAN_DIFFERENCE = 6.0


def verify_dataset(dataset: str, progress: Callable[[str], None] = lambda _: None) -> list[str]:
    """Everything that is wrong with a dataset, in words; an empty list means that it is whole.

    Reads every byte of every shard once. `progress` is called with the name of each shard.

    Raises:
      DatasetError: dataset.json or a table cannot be read at all.
    """
    dataset = dataset.rstrip("/")
    description, tables = read_description(dataset), read_tables(dataset)
    problems = [*_table_problems(dataset, description), *_description_problems(description, tables)]
    problems += [*_stray_shards(dataset, description, tables), *_conservation(description, tables)]
    problems += _part_problems(description, tables)
    parts: dict[tuple[str, str], list[Part]] = {(p.role, p.shard): [] for p in tables.parts}
    for part in tables.parts:
        parts[part.role, part.shard].append(part)
    for row in tables.shards:
        name = shard_path(description["recipe"], row)
        progress(name)
        problems += _shard_problems(
            dataset, name, row, parts.get((row.role, row.name), []), description["recipe"]
        )
    return problems


def _table_problems(dataset: str, description: dict[str, Any]) -> Iterator[str]:
    for name, promised in description["tables"].items():
        found = hashlib.sha256(store.read_bytes(f"{dataset}/{name}")).hexdigest()
        if found != promised["sha256"]:
            yield f"{name}: sha256 is {found}, dataset.json says {promised['sha256']}"


def _description_problems(description: dict[str, Any], tables: Tables) -> Iterator[str]:
    """dataset.json against itself and against the tables."""
    unsigned = {name: value for name, value in description.items() if name != "fingerprint"}
    fingerprint = ids.canonical_hash(unsigned)
    if fingerprint != description["fingerprint"]:
        yield f"dataset.json: its content has fingerprint {fingerprint}, it says {description['fingerprint']}"
    said = description["counts"]
    for name, found in count_rows(said["sources"], tables).items():
        if said.get(name) != found:
            yield f"dataset.json: {name} is {said.get(name)}, the tables say {found}"


def _stray_shards(dataset: str, description: dict[str, Any], tables: Tables) -> Iterator[str]:
    """Shards that a reader would find by their names but that no row knows."""
    known = {shard_path(description["recipe"], row) for row in tables.shards}
    for name in sorted(shards_below(dataset).keys() - known):
        yield f"{name}: no row of the shards table names it"


# ---- conservation: what goes in comes out, as rows or as rejects -----------------------------------


def _conservation(description: dict[str, Any], tables: Tables) -> Iterator[str]:
    rejects = Counter(r.level for r in tables.rejects)
    num_sources = description["counts"]["sources"]
    num_given = sum(v.num_intervals for v in tables.videos)
    given_scenes = sum(s.kind == "given" for s in tables.scenes)
    sums = (
        ("source rows", num_sources, "videos", len(tables.videos), "rejected", rejects["source"]),
        ("given intervals", num_given, "scenes", given_scenes, "rejected", rejects["interval"]),
        ("scenes", len(tables.scenes), "clips", len(tables.clips), "rejected", rejects["scene"]),
    )
    for what, total, kept_as, kept, _, dropped in sums:
        if total != kept + dropped:
            yield f"{total} {what}, but {kept} {kept_as} and {dropped} rejects"
    for clip in tables.clips:
        if not clip.frames_expected == clip.frames_written == clip.num_frames:
            yield f"clip {clip.clip_id}: {clip.frames_expected} frames expected, {clip.frames_written} written"
    yield from _frame_conservation(tables)
    for what, keys in (
        ("video", [v.video_id for v in tables.videos]),
        ("scene", [s.scene_id for s in tables.scenes]),
        ("clip", [c.clip_id for c in tables.clips]),
    ):
        yield from (f"{what} {key} has {n} rows" for key, n in Counter(keys).items() if n > 1)


def _frame_conservation(tables: Tables) -> Iterator[str]:
    """Every frame of a video that was cut belongs to one scene or one transition."""
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for scene in tables.scenes:
        spans[scene.video_id].append((scene.start_frame, scene.stop_frame))
    for reject in tables.rejects:
        if reject.level == "transition":
            spans[reject.video_id].append((reject.start_frame or 0, reject.stop_frame or 0))
    for video in tables.videos:
        edges = [
            0,
            *(frame for span in sorted(spans[video.video_id]) for frame in span),
            video.num_grid_frames,
        ]
        if not video.has_intervals and edges[::2] != edges[1::2]:
            yield f"video {video.video_id}: its scenes and transitions do not cover each frame once"


def _part_problems(description: dict[str, Any], tables: Tables) -> Iterator[str]:
    """Parts that the clips call for against those that there are."""
    from lvg_data.config import HighConfig, LowConfig

    found: dict[tuple[str, str], list[Part]] = {}
    for part in tables.parts:
        found.setdefault((part.role, part.clip_id), []).append(part)
    for role, model in (("low", LowConfig), ("high", HighConfig)):
        size = model.model_validate(description["recipe"][role])
        for clip in tables.clips:
            wanted = plan_parts(clip, size) if _goes_to(clip, role) else []
            have = sorted(found.get((role, clip.clip_id), []), key=lambda p: p.part_index)
            if [(p.key, p.start_frame, p.stop_frame, p.owned_start, p.owned_stop) for p in wanted] != [
                (p.key, p.start_frame, p.stop_frame, p.owned_start, p.owned_stop) for p in have
            ]:
                yield f"clip {clip.clip_id}: {len(have)} {role} parts do not cover it as planned ({len(wanted)})"


def _goes_to(clip: Clip, role: str) -> bool:
    return clip.in_low if role == "low" else clip.in_high


# ---- shards ---------------------------------------------------------------------------------------


def _shard_problems(
    dataset: str, name: str, row: Shard, parts: Sequence[Part], recipe: dict[str, Any]
) -> list[str]:
    try:
        with localized(f"{dataset}/{name}") as path:
            data = path.read_bytes()
    except FileNotFoundError:
        return [f"{name}: missing"]
    if len(data) != row.size_bytes:
        return [f"{name}: {len(data)} bytes, its row says {row.size_bytes}"]
    digest = hashlib.sha256(data).hexdigest()
    if digest != row.sha256:
        return [f"{name}: sha256 is {digest}, its row says {row.sha256}"]
    problems = list(_index_problems(name, data, parts))
    for part in () if problems else parts:  # without a good index there is no telling where a sample lies
        problems += [f"{name}: {part.key}: {text}" for text in _sample_problems(data, part, recipe)]
    return problems


def _index_problems(name: str, data: bytes, parts: Sequence[Part]) -> Iterator[str]:
    """The tar's own headers against the members of the parts table."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = [(m.name, m.offset_data, m.size) for m in tar]
    indexed = [(f"{p.key}.{m.name}", m.offset_bytes, m.size_bytes) for p in parts for m in p.members]
    if found != indexed:
        odd = sorted({n for n, *_ in set(found) ^ set(indexed)})
        yield f"{name}: members and index differ ({', '.join(odd[:3])})"


def _sample_problems(data: bytes, part: Part, recipe: dict[str, Any]) -> Iterator[str]:
    members = {m.name: data[m.offset_bytes : m.offset_bytes + m.size_bytes] for m in part.members}
    num_frames = part.stop_frame - part.start_frame
    low = load_array(io.BytesIO(members["npy" if part.role == "low" else "low.npy"]))
    shape = (num_frames, recipe["low"]["height"], recipe["low"]["width"], 3)
    if low.shape != shape or low.dtype != np.uint8:
        yield f"low frames are {low.dtype} {low.shape}, expected uint8 {shape}"
        return
    times = load_array(io.BytesIO(members["times.npy"]))
    if times.shape != (num_frames,) or np.any(np.diff(times) < 0):
        yield f"times are {times.shape} or go backwards"
    if shard.read_metadata(members["json"])["key"] != part.key:
        yield "metadata is of another part"
    if part.role == "high":
        yield from _high_problems(members, low, num_frames, recipe)


def _high_problems(
    members: dict[str, bytes], low: np.ndarray, num_frames: int, recipe: dict[str, Any]
) -> Iterator[str]:
    """Every JPEG decodes at its size, and shows what the low-res frame beside it shows."""
    names = sorted(name for name in members if name.endswith(".jpg"))
    if names != [f"f{n:03d}.jpg" for n in range(num_frames)]:
        yield f"{len(names)} JPEG frames, expected {num_frames}"
        return
    expected = (recipe["high"]["height"], recipe["high"]["width"], 3)
    for name, small in zip(names, low, strict=True):
        try:
            picture = simplejpeg.decode_jpeg(members[name])
        except ValueError as err:
            yield f"{name} does not decode: {err}"
            continue
        if picture.shape != expected:
            yield f"{name} is {picture.shape}, expected {expected}"
        elif not _show_the_same(picture, small):
            yield f"{name} and its low-res frame show different pictures"


def _show_the_same(picture: np.ndarray, small: np.ndarray) -> bool:
    """Whether a picture [H, W, 3] resized to `small` [h, w, 3] is about `small`; both uint8.

    Means of blocks settle nearly all. Where blocks have few pixels and edges are sharp, they differ by what the
    resizing filter takes from the blocks beside them.
    """
    if abs(_block_means(picture) - _block_means(small)).mean() <= _MAX_MEAN_DIFFERENCE:
        return True
    height, width = small.shape[:2]
    resized = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
    return bool(abs(_block_means(resized) - _block_means(small)).mean() <= _MAX_MEAN_DIFFERENCE)


def _block_means(picture: np.ndarray, blocks: int = 4) -> np.ndarray:
    """float64 [blocks, blocks, 3]: means over a grid of tiles; the same at any resolution."""
    height, width = (n // blocks * blocks for n in picture.shape[:2])
    tiles = picture[:height, :width].reshape(blocks, height // blocks, blocks, width // blocks, 3)
    return tiles.mean(axis=(1, 3))
