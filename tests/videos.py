"""Videos for tests, with the frame number painted into every frame.

The contract the project stands on: a stored frame is the frame its row says. A test writes a video here,
sends it through the code, and reads the numbers back from what was stored.

    path = write_video(tmp_path / "a.mp4", RECIPES["h264_open_gop"], 60)
    truth(path).numbers, truth(path).times      # in presentation order: 0, 1, 2 ... and Fractions of seconds
    read_number(stored_frame)                   # uint8 [64, 64, 3] or larger, cropped, squashed or not

A painted frame, panel in the middle of the centre square, a moving pattern in the scene's colour around it:

    .-----------------------.     panel: white ring half a cell wide; 6 x 4 cells, white is 1, black is 0,
    | / / / ######### / / / |     most significant bit first, row by row: 20 bits of the number in Gray code
    |/ / / /#_##_#_ #/ / / /|     (one bit changes a frame, so that the panel itself looks like no cut),
    | / / / #__#_## # / / / |     then 4 check bits
    |/ / / /#########/ / / /|
    '-----------------------'
"""

import bisect
import json
import os
import subprocess
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
from av.filter import Graph
from PIL import Image

# --------------------------------------------------------------------------------------------------- painting

GRID_COLUMNS, GRID_ROWS = 6, 4
NUM_DATA_BITS = 20
RING_CELLS = 0.5
PANEL_WIDTH, PANEL_HEIGHT = 0.66, 0.55
"""Size of the panel in sides of the centre square; small enough to outlast bars of 12% at each side."""

SCENE_COLOURS = ((70, 8, 12), (95, 118, 150), (8, 62, 14), (150, 100, 118), (16, 14, 80), (112, 150, 96))
"""RGB of the scenes' backgrounds in turn, dark and full against light and pale; the pattern scales them."""

PATTERN_AMPLITUDE = 0.2
PATTERN_FRAMES = 9
"""The pattern moves by its own length in this many frames."""


def paint_number(number: int, width: int, height: int, scene: int = 0) -> np.ndarray:
    """Frame that shows `number`, below 2^20: uint8 [H, W, 3], sRGB, square pixels."""
    return _paint(number, width, height, scene, moment=number)


def read_number(image: np.ndarray) -> int:
    """Number painted into a uint8 [H, W, 3] frame, at any size from 64x64, cropped, squashed or boxed too.

    Raises:
      ValueError: no panel is seen, or the check bits disagree.
    """
    luma = _luma(image)
    top, left, bottom, right = find_panel(image)
    cell_height = (bottom - top) / (GRID_ROWS + 2 * RING_CELLS)
    cell_width = (right - left) / (GRID_COLUMNS + 2 * RING_CELLS)
    levels = np.array(
        [
            _mean_around(
                luma,
                top + (RING_CELLS + row + 0.5) * cell_height,
                left + (RING_CELLS + column + 0.5) * cell_width,
                cell_height / 4,
                cell_width / 4,
            )
            for row in range(GRID_ROWS)
            for column in range(GRID_COLUMNS)
        ]
    )
    # No codeword is all white or all black, so that both levels are among the cells.
    bits = levels > (levels.min() + levels.max()) / 2
    return _number_of_bits(bits)


def find_panel(image: np.ndarray) -> tuple[float, float, float, float]:
    """Top, left, bottom and right edge of the panel's white ring in pixels of a uint8 [H, W, 3] frame.

    Raises:
      ValueError: no ring is seen.
    """
    luma = _luma(image)
    low, high = np.percentile(luma, 1), np.percentile(luma, 99)
    if high - low < 60:
        raise ValueError(f"no panel: the frame has no contrast, levels {low:.0f} to {high:.0f}")
    white = luma > low + 0.78 * (high - low)
    top, bottom = _outer_lines(white.sum(axis=1))
    left, right = _outer_lines(white.sum(axis=0))
    if bottom - top < GRID_ROWS * 2 or right - left < GRID_COLUMNS * 2:
        raise ValueError(f"no panel: the white area spans {bottom - top} x {right - left} pixels")
    return top, left, bottom, right


