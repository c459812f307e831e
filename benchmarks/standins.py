"""Stand-ins for the four published datasets: lists and cards of the real shape over tiny generated videos.

    mountain_biking     28 videos, 1,202 intervals, 18,475 s          a clip list and <id>.mp4
    horseback_riding    44 videos,    66 intervals, 14,501 s          the same
    acid               900 videos, 11,000 sequences                   a tar.gz, and <id>.mp4 for a tenth of them
    sky_timelapse    1,108 videos,  2,400 folders of 2 to 30 frames   JPEGs, two levels deep

All of it is a pure function of shape and seed. A video is 96x54 at 5 frames a second and shows the number of each
frame (see `paint`), so that what a build stored can be compared with what it was asked for.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import random
import string
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import simplejpeg
import yaml

from lvg_data.config import bundled_cards

WIDTH, HEIGHT, FRAMES_PER_S = 96, 54, 5
#: `--set` of every build over stand-ins: their size and length, and shards as many as the real ones are
SETTINGS = (
    "low.height=32", "low.width=32", "low.min_frames=12", "low.window_frames=12",
    "high.height=64", "high.width=64", "shards.target_bytes=8388608",
)  # fmt: skip


# ---- shapes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClipListShape:
    """What is known of a clip list; `card` is the bundled card that it belongs to."""

    card: str
    num_videos: int
    num_intervals: int
    total_s: int
    shortest_s: int
    median_s: int
    longest_s: int

    def scaled(self, scale: float) -> ClipListShape:
        """The same with fewer videos and intervals of the same lengths; two and four at least."""
        num_videos, num_intervals = _scaled(self.num_videos, scale, 2), _scaled(self.num_intervals, scale, 4)
        total_s = round(self.total_s * num_intervals / self.num_intervals)
        return replace(self, num_videos=num_videos, num_intervals=num_intervals, total_s=total_s)


@dataclass(frozen=True)
class TrajectoriesShape:
    """A list of camera trajectories; of `share_here` of its videos there is a copy."""

    num_videos: int
    num_sequences: int
    fewest_poses: int = 10
    most_poses: int = 50
    share_here: float = 0.1
    card: str = "acid"

    @property
    def num_here(self) -> int:
        return _scaled(self.num_videos, self.share_here, 2)

    def scaled(self, scale: float) -> TrajectoriesShape:
        videos, sequences = _scaled(self.num_videos, scale, 4), _scaled(self.num_sequences, scale, 8)
        return replace(self, num_videos=videos, num_sequences=sequences)


@dataclass(frozen=True)
class FoldersShape:
    """Folders of frames; by split as (long videos, folders that were cut from them)."""

    train: tuple[int, int]
    test: tuple[int, int]
    fewest_frames: int = 2
    most_frames: int = 30
    card: str = "sky_timelapse"

    @property
    def num_folders(self) -> int:
        return self.train[1] + self.test[1]

    def scaled(self, scale: float) -> FoldersShape:
        train, test = ((_scaled(a, scale, 1), _scaled(b, scale, 2)) for a, b in (self.train, self.test))
        return replace(self, train=train, test=test)


Shape = ClipListShape | TrajectoriesShape | FoldersShape

BIKING = ClipListShape("mountain_biking", 28, 1202, 18_475, 5, 11, 88)
HORSEBACK = ClipListShape("horseback_riding", 44, 66, 14_501, 31, 230, 450)
ACID = TrajectoriesShape(900, 11_000)
#: as many poses as the published list has, about 2.1 million: for listing, not for building
ACID_ALL_POSES = replace(ACID, fewest_poses=80, most_poses=300)
SKY = FoldersShape(train=(997, 2175), test=(111, 225))
SHAPES: tuple[Shape, ...] = (BIKING, HORSEBACK, ACID, SKY)


def _scaled(number: int, scale: float, least: int) -> int:
    return max(least, round(number * scale))


# ---- drawing --------------------------------------------------------------------------------------


def draw_clip_list(shape: ClipListShape, seed: int = 0) -> dict[str, list[tuple[int, int]]]:
    """Intervals [start, stop] in whole seconds, by video, in order and apart; two ids begin with `-`."""
    rng = random.Random(f"{shape.card} {seed}")
    lengths = _draw_lengths(rng, shape)
    videos: dict[str, list[tuple[int, int]]] = {}
    for video_id, count in zip(
        _draw_ids(rng, shape.num_videos), _shares(rng, len(lengths), shape.num_videos), strict=True
    ):
        stop, intervals = rng.randrange(20), []
        for length in lengths[:count]:
            start = stop + rng.randint(1, 30)
            stop = start + length
            intervals.append((start, stop))
        videos[video_id], lengths = intervals, lengths[count:]
    return videos


def _draw_lengths(rng: random.Random, shape: ClipListShape) -> list[int]:
    """Whole seconds that add up to the shape's total, the shortest and the longest among them.

    Raises:
      ValueError: so few intervals cannot.
    """

    def bounded(length: float) -> int:
        return min(shape.longest_s, max(shape.shortest_s, round(length)))

    num_free, free_s = shape.num_intervals - 2, shape.total_s - shape.shortest_s - shape.longest_s
    if not num_free * shape.shortest_s <= free_s <= num_free * shape.longest_s:
        raise ValueError(
            f"{shape.num_intervals} intervals of {shape.shortest_s} to {shape.longest_s} s, both among them, cannot "
            f"last {shape.total_s} s together; take a larger scale"
        )
    free = [bounded(rng.lognormvariate(math.log(shape.median_s), 0.6)) for _ in range(num_free)]
    missing = free_s - sum(free)
    while missing:
        place, step = rng.randrange(len(free)), 1 if missing > 0 else -1
        if bounded(free[place] + step) != free[place]:
            free[place] += step
            missing -= step
    lengths = [shape.shortest_s, shape.longest_s, *free]
    rng.shuffle(lengths)
    return lengths


def _draw_ids(rng: random.Random, count: int) -> list[str]:
    """YouTube ids; the first two begin with `-`."""
    alphabet = string.ascii_letters + string.digits + "-_"
    ids = ["".join(rng.choices(alphabet, k=11)) for _ in range(count)]
    return [f"-{text[1:]}" if place < 2 else text for place, text in enumerate(ids)]


def _shares(rng: random.Random, total: int, count: int) -> list[int]:
    """`total` things over `count` places, one at least in each."""
    cuts = sorted(rng.sample(range(1, total), count - 1))
    return [stop - start for start, stop in zip([0, *cuts], [*cuts, total], strict=True)]


@dataclass(frozen=True)
class Trajectory:
    """A sequence: the poses [first_row, first_row + num_poses) of the path, one on each frame from `first_frame`."""

    name: str
    video_id: str
    split: str
    first_frame: int
    num_poses: int
    first_row: int

    @property
    def poses(self) -> np.ndarray:
        """float64 [num_poses, 3, 4], world to camera, as the list spells them."""
        rows = [PATH_ROWS[(self.first_row + n) % len(PATH_ROWS)].split()[6:] for n in range(self.num_poses)]
        return np.array(rows, np.float64).reshape(-1, 3, 4)

    @property
    def text(self) -> str:
        """The sequence's file."""
        lines = [f"https://www.youtube.com/watch?v={self.video_id}"]
        for n in range(self.num_poses):
            time_us = (self.first_frame + n) * 1_000_000 // FRAMES_PER_S
            lines.append(f"{time_us} {PATH_ROWS[(self.first_row + n) % len(PATH_ROWS)]}")
        return "\n".join(lines) + "\n"


