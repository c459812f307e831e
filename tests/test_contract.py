"""The contract: every stored frame is the frame that its row says, at the time that it says.

Videos with painted frame numbers go through the whole pipeline; the numbers are read back from the shards.
"""

from __future__ import annotations

import json
import tarfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from tests.builds import Dataset, build_dataset, load_npy, make_once, small_card
from tests.videos import (
    ODD_RECIPES,
    RECIPES,
    STREAM_RECIPES,
    Recipe,
    Truth,
    read_number,
    truth,
    write_size_change,
    write_video,
    write_vp9_alt_ref,
)

NUM_FRAMES = 60
SCENE_START = 30
REJECTED = {"hevc_pq", "hevc_hlg", "av1_hlg"}
STREAMS = [*STREAM_RECIPES.values(), RECIPES["raw_h264"], RECIPES["mpeg4_avi"]]
ODD = [recipe for recipe in ODD_RECIPES.values() if recipe.name not in REJECTED]

FIXED_GOP = replace(
    RECIPES["h264_bframes"],
    name="fixed_gop",
    options=RECIPES["h264_bframes"].options
    | {"x264-params": "threads=1:mbtree=0:keyint=24:min-keyint=24:scenecut=0:bframes=3:b-adapt=0"},
)
"""Key frames at 0, 24 and 48 whatever the picture does."""
SEAM_SCENES = {"on": (0, 24, 48), "before": (0, 23, 47), "after": (0, 25, 49)}
SEAM_FRAMES = 72

EVERY_GOP_A_SPAN = {"workers": 2, "span_megapixels": 0.001}
WINDOW_FRAMES = {"low": 8, "high": 4}


# ---------------------------------------------------------------------------------------------------- builds


def _write(folder: Path, recipes: Iterable[Recipe]) -> None:
    for recipe in recipes:
        path = folder / f"{recipe.name}.{recipe.container}"
        write_video(path, recipe, NUM_FRAMES, scene_starts=(0, SCENE_START))


def _write_streams(folder: Path) -> None:
    _write(folder, STREAMS)
    for name, scene_starts in SEAM_SCENES.items():
        write_video(folder / f"seam_{name}.mp4", FIXED_GOP, SEAM_FRAMES, scene_starts=scene_starts)
    write_video(folder / "rate_25.mp4", RECIPES["h264_bframes"], NUM_FRAMES, frame_rate=Fraction(25))


