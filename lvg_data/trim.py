"""Quality of scenes, judged on the frames that training will see; and the dark bars of a whole video.

Luma is BT.601 full range, Y = 0.299 R + 0.587 G + 0.114 B, 0..255, in integers so that every machine agrees.
Levels come from `TrimConfig`. The constants below describe detectors, not policies; they were chosen on
generated rides and four real videos, each without and with pasted logos of 1 to 4% of the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from lvg_data.config import TrimConfig
from lvg_data.errors import Rejected

CHUNK_FRAMES = 256

# Bars
USABLE_LIT_SHARE = 0.15
"""A frame with fewer pixels that reach the bar level is too dark to show where bars end."""
DARK_LIT_SHARE = 0.1
"""A dark row has at most this share of lit pixels over all frames: noise, a subtitle now and then."""
BLENDED_ROWS = 2
"""Rows that the edge of a bar may take to become picture, once scaled."""
EDGE_LIT_SHARE = 0.3
"""How often the picture beside a bar is lit; a dark skyline is not straight, lights up over many rows ..."""
EDGE_STEP = 8.0
"""... and how many levels it is brighter on average; a night sky without clouds grows brighter too slowly."""
MAX_BAR_SHARE = 0.4
"""Of the height or width, for each bar: what is deeper is taken for a dark picture."""
MIN_BAR_PX = 2
BLEND_RATIO = 0.8
"""A row that has less of the brightness of the row inside it is a mix of bar and picture."""

# Overlays
FIXED_RATIO = 2.5
"""Mean over deviation, in time, of a fixed pixel's curvature. A shaking horizon or handlebar stays below."""
FIXED_CURVATURE = 3.0
"""Levels between a fixed pixel and the mean of its four neighbours; compression noise stays below."""
TEXTURE_CURVATURE = 1.0
"""Root mean square in time, in levels, from which a pixel can tell whether the picture moves."""
CLUSTER_RADIUS_PX, CLUSTER_LINES, CLUSTER_PIXELS = 3, 4, 12
"""A logo has 12 fixed pixels in 4 rows and 4 columns of 7x7; the edge of a bar or a pole is a thin line."""
HALO_PX = 3
"""Around an overlay, where the picture is not asked whether it moves."""
MIN_TEXTURE_SHARE = 0.05
STILL_MEDIAN, STILL_MEAN = 0.05, 0.2
"""Share of the curvature's energy that stays in place, over the rest of a picture that moves, at most."""
MAX_OVERLAY_AREA = 0.125
"""A larger fixed area is a camera that stands still before something that moves, or the vehicle's body."""


@dataclass(frozen=True)
class Qualities:
    """What a span of rendered frames looks like; shares are 0 to 1.

    Attributes:
      black_share: frames whose mean luma is below `black_level`.
      frozen_share: frames, of all but the first, whose mean absolute difference in luma from the one before
        is below `frozen_difference`.
      bar_share: area of dark bars at the edges.
      overlay_share: area of what is fixed over moving pictures, a logo or text.
      leading_black, trailing_black: black frames in a row at each end.
    """

    black_share: float
    frozen_share: float
    bar_share: float
    overlay_share: float
    leading_black: int
    trailing_black: int


