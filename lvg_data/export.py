"""A dataset as the ZIPs of the LongVideoGAN release, for those who train with its code.

    OUT/<HHHH>x<WWWW>/partition_<NNNN>.zip     one folder a resolution, with the same clips in each partition
        <video>/<start>-<stop>/frame_<NNNNNN>.jpg
        frame_paths.json                       last: {clip path: [frame names in order]}
    OUT/lvg.json                               licence, attribution, frame rates and origin of every clip

High-res JPEGs are copied byte for byte. JPEG is all that the format has, so the raw low-res frames are
encoded (quality 100, 4:4:4): lossy, once. The same dataset gives the same bytes, given the same simplejpeg.

The release's reader asks for the same partition names, clips and frames at both resolutions, therefore:

    clips at high resolution       both folders, low from the aligned low-res frames of the high shards
    a split without any            the low folder alone, from the low shards
    a split with some              those; the others are counted and named in lvg.json, not lost in silence
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import numpy as np
import simplejpeg

from lvg_data import ids
from lvg_data.arrays import load_array
from lvg_data.errors import DatasetError
from lvg_data.finished import read_description, read_tables, shard_path
from lvg_data.prepared import LIST_NAME, folder_of_size
from lvg_data.records import Clip, Member, Part, Video
from lvg_data.shard import read_member
from lvg_data.store import is_local, local_path, sync

FORMAT = "lvg-longvideogan-export"
#: below 4 GiB, from where on an archive needs ZIP64
DEFAULT_PARTITION_BYTES = 2 << 30
NOTE_NAME = "lvg.json"
_LOW_QUALITY = 100
_DATE_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a ZIP can name
_FILE_MODE = 0o100644
#: video ids that are a folder's name as they are; others are hashed
_PLAIN_ID = re.compile("[a-z0-9][a-z0-9_-]{0,63}")


def export_longvideogan(
    dataset: str,
    out: str,
    split: str = "train",
    partition_bytes: int = DEFAULT_PARTITION_BYTES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Writes one split of a dataset to the folder `out`, which appears when it is whole.

    Args:
      dataset: folder or address of a complete dataset; what its shards hold is not hashed (see `verify`).
      out: a local folder that does not exist yet, or is empty.
      partition_bytes: the clip with which the frames of one of its archives reach this size is a
        partition's last.
      progress: called with frames done and frames in all.

    Returns:
      The content of `lvg.json`.

    Raises:
      DatasetError: no such dataset or split, `out` in use, or a shard that does not hold what it should.
    """
    plan = plan_export(dataset, split)
    total = sum(clip.num_frames for clip in plan.clips)
    done = 0
    progress(done, total)
    with _appearing_whole(out) as folder:
        number, partition = 0, None
        for clip in plan.clips:
            partition = partition or _Partition(folder, plan.sizes, number)
            for jpegs in _clip_frames(plan, clip):
                partition.add(plan.paths[clip.clip_id], jpegs)
                done += 1
            progress(done, total)
            if partition.size_bytes >= partition_bytes:
                partition.close()
                number, partition = number + 1, None
        if partition:
            partition.close()
        note = _note(plan, partition_bytes, folder)
        _write_synced(folder / NOTE_NAME, json.dumps(note, indent=2, sort_keys=True).encode() + b"\n")
    return note


# ---- what goes where ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExportPlan:
    """Which clips are written at which resolutions, in order.

    Attributes:
      sizes: (height, width) of each role that is written.
      clips: in the order of the clips table; `left_out` are those of the split that are not written.
      paths: the path of each clip in the archives, by clip id.
      parts: those that the frames of a clip are read from, in order, by clip id.
      shards: address of each shard, by name.
    """

    dataset: str
    description: dict[str, Any]
    split: str
    sizes: dict[str, tuple[int, int]]
    clips: Sequence[Clip]
    left_out: Sequence[Clip]
    videos: dict[str, Video]
    paths: dict[str, str]
    parts: dict[str, list[Part]]
    shards: dict[str, str]

    @property
    def role(self) -> str:
        """Role of the shards that are read."""
        return "high" if "high" in self.sizes else "low"