def _write_odd(folder: Path) -> None:
    _write(folder, ODD)
    write_vp9_alt_ref(folder / "vp9_alt_ref.webm", NUM_FRAMES, scene_starts=(0, SCENE_START))
    write_size_change(folder / "size_change.ts", NUM_FRAMES // 2)


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    return make_once(tmp_path_factory, "contract-videos", _write_streams)


def _built(factory: pytest.TempPathFactory, videos: Path, name: str, card: dict) -> Built:
    """A build of some of the videos; all share one store, as different cards of one user do."""
    store = videos.with_name("contract-store")
    folder = make_once(
        factory, f"contract-{name}", lambda out: build_dataset(card, videos, out / "dataset", store=store)
    )
    return Built(Dataset(folder / "dataset"), videos)


FOUND = {"cuts": {"guard_frames": 0}, "execution": EVERY_GOP_A_SPAN, "shards": {"target_bytes": 4 << 20}}


@pytest.fixture(scope="session")
def streams(tmp_path_factory, videos) -> Built:
    """Every coding structure, found cuts, no guard."""
    return _built(tmp_path_factory, videos, "streams", small_card(**FOUND))


@pytest.fixture(scope="session")
def odd_inputs(tmp_path_factory) -> Built:
    """Every odd input that is not refused, likewise."""
    folder = make_once(tmp_path_factory, "contract-odd-videos", _write_odd)
    return _built(tmp_path_factory, folder, "odd", small_card(**FOUND))


@pytest.fixture(scope="session")
def guarded(tmp_path_factory, videos) -> Built:
    card = small_card("seam_*", cuts={"guard_frames": 2}, execution=EVERY_GOP_A_SPAN)
    return _built(tmp_path_factory, videos, "guarded", card)


# Given frames of regular 30/s videos lie at i/30; VFR ones as `irregular_times` says:
# 0, 33, 67, 75, 175, 192, 442, 475, 517, 533, 600 ... ms
INTERVALS: dict[str, list[dict]] = {
    "h264_bframes.mp4": [
        {"start": 0, "stop": "1/2"},
        {"start": "7/30", "stop": "1"},
        {"start": "7/30", "stop": "31/30", "end_inclusive": True},
        {"start": "0.24", "stop": "0.9"},
        {"start": 1, "stop": 3600},
        {"start": 0, "stop": 2},
        {"start": "1/2", "stop": "37/60"},
    ],
    "mpegts_offset.ts": [{"start": "1/3", "stop": "4/3"}, {"start": "1/3", "stop": "4/3", "end_inclusive": True}],
    "h264_open_gop.mp4": [{"start": "25/30", "stop": "47/30"}],
    "raw_h264.h264": [{"start": "1/2", "stop": "47/30"}],
    "h264_edit_list.mp4": [{"start": "1/3", "stop": "1"}],
    "vfr_mp4.mp4": [
        {"start": "0.192", "stop": "0.6"},
        {"start": "0.192", "stop": "0.6", "end_inclusive": True},
        {"start": "0.193", "stop": "0.601"},
        {"start": "1.5", "stop": "1000"},
    ],
    "vfr_mkv.mkv": [{"start": "0.067", "stop": "1.2", "end_inclusive": True}, {"start": "0.0665", "stop": "1.2"}],
}  # fmt: skip


@pytest.fixture(scope="session")
def given(tmp_path_factory, videos) -> Built:
    card = small_card(cuts={"detector": "none"}, execution=EVERY_GOP_A_SPAN)
    more = {
        "h264_mkv.mkv": [
            {"start": "1/2", "stop": 1},
            {"start": "0.49", "stop": "0.99"},
            {"start": 50, "stop": 60},
            {"start": 0, "stop": "0.09"},
        ]
    }
    wanted = INTERVALS | more
    card["sources"] = [
        {"kind": "files", "path": name, "intervals": {name: intervals}} for name, intervals in wanted.items()
    ]
    return _built(tmp_path_factory, videos, "given", card)


def _resampled(factory, videos: Path, rate: int) -> Built:
    names = ("h264_bframes.mp4", "rate_25.mp4", "vfr_mp4.mp4", "h264_open_gop_ts.ts", "mpeg4_avi.avi")
    card = small_card(frame_rate=rate, cuts={"detector": "none"}, execution=EVERY_GOP_A_SPAN)
    card["sources"] = [{"kind": "files", "path": name} for name in names]
    return _built(factory, videos, f"rate-{rate}", card)


@pytest.fixture(scope="session")
def at_15(tmp_path_factory, videos) -> Built:
    return _resampled(tmp_path_factory, videos, 15)


@pytest.fixture(scope="session")
def at_30(tmp_path_factory, videos) -> Built:
    return _resampled(tmp_path_factory, videos, 30)


ALL_BUILDS = [
    *("streams", "guarded", "given", "at_15", "at_30"),
    pytest.param("odd_inputs", marks=pytest.mark.slow),
]


@pytest.fixture(params=ALL_BUILDS)
def built(request) -> Built:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["streams", pytest.param("odd_inputs", marks=pytest.mark.slow)])
def found(request) -> Built:
    """A build whose scenes lie between detected cuts."""
    return request.getfixturevalue(request.param)


# --------------------------------------------------------------------------------------------- slow, obvious


def nearest_frame(times: tuple[Fraction, ...], moment: Fraction) -> int:
    """The frame nearest in time; of two at the same distance the earlier."""
    return min(range(len(times)), key=lambda i: (abs(times[i] - moment), i))


def expected_frames(interval: dict, times: tuple[Fraction, ...]) -> list[int]:
    start, stop = Fraction(str(interval["start"])), Fraction(str(interval["stop"]))
    closed = interval.get("end_inclusive", False)
    return [i for i, time in enumerate(times) if start <= time < stop or (closed and time == stop)]