def _path_row(n: int) -> str:
    """Columns 1 to 18 of a line: intrinsics, two unused, and a camera that flies a circle."""
    turn = 2 * math.pi * n / 512
    cos, sin = math.cos(turn), math.sin(turn)
    pose = (cos, 0, sin, 3 * sin, 0, 1, 0, 0.1, -sin, 0, cos, 3 * cos)
    return " ".join(f"{value:.9f}" for value in (0.85, 1.51, 0.5, 0.5, 0, 0, *pose))


PATH_ROWS = tuple(_path_row(n) for n in range(512))


def draw_trajectories(shape: TrajectoriesShape, seed: int = 0) -> list[Trajectory]:
    """The sequences, in order of video; of ten videos one is for validation and one for tests."""
    rng = random.Random(f"{shape.card} {seed}")
    shares = _shares(rng, shape.num_sequences, shape.num_videos)
    found = []
    for place, (video_id, count) in enumerate(zip(_draw_ids(rng, shape.num_videos), shares, strict=True)):
        split = {8: "validation", 9: "test"}.get(place % 10, "train")
        frame = 0
        for _ in range(count):
            frame += rng.randint(5, 50)
            num_poses = rng.randint(shape.fewest_poses, shape.most_poses)
            name = f"{rng.getrandbits(64):016x}"
            found.append(Trajectory(name, video_id, split, frame, num_poses, rng.randrange(len(PATH_ROWS))))
            frame += num_poses
    return found


