"""Windows: every clip once an epoch, starts uniform, ranks disjoint, and an order that never changes."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvg_data.records import Clip
from lvg_data.window import View, Window, Windows, find_windows
from tests.test_pack import clip, video

SEEDS = st.integers(0, 2**64 - 1)
FIVE = Windows(View(3), tuple("abcde"), (10, 1, 100, 7, 1000))


def clip_of(start: int, stop: int, split: str = "train", roles: str = "low+high") -> Clip:
    made = clip(video("v", split), start, stop - start)
    return Clip(**{**vars(made), "in_low": "low" in roles, "in_high": "high" in roles})


# ------------------------------------------------------------------------------------------------ which there are


def test_a_window_spans_its_frames_its_context_and_the_gaps_of_its_stride():
    assert (View(128).length, View(128).span) == (128, 128)
    both = View(num_frames=4, context=4, stride=2, roles=("low", "high"))
    assert (both.length, both.span) == (12, 23)
    assert list(Window("a", 5, 4, 3).frames) == [5, 8, 11, 14]
    assert list(Window("a", 5, 1, 3).frames) == [5]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"num_frames": 4, "stride": 0}, "stride must be at least 1, got 0"),
        ({"num_frames": 4, "context": -1}, "context must be at least 0, got -1"),
        (
            {"num_frames": 4, "roles": ("high",)},
            r"roles must be \('low',\) or \('low', 'high'\), got \('high',\)",
        ),
    ],
)
def test_a_view_that_means_nothing_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        View(**fields)


def test_clips_that_are_long_enough_and_of_the_resolution_and_split_have_windows():
    clips = [
        clip_of(0, 9),
        clip_of(10, 20),
        clip_of(30, 42),
        clip_of(50, 90, roles="high"),
        clip_of(100, 150, roles="low"),
        clip_of(200, 250, split="val"),
    ]

    low = find_windows(clips, View(10))
    high = find_windows(clips, View(4, stride=2, context=1, roles=("low", "high")))  # spans 11 frames

    assert low.clips == tuple(clips[i].clip_id for i in (1, 2, 4))
    assert low.num_starts == (1, 3, 41)
    assert high.clips == tuple(clips[i].clip_id for i in (2, 3))
    assert high.num_starts == (2, 30)
    assert find_windows(clips, View(10), split="val").num_starts == (41,)


def test_a_view_longer_than_any_clip_is_refused_with_the_numbers():
    with pytest.raises(
        ValueError, match=r"spans 21 frames \(11 at stride 2\).* 2 low-res clips .*'train' has 12"
    ):
        find_windows([clip_of(0, 9), clip_of(10, 22), clip_of(30, 90, roles="high")], View(11, stride=2))


def test_a_split_without_clips_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"split 'vall'; clips by split: train \(2\), val \(1\)"):
        find_windows([clip_of(0, 9), clip_of(9, 20), clip_of(20, 40, "val")], View(4), "vall")


# ------------------------------------------------------------------------------------------------------ the order


def test_the_order_is_the_one_it_has_always_been():
    """Literal values: another order would not go on where a checkpoint stopped."""
    drawn = [FIVE.draw_window(index, seed=7) for index in range(12)]

    assert [window.clip for window in drawn] == list("ebdcadbceaea")
    assert [window.start for window in drawn] == [832, 0, 0, 49, 7, 2, 0, 27, 636, 4, 410, 0]
    assert {(window.length, window.stride) for window in drawn} == {(3, 1)}


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 from the paper (Salmon et al. 2011): one block of four words."""
    mask, (c0, c1, c2, c3), (k0, k1) = (1 << 64) - 1, counter, key
    for _ in range(10):
        a, b = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = b >> 64 ^ c1 ^ k0, b & mask, a >> 64 ^ c3 ^ k1, a & mask
        k0, k1 = k0 + 0x9E3779B97F4A7C15 & mask, k1 + 0xBB67AE8584CAA73B & mask
    return [c0, c1, c2, c3]


@given(seed=SEEDS, epoch=st.integers(0, 2**40))
def test_the_order_is_that_of_the_documented_generator(seed, epoch):
    words = {
        stream: [word for block in (1, 2) for word in philox([block, 0, 0, stream], [seed, epoch])][:5]
        for stream in (0, 1)
    }
    order = sorted(range(5), key=lambda c: words[0][c])
    starts = [words[1][i] * FIVE.num_starts[c] >> 64 for i, c in enumerate(order)]

    drawn = [FIVE.draw_window(epoch * 5 + i, seed) for i in range(5)]

    assert [(w.clip, w.start) for w in drawn] == [("abcde"[c], s) for c, s in zip(order, starts, strict=True)]


