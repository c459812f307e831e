"""Pixel geometry and colour: one decoded frame to every resolution, antialiased.

The one place where crop, rotation, sample aspect, interlacing, chroma position, bit depth, colour matrix,
range and alpha are handled. Everything is linear, so a frame is resized plane by plane in fixed point and
converted afterwards, on the small pictures:

    planes [H, W] uint8/uint16 -> rows x plane x columns (Lanczos) -> high, int16 -> 3x3 matrix -> uint8
                                                                       | Lanczos
                                                                       low, int16 -> 3x3 matrix -> uint8

The low resolution is resized from the high one before that is rounded. Its difference from a resize of the
whole frame is smaller than the rounding to 8 bits, as long as high is at least twice low (`config` sees to it).

The Lanczos weights are Pillow's own (its resize of the identity), as integers that use all of 16 bits. Resized samples
keep five bits more than the 8 that they end with. Of all this the rounding to 8 bits is the only one that counts: 0.289
levels (root of the mean square), the others together 0.01 on a frame of 720p, and at most 0.08 on any pixel of noise
that was resized between 15,000 pairs of sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from lvg_data.errors import Rejected

#: raised when the same frame would give other bytes
VERSION = 4
#: of a resized sample, whatever it had before. Lanczos makes samples up to 1.7 times as large, which int16 has room for
RESIZED_BITS = 13
#: of samples over black, which are no whole numbers
_OVER_BLACK_BITS = 14
#: of a sample, with its sign, for the kernel; of 16 the last is dropped
_MOST_BITS = 15
#: luma weights of red and blue: Rec. ITU-R BT.601-7, BT.709-6 and BT.2020-2 (non-constant luminance)
LUMA_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
#: tag of a picture that does not say its matrix (ITU-T H.273, table 4); tags of ranges (FFmpeg's AVColorRange)
_UNSPECIFIED, _LIMITED, _FULL = 2, 1, 2
#: formats whose planes are read as they are; all others are converted to one of them by `readable`
_PLANAR = ("yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv410p", "yuva420p", "yuva422p", "yuva444p",
           "gbrp", "gbrap", "gray", "nv12", "nv21")  # fmt: skip
#: of a plane, with up to 8 bits and with more
_SAMPLES = np.dtype("u1"), np.dtype("<u2")


@dataclass(frozen=True)
class Crop:
    """The stretch of the coded picture that is kept, in pixels: [left, right) x [top, bottom)."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Geometry:
    """What a video's pictures need before they are square-pixelled, upright and of one aspect ratio.

    Attributes:
      rotation_degrees: counter-clockwise turn that makes the picture upright: 0, 90, 180 or 270.
      sample_aspect_ratio: width of a pixel over its height.
      bars: dark edges to leave out: top, bottom, left, right, in coded pixels.
      size: width and height of the pictures in which the bars were measured; None is those of every frame.
    """

    rotation_degrees: int = 0
    sample_aspect_ratio: Fraction = Fraction(1)
    bars: tuple[int, int, int, int] = (0, 0, 0, 0)
    squash: bool = False
    size: tuple[int, int] | None = None


def crop_of(geometry: Geometry, width: int, height: int, out_height: int, out_width: int) -> Crop:
    """The centred crop of a coded picture that has the output's aspect ratio once it is displayed.

    Squash keeps the whole picture. Sizes are whole pixels; an odd pixel too many stays at the right and
    bottom, as in the facts' notation.
    """
    inside = _inside_bars(geometry, width, height)
    if geometry.squash:
        return inside
    left, top = inside.left, inside.top
    inner_width, inner_height = inside.right - left, inside.bottom - top
    if geometry.rotation_degrees % 180:
        out_height, out_width = out_width, out_height
    aspect = Fraction(out_width, out_height) / geometry.sample_aspect_ratio  # coded width over height
    kept_width = min(inner_width, max(1, round(inner_height * aspect)))
    kept_height = min(inner_height, max(1, round(inner_width / aspect)))
    left += (inner_width - kept_width) // 2
    top += (inner_height - kept_height) // 2
    return Crop(left, top, left + kept_width, top + kept_height)


def _inside_bars(geometry: Geometry, width: int, height: int) -> Crop:
    """What lies between the bars, at least a pixel.

    A stream may go on at another size. It shows the same film then, so that bars keep their share of the
    picture; a pixel that is partly bar is bar.
    """
    top, bottom, left, right = geometry.bars
    measured_width, measured_height = geometry.size or (width, height)
    first_x, stop_x = _between_bars(left, right, measured_width, width)
    first_y, stop_y = _between_bars(top, bottom, measured_height, height)
    return Crop(first_x, first_y, stop_x, stop_y)