def videos_here(shape: TrajectoriesShape, trajectories: Sequence[Trajectory]) -> dict[str, int]:
    """The videos that there is a copy of, evenly over the list, with the frames that each needs."""
    frames: dict[str, int] = {}
    for trajectory in trajectories:
        frames[trajectory.video_id] = trajectory.first_frame + trajectory.num_poses + 5
    places = np.linspace(0, len(frames) - 1, shape.num_here).round().astype(int)
    return {video_id: frames[video_id] for video_id in (list(frames)[place] for place in places)}


@dataclass(frozen=True)
class Folder:
    """A folder of frames, by its place below the root; its frames are numbered from `first`."""

    path: str
    first: int
    num_frames: int

    @property
    def names(self) -> list[str]:
        long_video = self.path.split("/")[1]
        numbers = range(self.first, self.first + self.num_frames)
        return [f"{long_video}_frames_{number:08d}.jpg" for number in numbers]


def draw_folders(shape: FoldersShape, seed: int = 0) -> list[Folder]:
    rng = random.Random(f"{shape.card} {seed}")
    found = []
    for split, (num_long, num_folders) in (("sky_train", shape.train), ("sky_test", shape.test)):
        shares = _shares(rng, num_folders, num_long)
        for long_video, count in zip(_draw_ids(rng, num_long), shares, strict=True):
            for number in range(1, count + 1):
                num_frames = rng.randint(shape.fewest_frames, shape.most_frames)
                path = f"{split}/{long_video}/{long_video}_{number}"
                found.append(Folder(path, rng.randrange(60_000), num_frames))
    return found


# ---- pictures -------------------------------------------------------------------------------------

