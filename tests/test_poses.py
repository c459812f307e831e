"""Camera poses: which frame each belongs to, and what a crop makes of the intrinsics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvg_data.poses import POSE, crop_intrinsics, match, pose_arrays, read_track
from lvg_data.records import Track
from lvg_data.render import Crop, Geometry, crop_of

NAN = float("nan")
WHOLE = Crop(0, 0, 640, 360)


def table(*times_ms: float) -> np.ndarray:
    """POSE [N]; row n has the focal length n and a pose full of n."""
    rows = np.zeros(len(times_ms), POSE)
    rows["time_us"] = [round(t * 1000) for t in times_ms]
    rows["intrinsics"] = np.arange(len(rows))[:, None]
    rows["pose"] = np.arange(len(rows))[:, None, None]
    return rows


def matched(poses_ms: list[float], frames_ms: list[float], tolerance_ms: float = 20) -> list[int]:
    return match(table(*poses_ms), np.array(frames_ms) / 1000, tolerance_ms / 1000).tolist()


# ---- which frame a pose belongs to


def test_a_pose_belongs_to_the_frame_nearest_in_time():
    assert matched([0.2, 33.1, 66.9], [0, 33.367, 66.733, 100.1]) == [0, 1, 2, -1]


def test_a_pose_further_away_than_the_tolerance_belongs_to_no_frame():
    assert matched([0, 120], [0, 100], 20) == [0, 1]
    assert matched([0, 120.001], [0, 100], 20) == [0, -1]


def test_the_tolerance_itself_is_exact_where_floats_are_not():
    # 1.12 - 1.1 is a little more than 0.02 in float64
    assert 1.12 - 1.1 > 0.02
    assert matched([1120], [1100], 20) == [0]


def test_a_frame_gets_the_nearest_of_several_poses_and_of_two_equals_the_first():
    assert matched([90, 99, 120], [0, 100]) == [-1, 1]
    assert matched([95, 105], [100]) == [0]
    assert matched([100, 100], [100]) == [0]


def test_of_two_equally_near_frames_the_earlier_gets_the_pose():
    assert matched([10], [0, 20]) == [0, -1]


def test_of_a_repeated_frame_the_first_gets_the_pose():
    assert matched([40], [0, 40, 40, 80]) == [-1, 0, -1, -1]


def test_nothing_matches_where_there_is_no_pose_or_no_frame():
    assert matched([], [0, 1]) == [-1, -1]
    assert matched([0], []) == []


def slow_match(poses_us: list[int], frames_us: list[int], tolerance_us: int) -> list[int]:
    best: dict[int, tuple[int, int]] = {}
    for number, pose in enumerate(poses_us):
        distance, frame = min((abs(time - pose), frame) for frame, time in enumerate(frames_us))
        if distance <= tolerance_us and (distance, number) < best.get(frame, (distance + 1, 0)):
            best[frame] = (distance, number)
    return [best[frame][1] if frame in best else -1 for frame in range(len(frames_us))]


times = st.lists(st.integers(0, 300), max_size=20)


@given(times, times.filter(bool), st.integers(1, 60))
def test_matching_equals_a_search_of_all_pairs(poses_us, frames_us, tolerance_us):
    frames_us.sort()
    rows = table(*(t / 1000 for t in poses_us))

    found = match(rows, np.array(frames_us) / 1e6, tolerance_us / 1e6)

    assert found.tolist() == slow_match(poses_us, frames_us, tolerance_us)


def test_a_frame_without_a_pose_is_nan_in_both_arrays():
    poses, intrinsics = pose_arrays(table(0, 33), np.array([1, -1, 0]), Geometry(), WHOLE, 640, 360)

    assert (poses.shape, poses.dtype) == ((3, 3, 4), np.float64)
    assert (intrinsics.shape, intrinsics.dtype) == ((3, 4), np.float64)
    np.testing.assert_array_equal(poses[:, 0, 0], [1, NAN, 0])
    np.testing.assert_array_equal(intrinsics[:, 0], [1, NAN, 0])


# ---- reading the table


@pytest.fixture
def stored(tmp_path):
    """Address of a table of 1,000 poses at 0, 1, 2 ... ms."""
    path = tmp_path / "poses.npy"
    np.save(path, table(*range(1000)))
    return str(path)


@pytest.mark.parametrize(("start", "stop"), [(0, 1000), (0, 1), (999, 1000), (10, 20), (5, 5)])
def test_a_track_is_its_rows_of_the_table(stored, start, stop):
    rows = read_track(Track("s", stored, start, stop, 0.02))

    assert rows.dtype == POSE
    np.testing.assert_array_equal(rows, table(*range(1000))[start:stop])


def test_a_remote_track_reads_its_rows_and_nothing_else(stored, monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    fs = MemoryFileSystem()
    fs.put_file(stored, "/poses.npy")
    asked = []
    original = MemoryFileSystem.cat_file
    monkeypatch.setattr(
        MemoryFileSystem,
        "cat_file",
        lambda self, path, start, end: asked.append(end - start) or original(self, path, start, end),
    )

    rows = read_track(Track("s", "memory://poses.npy", 500, 520, 0.02))

    assert rows["time_us"].tolist() == list(range(500_000, 520_000, 1000))
    assert asked == [4096, 20 * POSE.itemsize]


def test_rows_that_the_table_does_not_have_are_an_error(stored):
    with pytest.raises(ValueError, match=r"poses\.npy is no pose table with rows 990 to 1001: 1000 rows of"):
        read_track(Track("s", stored, 990, 1001, 0.02))


def test_another_array_is_no_pose_table(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(50))

    with pytest.raises(ValueError, match=r"a\.npy is no pose table with rows 0 to 1: 50 rows of float64"):
        read_track(Track("s", str(tmp_path / "a.npy"), 0, 1, 0.02))


# ---- intrinsics of the crop


def cropped(intrinsics: list[float], crop: Crop, width: int, height: int, rotation: int = 0) -> list[float]:
    return crop_intrinsics(np.array([intrinsics]), crop, width, height, rotation)[0].tolist()


def test_the_whole_picture_keeps_its_intrinsics():
    assert cropped([0.9, 1.6, 0.5, 0.4], WHOLE, 640, 360) == [0.9, 1.6, 0.5, 0.4]


def test_a_centred_square_of_a_wide_picture_widens_fx_and_keeps_the_centre():
    crop = crop_of(Geometry(), 640, 360, 256, 256)
    assert crop == Crop(140, 0, 500, 360)

    assert cropped([0.9, 1.6, 0.5, 0.5], crop, 640, 360) == pytest.approx([1.6, 1.6, 0.5, 0.5])


def test_a_crop_that_is_not_centred_moves_the_centre():
    # of 200x100, the right upper quarter: its centre of projection is at its left bottom corner
    assert cropped([1, 2, 0.5, 0.5], Crop(100, 0, 200, 50), 200, 100) == pytest.approx([2, 4, 0, 1])


def test_dark_bars_are_cropped_like_any_edge():
    # bars of 45 rows above and below, then everything that is left is squashed
    crop = crop_of(Geometry(bars=(45, 45, 0, 0), squash=True), 640, 360, 64, 64)

    assert cropped([0.9, 1.2, 0.5, 0.5], crop, 640, 360) == pytest.approx([0.9, 1.6, 0.5, 0.5])


def test_a_frame_without_a_pose_has_no_intrinsics_after_the_crop():
    assert np.isnan(cropped([NAN] * 4, Crop(1, 1, 9, 9), 10, 10)).all()


def painted(width: int, height: int, x: int, y: int) -> np.ndarray:
    picture = np.zeros((height, width), np.uint8)
    picture[y, x] = 1
    return picture


@given(
    st.sampled_from([0, 90, 180, 270]),
    st.tuples(st.integers(0, 19), st.integers(0, 11)),
    st.tuples(st.integers(0, 19), st.integers(1, 20), st.integers(0, 11), st.integers(1, 12)),
)
def test_a_point_is_where_the_cropped_intrinsics_project_it(rotation, pixel, edges):
    """A point is painted into the coded picture; the picture is turned and cropped as `render` does it."""
    left, right, top, bottom = edges
    x, y = pixel
    if not (left <= x < right and top <= y < bottom):
        return
    coded = painted(20, 12, x, y)
    upright = np.rot90(coded, rotation // 90)
    kept = np.rot90(coded[top:bottom, left:right], rotation // 90)
    (v,), (u,) = np.nonzero(upright)
    (kept_v,), (kept_u,) = np.nonzero(kept)
    focal, centre = np.array([0.7, 1.1]), np.array([0.4, 0.6])
    direction = ((np.array([u, v]) + 0.5) / np.array(upright.shape)[::-1] - centre) / focal

    found = crop_intrinsics(
        np.concatenate([focal, centre])[None], Crop(left, top, right, bottom), 20, 12, rotation
    )[0]

    projected = found[:2] * direction + found[2:]
    np.testing.assert_allclose(
        projected, (np.array([kept_u, kept_v]) + 0.5) / np.array(kept.shape)[::-1], atol=1e-12
    )


def test_a_picture_is_turned_by_quarters_only():
    with pytest.raises(ValueError, match="turned by multiples of 90 degrees, got 45"):
        cropped([1, 1, 0.5, 0.5], Crop(0, 0, 8, 8), 8, 8, 45)
