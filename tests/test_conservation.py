"""What goes in comes out, as rows or as rejects with a cause: for any card, and whatever failed on the way.

Said by `verify`, and counted here once more from the tars and tables alone.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lvg_data import store
from lvg_data.errors import CAUSES, MachineError, Rejected
from lvg_data.verify import verify_dataset
from pipelines.outcome import GateHandle, _RunGated
from tests import videos
from tests.builds import Dataset, build_dataset, make_once, small_card
from tests.servers import Server, cut_off_at, file, http_server, status
from tests.videos import RECIPES, write_video

# ---- material --------------------------------------------------------------------------------------


def make_material(folder: Path) -> None:
    """Files of every kind, sound and broken, and a folder of frames with one missing."""
    films, size = folder / "films", {"width": 64, "height": 36}
    films.mkdir()
    write_video(films / "cuts.mp4", RECIPES["h264_bframes"], 50, scene_starts=(0, 20), **size)
    write_video(films / "plain.mp4", RECIPES["h264_no_bframes"], 30, first_number=100, **size)
    write_video(films / "uneven.mkv", RECIPES["vfr_mkv"], 24, first_number=200, **size)
    write_video(films / "short.webm", RECIPES["vp9"], 5, first_number=300, **size)
    videos.write_html(films / "page.mp4")
    videos.write_audio_only(films / "tone.mp4")
    videos.write_without_moov(films / "unfinished.mp4")
    (films / "empty.mp4").touch()
    pictures = folder / "frames" / "walk" / "one"
    pictures.mkdir(parents=True)
    shades = np.random.default_rng(7).integers(0, 256, (16, 36, 64, 3), np.uint8)
    for number in set(range(16)) - {9}:
        Image.fromarray(shades[number]).save(pictures / f"f_{number:04d}.png")


FILES = (
    "cuts.mp4",
    "plain.mp4",
    "uneven.mkv",
    "short.webm",
    "page.mp4",
    "tone.mp4",
    "unfinished.mp4",
    "empty.mp4",
)
ADDRESSES = ("good.mp4", "missing.mp4", "failing.mp4", "busy.mp4", "cut-off.mp4")


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    return make_once(tmp_path_factory, "conservation", make_material)


@pytest.fixture(scope="module")
def server(material: Path) -> Iterator[Server]:
    with http_server() as found:
        found.answers = {
            "/good.mp4": file((material / "films" / "plain.mp4").read_bytes()),
            "/failing.mp4": status(500),
            "/busy.mp4": status(429),
            "/cut-off.mp4": cut_off_at(3000),
        }
        yield found


# ---- cards and faults ------------------------------------------------------------------------------

INTERVALS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 30)).map(
        lambda ab: [str(ab[0] / 10), str((ab[0] + ab[1]) / 10)]
    ),
    min_size=1,
    max_size=4,
)


@st.composite
def cards(draw: st.DrawFn) -> dict[str, Any]:
    """A card without its server's address; `rows` is how many rows it lists, counted here."""
    files = draw(st.lists(st.sampled_from(FILES), min_size=1, max_size=5))  # a file may be listed twice
    given_of = {name for name in files if draw(st.integers(0, 3)) == 0}
    intervals = {name: draw(INTERVALS) for name in sorted(given_of)}
    sources: list[dict[str, Any]] = []
    for name in files:
        source: dict[str, Any] = {"kind": "files", "path": f"films/{name}"}
        sources.append(source | ({"intervals": {name: intervals[name]}} if name in intervals else {}))
    addresses = draw(st.lists(st.sampled_from(ADDRESSES), max_size=3))
    with_frames = draw(st.booleans())
    low_frames = draw(st.integers(2, 20))
    return {
        "files": sources,
        "addresses": addresses,
        "frames": with_frames,
        "rows": len(files) + len(addresses) + with_frames,
        "fields": {
            "frame_rate": draw(st.sampled_from(["native", 10, 24])),
            "low": {"height": 8, "width": 8, "min_frames": low_frames, "window_frames": low_frames,
                    "part_frames": low_frames + draw(st.integers(0, 20))},
            "high": {"height": 16, "width": 16, "min_frames": 3, "window_frames": 3,
                     "part_frames": draw(st.integers(3, 12))},
            "trim": {"max_frozen_share": draw(st.sampled_from([0.3, 1.0])), "max_black_share": 1.0,
                     "max_overlay_share": draw(st.sampled_from([0.006, 1.0])),
                     "letterbox": draw(st.sampled_from(["crop", "reject", "keep"]))},
            "execution": {"workers": draw(st.integers(1, 3)), "span_megapixels": draw(st.sampled_from([0.05, 100.0]))},
            "shards": {"target_bytes": 65_536, "seed": draw(st.integers(0, 3))},
            "limits": {"fetch_attempts": 1, "free_bytes": 0, "requests_per_s": 1000, "host_failures": 100},
        },
    }  # fmt: skip


