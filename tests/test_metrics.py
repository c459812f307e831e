"""Figures of videos: by hand, against slow obvious answers, and compared only where they were made alike."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvg_train.errors import TrainError
from lvg_train.metrics import (
    BIN_OF_LEVEL,
    METRICS,
    Metric,
    Motion,
    Recipe,
    Result,
    colour_distance,
    colour_histograms,
    colour_similarity,
    compare,
    earth_movers_distance,
    frame_differences,
    motion,
    motion_distance,
    summarise,
)

RECIPE = Recipe(
    metric="motion",
    version=1,
    stage="low-res",
    dataset="f00d",
    split="train",
    num_windows=2,
    num_frames=3,
    height=4,
    width=6,
    frame_rate="30",
    data_seed=0,
    first_sample_seed=0,
    precision="fast",
)


def plain(*levels: int, height: int = 2, width: int = 2) -> np.ndarray:
    """A video whose frames are of one grey each: uint8 [1, T, H, W, 3]."""
    frames = np.array(levels, np.uint8)[:, None, None, None]
    return np.broadcast_to(frames, (len(levels), height, width, 3))[None].copy()


def noise(num: int, frames: int, seed: int = 0, size: tuple[int, int] = (4, 6)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, frames, *size, 3), np.uint8)


# ---- colour


def test_a_level_falls_into_the_bin_of_the_formula():
    by_formula = [math.floor(19 * Fraction(level, 255) + Fraction(1, 2)) for level in range(256)]

    assert BIN_OF_LEVEL.tolist() == by_formula
    assert (by_formula[0], by_formula[255]) == (0, 19)


def test_a_histogram_counts_the_pixels_of_each_colour():
    frame = np.array([[[0, 0, 255], [0, 0, 255], [255, 0, 0], [13, 0, 0]]], np.uint8)

    (histogram,) = colour_histograms(frame[None])

    assert {int(b): int(histogram[b]) for b in np.flatnonzero(histogram)} == {19: 2, 19 * 400: 1, 400: 1}


def test_similarity_is_the_share_of_the_first_frames_colours_that_is_left():
    black, white = [0, 0, 0], [255, 255, 255]
    frames = [[black] * 4, [black] * 3 + [white], [black, white, white, white], [white] * 4]
    video = np.array(frames, np.uint8).reshape(1, 4, 2, 2, 3)

    assert colour_similarity(video).tolist() == [[1, 0.75, 0.25, 0]]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), frames=st.integers(1, 4), levels=st.integers(1, 255))
def test_similarity_equals_counting_colours_one_by_one(seed: int, frames: int, levels: int):
    videos = noise(2, frames, seed) % levels
    slow = [[overlap(frame, video[0]) for frame in video] for video in videos]

    assert colour_similarity(videos) == pytest.approx(np.array(slow))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    def colours(frame: np.ndarray) -> Counter[tuple[int, ...]]:
        bins = (
            tuple(math.floor(19 * v / 255 + 0.5) for v in pixel.tolist()) for pixel in frame.reshape(-1, 3)
        )
        return Counter(bins)

    return sum((colours(a) & colours(b)).values()) / (a.shape[0] * a.shape[1])


def test_similarity_does_not_see_where_a_colour_is():
    videos = noise(1, 1)
    shuffled = np.random.default_rng(1).permutation(videos.reshape(-1, 3)).reshape(videos.shape)

    assert colour_similarity(np.concatenate([videos, shuffled], axis=1)).tolist() == [[1, 1]]


def test_colours_are_as_far_apart_as_their_levels():
    assert colour_distance(plain(10, 10), plain(40)) == pytest.approx(30)
    assert colour_distance(plain(0, 100), plain(50, 150)) == pytest.approx(50)
    red = plain(10)
    red[..., 0] = 100
    assert colour_distance(red, plain(10)) == pytest.approx(30)  # 90 levels in one channel of three


def test_the_distance_of_a_set_to_itself_is_none_whatever_the_order():
    videos = noise(3, 4)

    assert colour_distance(videos, videos[::-1]) == pytest.approx(0)
    assert motion_distance(videos, videos[::-1]) == 0


def test_every_video_counts_the_same_in_a_distance_of_colours():
    a = np.concatenate([plain(0, 0), plain(100, 100)])

    assert colour_distance(a, plain(50)) == pytest.approx(50)
    assert colour_distance(a, plain(0)) == pytest.approx(50)


# ---- motion


def test_motion_is_the_change_from_frame_to_frame_in_levels():
    assert frame_differences(plain(10, 13, 8)).tolist() == [[3, 5]]
    assert motion(plain(10, 13, 8)) == Motion(mean=4, std=1)
    assert motion(plain(7, 7, 7)) == Motion(0, 0)


def test_levels_do_not_wrap_around():
    assert frame_differences(plain(0, 255, 0)).tolist() == [[255, 255]]


def test_motion_is_averaged_over_pixels_and_channels():
    video = plain(0, 0)
    video[0, 1, 0, 0, 0] = 120  # 1 of 12 numbers

    assert frame_differences(video).tolist() == [[10]]


def test_distances_of_motion_see_its_mean_and_its_spread():
    still, steady, uneven = plain(5, 5, 5), plain(0, 6, 12), plain(0, 2, 12)

    assert motion_distance(still, steady) == 6
    assert motion(steady).mean == motion(uneven).mean
    assert motion_distance(steady, uneven) == 4


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [
        ([0, 0], [1, 3], 2),
        ([0], [1, 1, 1], 1),
        ([0, 1], [0, 0, 1, 1], 0),
        ([0, 4], [2], 2),
        ([5, 1], [1, 5], 0),
    ],
)
def test_earth_movers_distance_by_hand(a: list[float], b: list[float], distance: float):
    assert earth_movers_distance(np.array(a, float), np.array(b, float)) == pytest.approx(distance)
    assert earth_movers_distance(np.array(b, float), np.array(a, float)) == pytest.approx(distance)


@settings(max_examples=50, deadline=None)
@given(numbers=st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=9))
def test_earth_movers_distance_of_equal_counts_is_that_of_sorted_pairs(numbers: list[tuple[int, int]]):
    a, b = np.array(numbers, float).T

    assert earth_movers_distance(a, b) == pytest.approx(np.abs(np.sort(a) - np.sort(b)).mean())


@pytest.mark.parametrize(
    ("videos", "told"),
    [
        (np.zeros((1, 2, 4, 4, 3), np.float32), r"got float32 \[1, 2, 4, 4, 3\]"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"got uint8 \[2, 4, 4, 3\]"),
        (np.zeros((1, 3, 2, 4, 4), np.uint8), r"got uint8 \[1, 3, 2, 4, 4\]"),
        (np.zeros((0, 2, 4, 4, 3), np.uint8), r"got uint8 \[0, 2, 4, 4, 3\]"),
        (np.zeros((1, 1, 4, 4, 3), np.uint8), "T at least 2"),
    ],
)
def test_what_is_no_video_is_refused(videos: np.ndarray, told: str):
    with pytest.raises(ValueError, match=told):
        frame_differences(videos)


# ---- metrics and results


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_measured_chunk_by_chunk_is_that_of_the_whole(name: str):
    metric = METRICS[name]
    videos = noise(5, metric.min_frames + 1)

    chunks = [metric.measure(videos[i : i + 2]) for i in range(0, 5, 2)]

    assert np.concatenate(chunks) == pytest.approx(metric.measure(videos))


@pytest.mark.parametrize("name", METRICS)
def test_a_result_survives_json(name: str):
    measured = METRICS[name].measure(noise(4, 3))
    result = summarise(RECIPE.of_metric(name), "abc", measured[:2], measured[2:])

    assert Result.from_json(json.loads(json.dumps(asdict(result)))) == result
    assert result.recipe.metric == name and result.model == "abc"


def test_a_curve_has_mean_and_spread_over_windows():
    data, samples = np.array([[1, 0.5], [1, 0.7]]), np.array([[1, 0.2], [1, 0.2]])

    result = summarise(RECIPE.of_metric("colour_similarity"), "", data, samples)

    assert result.curves["data_mean"] == pytest.approx([1, 0.6])
    assert result.curves["data_std"] == pytest.approx([0, 0.1])
    assert result.curves["samples_mean"] == pytest.approx([1, 0.2])
    assert result.figures == pytest.approx({"data_last": 0.6, "samples_last": 0.2, "gap": 0.2})


def test_a_metric_of_one_distance_agrees_with_the_function_of_two_sets():
    a, b = noise(2, 3, seed=1), noise(3, 3, seed=2) // 2

    def distance(name: str) -> float:
        metric = METRICS[name]
        return metric.summarise(metric.measure(a), metric.measure(b)).figures["distance"]

    assert distance("colour") == pytest.approx(colour_distance(a, b))
    assert distance("motion") == pytest.approx(motion_distance(a, b))


def test_results_of_one_recipe_stand_beside_each_other_also_of_two_models():
    a = Result(RECIPE, "model a", {"distance": 1.0})
    b = Result(RECIPE, "model b", {"distance": 2.0})

    assert compare(a, b) == {"distance": (1.0, 2.0)}


OTHER = {
    "metric": "colour",
    "version": 2,
    "stage": "super-res",
    "dataset": "beef",
    "split": "test",
    "num_windows": 1000,
    "num_frames": 129,
    "height": 36,
    "width": 64,
    "frame_rate": "25",
    "data_seed": 1,
    "first_sample_seed": 9,
    "precision": "reference",
    "resize": "bilinear 224x224",
    "crop": "centre",
    "extractor": "0123",
}


@pytest.mark.parametrize("name", asdict(RECIPE))
def test_results_of_other_recipes_are_refused_by_the_name_of_what_differs(name: str):
    a = Result(RECIPE, "", {"distance": 1.0})
    b = Result(replace(RECIPE, **{name: OTHER[name]}), "", {"distance": 1.0})

    with pytest.raises(TrainError) as refused:
        compare(a, b)

    assert f"differ in {name} ({getattr(RECIPE, name)} and {OTHER[name]});" in str(refused.value)


def test_everything_that_differs_is_named_at_once():
    a = Result(RECIPE, "", {})
    b = Result(replace(RECIPE, num_windows=7, split="test"), "", {})

    with pytest.raises(TrainError, match=r"split \(train and test\), num_windows \(2 and 7\)"):
        compare(a, b)


def test_what_a_metric_does_to_frames_is_in_the_recipe(monkeypatch: pytest.MonkeyPatch):
    detector = Metric(frame_differences, METRICS["motion"].summarise, 2, 3, "224x224", "centre", "abcd")
    monkeypatch.setitem(METRICS, "fvd", detector)

    recipe = RECIPE.of_metric("fvd")

    assert (recipe.metric, recipe.version) == ("fvd", 3)
    assert (recipe.resize, recipe.crop, recipe.extractor) == ("224x224", "centre", "abcd")
    assert replace(recipe, metric="motion", version=1, resize="none", crop="none", extractor="none") == RECIPE
