"""Quality of scenes and bars of videos, on small painted pictures."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lvg_data import trim
from lvg_data.config import TrimConfig
from lvg_data.errors import Rejected
from lvg_data.trim import Bars, Qualities, judge, measure_bars, measure_qualities, trim_scene

CONFIG = TrimConfig(
    black_level=16,
    max_black_share=0.1,
    frozen_difference=0.2,
    max_frozen_share=0.5,
    letterbox="crop",
    bar_level=20,
    max_bar_share=0.04,
    max_overlay_share=0.006,
)
FINE = Qualities(0.0, 0.0, 0.0, 0.0, 0, 0)

# ---- painting


def plain(level, num_frames=1, size=16):
    return [np.full((size, size, 3), level, np.uint8)] * num_frames


def drive(num_frames, seed=0, height=64, width=64):
    """A textured place, 60 to 200, that passes with a shaking camera: list of uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(60, 201, (100, 200), np.uint8)
    place = np.repeat(np.repeat(blocks, 4, axis=0), 4, axis=1)
    shake = rng.integers(0, 9, num_frames)
    views = [place[20 + dy : 20 + dy + height, 3 * i % 700 :][:, :width] for i, dy in enumerate(shake)]
    return [np.repeat(view[..., None], 3, axis=2) for view in views]


def paste_logo(frames, top, left, size, opacity=1.0):
    """A ring of white with a dark dot in it."""
    radius = np.hypot(*np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j])
    logo, alpha = np.where(radius > 0.5, 255.0, 10.0), opacity * (radius <= 1)
    return [_mix(frame, top, left, logo, alpha) for frame in frames]


def _mix(frame, top, left, logo, alpha):
    mixed = frame.astype(np.float64)
    place = mixed[top : top + len(logo), left : left + len(logo)]
    place += alpha[..., None] * (logo[..., None] - place)
    return mixed.round().astype(np.uint8)


def with_bars(frames, bars):
    height, width = frames[0].shape[:2]
    inside = np.zeros((height, width, 1), np.uint8)
    inside[bars.top : height - bars.bottom, bars.left : width - bars.right] = 1
    return [frame * inside for frame in frames]


def overlay_share(frames):
    return measure_qualities(frames, CONFIG).overlay_share


def bar_share(frames):
    return measure_qualities(frames, CONFIG).bar_share


# ---- black and frozen frames


def test_black_is_judged_by_bt601_luma():
    blue, green = np.zeros((2, 16, 16, 3), np.uint8)
    blue[..., 2], green[..., 1] = 130, 30  # luma 14.8 and 17.6
    assert measure_qualities([blue], CONFIG).black_share == 1
    assert measure_qualities([green], CONFIG).black_share == 0


def test_black_frames_are_counted_whole_and_at_both_ends():
    frames = plain(0, 3) + plain(90, 4) + plain(15, 1) + plain(16, 1) + plain(90, 9) + plain(5, 2)
    qualities = measure_qualities(frames, CONFIG)
    assert qualities.black_share == 6 / 20
    assert (qualities.leading_black, qualities.trailing_black) == (3, 2)


def test_a_span_that_is_all_black_is_black_from_both_ends():
    qualities = measure_qualities(plain(3, 5), CONFIG)
    assert (qualities.black_share, qualities.leading_black, qualities.trailing_black) == (1, 5, 5)


def test_frozen_is_the_share_of_repeats_among_steps():
    a, b = plain(80), plain(90)
    assert measure_qualities(a + a + b + b + b, CONFIG).frozen_share == 3 / 4
    assert measure_qualities(a, CONFIG).frozen_share == 0


def test_repeats_may_differ_as_little_as_compression_makes_them():
    still, noisy, moved = (plain(80)[0].copy() for _ in range(3))
    noisy[0, :] += 2  # 2 levels in 1 of 16 rows: mean 0.125
    moved[:2, :] += 2  # mean 0.25
    assert measure_qualities([still, noisy], CONFIG).frozen_share == 1
    assert measure_qualities([still, moved], CONFIG).frozen_share == 0


def _slow_answer(levels):
    black = [level < 16 for level in levels]
    repeats = [abs(a - b) < 0.2 for a, b in pairwise(levels)]
    leading = black.index(False) if False in black else len(black)
    trailing = black[::-1].index(False) if False in black else len(black)
    return sum(black) / len(black), sum(repeats) / max(1, len(repeats)), leading, trailing