def whole_card(drawn: dict[str, Any], server: Server) -> dict[str, Any]:
    items = [{"url": server.url(f"/{name}")} for name in drawn["addresses"]]
    sources = [*drawn["files"], *([{"kind": "urls", "items": items}] if items else [])]
    if drawn["frames"]:
        sources.append({"kind": "frame_folders", "path": "frames", "frame_rate": 10})
    return small_card(sources=sources, **drawn["fields"])


class FailingDisk:
    """Fails when the n-th artefact is kept, once for each number; other artefacts are kept as ever."""

    def __init__(self, fails_at: list[int]) -> None:
        self.left, self.kept, self.keep = sorted(fails_at), 0, store.Store._keep

    def __call__(self, place: store.Store, *args: Any) -> None:
        self.kept += 1
        if self.left and self.kept >= self.left[0]:
            self.left.pop(0)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place.root)
        self.keep(place, *args)


def build_until_done(
    card: dict[str, Any], material: Path, out: Path, disk: FailingDisk
) -> tuple[Dataset, int]:
    """The dataset, and how many builds failed before it was done."""
    for failures in range(10):
        try:
            return build_dataset(card, material, out), failures
        except MachineError as err:
            assert "No space left on device" in str(err)
            assert not (out / "dataset.json").exists()
    raise AssertionError("it fails for ever")


# ---- counting --------------------------------------------------------------------------------------


def samples(built: Dataset) -> Iterator[tuple[str, str, dict[str, bytes]]]:
    """Role, key and files of every sample, as any reader of tars finds them."""
    for row in built.rows("shards"):
        found: dict[str, dict[str, bytes]] = defaultdict(dict)
        with tarfile.open(built.shard_path(row["role"], row["name"])) as tar:
            names = [member.name for member in tar]
            assert len(names) == len(set(names)), "a member twice"
            for member in tar:
                key, _, suffix = member.name.partition(".")
                found[key][suffix] = tar.extractfile(member).read()
        yield from ((row["role"], key, files) for key, files in found.items())


def check_rows(built: Dataset, num_rows: int) -> None:
    """Each row that was listed is a video or a reject with a cause."""
    rejects = built.rows("rejects")
    assert all(r["cause"] in CAUSES and r["retryable"] == CAUSES[r["cause"]][1] for r in rejects)
    accepted = [row["video_id"] for row in built.rows("videos")]
    dropped = [r["subject"] for r in rejects if r["level"] == "source"]
    assert len(accepted) + len(dropped) == num_rows
    assert not {video: n for video, n in Counter([*accepted, *dropped]).items() if n > 1}


def check_frames(built: Dataset) -> None:
    """Each frame of a clip is in its shards, each window start once; no frame of a found scene is in two clips."""
    shown: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    owned: dict[tuple[str, str], list[int]] = defaultdict(list)
    keys = Counter()
    for role, key, files in samples(built):
        told = json.loads(files["json"])
        times = np.load(io.BytesIO(files["times.npy"]))
        low = np.load(io.BytesIO(files["npy" if role == "low" else "low.npy"]))
        assert len(times) == len(low) == told["stop_frame"] - told["start_frame"]
        assert np.all(np.diff(times) >= 0), (
            "a frame is shown again where a fixed rate is faster, never an earlier one"
        )
        assert role == "low" or sum(name.endswith(".jpg") for name in files) == len(low)
        keys[role, key] += 1
        shown[role, told["clip_id"]].append((told["start_frame"], told["stop_frame"]))
        owned[role, told["clip_id"]] += range(told["owned_start"], told["owned_stop"])
    assert not [key for key, number in keys.items() if number > 1]

    clips = {clip["clip_id"]: clip for clip in built.rows("clips")}
    expected = {(role, c) for c, clip in clips.items() for role in ("low", "high") if clip[f"in_{role}"]}
    assert set(shown) == expected
    for (role, clip_id), spans in shown.items():
        num_frames = clips[clip_id]["stop_frame"] - clips[clip_id]["start_frame"]
        assert {frame for span in spans for frame in range(*span)} == set(range(num_frames))
        assert sorted(owned[role, clip_id]) == list(range(len(owned[role, clip_id]))), "a window start twice"
    given = {video["video_id"] for video in built.rows("videos") if video["has_intervals"]}
    frames = Counter(
        (clip["video_id"], frame)
        for clip in clips.values()
        if clip["video_id"] not in given
        for frame in range(clip["start_frame"], clip["stop_frame"])
    )
    assert not [frame for frame, number in frames.items() if number > 1]


