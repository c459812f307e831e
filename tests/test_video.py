"""What a file holds, and that damage costs only the frames that it touches."""

import itertools
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvg_data import spans, steps, video
from lvg_data.config import Card
from lvg_data.errors import Rejected
from lvg_data.journal import Journal
from lvg_data.steps import Workshop
from lvg_data.store import Store
from lvg_data.timeline import native_grid
from tests import videos
from tests.builds import Dataset, build_dataset, load_npy, make_once, small_card, sources_of
from tests.videos import RECIPES, Recipe, read_number, truth, write_video

NO_LIMIT = 1 << 30


def probed(path: Path, folder: Path) -> tuple[video.Probe, np.ndarray]:
    found = video.probe(str(path), folder, NO_LIMIT)
    return found, np.load(folder / "packets.npy")


def decoded(path: Path, packets: np.ndarray, start: int, stop: int, **how: object) -> dict[int, int]:
    """Painted number of each whole frame, by its ordinal."""
    reader = video.FrameReader(str(path), packets, start, stop, **how)  # type: ignore[arg-type]
    found = {ordinal: frame.to_ndarray(format="rgb24") for ordinal, frame in reader}
    return {ordinal: read_number(found[ordinal]) for ordinal in sorted(found.keys() - reader.damaged)}


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