def plan_export(dataset: str, split: str) -> ExportPlan:
    """Reads the tables of a dataset; raises DatasetError where it has nothing in `split`."""
    dataset = dataset.rstrip("/")
    description, tables = read_description(dataset), read_tables(dataset)
    recipe = description["recipe"]
    of_split = [clip for clip in tables.clips if clip.split == split]
    if not of_split:
        there = ", ".join(
            f"{name} ({n})" for name, n in sorted(Counter(c.split for c in tables.clips).items())
        )
        raise DatasetError(
            f"{dataset} has no clip in split {split!r}; splits and their clips: {there or 'none'}"
        )
    role = "high" if any(clip.in_high for clip in of_split) else "low"
    clips = [clip for clip in of_split if (clip.in_high if role == "high" else clip.in_low)]
    kept = {clip.clip_id for clip in clips}
    parts: dict[str, list[Part]] = {clip_id: [] for clip_id in kept}
    for part in tables.parts:
        if part.role == role and part.clip_id in kept:
            parts[part.clip_id].append(part)
    return ExportPlan(
        dataset=dataset,
        description=description,
        split=split,
        sizes={r: (recipe[r]["height"], recipe[r]["width"]) for r in dict.fromkeys(("low", role))},
        clips=clips,
        left_out=[clip for clip in of_split if clip.clip_id not in kept],
        videos={video.video_id: video for video in tables.videos},
        paths=_clip_paths(clips),
        parts={clip_id: sorted(rows, key=lambda p: p.start_frame) for clip_id, rows in parts.items()},
        shards={s.name: f"{dataset}/{shard_path(recipe, s)}" for s in tables.shards if s.role == role},
    )


def _clip_paths(clips: Sequence[Clip]) -> dict[str, str]:
    """Path of each clip, by clip id: of [a-z0-9_-] and one `/`, from ids and frame numbers alone."""
    paths = {
        c.clip_id: f"{folder_of_video(c.video_id)}/{c.start_frame:06d}-{c.stop_frame:06d}" for c in clips
    }
    assert len(set(paths.values())) == len(clips), "two clips of one video have the same frames"
    return paths


def folder_of_video(video_id: str) -> str:
    """The video's id where it is short and plain, else a hash of it: an id may hold any text."""
    if _PLAIN_ID.fullmatch(video_id):
        return video_id
    return f"id-{ids.canonical_hash(['longvideogan', video_id])[:20]}"


# ---- reading --------------------------------------------------------------------------------------


def _clip_frames(plan: ExportPlan, clip: Clip) -> Iterator[dict[str, bytes]]:
    """JPEG of each role of every frame of a clip, in order. Parts overlap: each frame comes from the first."""
    next_frame = 0
    for part in plan.parts[clip.clip_id]:
        if part.start_frame <= next_frame < part.stop_frame:
            yield from _part_frames(plan, part, next_frame - part.start_frame)
            next_frame = part.stop_frame
    if next_frame != clip.num_frames:
        text = f"{plan.role} parts of clip {clip.clip_id} hold {next_frame} of its {clip.num_frames} frames"
        raise DatasetError(f"{plan.dataset}: {text}; run `lvg-data verify {plan.dataset}`")


def _part_frames(plan: ExportPlan, part: Part, first: int) -> Iterator[dict[str, bytes]]:
    """JPEG of each role of the frames of a part, from its frame `first` on."""
    address = plan.shards[part.shard]
    members = {member.name: member for member in part.members}
    num_frames = part.stop_frame - part.start_frame
    try:
        with fsspec.open(address, "rb") as file:
            low_name = "low.npy" if part.role == "high" else "npy"
            low = _read_low(_read(file, members[low_name]), (num_frames, *plan.sizes["low"], 3))
            for inside in range(first, num_frames):
                jpegs = {"low": _encode(low[inside])}
                if part.role == "high":
                    jpegs["high"] = _read(file, members[f"f{inside:03d}.jpg"])
                    _check_jpeg(jpegs["high"], plan.sizes["high"])
                yield jpegs
    except (OSError, ValueError, KeyError) as err:
        text = f"{address}: part {part.key} cannot be read ({err})"
        raise DatasetError(f"{text}; run `lvg-data verify {plan.dataset}`, and build it again") from err


def _read(file: BinaryIO, member: Member) -> bytes:
    data = read_member(file, member)
    if len(data) < member.size_bytes:
        raise ValueError(f"the shard ends inside {member.name}")
    return data