def _between_bars(before: int, after: int, measured: int, pixels: int) -> tuple[int, int]:
    """First and last + 1 of the `pixels` of an axis that no bar takes, of bars that lie on `measured` pixels."""
    first = min(-(-before * pixels // measured), pixels - 1)
    return first, max(first + 1, pixels + (-after * pixels // measured))


# ---- resizing -------------------------------------------------------------------------------------


def lanczos_weights(in_pixels: int, out_pixels: int, start: float, stop: float) -> np.ndarray:
    """float32 [out_pixels, in_pixels]: Pillow's antialiased Lanczos of the crop [start, stop) of an axis.

    The picture is cropped first and resized then: nothing outside the crop is looked at, but for the other
    part of a chroma sample that the edge of the crop divides. Where the crop stands out of the picture, as it
    does by a quarter of a line in a field, the picture's last pixel is repeated.
    """
    first, last = math.floor(start), math.ceil(stop)
    identity = Image.fromarray(np.eye(last - first, dtype=np.float32))
    box = (start - first, 0, stop - first, last - first)
    resized = np.asarray(identity.resize((out_pixels, last - first), Image.Resampling.LANCZOS, box=box))
    inside = resized[max(0, -first) : len(resized) - max(0, last - in_pixels)]
    weights = np.zeros((out_pixels, in_pixels), np.float32)
    weights[:, max(0, first) : min(last, in_pixels)] = inside.T
    weights[:, 0] += resized[: max(0, -first)].sum(axis=0)
    weights[:, -1] += resized[len(resized) - max(0, last - in_pixels) :].sum(axis=0)
    return weights


def _gain(weights: np.ndarray) -> float:
    """How much larger than the largest sample a weighted sum can be, if samples can be negative."""
    return float(np.abs(weights).sum(axis=1).max())


def _weight_bits(weights: np.ndarray, largest: float) -> int:
    """The most bits that a weight of 1 can have: no weight is beyond int16, no sum of samples up to `largest` int32."""
    most = min(32000 / float(np.abs(weights).max()), 2e9 / (_gain(weights) * largest))
    return math.floor(math.log2(most))


def _in_groups(weights: np.ndarray, size: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The weights of `size` outputs at a time, as integers; a weight of 1 has `bits`.

    Each output's sum stays what it was: its largest weight takes what rounding leaves over. Outputs that fill the
    last group up have no weight.

    Returns:
      int64 [G], the first input of each group, and int16 [G, size, 2K], the weights from there on.
    """
    exact = weights * 2.0**bits
    rounded = np.rint(exact).astype(int)
    over = np.rint(exact.sum(axis=1)).astype(int) - rounded.sum(axis=1)
    rounded[np.arange(len(weights)), weights.argmax(axis=1)] += over
    groups = np.pad(rounded, ((0, -len(weights) % size), (0, 0))).reshape(-1, size, weights.shape[1])
    used = [np.flatnonzero(group.any(axis=0)) for group in groups]
    num_taps = max(int(u[-1]) + 1 - int(u[0]) for u in used)
    num_taps += num_taps % 2
    first = np.minimum([int(u[0]) for u in used], max(0, weights.shape[1] - num_taps))
    taps = first[:, None] + np.arange(num_taps)
    inside = taps < weights.shape[1]
    taken = np.take_along_axis(groups, np.where(inside, taps, 0)[:, None], axis=2) * inside[:, None]
    return first, taken.astype(np.int16)


def empty_planes(num_planes: int, height: int, width: int) -> np.ndarray:
    """int16 [num_planes, H, W] for `PlaneResizer` to fill: `height` and `width` up to whole groups of its kernel."""
    from lvg_data.kernels import COLUMNS, ROWS  # slow to import, and only children that decode do

    return np.empty((num_planes, -(-height // ROWS) * ROWS, -(-width // COLUMNS) * COLUMNS), np.int16)


class PlaneResizer:
    """Resizes planes of one layout.

    Args:
      rows, columns: float32 [out, in] weights of the two axes (see `lanczos_weights`).
      bits: of a sample, 8 to 15.
      out: some of `empty_planes`. Every `resize` fills it, with samples of RESIZED_BITS: Lanczos overshoots, so that
        they may be negative, or larger than a sample can be.
      largest: of all samples, negative ones too, where Lanczos has made them.

    Attributes:
      largest_out: of all samples of `out`, negative ones too.
    """

    def __init__(
        self, rows: np.ndarray, columns: np.ndarray, bits: int, out: np.ndarray, largest: float | None = None
    ) -> None:
        from lvg_data import kernels  # as above

        self.in_shape, self.out = (rows.shape[1], columns.shape[1]), out
        largest_between = (largest or 2**bits) * _gain(rows) * 2.0 ** (RESIZED_BITS - bits)
        self.largest_out = largest_between * _gain(columns)
        row_bits, column_bits = _weight_bits(rows, largest or 2**bits), _weight_bits(columns, largest_between)
        first_row, row_weights = _in_groups(rows, kernels.ROWS, row_bits)
        first_column, column_weights = _in_groups(columns, kernels.COLUMNS, column_bits)
        rows_read = np.minimum(first_row[:, None] + np.arange(row_weights.shape[2]), rows.shape[1] - 1)
        stop = int(first_column.max()) + column_weights.shape[2]
        width = max(stop - int(first_column.min()), kernels.MIN_WIDTH)
        self.left = max(0, min(int(first_column.min()), columns.shape[1] - width))
        self.num_read = self.left + width
        # as `kernels.resize` takes them: two weights of int16 are one number
        self.kernel = kernels.resize
        self.of_rows = rows_read, row_weights.view(np.int32), np.int32(row_bits + bits - RESIZED_BITS)
        column_pairs = np.ascontiguousarray(column_weights.view(np.int32).transpose(0, 2, 1))
        self.of_columns = first_column - self.left, column_pairs, np.int32(column_bits)
        self.between = np.empty((kernels.ROWS, width), np.int16)

    def resize(self, planes: Iterable[np.ndarray]) -> None:
        """Resizes planes [H, W or more], uint8, uint16 or int16, into `out`.

        Raises:
          ValueError: a plane is smaller than the weights are for.
        """
        for plane, out in zip(planes, self.out, strict=True):
            height, width = plane.shape
            if height < self.in_shape[0] or width < self.in_shape[1]:
                raise ValueError(f"a plane of {plane.shape} has less than the {self.in_shape} to be resized")
            if width < self.num_read:  # it is a few pixels wide
                plane = np.pad(plane, ((0, 0), (0, self.num_read - width)))
            if plane.strides[1] != plane.itemsize:
                plane = np.ascontiguousarray(plane)
            self.kernel(plane, self.left, *self.of_rows, self.between, *self.of_columns, out)


@dataclass(frozen=True)
class PlaneLayout:
    """How a plane samples the picture: `step` coded pixels a sample, the first sample's centre at `offset`.

    Luma is (1, 0.5). Subsampled chroma is taken to lie in the middle of the pixels that it stands for, as
    swscale, OpenCV and every tool built on them take it. H.264's default position is half a coded pixel to
    the left: 0.18 output pixels for 1280x720 to 256x256.
    """

    step_x: float
    step_y: float
    offset_x: float
    offset_y: float
    num_x: int
    num_y: int

    def weights(self, crop: Crop, out_height: int, out_width: int) -> tuple[np.ndarray, np.ndarray]:
        def to_sample(pixel: float, step: float, offset: float) -> float:
            return (pixel - offset) / step + 0.5

        return (
            lanczos_weights(self.num_y, out_height, to_sample(crop.top, self.step_y, self.offset_y),
                            to_sample(crop.bottom, self.step_y, self.offset_y)),
            lanczos_weights(self.num_x, out_width, to_sample(crop.left, self.step_x, self.offset_x),
                            to_sample(crop.right, self.step_x, self.offset_x)),
        )  # fmt: skip


# ---- colour ---------------------------------------------------------------------------------------


def ycbcr_to_rgb(matrix: str) -> np.ndarray:
    """float64 [3, 3]: Y in [0, 1], Cb and Cr in [-0.5, 0.5] to R, G, B in [0, 1]."""
    red, blue = LUMA_WEIGHTS[matrix]
    green = 1 - red - blue
    return np.array([
        [1, 0, 2 * (1 - red)],
        [1, -2 * blue * (1 - blue) / green, -2 * red * (1 - red) / green],
        [1, 2 * (1 - blue), 0],
    ])  # fmt: skip


@dataclass(frozen=True)
class Affine:
    """out = matrix @ in + offset for three channels: [3, 3] and [3]."""

    matrix: np.ndarray
    offset: np.ndarray

    def then(self, after: Affine) -> Affine:
        return Affine(after.matrix @ self.matrix, after.matrix @ self.offset + after.offset)

    def write(self, planes: np.ndarray, out: np.ndarray) -> None:
        """int16 [3, H or more, W or more] -> uint8 [3, H, W] `out`, rounded to nearest, clipped to 0..255."""
        from lvg_data.kernels import mix_colours  # as above

        mix_colours(planes, *self._rounded, out)

    @cached_property
    def _rounded(self) -> tuple[np.ndarray, np.ndarray]:
        from lvg_data.kernels import COLOUR_BITS  # as above

        matrix, offset = (np.rint(v * 2.0**COLOUR_BITS).astype(np.int32) for v in (self.matrix, self.offset))
        return matrix, offset


def stored_to_rgb(matrix: str, full_range: bool, bits: int) -> Affine:
    """Stored samples of the planes to R, G, B in [0, 255]; `matrix` "rgb" means planes G, B, R.

    Limited range: Y 16..235, Cb and Cr 16..240 of 8 bits, shifted up for more (BT.601-7, 2.5.3).
    """
    top = float(2**bits - 1)
    unit = float(2 ** (bits - 8))
    if matrix == "rgb":
        order = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], float)
        return _limited_rgb(order, unit) if not full_range else Affine(order * (255 / top), np.zeros(3))
    if full_range:
        scale, zero = np.array([1 / top] * 3), np.array([0, 128 * unit, 128 * unit])
    else:
        scale = np.array([1 / (219 * unit), 1 / (224 * unit), 1 / (224 * unit)])
        zero = np.array([16, 128, 128]) * unit
    convert = 255 * ycbcr_to_rgb(matrix) * scale
    return Affine(convert, -convert @ zero)


def _limited_rgb(order: np.ndarray, unit: float) -> Affine:
    convert = order * (255 / (219 * unit))
    return Affine(convert, -convert @ np.full(3, 16 * unit))


def rgb_to_jpeg() -> Affine:
    """R, G, B in [0, 255] to full-range BT.601 Y, Cb, Cr in [0, 255] (JFIF 1.02, section 7)."""
    inverse = np.linalg.inv(ycbcr_to_rgb("bt601"))
    return Affine(inverse, np.array([0.0, 128.0, 128.0]))


# ---- frames ---------------------------------------------------------------------------------------


def matrix_of(tag: int, is_rgb: bool, height: int) -> str:
    """The colour matrix of a picture: its tag (ITU-T H.273), else by height (BT.709 from 720 up).

    Raises:
      Rejected: a matrix without a conversion here.
    """
    if is_rgb:
        return "rgb"
    names = {
        1: "bt709",
        2: "bt709" if height >= 720 else "bt601",
        4: "bt601",
        5: "bt601",
        6: "bt601",
        9: "bt2020",
    }
    if tag not in names:
        raise Rejected("unsupported_colour", f"colour matrix {tag} of ITU-T H.273 is not supported")
    return names[tag]


@dataclass(frozen=True)
class Colours:
    """What the samples of a picture mean: `matrix` "bt601", "bt709", "bt2020" or "rgb"; luma 0..255 or 16..235."""

    matrix: str
    full_range: bool


def colours_of(frame: Any, pixel_format: str, of_video: Colours) -> Colours:
    """The colours of a frame: those of its video, but for planes of another kind than the video began with.

    A frame's own tags are asked only where the video's say nothing. FFmpeg gives a frame the tags that it has read
    last, which may be those of later frames: they depend on where decoding begins and ends.

    Args:
      frame: as it was decoded, with its tags.
      pixel_format: of its planes once they are `readable`.

    Raises:
      Rejected: a matrix without a conversion here.
    """
    began_as_rgb = of_video.matrix == "rgb"
    if pixel_format.startswith("gbr"):
        return of_video if began_as_rgb else Colours("rgb", True)
    is_yuvj, colour_range = pixel_format.startswith("yuvj"), int(frame.color_range)
    is_full = is_yuvj or (of_video.full_range and colour_range != _LIMITED)
    if not began_as_rgb:
        return Colours(of_video.matrix, is_full)
    if pixel_format.startswith("gray"):  # any matrix does
        return Colours("bt601", is_full)
    tag = int(frame.colorspace) or _UNSPECIFIED  # 0 is RGB, which it is not
    return Colours(matrix_of(tag, False, frame.height), is_yuvj or colour_range == _FULL)


def readable(frame: Any) -> Any:
    """The frame itself where its planes can be read, else repacked without loss to a format where they can.

    Raises:
      Rejected: a pixel format that nothing here reads.
    """
    name, pixel_format = frame.format.name, frame.format
    if _base(name) in _PLANAR:
        return frame
    if pixel_format.is_rgb or pixel_format.has_palette:
        alpha = pixel_format.has_palette or any(c.is_alpha for c in pixel_format.components)
        return repacked(frame, "gbrap" if alpha else "gbrp")
    packed = {"yuyv422": "yuv422p", "uyvy422": "yuv422p", "p010le": "yuv420p10le", "y210le": "yuv422p10le",
              "ya8": "yuva444p", "monow": "gray", "monob": "gray", "ayuv64le": "yuva444p16le"}  # fmt: skip
    if name not in packed:
        raise Rejected("unsupported_colour", f"pixel format {name} is not supported")
    return repacked(frame, packed[name])


def repacked(frame: Any, pixel_format: str) -> Any:
    """A frame in another pixel format; raises Rejected where FFmpeg's scaler does not read its own."""
    try:
        return frame.reformat(format=pixel_format)
    except (OSError, ValueError) as err:  # what FFmpeg's errors are, but for MemoryError
        text = f"pixel format {frame.format.name} cannot be converted to {pixel_format}: {err}"
        raise Rejected("unsupported_colour", text) from err


@lru_cache
def _base(name: str) -> str:
    """A pixel format's name without its depth and byte order: yuv420p10le -> yuv420p."""
    for depth in ("9", "10", "12", "14", "16"):
        name = name.removesuffix(f"{depth}le")
    return name.replace("yuvj", "yuv")


def _planes(frame: Any) -> Iterator[np.ndarray]:
    """The planes of a readable frame as views, one per colour channel; nv12's chroma is split.

    [h, w or more]: lines of a decoder end in padding.
    """
    pixel_format = frame.format
    sample = _SAMPLES[pixel_format.components[0].bits > 8]
    for number, plane in enumerate(frame.planes):
        rows = np.frombuffer(plane, sample).reshape(plane.height, plane.line_size // sample.itemsize)
        if number and pixel_format.name in ("nv12", "nv21"):
            pair = rows[:, : 2 * plane.width]
            first, second = pair[:, 0::2], pair[:, 1::2]
            yield from (first, second) if pixel_format.name == "nv12" else (second, first)
        else:
            yield rows


class Renderer:
    """Renders frames of one video at both resolutions.

    Args:
      geometry: of the video.
      matrix, full_range: `Colours` of the video.
      low, high: output (height, width).
    """

    def __init__(
        self,
        geometry: Geometry,
        matrix: str,
        full_range: bool,
        low: tuple[int, int],
        high: tuple[int, int],
    ) -> None:
        self.geometry, self.colours = geometry, Colours(matrix, full_range)
        turned = geometry.rotation_degrees % 180 != 0
        self.sizes = tuple((size[1], size[0]) if turned else size for size in (low, high))
        self.low, self.high = low, high
        self._plans: dict[tuple[str, int, int, bool, Colours], _Plan] = {}

    def render(self, frame: Any) -> tuple[np.ndarray, np.ndarray]:
        """One decoded frame -> low uint8 [h, w, 3] sRGB, and high uint8 [3, H, W] Y, Cb, Cr of JPEG.

        Size and pixel format are the frame's own: a stream may change them midway. For colours see `colours_of`.

        Raises:
          Rejected: a pixel format or a colour matrix without a conversion here.
        """
        planar = readable(frame)
        name = planar.format.name
        colours = colours_of(frame, name, self.colours)
        shape = (name, planar.width, planar.height, bool(planar.interlaced_frame), colours)
        if shape not in self._plans:
            self._plans[shape] = _Plan(self, planar, colours)
        low, high = np.empty((*self.low, 3), np.uint8), np.empty((3, *self.high), np.uint8)
        turns = -(self.geometry.rotation_degrees // 90)
        coded = np.rot90(low.transpose(2, 0, 1), turns, (1, 2)), np.rot90(high, turns, (1, 2))
        self._plans[shape].render(list(_planes(planar)), *coded)
        return low, high


class _Plan:
    """Resizers and matrices for frames of one format, size and kind of colours."""

    def __init__(self, renderer: Renderer, frame: Any, colours: Colours) -> None:
        components = frame.format.components
        self.fields = 2 if frame.interlaced_frame else 1
        self.has_alpha = any(c.is_alpha for c in components)
        self.bits = components[0].bits
        low, high = renderer.sizes
        crop = crop_of(renderer.geometry, frame.width, frame.height, *renderer.high)
        num_colours = 1 if frame.format.name.startswith("gray") else 3
        self.layouts = [_layout(frame, c, self.fields) for c in components[:num_colours]]
        self.high, self.low = empty_planes(3, *high), empty_planes(3, *low)
        self.high[:] = 2 ** (RESIZED_BITS - 1)  # what chroma is where a format has none
        bits = _OVER_BLACK_BITS if self.has_alpha else min(self.bits, _MOST_BITS)
        self.groups = [
            (
                channels,
                PlaneResizer(*self.layouts[channels.start].weights(crop, *high), bits, self.high[channels]),
            )
            for channels in (slice(0, 1), slice(1, 3))[: 1 + num_colours // 3]
        ]
        rows, columns = (lanczos_weights(n, m, 0, n) for n, m in zip(high, low, strict=True))
        largest = max(resizer.largest_out for _, resizer in self.groups)
        self.to_low = PlaneResizer(rows, columns, RESIZED_BITS, self.low, largest)
        of_stored = stored_to_rgb(colours.matrix, colours.full_range, self.bits)
        self.to_rgb = Affine(np.eye(3) * 2.0 ** (self.bits - RESIZED_BITS), np.zeros(3)).then(of_stored)
        self.to_jpeg = self.to_rgb.then(rgb_to_jpeg())
        self.black = np.linalg.solve(of_stored.matrix, -of_stored.offset)

    def render(self, planes: list[np.ndarray], low: np.ndarray, high: np.ndarray) -> None:
        """Fills `low`, uint8 [3, h, w] R, G, B, and `high`, uint8 [3, H, W] Y, Cb, Cr of JPEG."""
        alpha = planes[-1] if self.has_alpha else None
        for channels, resizer in self.groups:
            resizer.resize(self._samples(at, planes[at], alpha) for at in range(3)[channels])
        self.to_low.resize(self.high)
        self.to_rgb.write(self.low, low)
        self.to_jpeg.write(self.high, high)

    def _samples(self, channel: int, plane: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
        """A channel's samples, of interlaced frames the top field's, with the bits that its resizer expects."""
        field = plane[:: self.fields]
        if alpha is not None:
            return self._over_black(channel, field, alpha[:: self.fields])
        return field >> (self.bits - _MOST_BITS) if self.bits > _MOST_BITS else field

    def _over_black(self, channel: int, plane: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        """uint16: a channel over black; `alpha` is reduced to the channel's samples first."""
        layout = self.layouts[channel]
        inside = slice(layout.num_y), slice(layout.num_x)
        alpha = alpha[:: round(layout.step_y) // self.fields or 1, :: round(layout.step_x)][inside]
        zero = np.float32(self.black[channel])
        over = (plane[inside] - zero) * (alpha / np.float32(2**self.bits - 1)) + zero
        return np.rint(over * np.float32(2.0 ** (_OVER_BLACK_BITS - self.bits))).astype(np.uint16)


def _layout(frame: Any, component: Any, fields: int) -> PlaneLayout:
    """Where a component's samples lie on the coded picture; of interlaced frames the top field's."""
    step_x = _ceil_ratio(frame.width, component.width) if component.is_chroma else 1
    step_y = _ceil_ratio(frame.height, component.height) if component.is_chroma else 1
    # Top field: line k is picture line 2k. Its 4:2:0 chroma line lies a quarter of a field line below that
    # (H.264, figure 6-2): in the picture where the same chroma line of a progressive frame lies.
    num_y = -(-component.height // fields)
    return PlaneLayout(step_x, step_y * fields, step_x / 2, step_y / 2, component.width, num_y)


def _ceil_ratio(whole: int, part: int) -> int:
    """Subsampling factor of an axis: 1, 2 or 4; sizes that do not divide were rounded up."""
    return next(step for step in (1, 2, 4) if -(-whole // step) == part)


@dataclass(frozen=True)
class JpegEncoder:
    """High-res frames as JPEG 4:4:4 of the planes as they are: nothing is converted on the way."""

    quality: int

    def encode(self, planes: np.ndarray) -> bytes:
        """uint8 [3, H, W] full-range BT.601 Y, Cb, Cr -> JFIF bytes."""
        return simplejpeg.encode_jpeg_yuv_planes(planes[0], planes[1], planes[2], quality=self.quality)

    @cached_property
    def library(self) -> str:
        return f"simplejpeg {simplejpeg.__version__}"
