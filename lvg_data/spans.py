"""A video's decode, split at key frames: planning, rendering in a child, and reading what was rendered.

    key frames   |.......|.......|.......|.......|
    spans        [0---------------)[2---------------)      decoded in parallel, joined by ordinal
    wanted          ======            ==========           only these frames are rendered

An artefact of a span holds `low.u8` (raw frames), `high.jpgs` (JPEGs one after the other) and `index.npy`.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL

from lvg_data import ids, pictures, render, video
from lvg_data.arrays import load_array, save_array
from lvg_data.config import Card
from lvg_data.records import FrameFolder, Probed, RenderedSpan, Span, Video
from lvg_data.render import Crop, Geometry, JpegEncoder, Renderer
from lvg_data.store import Key, localized
from lvg_data.timeline import (
    Grid,
    Interval,
    frames_in,
    merge_ranges,
    native_grid,
    overlap,
    resampled_grid,
    without_gaps,
)

#: key frames to begin earlier when a span's first frame does not decode: streams that refresh the picture
#: gradually mark places as key frames from which it is whole only some frames later
_PREROLLS = (0, 1, 4)
#: most frames, and about the most bytes of them, that are decoded before they are rendered
_AHEAD_FRAMES, _AHEAD_BYTES = 32, 64 << 20
#: files of spans that are open at a time, the latest read: a video may have thousands of spans
_OPEN_FILES = 16
#: frames that are read at a time
_FRAMES_AT_ONCE = 32
#: one rendered frame: place in the file, row of `low.u8`, bytes [offset, offset + size) of `high.jpgs`
INDEX = np.dtype([("ordinal", "<i8"), ("row", "<i8"), ("offset", "<i8"), ("size", "<i8")])


def grid_of(packets: np.ndarray, time_base: Fraction, frame_rate: str, numbered: bool = False) -> Grid:
    """The frames that a dataset takes from a video: `frame_rate` is "native" or a rational.

    Where times are `numbered`, one that is missing is a frame that is missing.
    """
    pts = video.presentation_times(packets)
    if frame_rate == "native":
        return native_grid(pts, time_base)
    grid = resampled_grid(pts, time_base, Fraction(frame_rate))
    return without_gaps(grid, Fraction(frame_rate)) if numbered else grid


def load_grid(probed: Probed) -> tuple[np.ndarray, Grid]:
    """PACKET [N] and grid of a probed video."""
    with localized(f"{probed.probe}/packets.npy") as path:
        packets = load_array(path)
    return packets, _grid_of_row(packets, probed.video)


def _grid_of_row(packets: np.ndarray, row: Video) -> Grid:
    return grid_of(packets, Fraction(row.time_base), row.grid_rate, row.num_missing_frames > 0)


def wanted_frames(grid: Grid, intervals: Iterable[Interval] | None) -> list[range]:
    """Grid frames to render: all, or those of the intervals."""
    if intervals is None:
        return [range(len(grid))]
    return merge_ranges(frames_in(grid, interval) for interval in intervals)


def plan_spans(
    packets: np.ndarray, grid: Grid, wanted: Sequence[range], frame_megapixels: float, max_megapixels: float
) -> list[Span]:
    """Runs of GOPs that hold wanted frames, each at most `max_megapixels` of decoding (one GOP at least)."""
    keys = np.unique(np.searchsorted(grid.pts, packets["pts"][packets["key"] & packets["shown"]]))
    starts = [0, *(int(k) for k in keys if 0 < k < len(grid.pts))]
    spans: list[Span] = []
    for start, stop in zip(starts, [*starts[1:], len(grid.pts)], strict=True):
        first, last = (int(f) for f in np.searchsorted(grid.ordinals, [start, stop]))
        frames = [r for r in (overlap(range(first, last), w) for w in wanted) if len(r)]
        if not frames:
            continue
        gop = Span(start, stop, tuple((r.start, r.stop) for r in frames), (stop - start) * frame_megapixels)
        if spans and spans[-1].stop == start and spans[-1].cost + gop.cost <= max_megapixels:
            spans[-1] = _joined(spans[-1], gop)
        else:
            spans.append(gop)
    return spans


def _joined(a: Span, b: Span) -> Span:
    ranges = merge_ranges(range(*r) for r in a.wanted + b.wanted)
    return Span(a.start, b.stop, tuple((r.start, r.stop) for r in ranges), a.cost + b.cost)


# ---- rendering ------------------------------------------------------------------------------------

Reader = video.FrameReader | pictures.PictureReader


@dataclass(frozen=True)
class SpanJob:
    """Everything a child needs to render a span."""

    span: Span
    video: Video
    low: tuple[int, int]
    high: tuple[int, int]
    jpeg_quality: int
    squash: bool


def geometry_of(row: Video, squash: bool) -> Geometry:
    bars = (row.bar_top, row.bar_bottom, row.bar_left, row.bar_right)
    size = (row.width, row.height)
    return Geometry(row.rotation_degrees, Fraction(row.sample_aspect_ratio), bars, squash, size)


def crop_of(row: Video, card: Card) -> Crop:
    """The stretch of the coded picture that both resolutions show."""
    geometry = geometry_of(row, card.crop == "squash")
    return render.crop_of(geometry, row.width, row.height, card.high.height, card.high.width)


def span_job(span: Span, row: Video, card: Card) -> SpanJob:
    low, high = (card.low.height, card.low.width), (card.high.height, card.high.width)
    return SpanJob(span, row, low, high, card.high.jpeg_quality, card.crop == "squash")


def span_key(job: SpanJob, media: str) -> Key:
    """What the rendered frames of a span depend on: the file's content, the frames, and how they look.

    `media` tells apart what one content could be read as.
    """
    row = job.video
    config = {
        "low": job.low, "high": job.high, "jpeg_quality": job.jpeg_quality, "frame_rate": row.grid_rate,
        "media": media,
        "geometry": geometry_of(row, job.squash), "matrix": row.colour_matrix, "range": row.colour_range,
    }  # fmt: skip
    inputs = (row.sha256, job.span.start, job.span.stop, job.span.wanted)
    version = ids.joint_version(pictures.VERSION, render.VERSION, video.VERSION)
    return Key("render_span", version, config, inputs, library_versions())


def library_versions() -> tuple[str, ...]:
    """Libraries whose version can change a rendered byte; the compiled loops add integers, which none can."""
    pillow = f"pillow {PIL.__version__}"
    return (*video.library_versions(), JpegEncoder(100).library, pillow, f"numpy {np.__version__}")


def render_span(material: str | FrameFolder, packets_path: str, job: SpanJob, folder: Path) -> dict[str, int]:
    """Decodes a span of a file or of a folder once and writes its wanted frames at both resolutions to `folder`.

    A frame that did not decode, or that leans on one that did not, is left out of the index.
    """
    packets = load_array(packets_path)
    grid = _grid_of_row(packets, job.video)
    wanted = np.unique(np.concatenate([grid.ordinals[a:b] for a, b in job.span.wanted]))
    for preroll in _PREROLLS:
        start, stop = int(wanted[0]), int(wanted[-1]) + 1
        reader: Reader
        if isinstance(material, FrameFolder):
            reader = pictures.PictureReader(material.path, start, stop)
        else:
            reader = video.FrameReader(material, packets, start, stop, job.video.times_counted, preroll)
        index = _render_wanted(reader, wanted, job, folder)
        if reader.first == 0 or wanted[0] in index["ordinal"]:
            break
    save_array(folder / "index.npy", index)
    return {"num_frames": len(index), "num_missing": len(wanted) - len(index)}


def _render_wanted(reader: Reader, wanted: np.ndarray, job: SpanJob, folder: Path) -> np.ndarray:
    """INDEX of the wanted frames that a reader gave whole, by ordinal; their bytes are in `folder`."""
    full_range = job.video.colour_range == "full"
    renderer = Renderer(
        geometry_of(job.video, job.squash), job.video.colour_matrix, full_range, job.low, job.high
    )
    rows = _write_frames(reader, set(wanted.tolist()), renderer, JpegEncoder(job.jpeg_quality), folder)
    index = np.array([row for row in rows if row[0] not in reader.damaged], INDEX)
    return index[np.argsort(index["ordinal"], kind="stable")]


def _write_frames(
    reader: Iterable[tuple[int, Any]],
    wanted: set[int],
    renderer: Renderer,
    encoder: JpegEncoder,
    folder: Path,
) -> list[tuple[int, int, int, int]]:
    rows: list[tuple[int, int, int, int]] = []
    with open(folder / "low.u8", "wb") as low_file, open(folder / "high.jpgs", "wb") as high_file:
        for ordinal, frame in _decoded_ahead(reader, wanted):
            low, high = renderer.render(frame)
            jpeg = encoder.encode(high)
            rows.append((ordinal, len(rows), high_file.tell(), len(jpeg)))
            low_file.write(low.data)
            high_file.write(jpeg)
    return rows


def _decoded_ahead(reader: Iterable[tuple[int, Any]], wanted: set[int]) -> Iterator[tuple[int, Any]]:
    """The wanted frames of a reader, each once, decoded some at a time.

    Decoding and resizing push each other's memory and code out of the core's caches: in turn frame by frame,
    both cost more than alone.
    """
    ahead: deque[tuple[int, Any]] = deque()
    num_bytes = 0
    for ordinal, frame in reader:
        if ordinal not in wanted:
            continue
        wanted.discard(ordinal)
        ahead.append((ordinal, frame))
        num_bytes += frame.width * frame.height * frame.format.padded_bits_per_pixel // 8
        del frame  # its memory goes back to the decoder as soon as it is rendered
        if len(ahead) == _AHEAD_FRAMES or num_bytes >= _AHEAD_BYTES:
            while ahead:
                yield ahead.popleft()
            num_bytes = 0
    while ahead:
        yield ahead.popleft()


# ---- reading --------------------------------------------------------------------------------------


def _read_at_once(begins: np.ndarray, ends: np.ndarray, files: np.ndarray) -> Iterator[slice]:
    """Stretches of a list of frames that lie one after the other in one file, some frames each."""
    breaks = np.flatnonzero((begins[1:] != ends[:-1]) | (np.diff(files) != 0)) + 1
    for start, stop in itertools.pairwise([0, *breaks.tolist(), len(files)]):
        for first in range(start, stop, _FRAMES_AT_ONCE):
            yield slice(first, min(first + _FRAMES_AT_ONCE, stop))


class RenderedFrames:
    """The rendered frames of a video, by their ordinal in the file.

    Args:
      spans: of the video, in order.
      low: (height, width) of the low-res frames.
    """

    def __init__(self, spans: Sequence[RenderedSpan], low: tuple[int, int]) -> None:
        self.spans = [span for span in spans if span.num_frames]
        self.low_shape = (*low, 3)
        self._copies = contextlib.ExitStack()
        self._paths: dict[str, Path] = {}
        self._open: OrderedDict[str, BinaryIO] = OrderedDict()
        indexes = [self._load(f"{span.address}/index.npy") for span in self.spans]
        self.index = np.concatenate([np.zeros(0, INDEX), *indexes])
        self.span_of = np.repeat(np.arange(len(indexes)), [len(index) for index in indexes])

    def __enter__(self) -> RenderedFrames:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._open.popitem()[1].close()
        self._paths.clear()
        self._copies.close()

    def _load(self, address: str) -> np.ndarray:
        with localized(address) as path:
            return load_array(path)

    def _read(self, spans: np.ndarray, name: str, begins: np.ndarray, ends: np.ndarray) -> bytes:
        """Bytes of a file of a span, from the first frame's to the last's.

        Read, not mapped: mapped pages would count as this process's memory.
        """
        file = self._file(f"{self.spans[spans[0]].address}/{name}")
        return os.pread(file.fileno(), int(ends[-1] - begins[0]), int(begins[0]))

    def _file(self, address: str) -> BinaryIO:
        """A file of a span, open. What was copied from a store stays until the end, closed or not."""
        if address in self._open:
            self._open.move_to_end(address)
            return self._open[address]
        if address not in self._paths:
            self._paths[address] = self._copies.enter_context(localized(address))
        if len(self._open) == _OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        self._open[address] = open(self._paths[address], "rb")  # noqa: SIM115
        return self._open[address]

    def find(self, ordinals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of `index` for `ordinals`, and which of them are there (bool)."""
        rows = np.searchsorted(self.index["ordinal"], ordinals)
        rows = np.minimum(rows, max(len(self.index) - 1, 0))
        if not len(self.index):
            return rows, np.zeros(len(ordinals), bool)
        return rows, self.index["ordinal"][rows] == ordinals

    def low(self, ordinals: np.ndarray) -> Iterator[np.ndarray]:
        """uint8 [H, W, 3] for each of `ordinals`, all of which must be there."""
        rows, found = self.find(ordinals)
        assert found.all(), "a frame that was not rendered was asked for"
        spans, begins = self.span_of[rows], self.index["row"][rows] * math.prod(self.low_shape)
        ends = begins + math.prod(self.low_shape)
        for some in _read_at_once(begins, ends, spans):
            data = self._read(spans[some], "low.u8", begins[some], ends[some])
            yield from np.frombuffer(data, np.uint8).reshape(-1, *self.low_shape)

    def high(self, ordinals: np.ndarray) -> Iterator[bytes]:
        """JPEG bytes for each of `ordinals`, all of which must be there."""
        rows, found = self.find(ordinals)
        assert found.all(), "a frame that was not rendered was asked for"
        spans, begins, sizes = self.span_of[rows], self.index["offset"][rows], self.index["size"][rows]
        for some in _read_at_once(begins, begins + sizes, spans):
            data = self._read(spans[some], "high.jpgs", begins[some], begins[some] + sizes[some])
            edges = [0, *np.cumsum(sizes[some]).tolist()]
            yield from (data[start:stop] for start, stop in itertools.pairwise(edges))

    def high_bytes(self, ordinals: np.ndarray) -> int:
        """Stored size of the high-res frames of `ordinals` together."""
        return int(self.index["size"][self.find(ordinals)[0]].sum())
