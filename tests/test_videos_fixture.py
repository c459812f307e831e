"""The test videos are what they claim, judged by a plain decode of the whole file."""

import contextlib
import io
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.filter import Graph
from av.video.frame import PictureType
from PIL import Image

from tests import videos
from tests.videos import (
    ODD_RECIPES,
    RECIPES,
    STREAM_RECIPES,
    Colour,
    Recipe,
    crop_centre_square,
    display_size,
    find_panel,
    frame_of_rgb,
    irregular_times,
    paint_number,
    read_number,
    shrink,
    truth,
    write_video,
)

NUMBERS = [0, 1, 2, 1023, 1024, 349525, 699050, (1 << 20) - 1]
SIZES = [(320, 180), (180, 320), (256, 256), (321, 181), (640, 272), (1280, 720)]
HEAVY = {"alpha_qtrle", "alpha_prores", "gif"}
"""Written with few frames, because they barely compress."""


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=quality)
    return np.asarray(Image.open(data))


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))


def written(folder: Path, recipe: Recipe, num_frames: int = 60, **options) -> Path:
    return write_video(folder / f"{recipe.name}.{recipe.container}", recipe, num_frames, **options)


def decode(path: Path, **options) -> list[av.VideoFrame]:
    with av.open(str(path), options=options) as container:
        return list(container.decode(video=0))


