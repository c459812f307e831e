"""What a file holds, and that damage costs only the frames that it touches."""

import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvg_data import spans, video
from lvg_data.errors import Rejected
from lvg_data.timeline import native_grid
from tests import videos
from tests.videos import RECIPES, read_number, truth, write_video

NO_LIMIT = 1 << 30


def probed(path: Path, folder: Path) -> tuple[video.Probe, np.ndarray]:
    found = video.probe(str(path), folder, NO_LIMIT)
    return found, np.load(folder / "packets.npy")


def decoded(path: Path, packets: np.ndarray, start: int, stop: int, **how: object) -> dict[int, int]:
    """Painted number of each whole frame, by its ordinal."""
    reader = video.FrameReader(str(path), packets, start, stop, **how)  # type: ignore[arg-type]
    found = {ordinal: read_number(frame.to_ndarray(format="rgb24")) for ordinal, frame in reader}
    return {ordinal: number for ordinal, number in found.items() if ordinal not in reader.damaged}


# ---- refused, by name -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "cause"),
    [
        (videos.write_html, "not_video"),
        (videos.write_without_moov, "not_video"),
        (videos.write_audio_only, "no_video_stream"),
    ],
)
def test_a_file_without_pictures_is_refused(write, cause, tmp_path):
    with pytest.raises(Rejected) as caught:
        video.probe(str(write(tmp_path / "a.mp4")), tmp_path, NO_LIMIT)
    assert caught.value.cause == cause


@pytest.mark.parametrize(("name", "word"), [("hevc_pq", "PQ"), ("hevc_hlg", "HLG"), ("av1_hlg", "HLG")])
def test_high_dynamic_range_is_refused_with_its_name(name, word, tmp_path):
    path = write_video(tmp_path / f"a.{RECIPES[name].container}", RECIPES[name], 8)
    with pytest.raises(Rejected, match=f"hdr: {word}"):
        video.probe(str(path), tmp_path, NO_LIMIT)


def test_too_many_pixels_are_refused_before_decoding(tmp_path):
    path = write_video(tmp_path / "a.mp4", RECIPES["h264_no_bframes"], 4)
    with pytest.raises(Rejected, match="too_many_pixels: 320x180 pixels; the limit is 1000"):
        video.probe(str(path), tmp_path, 1000)


# ---- described ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rotated_90", {"rotation_degrees": 90}),
        ("rotated_270", {"rotation_degrees": 270}),
        ("sar_128_117", {"sample_aspect_ratio": "128/117"}),
        ("interlaced_tff", {"interlaced": True}),
        ("bt709_full", {"colour_matrix": "bt709", "colour_range": "full"}),
        ("bt601_limited", {"colour_matrix": "bt601", "colour_range": "limited"}),
        ("raw_h264", {"times_counted": True}),
        ("h264_avi", {"times_counted": True}),
        ("h264_bframes", {"times_counted": False, "num_frames_cut_off": 0, "codec": "h264"}),
    ],
)
def test_the_probe_says_what_the_file_is(name, expected, tmp_path):
    path = write_video(tmp_path / f"a.{RECIPES[name].container}", RECIPES[name], 12)
    found, _ = probed(path, tmp_path)
    assert {key: getattr(found, key) for key in expected} == expected


def test_a_video_of_one_frame_is_a_video(tmp_path):
    path = write_video(tmp_path / "a.mp4", RECIPES["h264_bframes"], 1)
    _, packets = probed(path, tmp_path)
    assert decoded(path, packets, 0, 1) == {0: 0}


def test_frames_that_an_edit_list_hides_are_not_frames(tmp_path):
    recipe = RECIPES["h264_edit_list"]
    path = write_video(tmp_path / "a.mp4", recipe, 30)
    _, packets = probed(path, tmp_path)
    assert len(video.presentation_times(packets)) == len(truth(path).numbers)
    assert len(packets) == len(truth(path).numbers) + recipe.num_hidden_frames