def check_scenes(built: Dataset) -> None:
    """Each scene is a clip or a reject, and each given interval a scene or a reject."""
    scenes = [scene["scene_id"] for scene in built.rows("scenes")]
    rejects = built.rows("rejects")
    dropped = [r["subject"] for r in rejects if r["level"] == "scene"]
    assert sorted([*(clip["scene_id"] for clip in built.rows("clips")), *dropped]) == sorted(scenes)
    for video in built.rows("videos"):
        if video["has_intervals"]:
            kept = sum(scene["video_id"] == video["video_id"] for scene in built.rows("scenes"))
            lost = sum(r["level"] == "interval" and r["video_id"] == video["video_id"] for r in rejects)
            assert kept + lost == video["num_intervals"]


def check_conservation(
    drawn: dict[str, Any], faults: list[int], server: Server, material: Path, out: Path
) -> None:
    shutil.rmtree(out, ignore_errors=True)
    disk = FailingDisk(faults)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.Store, "_keep", lambda place, *args: disk(place, *args))
        built, failures = build_until_done(whole_card(drawn, server), material, out, disk)
    assert failures >= (1 if faults and disk.kept > faults[0] else 0)
    check_rows(built, drawn["rows"])
    check_scenes(built)
    check_frames(built)
    assert verify_dataset(str(out)) == []


FAULTS = st.lists(st.integers(1, 25), max_size=2)
"""At which artefacts the disk fails."""
_SETTINGS = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "derandomize": True,
    "print_blob": True,
}


@settings(max_examples=3, **_SETTINGS)
@given(drawn=cards(), faults=FAULTS)
def test_nothing_is_lost_or_doubled_for_a_few_cards(drawn, faults, server, material, tmp_path_factory):
    check_conservation(drawn, faults, server, material, tmp_path_factory.getbasetemp() / "conserved")


@pytest.mark.slow
@settings(max_examples=60, **_SETTINGS)
@given(drawn=cards(), faults=FAULTS)
def test_nothing_is_lost_or_doubled_for_many_cards(drawn, faults, server, material, tmp_path_factory):
    check_conservation(drawn, faults, server, material, tmp_path_factory.getbasetemp() / "conserved")


# ---- too much to cut -------------------------------------------------------------------------------


def write_sparse(path: Path, num_frames: int) -> None:
    """One frame in ten seconds; at 30 frames a second each of them is there 297 times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 100)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number * 7 % 200, np.uint8), "rgb24")
            frame.pts, frame.time_base = 990 * number, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_a_video_whose_cutting_meets_a_limit_is_dropped_and_the_others_stay(tmp_path):
    """A grid of 4.7 million frames, out of half a megabyte. The next build tries it again."""
    folder = tmp_path / "in"
    folder.mkdir()
    write_sparse(folder / "sparse.mkv", 16_000)
    write_video(folder / "whole.mp4", RECIPES["h264_bframes"], 12, width=128, height=96)
    card = small_card(
        frame_rate=30,
        low={"height": 16, "width": 16, "min_frames": 4},
        high={"height": 32, "width": 32},
        limits={"decode_memory_bytes": 128 << 20},
        execution={"span_megapixels": 2},
    )
    for _ in range(2):
        dataset = build_dataset(card, folder, tmp_path / "out")

        assert verify_dataset(str(tmp_path / "out")) == []
        assert [row["origin"] for row in dataset.rows("videos")] == ["whole.mp4"]
        (reject,) = dataset.rows("rejects")
        assert (reject["level"], reject["origin"]) == ("source", "sparse.mkv")
        assert (reject["cause"], reject["retryable"]) == ("memory_limit", True)


def test_a_limit_on_work_that_belongs_to_no_one_video_fails_the_build_in_words():
    def meet_limit(_: object, stop: object) -> None:
        raise Rejected("memory_limit", "the decoder ran out of its memory")

    step = _RunGated(GateHandle(1), meet_limit, lambda _: 0.0, None)
    step.setup()
    step.start_bundle()
    step.process("a shard")
    with pytest.raises(
        MachineError, match=r"memory_limit: .* no one video is to blame.* raise the card's limits"
    ):
        list(step.finish_bundle())
    step.gate.close()