def demux(path: Path) -> list[av.Packet]:
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def displayed(frame: av.VideoFrame, recipe: Recipe) -> np.ndarray:
    image = np.rot90(frame.to_ndarray(format="rgb24"), recipe.rotation // 90)
    size = display_size(recipe, frame.width, frame.height)
    return image if recipe.sample_aspect_ratio == 1 else resize(image, *size)


def times_of(frames: list[av.VideoFrame]) -> tuple[Fraction, ...]:
    return tuple(frame.pts * frame.time_base for frame in frames)


def numbers_of(frames: list[av.VideoFrame]) -> tuple[int, ...]:
    return tuple(read_number(frame.to_ndarray(format="rgb24")) for frame in frames)


# --------------------------------------------------------------------------------------------------- painting


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("scene", range(6))
def test_a_painted_number_is_read_back_from_64_and_256_pixels_and_a_bad_jpeg(width, height, scene):
    for number in NUMBERS:
        image = paint_number(number, width, height, scene)
        assert image.shape == (height, width, 3) and image.dtype == np.uint8
        assert read_number(image) == number
        assert read_number(shrink(image, 256)) == number
        assert read_number(jpeg(shrink(image, 64), quality=20)) == number


@pytest.mark.parametrize("bar_share", [0.12, 0.06])
def test_a_painted_number_outlasts_bars_squash_and_a_wrong_range(bar_share):
    rng = np.random.default_rng(0)
    for number in [*NUMBERS, *rng.integers(0, 1 << 20, 50).tolist()]:
        image = paint_number(number, 320, 180, scene=number)
        bars = round(180 * bar_share)
        assert read_number(shrink(image[bars:-bars], 64)) == number
        assert read_number(resize(image[bars:-bars], 64, 64)) == number
        assert read_number(resize(image, 64, 64)) == number
        boxed = image.copy()
        boxed[:bars] = boxed[-bars:] = 0
        assert read_number(shrink(boxed, 64)) == number
        small = shrink(image, 64).astype(np.float32)
        assert read_number(np.rint(small * 219 / 255 + 16).astype(np.uint8)) == number
        assert read_number(np.clip((small - 16) * 255 / 219, 0, 255).astype(np.uint8)) == number


def test_random_numbers_are_read_from_64_pixels():
    rng = np.random.default_rng(1)
    for number in rng.integers(0, 1 << 20, 300).tolist():
        assert read_number(shrink(paint_number(number, 320, 180, number % 6), 64)) == number


def test_a_damaged_panel_is_refused():
    image = paint_number(77, 320, 180)
    top, left, bottom, right = (int(edge) for edge in find_panel(image))
    cell_height, cell_width = (bottom - top) / 5, (right - left) / 7
    for row in range(4):
        for column in range(6):
            y, x = top + (row + 0.5) * cell_height, left + (column + 0.5) * cell_width
            area = slice(int(y) + 1, int(y + cell_height)), slice(int(x) + 1, int(x + cell_width))
            damaged = image.copy()
            damaged[area] = 255 - damaged[area]
            with pytest.raises(ValueError, match="check bits"):
                read_number(damaged)


def test_a_frame_without_a_panel_is_refused():
    with pytest.raises(ValueError, match="no panel"):
        read_number(np.full((64, 64, 3), 90, np.uint8))
    with pytest.raises(ValueError, match="20 bits, got 1048576"):
        paint_number(1 << 20, 320, 180)


def test_the_panel_lies_where_its_constants_say():
    top, left, bottom, right = find_panel(paint_number(5, 320, 180))
    assert (bottom - top, right - left) == (round(180 * videos.PANEL_HEIGHT), round(180 * videos.PANEL_WIDTH))
    assert abs((top + bottom) / 2 - 90) <= 0.5 and abs((left + right) / 2 - 160) <= 0.5


def test_scenes_differ_as_cuts_do_and_frames_differ_as_motion_does():
    """Mean HSV distance, the score of PySceneDetect's ContentDetector, whose threshold is 27."""

    def distance(a, b):
        hsv = [np.asarray(Image.fromarray(shrink(x, 64)).convert("HSV"), np.float32) for x in (a, b)]
        return np.abs((hsv[0] - hsv[1]) * [180 / 255, 1, 1]).mean()

    for number in (10, 1023, 4095):
        for scene in range(6):
            first = paint_number(number, 320, 180, scene)
            assert 2 < distance(first, paint_number(number + 1, 320, 180, scene)) < 20
            assert distance(first, paint_number(number + 1, 320, 180, scene + 1)) > 40


# ----------------------------------------------------------------------------------------------- every recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_plain_decode_gives_the_painted_numbers_at_the_true_times(name, tmp_path):
    recipe = RECIPES[name]
    num_frames = 8 if name in HEAVY else 60 if name in STREAM_RECIPES else 30
    path = written(tmp_path, recipe, num_frames, scene_starts=(0, num_frames // 2), first_number=1000)
    frames, known = decode(path), truth(path)

    shown = [displayed(frame, recipe) for frame in frames]
    assert tuple(read_number(image) for image in shown) == known.numbers
    assert tuple(read_number(jpeg(shrink(image, 64), 95)) for image in shown) == known.numbers
    assert tuple(read_number(shrink(image, 256)) for image in shown[::5]) == known.numbers[::5]
    assert known.numbers == tuple(range(1000 + recipe.num_hidden_frames, 1000 + num_frames))
    if known.times is not None:
        assert times_of(frames) == known.times
    assert path.stat().st_size < (1_500_000 if name in HEAVY else 250_000)


@pytest.mark.parametrize(
    "name", ["h264_bframes", "h264_mkv", "hevc", "vp9", "av1_mp4", "mpeg2_open_gop", "gif"]
)
def test_the_same_call_writes_the_same_bytes(name, tmp_path):
    first, second = (written(tmp_path, RECIPES[name], 12).read_bytes() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", ["h264_bframes", "hevc", "vp9", "av1_mp4", "h264_mkv", "mpegts_offset"])
def test_a_video_of_one_frame(name, tmp_path):
    frames = decode(written(tmp_path, RECIPES[name], 1, first_number=9))
    assert numbers_of(frames) == (9,)


@pytest.mark.parametrize("name", ["yuv444p", "vp9", "alpha_png"])
def test_odd_sizes(name, tmp_path):
    frames = decode(written(tmp_path, RECIPES[name], 6, width=321, height=181))
    assert (frames[0].width, frames[0].height) == (321, 181)
    assert numbers_of(frames) == tuple(range(6))


def test_a_fractional_rate_keeps_exact_times(tmp_path):
    path = written(tmp_path, RECIPES["h264_bframes"], 5, frame_rate=Fraction(30000, 1001))
    assert truth(path).times == tuple(Fraction(1001 * i, 30000) for i in range(5)) == times_of(decode(path))


# ------------------------------------------------------------------------------------------ coding structures


def num_leading(packets: list[av.Packet]) -> int:
    """Packets that come after a key packet in decoding order and before it in presentation order."""
    count, key_pts = 0, None
    for packet in packets:
        if packet.is_keyframe:
            key_pts = packet.pts
        elif key_pts is not None and packet.pts < key_pts:
            count += 1
    return count


@pytest.mark.parametrize(
    ("name", "leading_a_key"),
    [
        ("h264_open_gop", 3),
        ("h264_open_gop_ts", 3),
        ("hevc", 3),
        ("hevc_mkv", 3),
        ("mpeg2_open_gop", 2),
        ("h264_bframes", 0),
        ("h264_mkv", 0),
        ("h264_edit_list", 0),
    ],
)
def test_open_groups_have_leading_frames_and_closed_ones_none(name, leading_a_key, tmp_path):
    packets = demux(written(tmp_path, RECIPES[name], 58))
    later_keys = sum(packet.is_keyframe for packet in packets) - 1
    assert later_keys >= 2
    assert num_leading(packets) == leading_a_key * later_keys
    assert any(a.pts > b.pts for a, b in pairwise(packets))


def test_h264_without_b_frames_is_stored_in_presentation_order(tmp_path):
    pts = [packet.pts for packet in demux(written(tmp_path, RECIPES["h264_no_bframes"]))]
    assert pts == sorted(pts)


def test_intra_refresh_has_key_packets_but_one_intra_frame(tmp_path):
    path = written(tmp_path, RECIPES["h264_intra_refresh"])
    assert [i for i, packet in enumerate(demux(path)) if packet.is_keyframe] == [0, 24, 48]
    assert [i for i, frame in enumerate(decode(path)) if frame.pict_type == PictureType.I] == [0]


def test_intra_refresh_entered_at_a_key_packet_comes_up_frames_later(tmp_path):
    """FFmpeg holds frames back until the refresh has passed over the picture."""
    path = written(tmp_path, RECIPES["h264_intra_refresh"])
    with av.open(str(path)) as container:
        container.seek(1_000_000)
        assert read_number(next(container.decode(video=0)).to_ndarray(format="rgb24")) == 42


def test_an_edit_list_hides_the_first_frames(tmp_path):
    path = written(tmp_path, RECIPES["h264_edit_list"])
    assert [packet.is_discard for packet in demux(path)].count(True) == 10
    assert numbers_of(decode(path)) == tuple(range(10, 60))
    assert numbers_of(decode(path, ignore_editlist="1")) == tuple(range(60))


def test_vp9_holds_hidden_reference_frames(tmp_path):
    """A packet whose last byte is 0b110xxxxx is a superframe (VP9 specification, annex B)."""
    path = videos.write_vp9_alt_ref(tmp_path / "a.webm", scene_starts=(0, 30))
    packets, frames = demux(path), decode(path)
    assert sum(bytes(packet)[-1] >> 5 == 0b110 for packet in packets) >= 2
    assert numbers_of(frames) == truth(path).numbers == tuple(range(60))
    assert times_of(frames) == truth(path).times
    assert [child.name for child in tmp_path.iterdir() if not child.name.startswith(".")] == ["a.webm"]


def test_mpegts_starts_far_from_zero(tmp_path):
    path = written(tmp_path, RECIPES["mpegts_offset"], 12)
    assert decode(path)[0].pts == 90000 * 37 + 123


@pytest.mark.parametrize("name", ["vfr_mp4", "vfr_mkv"])
def test_variable_rate_has_irregular_times(name, tmp_path):
    times = times_of(decode(written(tmp_path, RECIPES[name])))
    assert times == irregular_times(60)
    assert len({b - a for a, b in pairwise(times)}) >= 8


def test_given_times_are_kept(tmp_path):
    times = (Fraction(0), Fraction(1, 90000), Fraction(1, 2), Fraction(7, 3))
    assert times_of(decode(written(tmp_path, RECIPES["h264_bframes"], 4, times=times))) == times


# ---------------------------------------------------------------------------------------- geometry and fields


@pytest.mark.parametrize(
    ("name", "rotation"), [("rotated_90", 90), ("rotated_180", -180), ("rotated_270", -90)]
)
def test_rotated_files_are_stored_turned_and_say_so(name, rotation, tmp_path):
    frame = decode(written(tmp_path, RECIPES[name], 4, first_number=500))[0]
    assert frame.rotation == rotation and (frame.width, frame.height) == (320, 180)
    with contextlib.suppress(ValueError):
        assert read_number(frame.to_ndarray(format="rgb24")) != 500


@pytest.mark.parametrize("name", ["sar_128_117", "sar_2_1", "sar_1_2_mkv"])
def test_pixels_that_are_not_square_come_out_right_when_stretched(name, tmp_path):
    recipe = RECIPES[name]
    path = written(tmp_path, recipe, 4)
    with av.open(str(path)) as container:
        assert container.streams.video[0].sample_aspect_ratio == recipe.sample_aspect_ratio
    stored = decode(path)[0].to_ndarray(format="rgb24")
    shape = videos.PANEL_WIDTH / videos.PANEL_HEIGHT
    top, left, bottom, right = find_panel(stored)
    stretched = (right - left) * float(recipe.sample_aspect_ratio) / (bottom - top)
    assert stretched == pytest.approx(shape, rel=0.04)


def field_orders(path: Path) -> Counter:
    """Field order of each frame as the motion between fields shows it (FFmpeg's idet)."""
    with av.open(str(path)) as container:
        graph = Graph()
        source = graph.add_buffer(template=container.streams.video[0])
        detect, sink = graph.add("idet"), graph.add("buffersink")
        source.link_to(detect)
        detect.link_to(sink)
        graph.configure()
        orders = Counter()
        for frame in container.decode(video=0):
            graph.push(frame)
            try:
                orders[graph.pull().metadata["lavfi.idet.single.current_frame"]] += 1
            except av.BlockingIOError:
                continue
        return orders


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("interlaced_tff", "tff"),
        ("interlaced_bff", "bff"),
        ("interlaced_mpeg2", "tff"),
        ("h264_bframes", "progressive"),
    ],
)
def test_interlaced_files_comb_in_their_field_order(name, order, tmp_path):
    path = written(tmp_path, RECIPES[name], 24)
    assert field_orders(path)[order] >= 20
    assert all(frame.interlaced_frame == (order != "progressive") for frame in decode(path))


def test_letterboxed_files_have_black_bars(tmp_path):
    image = decode(written(tmp_path, RECIPES["letterboxed"], 4))[0].to_ndarray(format="gray")
    assert image[:20].max() < 24 and image[-20:].max() < 24 and image[26].mean() > 24


# ----------------------------------------------------------------------------------------- colour and formats


@pytest.mark.parametrize(
    ("colour", "bits", "rgb", "expected"),
    [
        (Colour("bt601"), 8, (255, 0, 0), (81, 90, 240)),
        (Colour("bt709"), 8, (255, 0, 0), (63, 102, 240)),
        (Colour("bt601", full_range=True), 8, (255, 0, 0), (76, 85, 255)),
        (Colour("bt709", full_range=True), 8, (0, 0, 255), (18, 255, 116)),
        (Colour("bt601"), 8, (255, 255, 255), (235, 128, 128)),
        (Colour("bt601"), 8, (0, 0, 0), (16, 128, 128)),
        (Colour("bt709"), 10, (255, 255, 255), (940, 512, 512)),
        (Colour("bt2020", white=0.58), 10, (255, 255, 255), (572, 512, 512)),
    ],
)
def test_rgb_becomes_the_code_values_of_the_standards(colour, bits, rgb, expected):
    pix_fmt = {8: "yuv420p", 10: "yuv420p10le"}[bits]
    frame = frame_of_rgb(np.full((20, 36, 3), rgb, np.uint8), pix_fmt, colour)
    dtype = np.uint8 if bits == 8 else np.uint16
    assert tuple(int(np.frombuffer(plane, dtype)[0]) for plane in frame.planes) == expected


COLOUR_TAGS = {  # matrix, range, transfer, primaries, as H.273 numbers them; 2 is unspecified
    "bt601_limited": (6, 1, 6, 6),
    "bt601_full": (6, 2, 6, 6),
    "bt709_limited": (1, 1, 1, 1),
    "bt709_full": (1, 2, 1, 1),
    "bt601_limited_untagged": (2, 0, 2, 2),
    "bt601_full_untagged": (2, 0, 2, 2),
    "bt709_limited_untagged": (2, 0, 2, 2),
    "bt709_full_untagged": (2, 0, 2, 2),
    "hevc_pq": (9, 1, 16, 9),
    "hevc_hlg": (9, 1, 18, 9),
    "av1_hlg": (9, 1, 18, 9),
}


@pytest.mark.parametrize("name", COLOUR_TAGS)
def test_colour_is_tagged_as_named_and_coded_as_tagged(name, tmp_path):
    recipe = RECIPES[name]
    frame = decode(written(tmp_path, recipe, 4))[0]
    tags = (frame.colorspace, frame.color_range, frame.color_trc, frame.color_primaries)
    assert tags == COLOUR_TAGS[name]
    meant = frame_of_rgb(paint_number(0, 320, 180), recipe.pix_fmt, recipe.colour)
    levels = [f.to_ndarray(format="yuv444p").mean(axis=(1, 2)) for f in (frame, meant)]
    assert np.abs(levels[0] - levels[1]).max() < 1.5


@pytest.mark.parametrize(
    ("name", "format_name"),
    [
        ("yuv420p10", "yuv420p10le"),
        ("yuv422p", "yuv422p"),
        ("yuv444p", "yuv444p"),
        ("gray", "gray"),
        ("hevc_pq", "yuv420p10le"),
        ("bt709_full", "yuvj420p"),
        ("bt709_full_untagged", "yuv420p"),
        ("alpha_qtrle", "argb"),
        ("alpha_png", "rgba"),
        ("alpha_prores", "yuva444p12le"),
        ("alpha_vp9", "yuv420p"),  # FFmpeg's own decoder drops the alpha; libvpx-vp9 would give yuva420p
        ("gif", "bgra"),
    ],
)
def test_pixel_formats_as_decoded(name, format_name, tmp_path):
    assert decode(written(tmp_path, ODD_RECIPES[name], 3))[0].format.name == format_name


@pytest.mark.parametrize("name", ["alpha_qtrle", "alpha_png", "alpha_prores"])
def test_alpha_is_opaque_in_the_centre_and_clear_at_the_sides(name, tmp_path):
    alpha = decode(written(tmp_path, ODD_RECIPES[name], 3))[0].to_ndarray(format="rgba")[..., 3]
    assert crop_centre_square(alpha[..., None]).min() >= 250 and alpha[:, 0].max() < 16


# ----------------------------------------------------------------------------------- missing and broken parts


@pytest.mark.parametrize("name", ["raw_h264", "h264_avi", "mpeg4_avi"])
def test_files_without_presentation_times_have_none_in_their_truth(name, tmp_path):
    path = written(tmp_path, RECIPES[name], 12)
    assert truth(path).times is None
    pts = [frame.pts for frame in decode(path)]
    assert None in pts or pts != list(range(12))


def test_a_file_with_sound_only(tmp_path):
    with av.open(str(videos.write_audio_only(tmp_path / "a.mp4"))) as container:
        assert not container.streams.video and len(container.streams.audio) == 1


@pytest.mark.parametrize("write", [videos.write_html, videos.write_without_moov])
def test_a_file_that_cannot_be_opened(write, tmp_path):
    with pytest.raises(av.InvalidDataError):
        av.open(str(write(tmp_path / "a.mp4")))


def decode_tolerantly(path: Path) -> tuple[list[int], int]:
    """Numbers of the frames that come out, and how many packets raised."""
    numbers, num_errors = [], 0
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            try:
                numbers += numbers_of(packet.decode())
            except av.InvalidDataError:
                num_errors += 1
    return numbers, num_errors


def test_a_truncated_file_still_promises_all_its_frames(tmp_path):
    path = videos.write_truncated(tmp_path / "a.mp4")
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 96
    numbers, num_errors = decode_tolerantly(path)
    assert numbers == list(range(len(numbers))) and 30 < len(numbers) < 80 and num_errors <= 1


def test_a_corrupt_file_loses_frames_in_the_middle_only(tmp_path):
    path = videos.write_corrupt(tmp_path / "a.mp4")
    numbers, num_errors = decode_tolerantly(path)
    lost = set(truth(path).numbers) - set(numbers)
    assert num_errors == 8 and 8 <= len(lost) <= 10 and lost <= set(range(36, 50))


def test_the_size_changes_midway(tmp_path):
    path = videos.write_size_change(tmp_path / "a.ts")
    frames = decode(path)
    assert Counter((frame.width, frame.height) for frame in frames) == {(320, 180): 24, (480, 270): 24}
    assert numbers_of(frames) == truth(path).numbers == tuple(range(48))
    assert times_of(frames) == truth(path).times
    assert [child.name for child in tmp_path.iterdir() if not child.name.startswith(".")] == ["a.ts"]


def test_an_edit_list_on_another_codec(tmp_path):
    recipe = replace(RECIPES["hevc"], num_hidden_frames=5)
    path = written(tmp_path, recipe, 30)
    assert numbers_of(decode(path)) == truth(path).numbers == tuple(range(5, 30))