@dataclass
class Built:
    """A dataset, and the videos that it was made of."""

    dataset: Dataset
    folder: Path

    @cached_property
    def videos(self) -> dict[str, dict]:
        return {video["origin"]: video for video in self.dataset.rows("videos")}

    @cached_property
    def clips(self) -> dict[str, dict]:
        return {clip["clip_id"]: clip for clip in self.dataset.rows("clips")}

    @cached_property
    def parts(self) -> list[dict]:
        return self.dataset.rows("parts")

    @cached_property
    def names(self) -> dict[str, str]:
        """File name of each clip's video, by the clip's id."""
        origins = {video["video_id"]: name for name, video in self.videos.items()}
        return {clip["clip_id"]: origins[clip["video_id"]] for clip in self.clips.values()}

    @cached_property
    def parts_by_clip(self) -> dict[tuple[str, str], list[dict]]:
        groups = defaultdict(list)
        for part in sorted(self.parts, key=lambda part: part["part_index"]):
            groups[part["role"], part["clip_id"]].append(part)
        return groups

    def known(self, name: str) -> Truth:
        """Truth of a video, times from 0; those that the file does not store counted at 30 a second."""
        stored = truth(self.folder / name)
        times = stored.times or [Fraction(i, 30) for i in range(len(stored.numbers))]
        return Truth(stored.numbers, tuple(time - times[0] for time in times))

    def expected(self, part: dict) -> list[tuple[int, Fraction]]:
        """Painted number and time of each frame of a part, from what its rows say."""
        known = self.known(self.names[part["clip_id"]])
        rate = self.dataset.description["recipe"]["frame_rate"]
        start = self.clips[part["clip_id"]]["start_frame"]
        frames = range(start + part["start_frame"], start + part["stop_frame"])
        if rate != "native":
            frames = [nearest_frame(known.times, k / Fraction(rate)) for k in frames]
        return [(known.numbers[frame], known.times[frame]) for frame in frames]

    def clip_spans(self, name: str) -> list[tuple[int, int]]:
        """First frame and the one after the last of each clip of a video."""
        clips = [clip for clip in self.clips.values() if self.names[clip["clip_id"]] == name]
        return [(clip["start_frame"], clip["stop_frame"]) for clip in clips]

    def low_frames(self, part: dict) -> np.ndarray:
        return load_npy(self.dataset.members(part)["npy" if part["role"] == "low" else "low.npy"])

    def jpegs(self, part: dict) -> list[bytes]:
        members = self.dataset.members(part)
        return [members[name] for name in sorted(members) if name.endswith(".jpg")]


# -------------------------------------------------------------------------------------------------- promises


def test_every_stored_frame_has_the_number_that_its_row_says(built):
    wrong, num_frames = [], 0
    for part in built.parts:
        expected = [number for number, _ in built.expected(part)]
        resolutions = [built.low_frames(part)]
        if part["role"] == "high":
            resolutions.append([simplejpeg.decode_jpeg(data) for data in built.jpegs(part)])
        for images in resolutions:
            stored = [number_or_error(image) for image in images]
            num_frames += len(stored)
            if stored != expected:
                wrong.append(
                    (built.names[part["clip_id"]], part["role"], part["start_frame"], expected, stored)
                )
    assert wrong == []
    assert num_frames > 100


def number_or_error(image: np.ndarray) -> int | str:
    try:
        return read_number(image)
    except ValueError as err:
        return str(err)


def test_times_are_those_of_the_file(built):
    for part in built.parts:
        times = load_npy(built.dataset.members(part)["times.npy"])
        expected = [float(time) for _, time in built.expected(part)]
        assert times.dtype == np.float64
        np.testing.assert_allclose(times, expected, rtol=0, atol=1e-9, err_msg=built.names[part["clip_id"]])