def crop_centre_square(image: np.ndarray) -> np.ndarray:
    """Largest centred square of an [H, W, 3] frame, a view."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """Centre square of a uint8 [H, W, 3] frame, Lanczos to [side, side, 3]: what training sees."""
    square = Image.fromarray(np.ascontiguousarray(crop_centre_square(image)))
    return np.asarray(square.resize((side, side), Image.Resampling.LANCZOS))


def _paint(number: int, width: int, height: int, scene: int, moment: float) -> np.ndarray:
    side = min(width, height)
    image = _pattern(width, height, scene, moment)
    panel_height, panel_width = round(side * PANEL_HEIGHT), round(side * PANEL_WIDTH)
    top, left = (height - panel_height) // 2, (width - panel_width) // 2
    panel = _panel(number, panel_width, panel_height)
    image[top : top + panel_height, left : left + panel_width] = panel[..., None]
    return image


def _pattern(width: int, height: int, scene: int, moment: float) -> np.ndarray:
    """Slanted bands in the scene's colour that move right, by one band in PATTERN_FRAMES frames."""
    slant = (0.3, -0.3, 0.6)[scene % 3]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    phase = (x + slant * y) / (min(width, height) / 3) - moment / PATTERN_FRAMES
    wave = np.tanh(3 * np.sin(2 * np.pi * phase))
    colour = np.array(SCENE_COLOURS[scene % len(SCENE_COLOURS)], np.float32)
    return np.rint(colour * (1 + PATTERN_AMPLITUDE * wave)[..., None]).astype(np.uint8)


def _panel(number: int, width: int, height: int) -> np.ndarray:
    """White ring and cells: uint8 [height, width]."""
    rows, columns = _cell_of_line(height, GRID_ROWS), _cell_of_line(width, GRID_COLUMNS)
    cells = np.ones((GRID_ROWS + 2, GRID_COLUMNS + 2), bool)
    cells[1:-1, 1:-1] = _bits_of_number(number).reshape(GRID_ROWS, GRID_COLUMNS)
    return np.where(cells[np.ix_(rows + 1, columns + 1)], 255, 0).astype(np.uint8)


def _cell_of_line(num_lines: int, num_cells: int) -> np.ndarray:
    """Cell in which each line lies; -1 and `num_cells` are the ring."""
    centres = (np.arange(num_lines) + 0.5) / num_lines
    return np.floor(centres * (num_cells + 2 * RING_CELLS) - RING_CELLS).astype(int)


def _bits_of_number(number: int) -> np.ndarray:
    if not 0 <= number < 1 << NUM_DATA_BITS:
        raise ValueError(f"a painted number has {NUM_DATA_BITS} bits, got {number}")
    gray = number ^ (number >> 1)
    word = gray << 4 | _check(gray)
    return np.array([word >> shift & 1 for shift in reversed(range(NUM_DATA_BITS + 4))], bool)


def _number_of_bits(bits: np.ndarray) -> int:
    word = int("".join("1" if bit else "0" for bit in bits), 2)
    gray, check = word >> 4, word & 15
    if check != _check(gray):
        raise ValueError(f"no number: check bits {check:04b} against {_check(gray):04b} for data {gray:020b}")
    number = 0
    while gray:
        number ^= gray
        gray >>= 1
    return number


def _check(data: int) -> int:
    """CRC-4 (x^4 + x + 1) of the data bits; with the constant no codeword is all black or all white."""
    remainder = data << 4
    for shift in reversed(range(NUM_DATA_BITS)):
        if remainder >> (shift + 4) & 1:
            remainder ^= 0b10011 << shift
    return remainder ^ 0b1010