@given(
    num_starts=st.lists(st.integers(1, 10**6), min_size=1, max_size=40), seed=SEEDS, epoch=st.integers(0, 99)
)
def test_every_clip_comes_once_an_epoch_with_a_start_that_fits(num_starts, seed, epoch):
    windows = Windows(View(3), tuple(map(str, range(len(num_starts)))), tuple(num_starts))
    first = epoch * len(num_starts)

    drawn = [windows.draw_window(index, seed) for index in range(first, first + len(num_starts))]

    assert sorted(w.clip for w in drawn) == sorted(windows.clips)
    assert all(0 <= w.start < num_starts[int(w.clip)] for w in drawn)


def chi_square(counts: list[int], expected: float) -> float:
    return sum((count - expected) ** 2 / expected for count in counts)


def test_starts_are_uniform():
    """Chi-square against the analytic odds; the limits are the 99.9% points for the degrees of freedom."""
    windows = Windows(View(3), ("short", "long"), (4, 13))
    drawn = Counter(
        (w.clip, w.start) for w in (windows.draw_window(index, seed=3) for index in range(2 * 13_000))
    )

    assert chi_square([drawn["short", start] for start in range(4)], 13_000 / 4) < 16.27  # 3 degrees
    assert chi_square([drawn["long", start] for start in range(13)], 13_000 / 13) < 32.91  # 12 degrees
    assert sum(drawn.values()) == 26_000


def test_every_order_of_the_clips_is_as_likely():
    windows = Windows(View(3), tuple("abc"), (1, 1, 1))
    orders = Counter(
        tuple(windows.draw_window(3 * epoch + i, seed=5).clip for i in range(3)) for epoch in range(6_000)
    )

    assert chi_square([orders[order] for order in permutations("abc")], 1000) < 20.52  # 5 degrees


def test_starts_of_neighbouring_epochs_and_seeds_are_independent():
    one = Windows(View(3), ("a",), (1 << 20,))
    epochs = np.array([one.draw_window(index, seed=1).start for index in range(2000)], float)
    seeds = np.array([one.draw_window(0, seed=seed).start for seed in range(2000)], float)

    for values in (epochs, seeds):
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.08  # 3.5 standard deviations


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_is_no_64_bit_number_is_refused(seed):
    with pytest.raises(ValueError, match=f"seed must be from 0 to 2\\^64 - 1, got {seed}"):
        FIVE.draw_window(0, seed)
    with pytest.raises(ValueError, match=r"index must be from 0 to .*, got -3"):
        FIVE.draw_window(-3, 0)


# ---------------------------------------------------------------------------------------------------------- ranks


@given(num_ranks=st.integers(1, 5), batch=st.integers(1, 7), seed=SEEDS, first_step=st.integers(0, 1000))
def test_ranks_and_steps_share_out_the_stream_without_gap_or_overlap(num_ranks, batch, seed, first_step):
    shared = [
        FIVE.windows_of(rank, num_ranks, batch, seed, step)
        for step in range(first_step, first_step + 3)
        for rank in range(num_ranks)
    ]
    first = first_step * num_ranks * batch

    assert {len(windows) for windows in shared} == {batch}
    stream = [FIVE.draw_window(first + i, seed) for i in range(3 * num_ranks * batch)]
    assert [window for windows in shared for window in windows] == stream


@pytest.mark.parametrize(
    ("rank", "num_ranks", "batch", "message"),
    [
        (2, 2, 1, "rank must be 0 to 1 for 2 ranks, got 2"),
        (-1, 2, 1, "rank must be 0 to 1 for 2 ranks, got -1"),
        (0, 1, 0, "batch must be at least 1 window, got 0"),
        (0, 6, 1, "6 ranks share 5 clips of 3 frames or more, so that some would have no data"),
        (
            0,
            2,
            600,
            r"a step takes 1200 windows \(2 ranks x 600\), and the 5 clips of 3 frames or more have 1118",
        ),
    ],
)
def test_ranks_that_cannot_be_served_are_refused_with_the_numbers(rank, num_ranks, batch, message):
    with pytest.raises(ValueError, match=message):
        FIVE.windows_of(rank, num_ranks, batch, 0, 0)