def test_a_video_stream_without_a_frame_is_refused(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "+empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        container.start_encoding()
    with pytest.raises(Rejected, match=r"no_frames: a\.mp4 has no video packet"):
        video.probe(str(path), tmp_path, NO_LIMIT)


def test_a_file_of_which_no_packet_decodes_is_refused(tmp_path):
    path = write_damaged(tmp_path / "a.mp4", RECIPES["h264_no_bframes"], range(96))
    with pytest.raises(Rejected) as caught:
        video.probe(str(path), tmp_path, NO_LIMIT)
    assert caught.value.cause == "no_frames"


@pytest.mark.parametrize("name", ["raw_h264", "h264_avi"])
def test_where_times_are_missing_or_unordered_frames_are_counted(name, tmp_path):
    path = write_video(tmp_path / f"a.{RECIPES[name].container}", RECIPES[name], 60)
    found, packets = probed(path, tmp_path)
    assert (found.times_counted, Fraction(found.time_base)) == (True, Fraction(1, 30))
    assert video.presentation_times(packets).tolist() == list(range(60))
    for start in (0, 31, 44):
        for stop in (45, 46, 47, 48, 60):
            assert decoded(path, packets, start, stop, counted=True) == {n: n for n in range(start, stop)}


@pytest.mark.parametrize("damaged", [25, 30, 31, 32, 33])
def test_where_frames_are_counted_none_is_told_by_its_count_after_damage(damaged, tmp_path):
    path = write_damaged(tmp_path / "a.avi", RECIPES["h264_avi"], range(damaged, damaged + 1))
    found, packets = probed(path, tmp_path)
    numbers = decoded(path, packets, 0, 96, counted=found.times_counted)
    assert found.times_counted
    assert 20 <= len(numbers) < 96
    assert all(ordinal == number for ordinal, number in numbers.items())


@pytest.mark.parametrize(
    ("times", "sound"),
    [([0, 3, 1, 2], True), ([0, 3, 3, 2], False), ([0, None, 1, 2], False), ([], False)],
)
def test_times_are_sound_when_all_are_there_and_none_twice(times, sound):
    packets = np.zeros(len(times), video.PACKET)
    packets["pts"] = [np.iinfo(np.int64).min if time is None else time for time in times]
    packets["shown"] = True
    assert video.times_are_sound(packets) is sound


# ---- damage ---------------------------------------------------------------------------------------


FIXED_GOP = replace(
    RECIPES["h264_bframes"],
    options={"preset": "veryfast", "x264-params": "threads=1:keyint=24:min-keyint=24:scenecut=0:bframes=3"},
)
"""Key frames at 0, 24, 48 and 72 whatever the picture does."""
OPEN_GOP = RECIPES["h264_open_gop"]


def write_damaged(path: Path, recipe: Recipe, damaged: range, **options: object) -> Path:
    """96 frames; of the packets `damaged`, in decoding order, every byte is zero."""
    write_video(path, recipe, 96, **options)  # type: ignore[arg-type]
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for start, length in (places[number] for number in damaged):
        data[start : start + length] = bytes(length)
    path.write_bytes(data)
    return path


def frames_that_lean_on(path: Path, packet: int) -> set[int]:
    """What is decoded from packet `packet` on until a key frame, and, of what follows that key frame in the
    file, what is shown before it: all that can lean on the packet."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    order = sorted(p.pts for p in packets)
    key = next(i for i in range(packet + 1, len(packets)) if packets[i].is_keyframe)
    leading = [p for p in packets[key:] if p.pts < packets[key].pts]
    return {order.index(p.pts) for p in [*packets[packet:key], *leading]}


@pytest.mark.parametrize(
    ("recipe", "damaged"),
    [
        (FIXED_GOP, range(30, 33)),
        (FIXED_GOP, range(24, 25)),
        (FIXED_GOP, range(47, 48)),
        (OPEN_GOP, range(40, 48)),
    ],
)
def test_damage_costs_exactly_the_frames_that_depend_on_it(recipe, damaged, tmp_path):
    path = write_damaged(tmp_path / "a.mp4", recipe, damaged)
    _, packets = probed(path, tmp_path)
    lost = frames_that_lean_on(path, damaged.start)
    assert 0 < len(lost) < 40
    assert decoded(path, packets, 0, 96) == {n: n for n in range(96) if n not in lost}


def test_a_stretch_after_the_damage_is_whole(tmp_path):
    path = write_damaged(tmp_path / "a.mp4", FIXED_GOP, range(30, 33))
    _, packets = probed(path, tmp_path)
    assert decoded(path, packets, 48, 96) == {n: n for n in range(48, 96)}


def test_a_file_that_was_cut_off_says_how_many_frames_are_lost(tmp_path):
    path = videos.write_truncated(tmp_path / "a.mp4")
    found, packets = probed(path, tmp_path)
    assert found.num_frames_cut_off + len(packets) == 96
    assert found.num_frames_cut_off > 30


@pytest.mark.parametrize(
    "name", ["h264_bframes", "h264_open_gop", "hevc", "vp9", "mpegts_offset", "raw_h264"]
)
def test_sample_frames_are_key_frames_from_all_over_the_video(name, tmp_path):
    path = write_video(tmp_path / f"a.{RECIPES[name].container}", RECIPES[name], 120)
    found, packets = probed(path, tmp_path)
    pts = video.presentation_times(packets)
    keys = {int(k) for k in np.searchsorted(pts, packets["pts"][packets["key"] & packets["shown"]])}

    numbers = [
        read_number(frame.to_ndarray(format="rgb24"))
        for frame in video.sample_key_frames(str(path), packets, found.times_counted, 120)
    ]

    assert numbers == sorted(keys)
    assert len(keys) > 1 or found.times_counted


def test_a_change_of_size_goes_on(tmp_path):
    path = videos.write_size_change(tmp_path / "a.ts")
    _, packets = probed(path, tmp_path)
    numbers = decoded(path, packets, 0, len(truth(path).numbers))
    assert list(numbers.values()) == list(truth(path).numbers)


def test_frames_are_read_at_once_where_they_lie_one_after_the_other_in_one_file():
    """The third begins in its file where the second ends in another; the fifth lies farther on."""
    begins, sizes, files = (
        np.array([0, 10, 20, 25, 90]),
        np.array([10, 10, 5, 5, 10]),
        np.array([0, 0, 1, 1, 1]),
    )
    found = list(spans._read_at_once(begins, begins + sizes, files))
    assert found == [slice(0, 2), slice(2, 4), slice(4, 5)]


@pytest.mark.parametrize("count", [0, 1, 32, 33, 100])
def test_no_more_than_some_frames_are_read_at_once(count):
    begins = np.arange(count) * 7
    found = list(spans._read_at_once(begins, begins + 7, np.zeros(count, int)))
    assert [i for some in found for i in range(some.start, some.stop)] == list(range(count))
    assert all(some.stop - some.start <= 32 for some in found)


# ---- damage in a build ----------------------------------------------------------------------------

SCENES = (0, 40, 60)
FASTSTART = {"movflags": "+faststart"}


def _write_broken(folder: Path) -> None:
    write_damaged(folder / "damaged.mp4", FIXED_GOP, range(62, 64), scene_starts=SCENES)
    write_damaged(folder / "given.mp4", FIXED_GOP, range(62, 64))
    cut_off = write_video(
        folder / "cut_off.mp4", replace(FIXED_GOP, muxer_options=FASTSTART), 96, scene_starts=SCENES
    )
    cut_off.write_bytes(cut_off.read_bytes()[: int(cut_off.stat().st_size * 0.85)])
    videos.write_html(folder / "html.mp4")
    videos.write_without_moov(folder / "no_moov.mp4")
    videos.write_audio_only(folder / "sound.mp4")
    write_video(folder / "hdr.mp4", RECIPES["hevc_pq"], 8)
    write_video(folder / "one.mp4", RECIPES["h264_bframes"], 1)


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> Dataset:
    folder = make_once(tmp_path_factory, "broken-videos", _write_broken)
    card = small_card(cuts={"guard_frames": 0}, execution={"span_megapixels": 0.001})
    intervals = [[0, 1], [1, "2.2"], ["2.4", 3]]
    card["sources"][0]["intervals"] = {"given.mp4": intervals}
    root = make_once(
        tmp_path_factory,
        "broken",
        lambda out: build_dataset(card, folder, out / "dataset", store=out / "store"),
    )
    return Dataset(root / "dataset")


def rejects_of(dataset: Dataset, name: str) -> list[tuple[str, str, int | None, int | None]]:
    return [
        (reject["level"], reject["cause"], reject["start_frame"], reject["stop_frame"])
        for reject in dataset.rows("rejects")
        if reject["origin"] == name
    ]


def clips_of(dataset: Dataset, name: str) -> list[tuple[int, int]]:
    ids = {video["video_id"] for video in dataset.rows("videos") if video["origin"] == name}
    return [(c["start_frame"], c["stop_frame"]) for c in dataset.rows("clips") if c["video_id"] in ids]


def test_a_scene_with_damaged_frames_is_a_reject_and_the_others_are_kept(broken):
    """Packet 62 belongs to frames 48 to 71, of which all are in the last scene or the one before it."""
    assert clips_of(broken, "damaged.mp4") == [(0, 40), (40, 60)]
    assert rejects_of(broken, "damaged.mp4") == [("scene", "decode_error", 60, 96)]


def test_a_given_interval_with_damaged_frames_is_a_reject_and_the_others_are_kept(broken):
    assert clips_of(broken, "given.mp4") == [(0, 30), (72, 90)]
    assert rejects_of(broken, "given.mp4") == [("scene", "decode_error", 30, 66)]


def test_the_scene_in_which_a_file_ends_early_is_a_reject_and_the_others_are_kept(broken):
    (video,) = [v for v in broken.rows("videos") if v["origin"] == "cut_off.mp4"]
    assert video["num_frames"] + video["num_frames_cut_off"] == 96
    assert 60 < video["num_frames"] < 96
    assert clips_of(broken, "cut_off.mp4") == [(0, 40), (40, 60)]
    assert [r[:3] for r in rejects_of(broken, "cut_off.mp4")] == [("scene", "cut_off", 60)]


def test_whole_files_that_are_no_use_are_rejects_with_their_cause(broken):
    causes = {
        "html.mp4": "not_video",
        "no_moov.mp4": "not_video",
        "sound.mp4": "no_video_stream",
        "hdr.mp4": "hdr",
    }
    for name, cause in causes.items():
        assert rejects_of(broken, name) == [("source", cause, None, None)]
    assert rejects_of(broken, "one.mp4") == [("scene", "too_short", 0, 1)]


def test_what_is_kept_of_broken_videos_has_its_numbers(broken):
    clips = {clip["clip_id"]: clip["start_frame"] for clip in broken.rows("clips")}
    numbers = {"low": [], "high": []}
    for part in broken.rows("parts"):
        frames = load_npy(broken.members(part)["npy" if part["role"] == "low" else "low.npy"])
        start = clips[part["clip_id"]] + part["start_frame"]
        assert [read_number(frame) for frame in frames] == list(range(start, start + len(frames)))
        numbers[part["role"]] += frames.shape[:1]
    assert sum(numbers["low"]) > 150


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


def rendered(path: Path, folder: Path, max_megapixels: float) -> tuple[int, dict[int, tuple[bytes, bytes]]]:
    """Number of spans; low-res frame and JPEG of each ordinal."""
    folder.mkdir()
    card = Card.model_validate(small_card(path.name, execution={"span_megapixels": max_megapixels}))
    shop = Workshop(card, Store(str(folder)), Journal(str(folder / "runs"), "run"))
    stop = threading.Event()
    (source,) = sources_of(card, path.parent)
    found = steps.probe_video(steps.fetch_source(source, shop, stop), shop, stop)
    planned = steps.plan_spans(found, shop)
    done = [steps.render_span(found, span, shop, stop) for span in planned]
    with spans.RenderedFrames(done, (64, 64)) as frames:
        ordinals = frames.index["ordinal"]
        pairs = zip(frames.low(ordinals), frames.high(ordinals), strict=True)
        return len(planned), {
            int(o): (low.tobytes(), high) for o, (low, high) in zip(ordinals, pairs, strict=True)
        }


@pytest.mark.parametrize(
    "name",
    [
        "h264_open_gop_ts",
        "h264_intra_refresh",
        "h264_edit_list",
        "hevc",
        "vfr_mkv",
        "av1_mp4",
        "mpeg2_open_gop",
    ],
)
def test_any_span_length_gives_the_same_bytes(name, tmp_path):
    recipe = RECIPES[name]
    path = write_video(tmp_path / f"a.{recipe.container}", recipe, 72)
    megapixels = 320 * 180 / 1e6
    num_spans, whole = rendered(path, tmp_path / "whole", 1e9)
    assert (num_spans, sorted(whole)) == (1, list(range(len(truth(path).numbers))))
    for number, length in enumerate((1, 48)):
        num_spans, found = rendered(path, tmp_path / str(number), length * megapixels)
        assert num_spans >= 2
        assert found == whole


def test_a_decoder_is_never_given_more_than_one_thread(tmp_path):
    path = write_video(tmp_path / "a.mp4", RECIPES["h264_no_bframes"], 2)
    container, stream = video.open_video(str(path))
    with container:
        assert stream.codec_context.thread_count == 1
    assert any(name.startswith("libavcodec ") for name in video.library_versions())
    assert f"av {av.__version__}" in video.library_versions()