def _luma(image: np.ndarray) -> np.ndarray:
    return image[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def _outer_lines(white_counts: np.ndarray) -> tuple[float, float]:
    """Edges of the outermost lines that are mostly white: the ring's, whatever the cells between them."""
    lines = np.flatnonzero(white_counts >= 0.7 * white_counts.max())
    return float(lines[0]), float(lines[-1] + 1)


def _mean_around(luma: np.ndarray, y: float, x: float, half_height: float, half_width: float) -> float:
    rows = slice(int(y - half_height + 0.5), max(int(y + half_height + 0.5), int(y - half_height + 0.5) + 1))
    columns = slice(int(x - half_width + 0.5), max(int(x + half_width + 0.5), int(x - half_width + 0.5) + 1))
    return float(luma[rows, columns].mean())


# ---------------------------------------------------------------------------------------------------- recipes


@dataclass(frozen=True)
class Colour:
    """How RGB becomes YCbCr and what the file says about it."""

    matrix: str = "bt601"
    full_range: bool = False
    tagged: bool = False
    transfer: str = "sdr"
    white: float = 1.0
    """Code value of the panel's white; below 1 for HDR, where 1 would be 10,000 cd/m2."""


BT601 = Colour("bt601", tagged=True)
BT709 = Colour("bt709", tagged=True)
FULL_RANGE = Colour(full_range=True)
PQ = Colour("bt2020", tagged=True, transfer="pq", white=0.58)
HLG = Colour("bt2020", tagged=True, transfer="hlg", white=0.75)
"""Reference white of 203 cd/m2 is 0.58 in PQ and 0.75 in HLG (BT.2408)."""

LUMA_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
"""Kr and Kb of BT.601, BT.709 and BT.2020."""


@dataclass(frozen=True)
class Recipe:
    """How a test video is encoded. Sizes given to `write_video` are those of the stored frame."""

    name: str
    codec: str
    container: str
    options: dict[str, str] = field(default_factory=dict)
    pix_fmt: str = "yuv420p"
    gop: int = 24
    colour: Colour = Colour()
    muxer_options: dict[str, str] = field(default_factory=dict)
    rotation: int = 0
    """Degrees counter-clockwise by which a player turns the stored frame."""
    sample_aspect_ratio: Fraction = Fraction(1)
    field_order: str = "progressive"
    """progressive, tff or bff; the second field shows the pattern half a frame later. Only the flags of the
    frames tell which: libx264 writes "top first" into the container whatever it codes."""
    start: Fraction = Fraction(0)
    """Presentation time of the first frame in seconds."""
    variable_rate: bool = False
    num_hidden_frames: int = 0
    """Frames at the start that an edit list discards."""
    stores_times: bool = True
    """False where the container keeps no presentation times: FFmpeg then gives none, or those of decoding."""
    bar_share: float = 0.0
    """Share of the height that a black bar covers at the top, and again at the bottom."""
    codec_tag: str = ""


def _x264(parameters: str = "", **options: str) -> dict[str, str]:
    """Without mbtree, whose AVX-512 code gives other bytes on each run when there are B-frames."""
    base = "threads=1:lookahead-threads=1:mbtree=0"
    return {"preset": "veryfast", "crf": "26", "x264-params": f"{base}:{parameters}".rstrip(":"), **options}


def _h264(name: str, container: str = "mp4", parameters: str = "", **changes) -> Recipe:
    return Recipe(name, "libx264", container, _x264(parameters or "bframes=3:b-adapt=0"), **changes)


def _hevc(name: str, container: str, **changes) -> Recipe:
    parameters = "pools=none:frame-threads=1:log-level=none:keyint=24:min-keyint=24:scenecut=0:bframes=3"
    options = {"preset": "ultrafast", "crf": "26", "x265-params": parameters}
    tag = "hvc1" if container == "mp4" else ""
    return Recipe(name, "libx265", container, options, codec_tag=tag, **changes)


def _vp9(name: str, **changes) -> Recipe:
    options = {"deadline": "good", "cpu-used": "5", "crf": "30", "b": "0", "auto-alt-ref": "0"}
    return Recipe(name, "libvpx-vp9", "webm", options, **changes)


def _av1(name: str, container: str, **changes) -> Recipe:
    """Preset 8: from 10 up SVT-AV1 4.1 paints cells of other frames, and warns that it may."""
    options = {"preset": "8", "crf": "28", "svtav1-params": "lp=1"}
    return Recipe(name, "libsvtav1", container, options, **changes)


def _mpeg2(name: str, bit_rate: str, **changes) -> Recipe:
    options = {"bf": "2", "b": bit_rate, "sc_threshold": "1000000000"}
    muxer = {"gop": 12, "muxer_options": MPEGTS_COPY, "start": Fraction(1)}
    return Recipe(name, "mpeg2video", "ts", options, **muxer, **changes)


OPEN_GOP = "keyint=24:min-keyint=24:scenecut=0:bframes=3:b-adapt=0:open-gop=1"
MPEGTS_COPY = {"mpegts_copyts": "1"}
"""Without it the MPEG-TS muxer adds its own delay to every time."""

PRORES_4444 = {"profile": "4444", "alpha_bits": "8"}

_STREAMS = (
    _h264("h264_bframes"),
    _h264("h264_no_bframes", parameters="bframes=0:cabac=0:8x8dct=0:weightp=0"),
    _h264("h264_open_gop", parameters=OPEN_GOP),
    _h264("h264_open_gop_ts", "ts", OPEN_GOP, muxer_options=MPEGTS_COPY, start=Fraction(1)),
    _h264("h264_intra_refresh", parameters="keyint=24:intra-refresh=1:bframes=0"),
    _h264("h264_mkv", "mkv"),
    _h264("h264_edit_list", parameters="keyint=24:scenecut=0:bframes=3:b-adapt=0", num_hidden_frames=10),
    _h264("mpegts_offset", "ts", muxer_options=MPEGTS_COPY, start=Fraction(90000 * 37 + 123, 90000)),
    _h264("vfr_mp4", variable_rate=True),
    _h264("vfr_mkv", "mkv", variable_rate=True),
    _hevc("hevc", "mp4"),
    _hevc("hevc_mkv", "mkv"),
    _vp9("vp9"),
    _av1("av1_mp4", "mp4"),
    _av1("av1_mkv", "mkv"),
    _mpeg2("mpeg2_open_gop", "1500k"),
    Recipe("mjpeg_avi", "mjpeg", "avi", {"qmin": "8", "qmax": "8"}, "yuvj420p", colour=FULL_RANGE),
)

_ODD_INPUTS = (
    _h264("rotated_90", rotation=90),
    _h264("rotated_180", rotation=180),
    _h264("rotated_270", rotation=270),
    _h264("sar_128_117", sample_aspect_ratio=Fraction(128, 117)),
    _h264("sar_2_1", sample_aspect_ratio=Fraction(2)),
    _h264("sar_1_2_mkv", "mkv", sample_aspect_ratio=Fraction(1, 2)),
    _h264("interlaced_tff", field_order="tff"),
    _h264("interlaced_bff", field_order="bff"),
    _mpeg2("interlaced_mpeg2", "2500k", field_order="tff"),
    _h264("bt601_limited", colour=BT601),
    _h264("bt601_full", colour=replace(BT601, full_range=True)),
    _h264("bt709_limited", colour=BT709),
    _h264("bt709_full", colour=replace(BT709, full_range=True)),
    _h264("bt601_limited_untagged", colour=replace(BT601, tagged=False)),
    _h264("bt601_full_untagged", colour=replace(BT601, tagged=False, full_range=True)),
    _h264("bt709_limited_untagged", colour=replace(BT709, tagged=False)),
    _h264("bt709_full_untagged", colour=replace(BT709, tagged=False, full_range=True)),
    _h264("yuv420p10", pix_fmt="yuv420p10le"),
    _h264("yuv422p", pix_fmt="yuv422p"),
    _h264("yuv444p", pix_fmt="yuv444p"),
    _hevc("gray", "mp4", pix_fmt="gray"),
    _h264("letterboxed", bar_share=0.12),
    _hevc("hevc_pq", "mp4", pix_fmt="yuv420p10le", colour=PQ),
    _hevc("hevc_hlg", "mp4", pix_fmt="yuv420p10le", colour=HLG),
    _av1("av1_hlg", "mp4", pix_fmt="yuv420p10le", colour=HLG),
    Recipe("alpha_qtrle", "qtrle", "mov", pix_fmt="argb"),
    Recipe("alpha_png", "png", "mov", pix_fmt="rgba"),
    Recipe("alpha_prores", "prores_ks", "mov", PRORES_4444, "yuva444p10le", colour=BT709),
    _vp9("alpha_vp9", pix_fmt="yuva420p"),
    Recipe("gif", "gif", "gif", pix_fmt="rgb8"),
    _h264("raw_h264", "h264", stores_times=False),
    _h264("h264_avi", "avi", stores_times=False),
    Recipe("mpeg4_avi", "mpeg4", "avi", {"bf": "2", "b": "1500k"}, gop=12, stores_times=False),
)

STREAM_RECIPES = {recipe.name: recipe for recipe in _STREAMS}
"""Plain content in every coding structure: each stored frame must come back."""

ODD_RECIPES = {recipe.name: recipe for recipe in _ODD_INPUTS}
"""Content that has to be normalised: geometry, fields, colour, pixel formats, missing times."""

RECIPES = STREAM_RECIPES | ODD_RECIPES


# ------------------------------------------------------------------------------------------------------ truth


@dataclass(frozen=True)
class Truth:
    """What a written file holds, in presentation order. `times` is None where the file stores none."""

    numbers: tuple[int, ...]
    times: tuple[Fraction, ...] | None


def truth(path: Path) -> Truth:
    """Truth of a video written here; kept beside it in `.truth/`."""
    stored = json.loads(_truth_path(path).read_text())
    times = stored["times"]
    return Truth(tuple(stored["numbers"]), None if times is None else tuple(map(Fraction, times)))


def save_truth(path: Path, known: Truth) -> Path:
    """Keep what is known of `path` where `truth` finds it; returns `path`."""
    times = None if known.times is None else [str(time) for time in known.times]
    _truth_path(path).parent.mkdir(exist_ok=True)
    _truth_path(path).write_text(json.dumps({"numbers": list(known.numbers), "times": times}))
    return path


def _truth_path(path: Path) -> Path:
    return path.parent / ".truth" / f"{path.name}.json"


# --------------------------------------------------------------------------------------------------- encoding

VARIABLE_TIME_BASE = Fraction(1, 90000)
CONTAINER_TIME_BASES = {"mkv": Fraction(1, 1000), "webm": Fraction(1, 1000), "gif": Fraction(1, 100)}
"""Containers that round times; the others hold ours exactly."""

FORMATS = {"mkv": "matroska", "ts": "mpegts"}


def write_video(
    path: Path,
    recipe: Recipe,
    num_frames: int,
    *,
    width: int = 320,
    height: int = 180,
    frame_rate: Fraction = Fraction(30),
    scene_starts: tuple[int, ...] = (0,),
    times: tuple[Fraction, ...] | None = None,
    first_number: int = 0,
) -> Path:
    """Write a video whose frame i shows `first_number` + i, and its truth; returns the path.

    Args:
      width, height: of the stored frame; it is painted at `display_size` and then turned or squeezed.
      scene_starts: frames at which the background changes, the first one 0.
      times: presentation times in seconds, rising; by default regular, or irregular for a variable rate.
    """
    if times is None and recipe.variable_rate:
        times = irregular_times(num_frames)
    time_base = 1 / frame_rate if times is None else VARIABLE_TIME_BASE
    if times is None:
        times = tuple(i / frame_rate for i in range(num_frames))
    if (recipe.start / time_base).denominator != 1:
        time_base = VARIABLE_TIME_BASE
    ticks = [round((recipe.start + time) / time_base) for time in times]
    shown = slice(recipe.num_hidden_frames, num_frames)
    zero = ticks[recipe.num_hidden_frames] if recipe.num_hidden_frames else 0
    images = (
        _stored_image(recipe, first_number + i, width, height, bisect.bisect_right(scene_starts, i) - 1)
        for i in range(num_frames)
    )
    _encode(path, recipe, images, [tick - zero for tick in ticks], time_base, frame_rate, width, height)
    stored_times = [_stored_time((tick - zero) * time_base, recipe.container) for tick in ticks[shown]]
    numbers = tuple(range(first_number, first_number + num_frames))[shown]
    return save_truth(path, Truth(numbers, tuple(stored_times) if recipe.stores_times else None))


def irregular_times(num_frames: int) -> tuple[Fraction, ...]:
    """Rising times in seconds with gaps of 8 to 250 ms, whole milliseconds and thus exact everywhere."""
    gaps_ms = (33, 34, 8, 100, 17, 250, 33, 42, 16, 67)
    return tuple(Fraction(sum(gaps_ms[j % len(gaps_ms)] for j in range(i)), 1000) for i in range(num_frames))


def display_size(recipe: Recipe, width: int, height: int) -> tuple[int, int]:
    """Width and height at which a stored frame is to be shown."""
    shown = (round(width * recipe.sample_aspect_ratio), height)
    return shown if recipe.rotation % 180 == 0 else shown[::-1]


def _stored_time(time: Fraction, container: str) -> Fraction:
    base = CONTAINER_TIME_BASES.get(container)
    return time if base is None else Fraction(int(time / base + Fraction(1, 2))) * base


def _stored_image(recipe: Recipe, number: int, width: int, height: int, scene: int) -> np.ndarray:
    """Frame as it is handed to the encoder: uint8 [height, width, 3], turned and squeezed, fields woven."""
    shown_width, shown_height = display_size(recipe, width, height)
    image = paint_number(number, shown_width, shown_height, scene)
    if recipe.field_order != "progressive":
        later = _paint(number, shown_width, shown_height, scene, moment=number + 0.5)
        first_late_row = 1 if recipe.field_order == "tff" else 0
        image[first_late_row::2] = later[first_late_row::2]
    if bar_rows := round(shown_height * recipe.bar_share):
        image[:bar_rows] = image[-bar_rows:] = 0
    image = np.rot90(image, -recipe.rotation // 90)
    if image.shape[:2] != (height, width):
        picture = Image.fromarray(np.ascontiguousarray(image))
        image = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))
    return np.ascontiguousarray(image)