@dataclass(frozen=True)
class Bars:
    """Dark rows and columns at the edges of a picture, in pixels."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0


# ---- measuring


def measure_qualities(frames: Iterable[np.ndarray], config: TrimConfig) -> Qualities:
    """Measures frames as they come, in constant memory.

    Args:
      frames: uint8 [H, W, 3] each, sRGB, at least 8 pixels a side; one shape.

    Raises:
      ValueError: there is no frame.
    """
    sums = _Sums(config)
    for rgb in _chunks(frames):
        sums.add(_luma(rgb))
    if not sums.num_frames:
        raise ValueError("there is no frame to measure")
    return sums.qualities()


def _chunks(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """uint8 [T, H, W, 3], T up to CHUNK_FRAMES."""
    source = iter(frames)
    while chunk := list(islice(source, CHUNK_FRAMES)):
        yield np.stack(chunk)


def _luma(rgb: np.ndarray) -> np.ndarray:
    """uint8 [..., H, W, 3] to uint8 [..., H, W]; the weights of 256 sum to 256, rounded to nearest."""
    weighted = np.full(rgb.shape[:-1], 128, np.uint16)
    for channel, weight in enumerate((77, 150, 29)):
        weighted += np.multiply(rgb[..., channel], weight, dtype=np.uint16)
    return (weighted >> 8).astype(np.uint8)


class _Sums:
    """What has been seen of a span: a few numbers a frame and a few sums a pixel."""

    def __init__(self, config: TrimConfig) -> None:
        self.config = config
        self.num_frames = self.num_frozen = self.num_usable = 0
        self.black: list[np.ndarray] = []
        self.last: np.ndarray | None = None
        nothing: np.ndarray = np.zeros((1, 1), np.int64)  # of no size yet: the first frames give it theirs
        self.lit = self.level = self.curvature = self.curvature_squared = nothing

    def add(self, luma: np.ndarray) -> None:
        """Takes the next frames, uint8 [T, H, W]."""
        self.num_frames += len(luma)
        self.black.append(luma.mean(axis=(1, 2)) < self.config.black_level)
        self._add_frozen(luma)
        self._add_lit(luma)
        self._add_curvature(luma)

    def _add_frozen(self, luma: np.ndarray) -> None:
        if self.last is not None:
            self.num_frozen += int(_is_frozen(self.last[None], luma[:1], self.config).sum())
        self.num_frozen += int(_is_frozen(luma[:-1], luma[1:], self.config).sum())
        self.last = luma[-1]

    def _add_lit(self, luma: np.ndarray) -> None:
        lit = luma >= self.config.bar_level
        usable = lit.mean(axis=(1, 2)) >= USABLE_LIT_SHARE
        self.num_usable += int(usable.sum())
        self.lit = self.lit + lit[usable].sum(axis=0)
        self.level = self.level + luma[usable].sum(axis=0, dtype=np.int64)

    def _add_curvature(self, luma: np.ndarray) -> None:
        curvature = _curvature(luma)
        self.curvature = self.curvature + curvature.sum(axis=0, dtype=np.int64)
        self.curvature_squared = self.curvature_squared + np.einsum(
            "tyx,tyx->yx", curvature, curvature, dtype=np.int64
        )

    def qualities(self) -> Qualities:
        black = np.concatenate(self.black)
        coloured = np.flatnonzero(~black)
        leading = int(coloured[0]) if len(coloured) else len(black)
        trailing = len(black) - 1 - int(coloured[-1]) if len(coloured) else len(black)
        return Qualities(
            black_share=float(black.mean()),
            frozen_share=self.num_frozen / max(1, self.num_frames - 1),
            bar_share=self._bar_share(),
            overlay_share=self._overlay_share(),
            leading_black=leading,
            trailing_black=trailing,
        )

    def _bar_share(self) -> float:
        if not self.num_usable:
            return 0.0
        height, width = self.lit.shape
        bars = _bars_of(np.stack([self.lit, self.level]) / self.num_usable, min_depth=1)
        inside = (height - bars.top - bars.bottom) * (width - bars.left - bars.right)
        return 1 - inside / (height * width)

    def _overlay_share(self) -> float:
        mean = self.curvature / (4 * self.num_frames)
        mean_square = self.curvature_squared / (16 * self.num_frames)
        return float(_overlay_mask(mean, mean_square).mean())


def _is_frozen(before: np.ndarray, after: np.ndarray, config: TrimConfig) -> np.ndarray:
    """bool [T] of two uint8 [T, H, W]."""
    difference = np.maximum(before, after) - np.minimum(before, after)
    return difference.mean(axis=(1, 2)) < config.frozen_difference


def _curvature(luma: np.ndarray) -> np.ndarray:
    """int16 [T, H, W]: four times a pixel minus its four neighbours; 0 at the border of the frame."""
    levels = luma.astype(np.int16)
    curvature = np.zeros_like(levels)
    inner = curvature[:, 1:-1, 1:-1]
    np.multiply(levels[:, 1:-1, 1:-1], 4, out=inner)
    for rows, columns in ((slice(0, -2), slice(1, -1)), (slice(2, None), slice(1, -1)),
                          (slice(1, -1), slice(0, -2)), (slice(1, -1), slice(2, None))):  # fmt: skip
        inner -= levels[:, rows, columns]
    return curvature


# ---- overlays


def _overlay_mask(mean: np.ndarray, mean_square: np.ndarray) -> np.ndarray:
    """Which pixels belong to an overlay: bool [H, W]; none where the camera stands still.

        curvature   of a logo    __|`|__|`|__     the same in every frame: mean well above deviation
                    of a horizon __/\\___/`\\__     its sign turns when the camera shakes by a pixel

    A fixed pixel counts as part of a cluster. The picture must move where there is no cluster, else all of it
    is fixed. In a short scene the mean of what moves is not yet near 0, so that it is not judged.

    Args:
      mean, mean_square: float64 [H, W], over time, of a pixel's luma minus the mean of its four neighbours.
    """
    deviation = np.sqrt(np.maximum(mean_square - mean**2, 0))
    fixed = (np.abs(mean) > FIXED_CURVATURE) & (np.abs(mean) > FIXED_RATIO * deviation)
    mask = _dilate(_clustered(fixed), 1)
    moves = _moves(mean, mean_square, outside=~_dilate(mask, HALO_PX - 1))
    return mask & (moves and mask.mean() <= MAX_OVERLAY_AREA)


def _clustered(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask that have company in both directions."""
    radius = CLUSTER_RADIUS_PX
    in_row, in_column = _window_sum(mask, radius, axis=1), _window_sum(mask, radius, axis=0)
    num_rows = _window_sum(in_row > 0, radius, axis=0)
    num_columns = _window_sum(in_column > 0, radius, axis=1)
    num_pixels = _window_sum(in_row, radius, axis=0)
    return mask & (np.minimum(num_rows, num_columns) >= CLUSTER_LINES) & (num_pixels >= CLUSTER_PIXELS)


def _moves(mean: np.ndarray, mean_square: np.ndarray, outside: np.ndarray) -> bool:
    """Whether the picture moves where `outside` is True."""
    textured = outside & (mean_square > TEXTURE_CURVATURE**2)
    if textured.mean() < MIN_TEXTURE_SHARE:
        return False
    still = mean[textured] ** 2 / mean_square[textured]
    return bool(np.median(still) < STILL_MEDIAN and still.mean() < STILL_MEAN)


def _window_sum(values: np.ndarray, radius: int, axis: int) -> np.ndarray:
    """int64 [H, W]: sum along an axis over the 2 * radius + 1 values around each; 0 outside."""
    widths = [(0, 0), (0, 0)]
    widths[axis] = (radius, radius)
    padded = np.pad(values.astype(np.int64), widths)
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1, axis=axis).sum(axis=-1)


def _dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    return _window_sum(_window_sum(mask, radius, axis=0), radius, axis=1) > 0


# ---- bars


def measure_bars(lumas: Iterable[np.ndarray], level: float) -> Bars:
    """Dark bars of one video, from pictures that are sampled all over it.

    A bar is dark in nearly all pictures (a subtitle now and then does not matter), ends in a straight edge,
    and takes 2 pixels or more and at most 40% of its axis. Rows where bar and picture mix count as bar.
    Pictures of which less than 15% is lit are left out; without any other there are no bars.

    Args:
      lumas: uint8 or float [H, W] each, 0..255 full range; one shape; read once.
      level: pixels below are dark.
    """
    num_usable, means = 0, np.empty(0, np.float32)
    for luma in lumas:
        lit = luma >= level
        if np.count_nonzero(lit) < USABLE_LIT_SHARE * lit.size:
            continue
        if not num_usable:
            means = np.zeros((2, *luma.shape), np.float32)
        means[0] += lit
        means[1] += luma
        num_usable += 1
    if not num_usable:
        return Bars()
    means /= num_usable
    return _without_blends(means[1], _bars_of(means, MIN_BAR_PX))


def _bars_of(means: np.ndarray, min_depth: int) -> Bars:
    """Bars in float32 [2, H, W]: in what share of the frames each pixel is lit, and its mean level.

    Each axis is measured between the bars of the other, twice, because either may hide the edge of the other.
    """
    bars = Bars()
    _, height, width = means.shape
    for _ in range(2):
        rows = means[:, :, bars.left : width - bars.right]
        bars = replace(bars, top=_depth(rows, min_depth), bottom=_depth(rows[:, ::-1], min_depth))
        columns = means[:, bars.top : height - bars.bottom].transpose(0, 2, 1)
        bars = replace(bars, left=_depth(columns, min_depth), right=_depth(columns[:, ::-1], min_depth))
    return bars


def _depth(means: np.ndarray, min_depth: int) -> int:
    """Number of dark rows at the top, 0 unless their edge is straight and steep; `means` as in `_bars_of`."""
    lit_share, level = means.mean(axis=2)
    dark = lit_share <= DARK_LIT_SHARE
    depth = len(dark) if dark.all() else int(np.argmin(dark))
    if not min_depth <= depth <= MAX_BAR_SHARE * len(dark):
        return 0
    beside = slice(depth, depth + BLENDED_ROWS)
    is_straight = lit_share[beside].max() >= EDGE_LIT_SHARE
    is_steep = level[beside].max() - level[max(0, depth - 2)] >= EDGE_STEP
    return depth if is_straight and is_steep else 0


def _without_blends(mean: np.ndarray, bars: Bars) -> Bars:
    """Bars that also hold the rows where they mix with the picture; `mean` is the mean picture [H, W]."""
    height, width = mean.shape
    rows = mean[:, bars.left : width - bars.right].mean(axis=1)
    columns = mean[bars.top : height - bars.bottom].mean(axis=0)
    return Bars(
        top=_past_blend(rows, bars.top),
        bottom=_past_blend(rows[::-1], bars.bottom),
        left=_past_blend(columns, bars.left),
        right=_past_blend(columns[::-1], bars.right),
    )


def _past_blend(levels: np.ndarray, depth: int) -> int:
    """Depth of a bar and of the mixed rows inside it, in the mean levels of rows from the edge inwards."""
    if not depth:
        return 0
    above_bar = levels - levels[: max(1, depth - 1)].mean()
    inside = depth
    while inside < depth + BLENDED_ROWS and above_bar[inside] < BLEND_RATIO * above_bar[inside + 1]:
        inside += 1
    return inside


# ---- deciding


def trim_scene(
    scene: range,
    frames: Callable[[int, int], Iterable[np.ndarray]],
    config: TrimConfig,
    guards: tuple[int, int],
) -> tuple[range, Qualities]:
    """What is left of a scene without its guard bands and without black frames at its ends.

        scene   [------------------------------)      G guard, B black
                GG BBBB                    BB GG
        left          [--------------------)

    Where `max_black_share` is 1 black frames are wanted, and the ends stay.

    Args:
      scene: frames of the video's grid.
      frames: gives the rendered frames [start, stop) of the grid, see `measure_qualities`; called again where
        black ends had to go.
      guards: frames to take off at the start and at the end; 0 at an end that is no cut.

    Returns:
      The frames left, and their qualities; `leading_black` and `trailing_black` are what was taken off.

    Raises:
      Rejected: nothing is left, as "too_short" or "black".
    """
    left = range(scene.start + guards[0], scene.stop - guards[1])
    if not left:
        message = f"{len(scene)} frames, of which guards take {guards[0]} and {guards[1]}"
        raise Rejected("too_short", message, value=0, threshold=1)
    qualities = measure_qualities(frames(left.start, left.stop), config)
    leading, trailing = qualities.leading_black, qualities.trailing_black
    if config.max_black_share == 1 or leading == trailing == 0:
        return left, replace(qualities, leading_black=0, trailing_black=0)
    if leading == len(left):
        raise Rejected(
            "black", f"all {len(left)} frames are black", value=1.0, threshold=config.max_black_share
        )
    left = range(left.start + leading, left.stop - trailing)
    qualities = measure_qualities(frames(left.start, left.stop), config)
    return left, replace(qualities, leading_black=leading, trailing_black=trailing)


def judge(qualities: Qualities, config: TrimConfig) -> None:
    """Refuses frames of these qualities where a policy does; of several, the first in the order below.

    Raises:
      Rejected: "black", "frozen", "letterboxed" (not where the card keeps bars) or "static_overlay".
    """
    max_bar_share = 1.0 if config.letterbox == "keep" else config.max_bar_share
    policies = (
        ("black", qualities.black_share, config.max_black_share, "of the frames are black"),
        ("frozen", qualities.frozen_share, config.max_frozen_share, "of the frames repeat the one before"),
        ("letterboxed", qualities.bar_share, max_bar_share, "of the picture is dark bars"),
        ("static_overlay", qualities.overlay_share, config.max_overlay_share, "of the picture is an overlay"),
    )
    for cause, share, max_share, what in policies:
        if share > max_share:
            message = f"{share:.2%} {what}; the card takes {max_share:.2%}"
            raise Rejected(cause, message, value=share, threshold=max_share)