_CELLS = 4
_DARK, _BRIGHT = 50, 200
#: which of the 16 bits, the highest first, each pixel of the middle square shows
_BIT_OF = (np.arange(HEIGHT) * _CELLS // HEIGHT)[:, None] * _CELLS + np.arange(HEIGHT) * _CELLS // HEIGHT
_LEFT = (WIDTH - HEIGHT) // 2


def paint(number: int) -> np.ndarray:
    """Luma uint8 [54, 96]: the middle square shows `number`, below 2^16, as 4 x 4 cells, the highest bit first."""
    bits = (number >> np.arange(_CELLS**2 - 1, -1, -1)) & 1
    luma = np.full((HEIGHT, WIDTH), 120, np.uint8)
    luma[:, _LEFT : _LEFT + HEIGHT] = np.where(bits, _BRIGHT, _DARK).astype(np.uint8)[_BIT_OF]
    return luma


def read_number(picture: np.ndarray) -> int:
    """The number that the middle square shows: uint8 [N, N, 3], of any size from 16."""
    size = picture.shape[0]
    centres = [(2 * cell + 1) * size // (2 * _CELLS) for cell in range(_CELLS)]
    luma = picture[np.ix_(centres, centres)] @ np.array([0.299, 0.587, 0.114])
    return int.from_bytes(np.packbits(luma > (_DARK + _BRIGHT) / 2).tobytes())


def _tint(video_id: str) -> tuple[int, int]:
    """Chroma of a video, so that two of them differ."""
    digest = hashlib.sha256(video_id.encode()).digest()
    return 112 + digest[0] % 32, 112 + digest[1] % 32


def write_video(path: Path, num_frames: int) -> None:
    """Frames 0, 1, 2, ... at 5 a second, with a key frame every five seconds."""
    blue, red = _tint(path.stem)
    chroma = np.concatenate([np.full(HEIGHT * WIDTH // 4, level, np.uint8) for level in (blue, red)])
    options = {"qscale": "3", "g": str(5 * FRAMES_PER_S)}
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=FRAMES_PER_S, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(num_frames):
            planes = np.concatenate([paint(number), chroma.reshape(-1, WIDTH)])
            frame = av.VideoFrame.from_ndarray(planes, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FRAMES_PER_S)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def jpeg_of(number: int) -> bytes:
    return simplejpeg.encode_jpeg(np.repeat(paint(number)[..., None], 3, axis=2), quality=90)


# ---- writing --------------------------------------------------------------------------------------


def write_standin(shape: Shape, folder: Path, seed: int = 0, media: bool = True) -> Path:
    """Writes a card, its list and its pictures to `folder`; returns the card.

    Without `media` the videos are to be fetched, and the frames of all folders are one file with many names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(shape, ClipListShape):
        return _write_clip_list(shape, folder, seed, media)
    if isinstance(shape, TrajectoriesShape):
        return _write_trajectories(shape, folder, seed, media)
    return _write_folders(shape, folder, seed, media)


def _write_card(name: str, folder: Path, source: dict[str, Any], media: bool) -> Path:
    """The bundled card with another list and own copies."""
    card = yaml.safe_load(bundled_cards()[name].read_text(encoding="utf-8"))
    copies = {"folder": "videos"} if media and source["kind"] != "frame_folders" else {}
    card["sources"] = [{**card["sources"][0], **source, **copies}]
    path = folder / "card.yaml"
    path.write_text(yaml.safe_dump(card, sort_keys=False), encoding="utf-8")
    return path


def _write_clip_list(shape: ClipListShape, folder: Path, seed: int, media: bool) -> Path:
    videos = draw_clip_list(shape, seed)
    data = json.dumps({name: [_spelled(*pair) for pair in pairs] for name, pairs in videos.items()}).encode()
    (folder / "clips.json").write_bytes(data)
    if media:
        _write_videos(folder / "videos", {name: _num_frames(pairs) for name, pairs in videos.items()})
    source = {
        "kind": "clip_list",
        "list": "clips.json",
        "sha256": hashlib.sha256(data).hexdigest(),
        "expect": {"videos": shape.num_videos, "intervals": shape.num_intervals},
    }
    return _write_card(shape.card, folder, source, media)


def _spelled(start: int, stop: int) -> str:
    return " ".join(f"{seconds // 60}:{seconds % 60:02d}" for seconds in (start, stop))


def _num_frames(intervals: Sequence[tuple[int, int]]) -> int:
    """Two seconds more than the last interval needs."""
    return (intervals[-1][1] + 2) * FRAMES_PER_S


def _write_videos(folder: Path, frames: dict[str, int]) -> None:
    folder.mkdir(exist_ok=True)
    for video_id, num_frames in frames.items():
        write_video(folder / f"{video_id}.mp4", num_frames)


def _write_trajectories(shape: TrajectoriesShape, folder: Path, seed: int, media: bool) -> Path:
    trajectories = draw_trajectories(shape, seed)
    path = folder / "sequences.tar.gz"
    with (
        open(path, "wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for trajectory in trajectories:
            data = trajectory.text.encode()
            info = tarfile.TarInfo(f"acid/{trajectory.split}/{trajectory.name}.txt")
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    if media:
        _write_videos(folder / "videos", videos_here(shape, trajectories))
    source = {
        "kind": "trajectories",
        "list": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "expect": {"videos": shape.num_videos, "intervals": shape.num_sequences},
    }
    return _write_card(shape.card, folder, source, media)


def _write_folders(shape: FoldersShape, folder: Path, seed: int, media: bool) -> Path:
    root = folder / "sky"
    shared = folder / "shared.jpg"
    shared.write_bytes(jpeg_of(0))
    for found in draw_folders(shape, seed):
        (root / found.path).mkdir(parents=True, exist_ok=True)
        for path, number in _frames_of(found, root):
            path.write_bytes(jpeg_of(number)) if media else os.link(shared, path)
    source = {"kind": "frame_folders", "path": "sky", "expect": {"videos": shape.num_folders}}
    return _write_card(shape.card, folder, source, media)


def _frames_of(folder: Folder, root: Path) -> Iterator[tuple[Path, int]]:
    """Path and number of each frame."""
    for number, name in enumerate(folder.names, folder.first):
        yield root / folder.path / name, number