def test_every_readable_video_is_kept_whole(found):
    """Clips meet without a gap: nothing is lost at either end, at a seam or at a cut."""
    written = {path.name for path in found.folder.iterdir() if path.is_file()}
    assert set(found.videos) == written
    assert found.dataset.rows("rejects") == []
    for name, video in found.videos.items():
        spans = found.clip_spans(name)
        assert video["num_frames"] == len(found.known(name).numbers), name
        assert [spans[0][0], spans[-1][1]] == [0, video["num_frames"]], name
        assert all(before[1] == after[0] for before, after in pairwise(spans)), name


def _cut_at_the_painted_scene(built: Built, recipe: Recipe) -> None:
    cut, stop = SCENE_START - recipe.num_hidden_frames, NUM_FRAMES - recipe.num_hidden_frames
    name = f"{recipe.name}.{recipe.container}"
    assert built.clip_spans(name) == [(0, cut), (cut, stop)], name


def test_clips_begin_and_end_at_the_painted_scenes(streams):
    for recipe in STREAMS:
        _cut_at_the_painted_scene(streams, recipe)


@pytest.mark.slow
def test_clips_of_odd_inputs_begin_and_end_at_the_painted_scenes(odd_inputs):
    for recipe in ODD:
        _cut_at_the_painted_scene(odd_inputs, recipe)


@pytest.mark.parametrize("where", SEAM_SCENES)
def test_a_cut_at_a_seam_between_spans_stays_where_it_is(streams, where):
    _, first, second = SEAM_SCENES[where]
    expected = [(0, first), (first, second), (second, SEAM_FRAMES)]
    assert streams.clip_spans(f"seam_{where}.mp4") == expected


@pytest.mark.parametrize("where", SEAM_SCENES)
def test_guard_frames_are_taken_off_on_both_sides_of_a_cut_only(guarded, where):
    _, first, second = SEAM_SCENES[where]
    expected = [(0, first - 2), (first + 2, second - 2), (second + 2, SEAM_FRAMES)]
    assert guarded.clip_spans(f"seam_{where}.mp4") == expected


def test_the_builds_have_seams_between_spans_parts_and_shards(streams):
    """Else the tests above would not look at any."""
    runs = (streams.dataset.root / "runs").glob("*.jsonl")
    events = [json.loads(line) for run in runs for line in run.read_text().splitlines()]
    num_spans = {e["video"]: e["num_spans"] for e in events if e["event"] == "planned"}
    for where in SEAM_SCENES:
        assert num_spans[streams.videos[f"seam_{where}.mp4"]["video_id"]] == 3
    num_parts = {role: [] for role in ("low", "high")}
    for (role, _), parts in streams.parts_by_clip.items():
        num_parts[role].append(len(parts))
    assert max(num_parts["low"]) >= 3
    assert max(num_parts["high"]) >= 4
    assert len({part["shard"] for part in streams.parts if part["role"] == "high"}) > 3


def test_given_intervals_hold_the_frames_whose_time_lies_inside(given):
    for name, intervals in INTERVALS.items():
        frames = [expected_frames(interval, given.known(name).times) for interval in intervals]
        expected = {(f[0], f[-1] + 1) for f in frames}
        assert len(expected) == len(intervals)
        assert set(given.clip_spans(name)) == expected, name


@pytest.mark.parametrize(
    "name, given_stop_s, clamped",
    [
        ("h264_bframes.mp4", "3600", True),
        ("h264_bframes.mp4", "2", False),
        ("vfr_mp4.mp4", "1000", True),
        ("vfr_mp4.mp4", "3/5", False),
    ],
)
def test_an_interval_past_the_end_is_clamped_and_says_so(given, name, given_stop_s, clamped):
    video = given.videos[name]
    scenes = [
        scene
        for scene in given.dataset.rows("scenes")
        if (scene["video_id"], scene["given_stop_s"]) == (video["video_id"], given_stop_s)
    ]
    assert {scene["clamped"] for scene in scenes} == {clamped}
    if clamped:
        assert scenes[0]["stop_frame"] == video["num_frames"]