@given(st.lists(st.sampled_from([0, 15, 16, 17, 200]), min_size=1, max_size=12), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_where_chunks_begin_changes_nothing(levels, chunk):
    frames = [frame for level in levels for frame in plain(level, size=8)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trim, "CHUNK_FRAMES", chunk)
        q = measure_qualities(iter(frames), CONFIG)
    assert (q.black_share, q.frozen_share, q.leading_black, q.trailing_black) == _slow_answer(levels)


def test_chunks_do_not_change_bars_and_overlays(monkeypatch):
    frames = paste_logo(with_bars(drive(90), Bars(top=8, bottom=8)), 40, 44, 10)
    whole = measure_qualities(frames, CONFIG)
    monkeypatch.setattr(trim, "CHUNK_FRAMES", 7)
    assert measure_qualities(frames, CONFIG) == whole
    assert whole.bar_share == 0.25 and whole.overlay_share > 0.01


def test_no_frame_cannot_be_measured():
    with pytest.raises(ValueError, match="no frame"):
        measure_qualities([], CONFIG)


# ---- bars of rendered frames


@pytest.mark.parametrize(
    ("bars", "share"),
    [
        (Bars(), 0),
        (Bars(top=8, bottom=8), 16 / 64),
        (Bars(left=6, right=6), 12 / 64),
        (Bars(bottom=4), 4 / 64),
        (Bars(top=8, bottom=8, left=16, right=16), 1 - 48 * 32 / 64**2),
        (Bars(top=8, bottom=8, left=24, right=24), 1 - 48 * 16 / 64**2),
    ],
)
def test_bars_are_measured_by_area(bars, share):
    assert bar_share(with_bars(drive(40), bars)) == share


def test_bars_are_seen_through_a_fade():
    frames = with_bars(drive(40), Bars(top=8, bottom=8))
    fade = [(frame * (i / 39)).astype(np.uint8) for i, frame in enumerate(frames)]
    assert bar_share(fade) == 0.25


def test_a_dark_scene_is_not_letterboxed():
    dark = [frame // 12 for frame in drive(40)]
    assert bar_share(dark) == 0
    rows, columns = np.mgrid[:64, :64]
    lamp = [
        np.where((np.hypot(rows - 40, columns - 30 - i % 5) < 20)[..., None], 180, f)
        for i, f in enumerate(dark)
    ]
    assert bar_share([frame.astype(np.uint8) for frame in lamp]) == 0


def test_a_night_sky_is_not_a_bar():
    sky = np.linspace(4, 40, 40)[:, None, None]  # as dark as a bar down to row 17
    frames = [np.concatenate([np.broadcast_to(sky, (40, 64, 3)), f[:24]]).astype(np.uint8) for f in drive(40)]
    assert bar_share(frames) == 0


# ---- overlays


@pytest.mark.parametrize("opacity", [1.0, 0.6])
@pytest.mark.parametrize("size", [8, 13])  # 1.2% and 3.2% of the picture
def test_a_logo_over_a_moving_picture_is_an_overlay(size, opacity):
    share = overlay_share(paste_logo(drive(120), 5, 45, size, opacity))
    area = np.pi / 4 * size**2 / 64**2
    assert 0.01 < share < 3 * area


def test_a_moving_picture_alone_has_no_overlay():
    assert overlay_share(drive(120)) == 0


def test_nothing_is_an_overlay_where_the_camera_stands_still():
    still = paste_logo(drive(1) * 120, 5, 45, 12)
    for i, frame in enumerate(still):  # someone walks through
        frame[20:60, i % 50 : i % 50 + 12] = 30
    assert overlay_share(still) == 0


def test_bars_are_no_overlay():
    assert overlay_share(with_bars(drive(120), Bars(8, 8, 0, 0))) == 0
    assert overlay_share(with_bars(drive(120), Bars(0, 0, 10, 10))) == 0


def test_a_shaking_horizon_and_handlebar_are_no_overlay():
    frames = drive(120)
    grip = np.kron(np.indices((5, 6)).sum(axis=0) % 2, np.full((2, 2), 150))[..., None]
    for i, frame in enumerate(frames):
        shift = (0, 0, 1, 0, 0)[i % 5]
        frame[: 20 + shift] = 210  # sky
        frame[56 + shift : 59 + shift, 5:60] = 20
        frame[52 + shift : 60 + shift, 28:34] = 20
        frame[50 + shift : 60 + shift, 8:20] = grip
    assert overlay_share(frames) == 0


def test_a_body_that_fills_much_of_the_picture_is_no_overlay():
    checks = np.kron(np.indices((8, 16)).sum(axis=0) % 2, np.ones((4, 4)))
    cockpit = (40 + 150 * checks[..., None].repeat(3, axis=2)).astype(np.uint8)
    assert overlay_share([np.concatenate([frame[:32], cockpit]) for frame in drive(120)]) == 0


def test_a_scene_too_short_to_tell_has_no_overlay():
    assert overlay_share(paste_logo(drive(6), 5, 45, 12)) == 0


def test_wide_frames_are_measured_too():
    frames = drive(120, height=36)
    assert overlay_share(frames) == 0
    assert overlay_share(paste_logo(frames, 4, 50, 9)) > 0.01


# ---- bars of a video


def pictures(height, width, num_pictures=4, seed=0):
    """Coded luma, 120 to 200, another one each time: list of uint8 [H, W]."""
    rng = np.random.default_rng(seed)
    return [rng.integers(120, 201, (height, width), dtype=np.uint8) for _ in range(num_pictures)]


def luma_with_bars(lumas, bars):
    return [frame[..., 0] for frame in with_bars([luma[..., None] for luma in lumas], bars)]


depths = st.just(0) | st.integers(2, 16)


@given(top=depths, bottom=depths, left=depths, right=depths, seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_sharp_bars_are_exact_to_the_pixel(top, bottom, left, right, seed):
    bars = Bars(top, bottom, left, right)
    assume((40 - top - bottom) * (44 - left - right) >= 0.2 * 40 * 44)
    lumas = luma_with_bars(pictures(40, 44, seed=seed), bars)
    assert measure_bars(lumas, 20) == bars
    assert measure_bars([luma.astype(np.float32) for luma in lumas], 20) == bars


def test_a_row_where_bar_and_picture_mix_is_cropped():
    lumas = luma_with_bars(pictures(60, 60), Bars(top=10, bottom=10))
    for luma in lumas:
        luma[10] = luma[10] // 2
        luma[49] = luma[49] // 20  # below the level
    assert measure_bars(lumas, 20) == Bars(top=11, bottom=11)


def test_bars_of_one_pixel_or_of_almost_half_are_none():
    assert measure_bars(luma_with_bars(pictures(40, 40), Bars(top=1, bottom=17)), 20) == Bars()


def test_noise_and_a_rare_subtitle_do_not_hide_a_bar():
    lumas = luma_with_bars(pictures(60, 80, num_pictures=12), Bars(top=8, bottom=8))
    lumas[3][54:58, 20:60] = 235
    for i, luma in enumerate(lumas):
        luma[2, i * 3] = 60
    assert measure_bars(lumas, 20) == Bars(top=8, bottom=8)


def test_bars_that_most_pictures_lack_are_none():
    lumas = pictures(40, 40, num_pictures=10)
    assert measure_bars(luma_with_bars(lumas[:4], Bars(top=6, bottom=6)) + lumas[4:], 20) == Bars()


def test_pictures_too_dark_to_show_an_edge_are_left_out():
    dark = [np.full((40, 40), 5, np.uint8)] * 16
    lumas = luma_with_bars(pictures(40, 40), Bars(top=6, bottom=4))
    assert measure_bars(lumas + dark, 20) == Bars(top=6, bottom=4)
    assert measure_bars(dark, 20) == Bars()
    assert measure_bars([], 20) == Bars()


@pytest.mark.parametrize("num_pictures", [1, 2, 5])
def test_the_step_at_a_bar_is_that_of_the_mean_picture(num_pictures):
    """12 levels, and 8 are enough: whatever the number of pictures."""
    luma = np.full((60, 80), 30, np.uint8)
    luma[:6] = luma[-9:] = 18
    assert measure_bars([luma] * num_pictures, 20) == Bars(top=6, bottom=9)


def test_night_pictures_have_no_bars():
    rows, columns = np.mgrid[:60, :80]
    skyline = 14 + 5 * np.sin(columns / 7)  # black above, lit below
    hills = [np.where(rows > skyline + i % 3, 90, 4).astype(np.uint8) for i in range(6)]
    assert measure_bars(hills, 20) == Bars()
    assert measure_bars([np.clip(rows, 0, 200).astype(np.uint8)], 20) == Bars()  # a clear sky


# ---- deciding


def timeline(frames):
    """The frames of a video from 100 on, and the spans that were asked for."""
    calls = []

    def read(start, stop):
        calls.append((start, stop))
        return iter(frames[start - 100 : stop - 100])

    return read, calls


def test_guards_come_off_before_black_ends():
    frames = plain(90, 2) + plain(0, 4) + drive(60, height=16, width=16) + plain(0, 3) + plain(90, 2)
    read, calls = timeline(frames)
    left, qualities = trim_scene(range(100, 171), read, CONFIG, guards=(2, 2))
    assert left == range(106, 166)
    assert (qualities.black_share, qualities.leading_black, qualities.trailing_black) == (0, 4, 3)
    assert calls == [(102, 169), (106, 166)]


def test_a_clean_scene_is_read_once():
    read, calls = timeline(drive(30, height=16, width=16))
    left, qualities = trim_scene(range(100, 130), read, CONFIG, guards=(0, 3))
    assert (left, calls) == (range(100, 127), [(100, 127)])
    assert (qualities.leading_black, qualities.trailing_black) == (0, 0)


def test_black_inside_a_scene_stays():
    read, _ = timeline(plain(90, 5) + plain(0, 5) + plain(91, 10))
    left, qualities = trim_scene(range(100, 120), read, CONFIG, guards=(0, 0))
    assert left == range(100, 120)
    assert qualities.black_share == 0.25


def test_guards_that_take_everything_leave_it_too_short():
    read, calls = timeline(plain(90, 4))
    with pytest.raises(Rejected, match="too_short: 4 frames, of which guards take 2 and 3") as caught:
        trim_scene(range(100, 104), read, CONFIG, guards=(2, 3))
    assert (caught.value.value, caught.value.threshold, calls) == (0, 1, [])


def test_a_black_scene_is_rejected_as_black():
    read, _ = timeline(plain(4, 10))
    with pytest.raises(Rejected, match="black: all 8 frames are black") as caught:
        trim_scene(range(100, 110), read, CONFIG, guards=(1, 1))
    assert (caught.value.value, caught.value.threshold) == (1.0, 0.1)


def test_a_card_that_wants_black_frames_keeps_them():
    read, _ = timeline(plain(4, 10))
    wants_black = CONFIG.model_copy(update={"max_black_share": 1.0})
    left, qualities = trim_scene(range(100, 110), read, wants_black, guards=(0, 0))
    assert (left, qualities.black_share) == (range(100, 110), 1.0)


def test_shares_at_the_limit_are_kept():
    judge(FINE, CONFIG)
    judge(Qualities(0.1, 0.5, 0.04, 0.006, 0, 0), CONFIG)


def test_the_first_policy_that_is_broken_names_the_cause():
    broken = Qualities(0.2, 0.75, 0.25, 0.02, 0, 0)
    expected = [
        ("black", 0.2, 0.1, "20.00% of the frames are black; the card takes 10.00%"),
        ("frozen", 0.75, 0.5, "75.00% of the frames repeat the one before; the card takes 50.00%"),
        ("letterboxed", 0.25, 0.04, "25.00% of the picture is dark bars; the card takes 4.00%"),
        ("static_overlay", 0.02, 0.006, "2.00% of the picture is an overlay; the card takes 0.60%"),
    ]
    fields = ("black_share", "frozen_share", "bar_share", "overlay_share")
    for (cause, value, threshold, message), field in zip(expected, fields, strict=True):
        with pytest.raises(Rejected) as caught:
            judge(broken, CONFIG)
        assert (caught.value.cause, caught.value.message) == (cause, message)
        assert (caught.value.value, caught.value.threshold) == (value, threshold)
        broken = replace(broken, **{field: 0.0})
    judge(broken, CONFIG)


def test_a_card_that_keeps_bars_rejects_none():
    judge(replace(FINE, bar_share=0.4), CONFIG.model_copy(update={"letterbox": "keep"}))
    for letterbox in ("crop", "reject"):
        with pytest.raises(Rejected, match="letterboxed"):
            judge(replace(FINE, bar_share=0.4), CONFIG.model_copy(update={"letterbox": letterbox}))
