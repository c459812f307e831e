"""Frames and times. Spans are half-open [start, stop); a time is a Fraction of a second.

The only place where seconds become frame numbers and frame numbers become seconds.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from lvg_data.errors import Rejected

#: source frames are shown on a grid at most this often on average; 1 frame/s to 240 frames/s is as usual as
#: it gets, and times that ask for more are damaged
MAX_REPEATS = 300
#: most frames of a video at a card's frame rate: a week at 30 a second, 160 MB of a grid
MAX_GRID_FRAMES = 20_000_000
#: numbers that are worked on at a time where 64 bits do not hold them
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Interval:
    """A stretch of a video in seconds; `end_inclusive` keeps a frame exactly at `stop_s`."""

    start_s: Fraction
    stop_s: Fraction
    end_inclusive: bool = False

    def __post_init__(self) -> None:
        if self.start_s < 0 or self.stop_s <= self.start_s:
            raise ValueError(
                f"an interval runs from a time >= 0 to a later one, got {float(self.start_s)} .. "
                f"{float(self.stop_s)} s"
            )


@dataclass(frozen=True)
class Grid:
    """The frames of a video that a dataset uses, in order: grid frame k shows source frame ordinals[k].

    Attributes:
      ordinals: int64 [K], non-decreasing; position of the source frame in presentation order.
      pts: int64 [N], presentation time of every source frame in units of `time_base`, increasing.
      time_base: seconds per unit.
    """

    ordinals: np.ndarray
    pts: np.ndarray
    time_base: Fraction

    def __len__(self) -> int:
        return len(self.ordinals)

    def time_s(self, frame: int) -> Fraction:
        """Presentation time of a grid frame since the first frame of the video."""
        return int(self.pts[self.ordinals[frame]] - self.pts[0]) * self.time_base

    def times_s(self, start: int, stop: int) -> np.ndarray:
        """float64 [stop - start], seconds since the first frame of the video."""
        ticks = self.pts[self.ordinals[start:stop]] - self.pts[0]
        return (ticks * self.time_base.numerator) / self.time_base.denominator


def native_grid(pts: np.ndarray, time_base: Fraction) -> Grid:
    """Every frame once, at its own time."""
    return Grid(np.arange(len(pts), dtype=np.int64), pts, time_base)


def resampled_grid(pts: np.ndarray, time_base: Fraction, frame_rate: Fraction) -> Grid:
    """Grid frame k shows the source frame nearest in time to k / frame_rate; a tie takes the earlier.

    The grid ends at the last source frame. Rational arithmetic throughout: no drift over hours. It is worked out
    by source frame, of which there are fewer numbers to look at where frames repeat:

        twice the time   0         a+b         b+c        midpoints between neighbours a, b, c
        grid frames      0 . 1 . 2 . | 3 . 4 . . |        shown: a a a b b, by how many lie at or before each

    Raises:
      Rejected: `broken_times`, where gaps would repeat frames more than `MAX_REPEATS` times on average;
        `too_many_frames`, where there would be more than `MAX_GRID_FRAMES`.
    """
    ticks = pts - pts[0]
    step = 1 / (frame_rate * time_base)  # source ticks per grid frame
    num_frames = int(int(ticks[-1]) / step) + 1
    if num_frames > MAX_REPEATS * len(pts):
        message = f"{len(pts)} frames would become {num_frames} at {float(frame_rate):g} frames/s"
        raise Rejected("broken_times", message, num_frames / len(pts), MAX_REPEATS)
    if num_frames > MAX_GRID_FRAMES:
        message = f"{num_frames} frames at {float(frame_rate):g} frames/s; the limit is {MAX_GRID_FRAMES}"
        raise Rejected("too_many_frames", message, num_frames, MAX_GRID_FRAMES)
    doubled = ticks[:-1] + ticks[1:]
    # grid frame k is at or before a midpoint where 2 * k * step <= doubled
    stops = np.minimum(_floor_of(doubled, step.denominator, 2 * step.numerator) + 1, num_frames)
    counts = np.diff(stops, prepend=0, append=num_frames)
    return Grid(np.repeat(np.arange(len(pts), dtype=np.int64), counts), pts, time_base)


def _floor_of(values: np.ndarray, numerator: int, denominator: int) -> np.ndarray:
    """int64: values * numerator / denominator of int64 values, exactly, rounded down."""
    largest = int(np.abs(values).max(initial=1))
    if largest * numerator < 1 << 63 and denominator < 1 << 63:
        return values * numerator // denominator
    chunks = (values[i : i + _CHUNK].astype(object) for i in range(0, len(values), _CHUNK))
    return np.concatenate([(chunk * numerator // denominator).astype(np.int64) for chunk in chunks])


def _ceil(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)


def frames_in(grid: Grid, interval: Interval) -> range:
    """Grid frames whose presentation time lies in the interval (empty where there are none)."""
    to_tick = 1 / grid.time_base
    ticks = (grid.pts - grid.pts[0])[grid.ordinals]
    start = bisect_left(ticks, interval.start_s * to_tick)
    find_stop = bisect_right if interval.end_inclusive else bisect_left
    return range(start, find_stop(ticks, interval.stop_s * to_tick))


def runs_past_end(grid: Grid, interval: Interval) -> bool:
    """Whether the interval asks for time after the video's last frame is no longer shown."""
    return interval.stop_s > presentation_seconds(grid.pts, grid.time_base)


