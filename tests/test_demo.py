"""The generated rides: what truth.json promises is what the frames show."""

import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from lvg_data.demo import (
    BLACK,
    Effect,
    Ride,
    RideScene,
    Transition,
    benchmark_rides,
    card_text,
    demo_rides,
    encode_ride,
    mix_weights,
    ride_frames,
    ride_truth,
    write_demo_videos,
)

SOFT = Ride(
    "ride-007",
    7,
    160,
    90,
    Fraction(25),
    (
        RideScene("alpine", 1, 30, (Effect("flash", 10, 12), Effect("frozen", 18, 24))),
        RideScene("alpine", 2, 12),
        RideScene(BLACK, 3, 4),
        RideScene("coast", 4, 20, (), 0.12, "RIDE"),
        RideScene("coast", 5, 10, (), 0.12, "RIDE"),
        RideScene("dawn", 6, 30, (Effect("pan", 4, 12), Effect("shake", 16, 26))),
    ),
    (Transition(), Transition(), Transition(), Transition("dissolve", 10), Transition("fade", 14)),
)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.stack(list(ride_frames(SOFT)))


def _changes(frames: np.ndarray) -> np.ndarray:
    """Mean absolute difference of each frame from the one before; the first is 0."""
    difference = np.abs(np.diff(frames.astype(np.int16), axis=0)).mean(axis=(1, 2, 3))
    return np.concatenate([[0], difference])


def test_the_truth_of_a_small_ride():
    bars = {"top": 10, "bottom": 10}
    truth = ride_truth(SOFT)
    box = truth["logos"][0].pop("box")
    assert 0 <= box[0] < box[2] <= 160 and 0 <= box[1] < box[3] <= 90 - bars["bottom"]
    assert truth == {
        "path": "ride-007.mp4",
        "frame_rate": "25/1",
        "num_frames": 130,
        "width": 160,
        "height": 90,
        "transitions": [
            {"kind": "hard", "start_frame": 30, "stop_frame": 30},
            {"kind": "hard", "start_frame": 42, "stop_frame": 42},
            {"kind": "hard", "start_frame": 46, "stop_frame": 46},
            {"kind": "dissolve", "start_frame": 66, "stop_frame": 76},
            {"kind": "fade", "start_frame": 86, "stop_frame": 100},
        ],
        "flashes": [{"start_frame": 10, "stop_frame": 12}],
        "pans": [{"start_frame": 104, "stop_frame": 112}],
        "shakes": [{"start_frame": 116, "stop_frame": 126}],
        "letterbox": [{"start_frame": 46, "stop_frame": 86, **bars}],
        "logos": [{"start_frame": 46, "stop_frame": 86}],
        "frozen": [{"start_frame": 18, "stop_frame": 24}],
        "black": [{"start_frame": 42, "stop_frame": 46}, {"start_frame": 91, "stop_frame": 95}],
    }


def test_as_many_frames_as_the_truth_says(frames):
    assert frames.shape == (130, 90, 160, 3) and frames.dtype == np.uint8


def test_a_hard_cut_is_a_large_change_at_exactly_its_frame(frames):
    changes = _changes(frames)
    for cut, least in ((30, 1.5), (42, 5), (46, 5)):  # the first is between two similar scenes
        assert changes[cut] > least * max(changes[cut - 2 : cut].max(), changes[cut + 1])


def test_a_frozen_span_is_identical_frames_and_every_other_frame_moves(frames):
    same = [i for i in range(1, len(frames)) if np.array_equal(frames[i], frames[i - 1])]
    assert same == [19, 20, 21, 22, 23, 43, 44, 45, 92, 93, 94]


def test_the_ride_goes_on_where_it_froze(frames):
    changes = _changes(frames)
    assert changes[24] < 1.5 * changes[25:30].max()


def test_a_flash_is_bright_and_its_neighbours_are_not(frames):
    brightness = frames.mean(axis=(1, 2, 3))
    assert brightness[10:12].min() > 230
    assert max(brightness[9], brightness[12]) < 170


def test_bars_are_black_and_the_picture_between_them_is_not(frames):
    letterboxed = frames[46:86]
    assert not letterboxed[:, :10].any() and not letterboxed[:, -10:].any()
    assert letterboxed[:, [10, -11]].mean(axis=(2, 3)).min() > 30


def test_a_logo_stays_while_the_picture_moves(frames):
    left, top, right, bottom = ride_truth(SOFT)["logos"][0]["box"]
    varies = frames[46:66].astype(float).std(axis=0).mean(axis=-1)
    beside = varies[top:bottom, : right - left]
    assert varies[top:bottom, left:right].mean() < 0.6 * beside.mean()


def test_black_spans_are_black_and_a_fade_darkens_from_its_first_frame_to_its_last(frames):
    brightness = frames.mean(axis=(1, 2, 3))
    assert not frames[42:46].any() and not frames[91:95].any()
    assert all(a > b for a, b in pairwise(brightness[85:92]))
    assert all(a < b for a, b in pairwise(brightness[94:101]))


def test_a_dissolve_is_a_mixture_of_two_moving_scenes():
    assert mix_weights(Transition("dissolve", 3)).tolist() == [[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]]
    assert not len(mix_weights(Transition()))


