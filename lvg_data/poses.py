"""Camera poses of ACID and RealEstate10K: the stored table, and its match with the frames of a clip.

A row is one line of a sequence file. Its 19 columns are, as the released files have them: timestamp in whole
microseconds; fx, fy, cx, cy as fractions of the picture's width and height; two zeros; the 3x4 world-to-camera
matrix [R | t], row by row, OpenCV's axes (x right, y down, z forward). The format page of RealEstate10K
(https://google.github.io/realestate10k/download.html) lists the same fields, but the ranges of columns that it
gives do not add up to 19.
"""

from __future__ import annotations

import io

import fsspec
import numpy as np

from lvg_data.arrays import read_header
from lvg_data.records import Track
from lvg_data.render import Crop, Geometry

#: raised when the same rows would be matched or turned into cameras otherwise
VERSION = 1
#: one listed pose: time_us since the video's first frame; intrinsics fx, fy, cx, cy as fractions; pose [R | t]
POSE = np.dtype([("time_us", "<i8"), ("intrinsics", "<f8", (4,)), ("pose", "<f8", (3, 4))])
#: more than any header of a pose table has
_HEADER_BYTES = 4096


def read_track(track: Track) -> np.ndarray:
    """POSE [N], in order of time: the rows of one sequence. Of a remote table nothing else is read.

    Raises:
      ValueError: the file is no pose table, or ends before the track's rows.
    """
    fs, path = fsspec.url_to_fs(track.address)
    head = io.BytesIO(fs.cat_file(path, 0, _HEADER_BYTES))
    version = np.lib.format.read_magic(head)
    if version != (1, 0):
        raise ValueError(f"{track.address} is no pose table: npy version {version}")
    (num_rows,), _, dtype = read_header(head)
    if dtype != POSE or not 0 <= track.start_row <= track.stop_row <= num_rows:
        rows = f"rows {track.start_row} to {track.stop_row}"
        raise ValueError(f"{track.address} is no pose table with {rows}: {num_rows} rows of {dtype}")
    if track.start_row == track.stop_row:
        return np.zeros(0, POSE)
    start, stop = (head.tell() + row * POSE.itemsize for row in (track.start_row, track.stop_row))
    return np.frombuffer(fs.cat_file(path, start, stop), POSE)


def match(rows: np.ndarray, frame_times_s: np.ndarray, tolerance_s: float) -> np.ndarray:
    """Which listed pose belongs to each frame.

    A pose belongs to the frame nearest to it in time (of two equally near the earlier one), if that is at most
    `tolerance_s` away. Of several that belong to one frame it gets the nearest, else the first.

        poses      0     33    66    99       120          ms
        frames   |0     |33         |100                   one frame was dropped by the uploader
        index     0      1           3                     66 and 120 are nobody's

    Args:
      rows: POSE [N], in any order.
      frame_times_s: float64 [T], seconds, not decreasing.

    Returns:
      int64 [T]: positions in `rows`, -1 where a frame has no pose.
    """
    index = np.full(len(frame_times_s), -1, np.int64)
    if not (len(rows) and len(frame_times_s)):
        return index
    # whole nanoseconds, so that "at most" is exact
    poses, frames = rows["time_us"] * 1000, np.rint(frame_times_s * 1e9).astype(np.int64)
    nearest = np.searchsorted(frames[:-1] + frames[1:], 2 * poses, side="left")
    nearest = np.searchsorted(frames, frames[nearest], side="left")  # of a repeated frame the first
    distance = np.abs(frames[nearest] - poses)
    near = np.flatnonzero(distance <= round(tolerance_s * 1e9))
    best_last = near[np.lexsort((-near, -distance[near]))]
    index[nearest[best_last]] = best_last  # where a frame is named more than once, the last one stays
    return index


def pose_arrays(
    rows: np.ndarray, index: np.ndarray, geometry: Geometry, crop: Crop, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cameras of the pictures that a dataset stores, frame by frame.

    Args:
      rows: POSE [N].
      index: int64 [T] by `match`.
      geometry, crop, width, height: of the video's coded picture, see `crop_intrinsics`.

    Returns:
      float64 [T, 3, 4] world-to-camera and float64 [T, 4] fx, fy, cx, cy as fractions of the stored picture;
      NaN where a frame has no pose.
    """
    poses, intrinsics = np.full((len(index), 3, 4), np.nan), np.full((len(index), 4), np.nan)
    matched = index >= 0
    poses[matched] = rows["pose"][index[matched]]
    intrinsics[matched] = rows["intrinsics"][index[matched]]
    return poses, crop_intrinsics(intrinsics, crop, width, height, geometry.rotation_degrees)


def crop_intrinsics(
    intrinsics: np.ndarray, crop: Crop, width: int, height: int, rotation_degrees: int = 0
) -> np.ndarray:
    """Intrinsics of the pictures that a dataset stores, from those of the whole picture.

    Both are fractions of their own picture's width and height, so that neither the size that it is resized to
    nor squashing nor the shape of its pixels changes them; only the crop does:

        0        left          cx*width        right      width
        |---------|----------------+--------------|----------|      cx' = (cx * width - left) / (right - left)
                  |<------- right - left -------->|                 fx' =  fx * width         / (right - left)

    Listed intrinsics and poses are taken to be those of the picture as it is displayed: upright, dark bars
    included. A rotation therefore turns the crop, which is in coded pixels, and not the camera.

    Args:
      intrinsics: float64 [T, 4], fx, fy, cx, cy; NaN stays NaN.
      crop: in pixels of the coded picture, as `render.crop_of` gives it.
      width, height: of the coded picture.
      rotation_degrees: counter-clockwise turn that makes the coded picture upright, a multiple of 90.

    Returns:
      float64 [T, 4].
    """
    crop, width, height = _upright(crop, width, height, rotation_degrees)
    scale = np.array([width / (crop.right - crop.left), height / (crop.bottom - crop.top)])
    start = np.array([crop.left / width, crop.top / height])
    focal, centre = intrinsics[:, :2], intrinsics[:, 2:]
    return np.concatenate([focal * scale, (centre - start) * scale], axis=1)


def _upright(crop: Crop, width: int, height: int, rotation_degrees: int) -> tuple[Crop, int, int]:
    """The crop in pixels of the upright picture, and that picture's width and height.

    A quarter turn counter-clockwise puts the right edge on top: coded (x, y) -> upright (y, width - x).
    """
    if rotation_degrees % 90:
        raise ValueError(f"a picture is turned by multiples of 90 degrees, got {rotation_degrees}")
    for _ in range(rotation_degrees // 90 % 4):
        crop = Crop(crop.top, width - crop.right, crop.bottom, width - crop.left)
        width, height = height, width
    return crop, width, height