def test_intervals_that_give_no_clip_are_in_the_rejects(given):
    """Of h264_mkv.mkv: the same frames twice, past the end, and 3 frames where 4 are the least."""
    rejects = given.dataset.rows("rejects")
    found = sorted((reject["level"], reject["cause"]) for reject in rejects)
    assert found == [("interval", "duplicate"), ("interval", "outside_video"), ("scene", "too_short")]
    assert {reject["origin"] for reject in rejects} == {"h264_mkv.mkv"}
    assert given.clip_spans("h264_mkv.mkv") == [(15, 30)]


def test_15_of_30_frames_a_second_are_every_other_frame(at_15):
    assert at_15.clip_spans("h264_bframes.mp4") == [(0, NUM_FRAMES // 2)]
    numbers = [n for part in at_15.parts if at_15.names[part["clip_id"]] == "h264_bframes.mp4"
               for n, _ in at_15.expected(part)]  # fmt: skip
    assert set(numbers) == set(range(0, NUM_FRAMES, 2))


def test_30_of_25_frames_a_second_repeat_every_fifth(at_30):
    """60 frames of 25 a second last until 59/25 s; 30 a second have 71 frames by then."""
    assert at_30.clip_spans("rate_25.mp4") == [(0, 71)]
    times = at_30.known("rate_25.mp4").times
    assert [nearest_frame(times, Fraction(k, 30)) for k in range(8)] == [0, 1, 2, 2, 3, 4, 5, 6]


def test_low_parts_and_the_low_frames_beside_high_ones_are_the_same(built):
    pictures: dict[tuple[str, int], set[bytes]] = defaultdict(set)
    num_frames = 0
    for part in built.parts:
        for number, image in enumerate(built.low_frames(part), part["start_frame"]):
            pictures[part["clip_id"], number].add(image.tobytes())
            num_frames += 1
    assert num_frames > 2 * len(pictures)  # in a low part, in a high part, and in overlaps
    assert {len(variants) for variants in pictures.values()} == {1}


def test_neighbouring_parts_share_equal_frames(built):
    num_seams = 0
    for (role, _), parts in built.parts_by_clip.items():
        frames_of = built.low_frames if role == "low" else built.jpegs
        for before, after in pairwise(parts):
            overlap = before["stop_frame"] - after["start_frame"]
            assert overlap == WINDOW_FRAMES[role] - 1
            a, b = frames_of(before)[-overlap:], frames_of(after)[:overlap]
            assert [bytes(frame) for frame in a] == [bytes(frame) for frame in b]
            num_seams += 1
    assert num_seams > 5


def test_every_window_start_is_owned_once_by_a_part_that_holds_the_window(built):
    for (role, clip_id), parts in built.parts_by_clip.items():
        clip = built.clips[clip_id]
        num_frames = clip["stop_frame"] - clip["start_frame"]
        window = min(WINDOW_FRAMES[role], num_frames)
        owned = [(start, part) for part in parts for start in range(part["owned_start"], part["owned_stop"])]
        assert [start for start, _ in owned] == list(range(num_frames - window + 1))
        assert all(p["start_frame"] <= start and start + window <= p["stop_frame"] for start, p in owned)


def test_a_plain_tar_reader_finds_what_the_parts_table_says(built):
    in_tars = defaultdict(dict)
    for role in ("low", "high"):
        for path in built.dataset.shard_path(role, "").glob("*.tar"):
            with tarfile.open(path) as tar:
                for member in tar:
                    key, _, name = member.name.partition(".")
                    in_tars[role, path.name, key][name] = tar.extractfile(member).read()
    in_table = {(part["role"], part["shard"], part["key"]): part for part in built.parts}
    assert in_tars.keys() == in_table.keys()
    for key, part in in_table.items():
        assert built.dataset.members(part) == in_tars[key]


def test_clip_rows_say_when_the_clip_is_shown(found):
    for clip_id, clip in found.clips.items():
        name = found.names[clip_id]
        times = found.known(name).times
        assert Fraction(clip["start_s"]) == times[clip["start_frame"]], name
        if clip["stop_frame"] < len(times):
            assert Fraction(clip["stop_s"]) == times[clip["stop_frame"]], name
        assert clip["frames_expected"] == clip["frames_written"] == clip["stop_frame"] - clip["start_frame"]