def _encode(path, recipe, images, ticks, time_base, frame_rate, width, height) -> None:
    muxer = {"fflags": "+bitexact", **recipe.muxer_options}
    if recipe.num_hidden_frames:
        muxer |= {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    format_name = FORMATS.get(recipe.container, recipe.container)
    with av.open(str(path), "w", format=format_name, options=muxer) as container:
        stream = container.add_stream(recipe.codec, rate=frame_rate, options=dict(recipe.options))
        _configure(stream, recipe, time_base, width, height)
        weave = _field_marker(recipe, width, height, time_base)
        for tick, image in zip(ticks, images, strict=True):
            frame = frame_of_rgb(image, recipe.pix_fmt, recipe.colour)
            frame.pts, frame.time_base = tick, time_base
            container.mux(stream.encode(weave(frame)))
        container.mux(stream.encode())


def _configure(stream, recipe: Recipe, time_base: Fraction, width: int, height: int) -> None:
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = width, height, recipe.pix_fmt
    context.time_base, context.gop_size, context.thread_count = time_base, recipe.gop, 1
    context.sample_aspect_ratio = recipe.sample_aspect_ratio
    if recipe.field_order != "progressive":
        context.flags |= av.codec.context.Flags.interlaced_dct | av.codec.context.Flags.interlaced_me
    if recipe.codec_tag:
        context.codec_tag = recipe.codec_tag
    if recipe.rotation:
        stream.set_display_rotation(recipe.rotation)
    for name, value in colour_tags(recipe.colour).items():
        setattr(context, name, value)


def colour_tags(colour: Colour) -> dict[str, int]:
    """Attributes of a PyAV codec context or frame that a tagged colour sets: code points of ITU-T H.273.

    PyAV's own `Colorspace` is of no use here: its numbers are those of the scaler.
    """
    if not colour.tagged:
        return {}
    matrix = {"bt601": 6, "bt709": 1, "bt2020": 9}[colour.matrix]
    transfer = {"sdr": 6 if colour.matrix == "bt601" else 1, "pq": 16, "hlg": 18}[colour.transfer]
    return {
        "colorspace": matrix,
        "color_primaries": matrix,
        "color_trc": transfer,
        "color_range": 2 if colour.full_range else 1,
    }


def _field_marker(recipe: Recipe, width: int, height: int, time_base: Fraction):
    """Function that marks a frame's field order; PyAV has no setter, so a filter does it."""
    if recipe.field_order == "progressive":
        return lambda frame: frame
    graph = Graph()
    source = graph.add_buffer(width=width, height=height, format=recipe.pix_fmt, time_base=time_base)
    mark, sink = graph.add("setfield", f"mode={recipe.field_order}"), graph.add("buffersink")
    source.link_to(mark)
    mark.link_to(sink)
    graph.configure()

    def marked(frame: av.VideoFrame) -> av.VideoFrame:
        graph.push(frame)
        return graph.pull()

    return marked


# --------------------------------------------------------------------------------------- RGB to codec formats


def frame_of_rgb(image: np.ndarray, pix_fmt: str, colour: Colour) -> av.VideoFrame:
    """PyAV frame of a uint8 [H, W, 3] image, converted in float as BT.601, BT.709 and BT.2020 say.

    Chroma is averaged over its block. Formats with alpha are opaque over the centre square and fade out
    towards the sides.
    """
    height, width = image.shape[:2]
    layout = av.VideoFormat(pix_fmt)
    frame = av.VideoFrame(width, height, pix_fmt)
    if layout.is_rgb:
        frame = _rgb_frame(image, pix_fmt)
    else:
        bits = layout.components[0].bits
        planes = _quantise(image, colour, bits)[: len(layout.components)]
        for index, plane in enumerate(planes):
            if index in (1, 2):
                plane = _average(plane, layout.chroma_width(2), layout.chroma_height(2))
            _fill(frame.planes[index], plane, bits)
    for name, value in colour_tags(colour).items():
        setattr(frame, name, value)
    return frame


def _rgb_frame(image: np.ndarray, pix_fmt: str) -> av.VideoFrame:
    if "a" in pix_fmt:
        with_alpha = np.dstack([image, _alpha(*image.shape[:2])])
        return av.VideoFrame.from_ndarray(with_alpha, "rgba").reformat(format=pix_fmt)
    return av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pix_fmt)