def without_gaps(grid: Grid, frame_rate: Fraction) -> Grid:
    """A resampled grid of numbered frames without those grid frames whose time nothing shows.

    A numbered frame is shown for one unit of the time base; grid frames are nearest neighbours, so that those in
    a gap would repeat the frames at its edges.
    """
    step = 1 / (frame_rate * grid.time_base)  # numbers per grid frame
    numbers = grid.pts - grid.pts[0]
    # frame k lies in [number - 1/2, number + 1) of the one that it shows; rounded up, by the negative rounded down
    first = -_floor_of(1 - 2 * numbers, step.denominator, 2 * step.numerator)
    stop = -_floor_of(-1 - numbers, step.denominator, step.numerator)
    frames = np.arange(len(grid))
    kept = (frames >= first[grid.ordinals]) & (frames < stop[grid.ordinals])
    return replace(grid, ordinals=grid.ordinals[kept])


def gaps_of(grid: Grid) -> list[int]:
    """Grid frames before which frames are missing, for times that count frames."""
    after = np.flatnonzero(np.diff(grid.pts) > 1) + 1  # ordinals
    return [int(frame) for frame in np.searchsorted(grid.ordinals, after)]


def presentation_seconds(pts: np.ndarray, time_base: Fraction) -> Fraction:
    """How long a video is shown; its last frame for as long as the one before it."""
    last = int(pts[-1] - pts[-2]) if len(pts) > 1 else 0
    return (int(pts[-1] - pts[0]) + last) * time_base


def mean_frame_rate(pts: np.ndarray, time_base: Fraction) -> Fraction | None:
    """Frames per second over the whole video; None for a single frame."""
    if len(pts) < 2:
        return None
    return Fraction(len(pts) - 1) / (int(pts[-1] - pts[0]) * time_base)


def standard_rate(rate: Fraction) -> Fraction:
    """The usual frame rate within 0.05% of a measured one, else the measured one to 1/1000.

    Containers with millisecond times show 30000/1001 as 29.97 and a bit; one name for one rate.
    """
    for numerator in (24, 25, 30, 48, 50, 60, 90, 100, 120, 240, 8, 10, 12, 15, 20):
        for usual in (Fraction(numerator), Fraction(numerator * 1000, 1001)):
            if abs(rate - usual) <= usual / 2000:
                return usual
    return Fraction(max(1, round(rate * 1000)), 1000)


def is_variable_rate(pts: np.ndarray) -> bool:
    """Whether gaps between frames differ by more than rounding to the time base or 10% explains."""
    gaps = np.diff(pts)
    if len(gaps) < 2:
        return False
    typical = float(np.median(gaps))
    return bool(np.any(np.abs(gaps - typical) > max(1.0, 0.1 * typical)))


def merge_ranges(ranges: Iterable[range]) -> list[range]:
    """The union as disjoint, ordered, non-empty ranges; neighbours that touch are joined."""
    merged: list[range] = []
    for r in sorted((r for r in ranges if len(r)), key=lambda r: r.start):
        if merged and r.start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(merged[-1].stop, r.stop))
        else:
            merged.append(r)
    return merged


def overlap(a: range, b: range) -> range:
    return range(max(a.start, b.start), max(a.start, b.start, min(a.stop, b.stop)))


def part_ranges(num_frames: int, part_frames: int, window_frames: int) -> list[range]:
    """Cuts a clip into overlapping parts, so that every window of up to `window_frames` lies in one.

        part_frames 24, window_frames 9
        clip   0........................40
        part 0 [0-----------24)
        part 1          [16-----------40)

    Neighbours share window_frames - 1 frames; the last part is as short as it comes but holds a window
    unless the clip itself is shorter than one.
    """
    step = part_frames - (window_frames - 1)
    num_parts = max(1, _ceil(Fraction(num_frames - (window_frames - 1), step)))
    return [range(i * step, min(i * step + part_frames, num_frames)) for i in range(num_parts)]


def owned_starts(parts: Sequence[range], index: int, span_frames: int) -> range:
    """Window starts that part `index` owns, in clip frames, for windows that span `span_frames`.

    Neighbouring parts overlap, so that a start can fit in two of them. It belongs to the part where it
    comes first; together the parts own every start once.

        clip   0........................40          windows of 9 frames
        part 0 [0-----------24)             owns 0..15
        part 1          [16-----------40)   owns 16..31

    Raises:
      ValueError: the span is longer than the overlap that the parts were packed with.
    """
    part = parts[index]
    first = part.start
    if index:
        before = parts[index - 1]
        if before.stop - part.start < span_frames - 1:
            raise ValueError(
                f"windows of {span_frames} frames do not fit the overlap of {before.stop - part.start} "
                "frames between parts; pack with a larger window_frames"
            )
        first = before.stop - span_frames + 1
    return range(first, max(first, part.stop - span_frames + 1))