def test_pans_and_shakes_move_more_than_riding(frames):
    changes = _changes(frames)
    calm = np.median(changes[[101, 102, 103, 113, 114, 115]])
    assert changes[105:111].max() > 1.3 * calm and changes[117:126].max() > 1.3 * calm


def test_the_same_ride_gives_the_same_bytes_in_another_process(tmp_path):
    ride = replace(SOFT, scenes=SOFT.scenes[4:], transitions=SOFT.transitions[4:])
    first = encode_ride(ride, tmp_path / "a.mp4").read_bytes()
    code = (
        "import sys; from pathlib import Path; from tests.test_demo import SOFT, replace, encode_ride\n"
        "ride = replace(SOFT, scenes=SOFT.scenes[4:], transitions=SOFT.transitions[4:])\n"
        "encode_ride(ride, Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "b.mp4"], check=True)
    assert first == (tmp_path / "b.mp4").read_bytes()
    assert encode_ride(replace(ride, seed=8), tmp_path / "c.mp4").read_bytes() != first


def test_what_is_written_decodes_to_the_same_frames_in_the_right_colours(tmp_path, frames):
    with av.open(str(encode_ride(SOFT, tmp_path / "a.mp4"))) as container:
        context = container.streams.video[0].codec_context
        pictures = list(container.decode(video=0))
        decoded = np.stack([p.to_ndarray(format="rgb24") for p in pictures])
    assert [p.pts * p.time_base for p in pictures] == [Fraction(i, 25) for i in range(130)]
    assert (context.pix_fmt, context.colorspace, context.color_range) == ("yuv420p", 1, 1)
    assert (context.color_primaries, context.color_trc, context.has_b_frames > 0) == (1, 1, True)
    assert "B" in {av.video.frame.PictureType(p.pict_type).name for p in pictures}
    error = decoded.astype(float) - frames
    assert np.abs(error).mean() < 6 and np.abs(error.mean(axis=(0, 1, 2))).max() < 1.5


def test_a_folder_of_videos_has_its_truth_and_its_card(tmp_path):
    seen = []
    ride = replace(SOFT, scenes=SOFT.scenes[1:2], transitions=())
    card = write_demo_videos(tmp_path / "demo", [ride], lambda *step: seen.append(step))
    assert sorted(p.name for p in card.parent.iterdir()) == ["card.yaml", "ride-007.mp4", "truth.json"]
    assert json.loads((card.parent / "truth.json").read_text()) == {"seed": 7, "videos": [ride_truth(ride)]}
    assert card.read_text() == card_text(["ride-007.mp4"])
    assert seen[-1] == ("ride-007", 12, 12) and len(seen) == 12


def test_the_default_rides_hold_every_case():
    rides = demo_rides()
    truths = [ride_truth(ride) for ride in rides]
    present = {kind for truth in truths for kind, spans in truth.items() if spans}
    assert {"flashes", "pans", "shakes", "letterbox", "logos", "frozen", "black"} <= present
    assert {t["kind"] for truth in truths for t in truth["transitions"]} == {"hard", "dissolve", "fade"}
    assert {ride.frame_rate for ride in rides} == {Fraction(30), Fraction(25), Fraction(30000, 1001)}
    assert any(s["stop_frame"] - s["start_frame"] == t["num_frames"] for t in truths for s in t["letterbox"])
    lengths = [scene.length_frames for ride in rides for scene in ride.scenes]
    assert min(lengths) < 12 and any(12 <= n < 128 for n in lengths) and max(lengths) > 300
    assert all(12 <= ride.num_frames / ride.frame_rate <= 40 for ride in rides)


def test_benchmark_rides_are_seeded_varied_and_full_of_transitions():
    rides = benchmark_rides(3, 6, 30)
    assert rides == benchmark_rides(3, 6, 30) and rides != benchmark_rides(4, 6, 30)
    assert len({ride.seed for ride in rides}) == 6
    kinds = [t.kind for ride in rides for t in ride.transitions]
    assert min(kinds.count(kind) for kind in ("hard", "dissolve", "fade")) >= 3
    similar = sum(a.look == b.look for ride in rides for a, b in pairwise(ride.scenes))
    assert 3 <= similar < len(kinds) / 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Transition("hard", 3), "a hard cut has 0 frames"),
        (lambda: Transition("wipe", 3), "transition kind must be one of .* got 'wipe'"),
        (lambda: RideScene("moon", 0, 9), "look must be 'black' or one of .* got 'moon'"),
        (lambda: RideScene("snow", 0, 9, (Effect("pan", 5, 10),)), "outside of its scene of 9 frames"),
        (lambda: RideScene("snow", 0, 9, (Effect("pan", 2, 6), Effect("flash", 5, 6))), "overlap"),
        (lambda: replace(SOFT, transitions=()), "6 scenes need one transition fewer, got 0"),
        (lambda: replace(SOFT, width=161), "must be even, got 161x90"),
        (
            lambda: replace(
                SOFT, transitions=(*SOFT.transitions[:2], Transition("fade", 9), *SOFT.transitions[3:])
            ),
            "a black scene needs a hard cut on both sides",
        ),
    ],
)
def test_an_impossible_ride_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