def _quantise(image: np.ndarray, colour: Colour, bits: int) -> list[np.ndarray]:
    """Y, Cb, Cr and alpha as float [H, W] code values, unrounded and at full chroma resolution."""
    red, green, blue = np.moveaxis(image.astype(np.float64) / 255 * colour.white, -1, 0)
    kr, kb = LUMA_WEIGHTS[colour.matrix]
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = ((blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr))
    one, top = 1 << (bits - 8), (1 << bits) - 1
    alpha = _alpha(*image.shape[:2]) / 255 * top
    if colour.full_range:
        return [luma * top, *(c * top + 128 * one for c in chroma), alpha]
    return [(luma * 219 + 16) * one, *((c * 224 + 128) * one for c in chroma), alpha]


def _average(plane: np.ndarray, columns_of_two: int, rows_of_two: int) -> np.ndarray:
    """Mean over blocks of 1 or 2 columns and rows; `columns_of_two` is what 2 columns become."""
    block_width, block_height = 2 // columns_of_two, 2 // rows_of_two
    height, width = plane.shape
    padded = np.pad(plane, ((0, -height % block_height), (0, -width % block_width)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // block_height, block_height, -1, block_width)
    return blocks.mean(axis=(1, 3))


def _fill(plane, values: np.ndarray, bits: int) -> None:
    dtype = np.uint8 if bits == 8 else np.dtype("<u2")
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    coded = np.clip(np.rint(values), 0, (1 << bits) - 1).astype(dtype)
    rows[:, : coded.shape[1] * coded.itemsize] = coded.view(np.uint8)


def _alpha(height: int, width: int) -> np.ndarray:
    """Opaque over the centre square, falling to 0 at the left and right edge: uint8 [H, W]."""
    distance = np.abs(np.arange(width) - width / 2) - min(height, width) / 2
    margin = max(width / 2 - min(height, width) / 2, 1)
    return np.tile(np.rint(255 * (1 - np.clip(distance / margin, 0, 1))).astype(np.uint8), (height, 1))


# ------------------------------------------------------------------------------------- broken and mixed files


def write_vp9_alt_ref(path: Path, num_frames: int = 60, **options) -> Path:
    """VP9 in WebM with hidden reference frames inside its packets, which libvpx makes in two passes only.

    PyAV has no two-pass encoding, so the ffmpeg binary of imageio-ffmpeg encodes a video written here.
    """
    source = path.with_name(f"{path.stem}-source.mp4")
    known = truth(write_video(source, RECIPES["h264_bframes"], num_frames, **options))
    log = path.with_name(f"{path.stem}-pass")
    options_text = "-b:v 300k -g 24 -auto-alt-ref 1 -lag-in-frames 16 -cpu-used 4 -threads 1"
    encoder = ["-c:v", "libvpx-vp9", *options_text.split()]
    for turn, target in ((1, os.devnull), (2, path)):
        _ffmpeg(
            "-i",
            source,
            *encoder,
            "-pass",
            turn,
            "-passlogfile",
            log,
            "-fflags",
            "+bitexact",
            "-f",
            "webm",
            target,
        )
    for used in (source, _truth_path(source), *path.parent.glob(f"{log.name}-*.log")):
        used.unlink()
    return save_truth(path, replace(known, times=tuple(_stored_time(time, "webm") for time in known.times)))


def _ffmpeg(*arguments) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-y", *map(str, arguments)]
    subprocess.run(command, check=True, timeout=60)


def write_audio_only(path: Path) -> Path:
    """One second of a tone as AAC in MP4, no video stream."""
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("aac", rate=44100)
        tone = np.sin(2 * np.pi * 440 * np.arange(44100) / 44100).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return save_truth(path, Truth((), ()))


def write_html(path: Path) -> Path:
    """The error page that a failed download leaves under the name of a video."""
    path.write_text("<!DOCTYPE html><html><head><title>429</title></head><body>Later.</body></html>\n")
    return save_truth(path, Truth((), ()))


def write_without_moov(path: Path, num_frames: int = 48) -> Path:
    """MP4 cut before its index, which came last: nothing can be decoded."""
    write_video(path, RECIPES["h264_bframes"], num_frames)
    _truncate(path, 0.6)
    return save_truth(path, Truth((), ()))


def write_truncated(path: Path, num_frames: int = 96) -> Path:
    """MP4 with its index first, cut at 60% of its bytes. The truth is that of the whole video."""
    recipe = replace(RECIPES["h264_bframes"], muxer_options={"movflags": "+faststart"})
    write_video(path, recipe, num_frames)
    _truncate(path, 0.6)
    return path


def write_corrupt(path: Path, num_frames: int = 96, packets: range = range(40, 48)) -> Path:
    """MP4 in which the bytes of `packets`, in decoding order, are zero. The truth is of the sound video."""
    write_video(path, RECIPES["h264_bframes"], num_frames)
    with av.open(str(path)) as container:
        spans = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for start, length in (spans[i] for i in packets):
        data[start : start + length] = bytes(length)
    path.write_bytes(data)
    return path


def write_size_change(path: Path, num_frames: int = 24) -> Path:
    """MPEG-TS whose second half is 480x270 after 320x180, as a live recording does it."""
    halves = []
    for first_number, (width, height) in ((0, (320, 180)), (num_frames, (480, 270))):
        recipe = replace(RECIPES["mpegts_offset"], start=Fraction(10) + Fraction(first_number, 30))
        half = path.with_name(f"{path.stem}-{first_number}.ts")
        write_video(half, recipe, num_frames, width=width, height=height, first_number=first_number)
        halves.append((half.read_bytes(), truth(half)))
        half.unlink()
        _truth_path(half).unlink()
    path.write_bytes(b"".join(data for data, _ in halves))
    numbers, times = (sum((getattr(known, name) for _, known in halves), ()) for name in ("numbers", "times"))
    return save_truth(path, Truth(numbers, times))


def _truncate(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