def _read_low(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    low = load_array(io.BytesIO(data))
    if (low.dtype, low.shape) != (np.uint8, shape):
        raise ValueError(f"low-res frames are {low.dtype} {low.shape}, expected uint8 {shape}")
    return low


def _check_jpeg(jpeg: bytes, size: tuple[int, int]) -> None:
    found = simplejpeg.decode_jpeg_header(jpeg)[:2]
    if found != size:
        raise ValueError(f"a frame is {folder_of_size(*found)}, expected {folder_of_size(*size)}")


def _encode(frame: np.ndarray) -> bytes:
    """uint8 [H, W, 3] sRGB -> JPEG."""
    frame = np.ascontiguousarray(frame)
    return simplejpeg.encode_jpeg(frame, quality=_LOW_QUALITY, colorspace="RGB", colorsubsampling="444")


# ---- writing --------------------------------------------------------------------------------------


class _Partition:
    """One partition: an archive of each resolution, with the same clips and frames."""

    def __init__(self, folder: Path, sizes: dict[str, tuple[int, int]], number: int) -> None:
        self._frames: dict[str, list[str]] = {}
        self._frame_bytes = dict.fromkeys(sizes, 0)
        self._archives: dict[str, zipfile.ZipFile] = {}
        for role, size in sizes.items():
            path = folder / folder_of_size(*size) / f"partition_{number:04d}.zip"
            path.parent.mkdir(exist_ok=True)
            self._archives[role] = zipfile.ZipFile(path, "x", zipfile.ZIP_STORED)

    @property
    def size_bytes(self) -> int:
        """Bytes of the frames in the larger archive."""
        return max(self._frame_bytes.values())

    def add(self, clip: str, jpegs: dict[str, bytes]) -> None:
        """Appends the next frame of a clip."""
        names = self._frames.setdefault(clip, [])
        names.append(f"frame_{len(names):06d}.jpg")
        for role, archive in self._archives.items():
            archive.writestr(_info(f"{clip}/{names[-1]}"), jpegs[role])
            self._frame_bytes[role] += len(jpegs[role])

    def close(self) -> None:
        listed = ids.canonical_json(self._frames)
        for archive in self._archives.values():
            archive.writestr(_info(LIST_NAME), listed)
            archive.close()
            sync(Path(str(archive.filename)))


def _info(name: str) -> zipfile.ZipInfo:
    """A member's header: nothing in it comes from the clock or the machine."""
    info = zipfile.ZipInfo(name, _DATE_TIME)
    info.create_system = 3  # Unix, also where this runs elsewhere
    info.external_attr = _FILE_MODE << 16
    return info


def _note(plan: ExportPlan, partition_bytes: int, folder: Path) -> dict[str, Any]:
    """The content of `lvg.json`: what the format itself has no place for."""
    description = plan.description
    archives = sorted(folder.glob("*/*.zip"))
    copied = {"low": f"encoded once, quality {_LOW_QUALITY}, 4:4:4", "high": "copied"}
    return {
        "format": FORMAT,
        "format_version": 1,
        "dataset": description["name"],
        "title": description["title"],
        "licence": description["licence"],
        "attribution": description["attribution"],
        "fingerprint": description["fingerprint"],
        "split": plan.split,
        "folders": {role: folder_of_size(*size) for role, size in plan.sizes.items()},
        "jpegs": {role: copied[role] for role in plan.sizes},
        "frame_rates": dict(sorted(Counter(clip.frame_rate for clip in plan.clips).items())),
        "partition_bytes": partition_bytes,
        "archives": {path.relative_to(folder).as_posix(): path.stat().st_size for path in archives},
        "num_clips": len(plan.clips),
        "num_frames": sum(clip.num_frames for clip in plan.clips),
        "clips": {plan.paths[clip.clip_id]: _clip_note(plan, clip) for clip in plan.clips},
        "clips_left_out": [clip.clip_id for clip in plan.left_out],
        "libraries": [f"simplejpeg {simplejpeg.__version__}"],
    }


def _clip_note(plan: ExportPlan, clip: Clip) -> dict[str, Any]:
    video = plan.videos[clip.video_id]
    return {
        "clip_id": clip.clip_id, "video_id": video.video_id, "source": video.origin,
        "licence": video.licence, "attribution": video.attribution, "frame_rate": clip.frame_rate,
        "start_s": float(Fraction(clip.start_s)), "stop_s": float(Fraction(clip.stop_s)),
    }  # fmt: skip


@contextlib.contextmanager
def _appearing_whole(out: str) -> Iterator[Path]:
    """A folder to fill that gets the name `out` after the `with`, or is removed where that fails.

    What a killed export left is removed by the next one.
    """
    target = _free_folder(out)
    folder = target.with_name(f".{target.name}.exporting")
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, out):
        _empty(folder)
        try:
            yield folder
            for path in (*folder.iterdir(), folder):
                sync(path)
            os.replace(folder, target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        sync(target.parent)


@contextlib.contextmanager
def _locked(folder: Path, out: str) -> Iterator[None]:
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            text = f"another export is writing to {out}; wait for it, or choose another folder"
            raise DatasetError(text) from err
        yield
    finally:
        os.close(lock)


def _free_folder(out: str) -> Path:
    if not is_local(out):
        raise DatasetError(f"{out}: archives are written to a local folder; copy them from there")
    target = local_path(out).absolute()
    if target.exists() and not target.is_dir():
        raise DatasetError(f"{out} is a file; name a new folder")
    if target.is_dir() and any(target.iterdir()):
        raise DatasetError(
            f"{out} is not empty, and an export is never mixed with other files; name a new folder"
        )
    return target


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _write_synced(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    sync(path)
