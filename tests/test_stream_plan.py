"""The order of streaming: the odds of random access, ranks disjoint, and a pure function of the index."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvg_train.stream_plan import Load, Piece, StreamPlan, shuffled

#: clips of 7, 3 and 5 starts, the first in two parts; shards 4 and 6 hold one clip each, shard 5 one and a half
PIECES = (
    Piece(0, 4, "a0", 0, range(0, 5)),
    Piece(0, 5, "a1", 4, range(5, 7)),
    Piece(1, 5, "b0", 0, range(0, 3)),
    Piece(2, 6, "c0", 0, range(0, 5)),
)
PLAN = StreamPlan(PIECES, (7, 3, 5), seed=7, rank=0, num_ranks=1, windows_per_clip=4, shuffle_windows=6)


def take(plan: StreamPlan, num_windows: int) -> list[Load]:
    """The first loads of a stream, of so many windows at least."""
    return list(itertools.takewhile(lambda load: load.first < num_windows, plan.loads()))


def windows_of(loads: list[Load]) -> list[tuple[int, int]]:
    """Clip and start of every window."""
    return [
        (PIECES[piece].clip, int(start))
        for load in loads
        for piece, start in zip(load.pieces, load.starts, strict=True)
    ]


def epochs_of(plan: StreamPlan, num_epochs: int) -> list[list[tuple[int, int]]]:
    """Windows of all ranks by epoch, told by the shards: each comes once an epoch on one of the ranks."""
    epochs: list[list[tuple[int, int]]] = [[] for _ in range(num_epochs)]
    for rank in range(plan.num_ranks):
        for epoch in range(num_epochs):
            _, pieces, starts, _ = replace(plan, rank=rank)._draw_epoch(epoch)
            epochs[epoch] += [(PIECES[p].clip, int(s)) for p, s in zip(pieces, starts, strict=True)]
    return epochs


# ----------------------------------------------------------------------------------------------------------- odds


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_every_clip_gives_as_many_windows_an_epoch_whatever_its_length(num_ranks):
    for windows in epochs_of(replace(PLAN, num_ranks=num_ranks), 50):
        assert Counter(clip for clip, _ in windows) == {0: 4, 1: 4, 2: 4}


def test_the_windows_of_a_clip_lie_one_in_each_stretch_of_its_starts():
    """Four windows of 7 starts: from [0, 1.75), [1.75, 3.5), [3.5, 5.25) and [5.25, 7), rounded down."""
    stretches = [{0, 1}, {1, 2, 3}, {3, 4, 5}, {5, 6}]
    for windows in epochs_of(PLAN, 100):
        starts = sorted(start for clip, start in windows if clip == 0)
        assert all(start in stretch for start, stretch in zip(starts, stretches, strict=True))


def chi_square(counts: list[int], expected: float) -> float:
    return sum((count - expected) ** 2 / expected for count in counts)


@pytest.mark.parametrize("per_clip", [1, 3, 4, 20])
def test_every_start_of_a_clip_is_as_likely(per_clip):
    """99.9% points for 6, 2 and 4 degrees; draws from stretches vary less than independent ones."""
    num_epochs = 7 * 3 * 5 * 40 // per_clip
    drawn = Counter(
        itertools.chain.from_iterable(epochs_of(replace(PLAN, windows_per_clip=per_clip), num_epochs))
    )

    for clip, (num_starts, limit) in enumerate([(7, 22.46), (3, 13.82), (5, 18.47)]):
        expected = num_epochs * per_clip / num_starts
        assert chi_square([drawn[clip, start] for start in range(num_starts)], expected) < limit
    assert sum(drawn.values()) == 3 * per_clip * num_epochs


@pytest.mark.parametrize("rank", [0, 1])
def test_in_the_long_run_each_rank_sees_every_clip_as_often(rank):
    """Two ranks share three unequal shards, so that one epoch favours clips and their mean does not."""
    plan = replace(PLAN, rank=rank, num_ranks=2)
    shares = Counter(clip for clip, _ in windows_of(take(plan, 24_000)))

    # a standard deviation of 0.006 at most, measured over 30 seeds
    assert {clip: pytest.approx(1 / 3, abs=0.018) for clip in range(3)} == {
        clip: count / shares.total() for clip, count in shares.items()
    }


def test_a_window_comes_from_the_part_that_owns_it():
    for load in take(PLAN, 500):
        for number, start in zip(load.pieces, load.starts, strict=True):
            assert start in PIECES[number].owned
            assert PIECES[number].shard == load.shard


# ---------------------------------------------------------------------------------------------------------- order


def test_the_order_is_the_one_it_has_always_been():
    """Literal values: another order would not go on where a checkpoint stopped."""
    loads = take(PLAN, 24)

    assert [(load.shard, load.first, load.stop) for load in loads] == [
        (6, 0, 4), (5, 4, 9), (4, 9, 12),
        (5, 12, 17), (6, 17, 21), (4, 21, 24),
    ]  # fmt: skip
    assert windows_of(loads[:3]) == [
        (2, 2), (2, 3), (2, 2), (2, 0),
        (1, 1), (0, 5), (1, 0), (1, 2), (1, 2),
        (0, 3), (0, 0), (0, 3),
    ]  # fmt: skip
    assert np.concatenate([load.delays for load in loads[:3]]).tolist() == [
        1,
        1,
        4,
        1,
        1,
        1,
        2,
        5,
        0,
        4,
        4,
        1,
    ]


def test_every_shard_comes_once_an_epoch_and_in_every_order():
    runs = [load.shard for load in take(PLAN, 12 * 600)]
    orders = Counter(tuple(runs[i : i + 3]) for i in range(0, 1800, 3))

    assert set(orders) == set(itertools.permutations((4, 5, 6)))
    assert chi_square(list(orders.values()), 100) < 20.52  # 99.9% point, 5 degrees


def test_indices_count_the_windows_of_a_rank_without_gaps():
    for rank in range(2):
        loads = take(replace(PLAN, rank=rank, num_ranks=2), 200)
        assert [load.first for load in loads[1:]] == [load.stop for load in loads[:-1]]
        assert loads[0].first == 0
        assert all(load.stop > load.first for load in loads)


@settings(max_examples=30, deadline=None)
@given(index=st.integers(0, 100), rank=st.integers(0, 2))
def test_loads_go_on_from_any_index(index, rank):
    plan = replace(PLAN, rank=rank, num_ranks=3)
    wanted = [load for load in take(plan, 150) if load.stop > index]

    for found, expected in zip(plan.loads(index), wanted, strict=False):
        assert (found.shard, found.first) == (expected.shard, expected.first)
        for column in ("pieces", "starts", "delays"):
            assert np.array_equal(getattr(found, column), getattr(expected, column))


@given(
    delays=st.lists(st.sampled_from((0, 0, 2, 5, 5)), min_size=40, max_size=40),
    first_place=st.integers(0, 25),
    num_places=st.integers(1, 8),
)
def test_a_stretch_of_the_order_is_found_from_the_indices_near_it(delays, first_place, num_places):
    whole = sorted(range(40), key=lambda i: (i + delays[i], i))
    places = range(first_place, first_place + num_places)
    first, last = PLAN.earliest(places[0]), PLAN.latest(places[-1])

    near = shuffled(np.array(delays[first : last + 1]), first, places)

    assert near.tolist() == whole[places.start : places.stop]
    assert all(abs(place - index) < PLAN.shuffle_windows for place, index in enumerate(whole))


def test_delays_are_uniform_below_the_length_of_the_shuffle():
    delays = np.concatenate([load.delays for load in take(PLAN, 6000)])[:6000]

    assert chi_square(np.bincount(delays, minlength=6).tolist(), 1000) < 20.52  # 99.9% point, 5 degrees


def test_a_shuffle_of_one_window_leaves_the_order_of_the_shards():
    plan = replace(PLAN, shuffle_windows=1)
    delays = take(plan, 10)[0].delays

    assert shuffled(delays, 0, range(4)).tolist() == [0, 1, 2, 3]


def test_other_seeds_have_other_orders():
    orders = {tuple(windows_of(take(replace(PLAN, seed=seed), 24))) for seed in range(20)}

    assert len(orders) == 20