def test_frames_before_the_first_key_frame_are_dropped_and_counted(tmp_path):
    whole = write_video(tmp_path / "whole.ts", RECIPES["h264_open_gop_ts"], 72)
    data = whole.read_bytes()
    cut = tmp_path / "cut.ts"
    cut.write_bytes(data[len(data) // 5 // 188 * 188 :])  # a recording that begins in the middle of a GOP
    found, packets = probed(cut, tmp_path)
    num_frames = len(video.presentation_times(packets))
    numbers = decoded(cut, packets, 0, num_frames)
    assert found.num_leading_frames_dropped > 0
    assert list(numbers) == list(range(num_frames))
    assert list(numbers.values()) == list(range(72 - num_frames, 72))


# ---- damage ---------------------------------------------------------------------------------------


def test_damage_costs_the_frames_up_to_the_next_key_frame_and_no_other(tmp_path):
    path = videos.write_corrupt(tmp_path / "a.mp4")
    _, packets = probed(path, tmp_path)
    pts = video.presentation_times(packets)
    good = decoded(path, packets, 0, len(pts))
    missing = sorted(set(range(96)) - set(good))
    keys = np.searchsorted(pts, packets["pts"][packets["key"]])
    assert all(ordinal == number for ordinal, number in good.items())
    assert missing
    assert min(missing) >= 36  # packets 40 to 47 are zeroed; reordering reaches a few frames back
    assert max(missing) < min(k for k in keys if k > min(missing))


def test_a_file_that_was_cut_off_says_how_many_frames_are_lost(tmp_path):
    path = videos.write_truncated(tmp_path / "a.mp4")
    found, packets = probed(path, tmp_path)
    assert found.num_frames_cut_off + len(packets) == 96
    assert found.num_frames_cut_off > 30


def test_a_change_of_size_goes_on(tmp_path):
    path = videos.write_size_change(tmp_path / "a.ts")
    _, packets = probed(path, tmp_path)
    numbers = decoded(path, packets, 0, len(truth(path).numbers))
    assert list(numbers.values()) == list(truth(path).numbers)


# ---- spans ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["h264_open_gop", "h264_open_gop_ts", "mpegts_offset", "hevc", "vp9", "mpeg2_open_gop"]
)
def test_any_stretch_gives_its_own_frames(name, tmp_path):
    path = write_video(tmp_path / f"a.{RECIPES[name].container}", RECIPES[name], 60)
    _, packets = probed(path, tmp_path)
    for start, stop in ((0, 60), (1, 2), (23, 25), (24, 25), (47, 60), (59, 60)):
        assert decoded(path, packets, start, stop) == {n: n for n in range(start, stop)}


def test_a_gradual_refresh_needs_a_preroll_and_gets_it(tmp_path):
    path = write_video(tmp_path / "a.mp4", RECIPES["h264_intra_refresh"], 60)
    _, packets = probed(path, tmp_path)
    assert 24 not in decoded(path, packets, 24, 60)
    assert decoded(path, packets, 24, 60, preroll=1) == {n: n for n in range(24, 60)}


@st.composite
def key_frames_and_wanted(draw):
    num_frames = draw(st.integers(1, 200))
    keys = {0} | draw(st.sets(st.integers(0, num_frames - 1), max_size=12))
    edges = sorted(draw(st.sets(st.integers(0, num_frames), min_size=2, max_size=8)))
    wanted = [range(a, b) for a, b in zip(edges[::2], edges[1::2], strict=False)]
    return num_frames, sorted(keys), wanted


@given(key_frames_and_wanted(), st.floats(0.1, 300))
def test_spans_hold_each_wanted_frame_once_and_begin_at_key_frames(case, max_megapixels):
    num_frames, keys, wanted = case
    packets = np.zeros(num_frames, video.PACKET)
    packets["pts"] = packets["dts"] = np.arange(num_frames)
    packets["shown"] = True
    packets["key"][keys] = True
    grid = native_grid(np.arange(num_frames), Fraction(1, 30))
    planned = spans.plan_spans(packets, grid, wanted, 1.0, max_megapixels)
    rendered = [frame for span in planned for a, b in span.wanted for frame in range(a, b)]
    assert rendered == [frame for r in wanted for frame in r]
    assert all(span.start in keys for span in planned)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(planned))
    assert all(
        span.cost <= max_megapixels or sum(span.start <= k < span.stop for k in keys) == 1 for span in planned
    )


def test_a_decoder_is_never_given_more_than_one_thread(tmp_path):
    path = write_video(tmp_path / "a.mp4", RECIPES["h264_no_bframes"], 2)
    container, stream = video.open_video(str(path))
    with container:
        assert stream.codec_context.thread_count == 1
    assert any(name.startswith("libavcodec ") for name in video.library_versions())
    assert f"av {av.__version__}" in video.library_versions()
