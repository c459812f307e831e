"""Seconds to frames and back: grids, intervals, parts and who owns which window."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvg_data import timeline
from lvg_data.errors import Rejected
from lvg_data.timeline import (
    Grid,
    Interval,
    frames_in,
    is_variable_rate,
    mean_frame_rate,
    merge_ranges,
    native_grid,
    overlap,
    owned_starts,
    part_ranges,
    presentation_seconds,
    resampled_grid,
    runs_past_end,
    standard_rate,
    without_gaps,
)

MILLISECONDS = Fraction(1, 1000)


def ticks(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def interval(start: object, stop: object, end_inclusive: bool = False) -> Interval:
    return Interval(Fraction(str(start)), Fraction(str(stop)), end_inclusive)


def ten_per_second(num_frames: int) -> Grid:
    return native_grid(np.arange(num_frames, dtype=np.int64) * 100, MILLISECONDS)


# ---- grids


def test_a_native_grid_shows_every_frame_at_its_own_time():
    grid = native_grid(ticks(500, 540, 600, 620), MILLISECONDS)

    assert grid.ordinals.tolist() == [0, 1, 2, 3]
    assert [grid.time_s(k) for k in range(4)] == [0, Fraction(1, 25), Fraction(1, 10), Fraction(3, 25)]
    assert grid.times_s(1, 4).tolist() == [0.04, 0.1, 0.12]


def test_60_to_30_frames_per_second_takes_every_second_frame():
    grid = resampled_grid(np.arange(9), Fraction(1, 60), Fraction(30))

    assert grid.ordinals.tolist() == [0, 2, 4, 6, 8]


def test_25_to_30_frames_per_second_repeats_every_fifth_frame():
    grid = resampled_grid(np.arange(12), Fraction(1, 25), Fraction(30))

    # wanted in source frames: 0, 5/6, 10/6, 15/6 (a tie), 20/6, 25/6, 5 ...
    assert grid.ordinals.tolist() == [0, 1, 2, 2, 3, 4, 5, 6, 7, 7, 8, 9, 10, 11]


def test_30_to_30000_over_1001_frames_per_second_drops_the_first_frame_after_half_a_frame_of_drift():
    grid = resampled_grid(np.arange(1503), Fraction(1, 30), Fraction(30000, 1001))

    # frame k is wanted at k * 1.001 source frames: at k = 500 a tie, taken early, from k = 501 one ahead
    assert grid.ordinals[[0, 1, 499, 500, 501, 502, 1499, 1500]].tolist() == [
        0, 1, 499, 500, 502, 503, 1500, 1501,
    ]  # fmt: skip


def test_a_tie_between_two_frames_shows_the_earlier():
    assert resampled_grid(ticks(0, 1, 2), Fraction(1), Fraction(2)).ordinals.tolist() == [0, 0, 1, 1, 2]


def test_variable_frame_rate_is_resampled_by_time_not_by_count():
    grid = resampled_grid(ticks(1000, 1010, 1020, 1500, 2000), MILLISECONDS, Fraction(4))

    # wanted at 0, 250, 500, 750, 1000 ms; 750 is a tie between 500 and 1000
    assert grid.ordinals.tolist() == [0, 2, 3, 3, 4]
    assert grid.time_s(1) == Fraction(20, 1000)


def test_resampling_does_not_drift_over_ten_hours():
    rate, time_base = Fraction(3000, 1001), Fraction(1001, 30000)
    grid = resampled_grid(np.arange(36_000 * 3, dtype=np.int64) * 10, time_base, rate)

    assert np.array_equal(grid.ordinals, np.arange(36_000 * 3))
    assert grid.time_s(107_999) == Fraction(107_999 * 1001, 3000)


def test_a_video_of_one_frame_has_a_grid_of_one_frame():
    grid = resampled_grid(ticks(77), MILLISECONDS, Fraction(30))

    assert grid.ordinals.tolist() == [0]
    assert grid.time_s(0) == 0


rising_times = st.lists(st.integers(1, 12), min_size=1, max_size=15).map(np.cumsum)
rates = st.fractions(Fraction(1, 3), 30, max_denominator=1001)
#: also such that 64 bits do not hold their products
any_rates = st.one_of(rates, st.fractions(Fraction(1, 3), 30, max_denominator=10**25))


@settings(deadline=None)
@given(rising_times, st.integers(40, 200), any_rates)
def test_every_grid_frame_shows_the_frame_nearest_in_time(pts, base, rate):
    time_base = Fraction(1, base)
    grid = resampled_grid(pts, time_base, rate)

    times = [int(p - pts[0]) * time_base for p in pts]
    nearest = []
    while len(nearest) / rate <= times[-1]:
        wanted = len(nearest) / rate
        nearest.append(min(range(len(times)), key=lambda i: abs(times[i] - wanted)))  # min takes the first
    assert grid.ordinals.tolist() == nearest


@settings(deadline=None)
@given(rising_times, any_rates)
def test_a_numbered_frame_is_shown_for_one_number_or_as_the_nearest(numbers, rate):
    time_base = Fraction(1, 20)
    grid = resampled_grid(numbers, time_base, rate)

    kept = without_gaps(grid, rate).ordinals.tolist()

    late = [k / rate - grid.time_s(k) for k in range(len(grid))]  # after the frame that is shown
    inside = [-time_base / 2 <= seconds < time_base for seconds in late]
    assert kept == [int(o) for o, is_inside in zip(grid.ordinals, inside, strict=True) if is_inside]


def test_work_on_large_numbers_is_done_in_pieces(monkeypatch):
    pts, rate = np.arange(1000, dtype=np.int64), Fraction(10**30 + 1, 10**30)
    whole = resampled_grid(pts, Fraction(1), rate).ordinals
    monkeypatch.setattr(timeline, "_CHUNK", 7)

    assert np.array_equal(resampled_grid(pts, Fraction(1), rate).ordinals, whole)


def test_a_long_grid_takes_little_more_memory_than_its_numbers():
    """20,000 frames, one each ten seconds: six million grid frames."""
    pts = np.arange(20_000, dtype=np.int64) * (299 * 3000)
    tracemalloc.start()
    try:
        grid = resampled_grid(pts, Fraction(1, 90_000), Fraction(30))
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(grid) == 19_999 * 299 + 1
    assert most_bytes < 1.5 * grid.ordinals.nbytes


def test_gaps_that_would_repeat_frames_for_ever_are_broken_times():
    with pytest.raises(Rejected, match="broken_times: 2 frames would become 86401 at 1 frames/s"):
        resampled_grid(ticks(0, 86_400), Fraction(1), Fraction(1))


def test_a_grid_of_too_many_frames_is_refused():
    pts = np.arange(67_000, dtype=np.int64) * 299
    with pytest.raises(
        Rejected, match="too_many_frames: 20032702 frames at 1 frames/s; the limit is 20000000"
    ) as caught:
        resampled_grid(pts, Fraction(1), Fraction(1))

    assert (caught.value.value, caught.value.threshold) == (20_032_702, 20_000_000)


def test_a_grid_may_have_as_many_frames_as_the_limit_says(monkeypatch):
    monkeypatch.setattr(timeline, "MAX_GRID_FRAMES", 100)
    assert len(resampled_grid(np.arange(100), Fraction(1), Fraction(1))) == 100
    with pytest.raises(Rejected, match="101 frames"):
        resampled_grid(np.arange(101), Fraction(1), Fraction(1))


# ---- seconds -> frames


def test_an_interval_holds_its_first_frame_and_not_the_one_at_its_end():
    assert frames_in(ten_per_second(20), interval("0.5", "1.0")) == range(5, 10)


def test_an_inclusive_end_keeps_the_frame_exactly_there():
    grid = ten_per_second(20)

    assert frames_in(grid, interval("0.5", "1.0", end_inclusive=True)) == range(5, 11)
    assert frames_in(grid, interval("0.5", "0.95", end_inclusive=True)) == range(5, 10)


def test_an_interval_between_frames_begins_with_the_next_frame():
    assert frames_in(ten_per_second(20), interval("0.41", "0.71")) == range(5, 8)
    assert not frames_in(ten_per_second(20), interval("0.41", "0.49"))


def test_an_interval_past_the_end_is_clamped_to_the_video():
    assert frames_in(ten_per_second(20), interval("1.5", "99")) == range(15, 20)
    assert not frames_in(ten_per_second(20), interval("2", "99"))


def test_times_count_from_the_first_frame_wherever_the_file_begins():
    late = native_grid(np.arange(20, dtype=np.int64) * 100 + 7_000_000, MILLISECONDS)

    assert frames_in(late, interval("0.5", "1.0")) == range(5, 10)


def test_a_resampled_interval_is_decided_by_the_time_of_the_frame_that_is_shown():
    grid = resampled_grid(np.arange(12), Fraction(1, 25), Fraction(30))

    shown = [grid.time_s(k) for k in frames_in(grid, interval("0.04", "0.12"))]
    assert shown == [Fraction(1, 25), Fraction(2, 25), Fraction(2, 25)]


@settings(deadline=None)
@given(
    rising_times,
    st.fractions(0, 3, max_denominator=60),
    st.fractions(0, 3, max_denominator=60),
    st.booleans(),
)
def test_frames_in_an_interval_are_those_whose_time_lies_in_it(pts, a, b, end_inclusive):
    start, stop = min(a, b), max(a, b) + Fraction(1, 100)
    grid = native_grid(pts, Fraction(1, 60))

    found = frames_in(grid, Interval(start, stop, end_inclusive))

    def is_inside(time: Fraction) -> bool:
        return start <= time < stop or (end_inclusive and time == stop)

    inside = [k for k in range(len(grid)) if is_inside(grid.time_s(k))]
    assert list(found) == inside


def test_running_past_the_end_means_after_the_last_frame_was_shown():
    grid = ten_per_second(20)  # the last frame begins at 1.9 s and is shown until 2.0 s

    assert not runs_past_end(grid, interval(0, "2.0"))
    assert runs_past_end(grid, interval(0, "2.001"))


def test_a_resampled_video_ends_where_the_video_does():
    pts = np.arange(0, 2000, 100)  # ten frames a second for two seconds
    grid = resampled_grid(pts, Fraction(1, 1000), Fraction(24))  # its last frame is shown from 1.875 s

    assert not runs_past_end(grid, interval(0, "2.0"))
    assert runs_past_end(grid, interval(0, "2.001"))


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 3), (4, 3)])
def test_an_interval_that_is_empty_or_begins_before_the_video_is_refused(start, stop):
    with pytest.raises(
        ValueError, match=rf"from a time >= 0 to a later one, got {start}\.0 \.\. {stop}\.0 s"
    ):
        Interval(Fraction(start), Fraction(stop))


# ---- rates


def test_a_video_lasts_until_its_last_frame_was_shown_as_long_as_the_one_before():
    assert presentation_seconds(ticks(100, 140, 180), MILLISECONDS) == Fraction(120, 1000)
    assert presentation_seconds(ticks(100), MILLISECONDS) == 0


def test_the_mean_rate_counts_gaps_not_frames():
    assert mean_frame_rate(ticks(0, 40, 80), MILLISECONDS) == 25
    assert mean_frame_rate(ticks(0), MILLISECONDS) is None


@pytest.mark.parametrize(
    ("measured", "usual"),
    [
        ("29.97", "30000/1001"),
        ("30000/1001", "30000/1001"),
        ("23.976", "24000/1001"),
        ("59.94", "60000/1001"),
        ("30.001", "30"),
        ("24.99999", "25"),
        ("33.3333", "33.333"),
        ("29.5", "29.5"),
        ("1", "1"),
        ("1/3600", "1/1000"),  # never 0, which is no rate
    ],
)
def test_a_measured_rate_gets_its_usual_name(measured, usual):
    assert standard_rate(Fraction(measured)) == Fraction(usual)


def test_millisecond_times_of_30000_over_1001_get_the_rational_rate():
    pts = np.round(np.arange(300) * 1001 / 30).astype(np.int64)

    assert standard_rate(mean_frame_rate(pts, MILLISECONDS)) == Fraction(30000, 1001)
    assert not is_variable_rate(pts)


@pytest.mark.parametrize(
    ("pts", "variable"),
    [
        ((0, 33, 67, 100, 133), False),
        ((0, 3000, 6000, 9000), False),
        ((0, 3000, 6000, 9301), True),
        ((0, 3000, 6000, 12000), True),
        ((0, 33, 67, 100, 200), True),
        ((0, 5), False),
        ((0,), False),
    ],
)
def test_gaps_beyond_rounding_make_a_rate_variable(pts, variable):
    assert is_variable_rate(ticks(*pts)) is variable


# ---- ranges and parts

ranges = st.lists(
    st.builds(lambda a, n: range(a, a + n), st.integers(0, 60), st.integers(0, 12)), max_size=12
)


def test_ranges_that_touch_or_overlap_become_one():
    assert merge_ranges([range(8, 10), range(0, 3), range(3, 5), range(9, 12), range(20, 20)]) == [
        range(0, 5),
        range(8, 12),
    ]


@settings(deadline=None)
@given(ranges)
def test_merged_ranges_hold_the_same_numbers_once_and_in_order(given_ranges):
    merged = merge_ranges(given_ranges)

    assert [n for r in merged for n in r] == sorted({n for r in given_ranges for n in r})
    assert all(len(r) for r in merged)
    assert all(a.stop < b.start for a, b in pairwise(merged))


def test_the_overlap_of_ranges_apart_is_empty():
    assert overlap(range(0, 10), range(7, 20)) == range(7, 10)
    assert len(overlap(range(0, 5), range(9, 12))) == 0
    assert len(overlap(range(9, 12), range(0, 5))) == 0


def test_parts_overlap_by_one_frame_less_than_a_window():
    assert part_ranges(40, 24, 9) == [range(0, 24), range(16, 40)]
    assert part_ranges(41, 24, 9) == [range(0, 24), range(16, 40), range(32, 41)]
    assert part_ranges(24, 24, 9) == [range(0, 24)]
    assert part_ranges(5, 24, 9) == [range(0, 5)]


def test_window_starts_belong_to_the_part_where_they_come_first():
    parts = part_ranges(40, 24, 9)

    assert owned_starts(parts, 0, 9) == range(0, 16)
    assert owned_starts(parts, 1, 9) == range(16, 32)
    assert owned_starts(parts, 0, 4) == range(0, 21)
    assert owned_starts(parts, 1, 4) == range(21, 37)


@settings(deadline=None)
@given(st.data())
def test_every_window_start_is_owned_once_by_a_part_that_holds_the_window(data):
    num_frames = data.draw(st.integers(1, 300), "frames")
    window = data.draw(st.integers(1, 40), "window")
    part_frames = data.draw(st.integers(window, 90), "part")
    span = data.draw(st.integers(1, window), "span")

    parts = part_ranges(num_frames, part_frames, window)
    owned = [owned_starts(parts, index, span) for index in range(len(parts))]

    assert sorted(start for starts in owned for start in starts) == list(range(num_frames - span + 1))
    for part, starts in zip(parts, owned, strict=True):
        assert all(part.start <= start and start + span <= part.stop for start in starts)
        assert len(part) <= part_frames
    assert sorted({f for part in parts for f in part}) == list(range(num_frames))


def test_windows_longer_than_the_overlap_allows_are_refused():
    parts = part_ranges(40, 24, 9)

    with pytest.raises(
        ValueError, match=r"windows of 10 frames do not fit the overlap of 8 frames.*window_frames"
    ):
        owned_starts(parts, 1, 10)
