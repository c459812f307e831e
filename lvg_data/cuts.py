"""Where scenes change: frames -> scores -> cuts.

PySceneDetect's detectors (or TransNetV2, in a child process) propose cuts from the rendered low-res frames. What
they leave open is settled here, in one pass that keeps a few frames and 50 numbers a frame:

    flashes     a cut has to last: no frame before it may look like a frame after it
    fades       dark frames, and the dimming on both sides, become one soft cut
    dissolves   colours that move in a straight line to another picture, and were at rest before and after

Settings were chosen with `benchmarks/cuts.py`, on rides and footage that its report does not use.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction

import cv2
import numpy as np
from scenedetect.common import FrameTimecode
from scenedetect.detector import SceneDetector
from scenedetect.detectors import (
    AdaptiveDetector,
    ContentDetector,
    HashDetector,
    HistogramDetector,
    ThresholdDetector,
)

from lvg_data.config import CutConfig
from lvg_data.records import Cut

#: raised when the same frames would give other cuts
VERSION = 1

#: detector -> the threshold it has when the card gives none
DEFAULT_THRESHOLDS = {"adaptive": 3.0, "content": 27.0, "hash": 0.35, "histogram": 0.05, "transnetv2": 0.5}
#: smallest mean HSV difference of a cut; PySceneDetect's 15 misses cuts between similar places
MIN_CONTENT = 10.0
#: a flash is at most this long
FLASH_FRAMES = 4
#: what lasts of a real cut's difference; flashes keep up to 0.6, real cuts 0.83 and more
LASTING_SHARE = 0.7

#: a fade's dimming reaches as far as its level rises away from the dark by this share of the brightest
FADE_STEP_SHARE = 0.005

#: dissolves: colours are compared on this grid, over this many seconds
GRID_SIZE = 4
DISSOLVE_S = Fraction(4, 5)
MIN_DISSOLVE_CHANGE = 16.0  # mean level
MIN_DISSOLVE_STRAIGHTNESS = 0.7  # of the way that colours went, what brought them farther
MIN_DISSOLVE_RATIO = 1.6  # to the change in as many frames before or after
MAX_DISSOLVE_STEP = 0.25  # of the change, in one frame: more is a hard cut or a flash

TRANSNET_HEIGHT, TRANSNET_WIDTH = 27, 48
TRANSNET_MODULE = "lvg_train.transnet"


def find_cuts(frames: Iterable[np.ndarray], frame_rate: Fraction, config: CutConfig) -> list[Cut]:
    """Every change of scene in a video, in order and apart from each other.

    Args:
      frames: uint8 [H, W, 3] sRGB, low-res and rendered, in order; read once. About 200 bytes of each are kept.
      frame_rate: frames per second of `frames`.
      config: see `CutConfig`. A detector of "none" finds nothing.

    Returns:
      Hard cuts, and soft ones widened by `guard_frames` and clamped to the video. Cuts with fewer than
      `min_scene_frames` between them are one soft cut: such frames are no scene, and a scene holds no cut.

    Raises:
      RuntimeError: the detector is transnetv2 and its child failed, for one because its package is not installed.
    """
    if config.detector == "none":
        return []
    watch = _Watch()
    threshold = DEFAULT_THRESHOLDS[config.detector] if config.threshold is None else config.threshold
    if config.detector == "transnetv2":
        cuts = find_neural_cuts(watch.pass_on(frames), threshold)
    else:
        cuts = find_hard_cuts(watch.pass_on(frames), frame_rate, config.detector, threshold)
        cuts += find_dissolves(watch.colours(), frame_rate)
    if config.fade_threshold is not None:
        cuts += find_fades(watch.levels(), config.fade_threshold)
    return separate_cuts(cuts, len(watch), config.guard_frames, config.min_scene_frames)


class _Watch:
    """Remembers the mean colours of frames that pass by."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._rows)

    def pass_on(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for frame in frames:
            # INTER_AREA is a mean over each block; one more row and column of blocks than needed costs nothing
            self._rows.append(cv2.resize(frame.astype(np.float32), (GRID_SIZE, GRID_SIZE), interpolation=cv2.INTER_AREA))
            yield frame

    def colours(self) -> np.ndarray:
        """float32 [T, GRID_SIZE * GRID_SIZE * 3], 0..255: mean colours of the blocks of each frame."""
        return np.reshape(self._rows, (len(self._rows), GRID_SIZE * GRID_SIZE * 3))

    def levels(self) -> np.ndarray:
        """float32 [T], 0..255: mean level of each frame."""
        return self.colours().mean(axis=1)


# ---- hard cuts


def _make_detector(name: str, threshold: float) -> SceneDetector:
    """A detector of PySceneDetect without its own minimum scene length, which hides cuts instead of scenes."""
    if name == "adaptive":
        return AdaptiveDetector(threshold, min_scene_len=0, min_content_val=MIN_CONTENT)
    makers: dict[str, Callable[..., SceneDetector]] = {
        "content": ContentDetector,
        "hash": HashDetector,
        "histogram": HistogramDetector,
    }
    return makers[name](threshold=threshold, min_scene_len=0)


def find_hard_cuts(frames: Iterable[np.ndarray], frame_rate: Fraction, detector: str, threshold: float) -> list[Cut]:
    """Hard cuts that a detector of PySceneDetect proposes and that last.

    Args:
      frames: uint8 [H, W, 3] sRGB, in order.
      detector: "adaptive", "content", "hash" or "histogram".
      threshold: the detector's own.
    """
    scorer = _make_detector(detector, threshold)
    reach = FLASH_FRAMES + 1
    recent: deque[np.ndarray] = deque(maxlen=2 * reach + scorer.event_buffer_length)
    proposed: deque[int] = deque()
    found, num_frames = [], 0
    for index, frame in enumerate(frames):
        bgr = np.ascontiguousarray(frame[..., ::-1])  # OpenCV's order
        recent.append(bgr)
        num_frames = index + 1
        proposed.extend(cut.frame_num for cut in scorer.process_frame(_timecode(index, frame_rate), bgr))
        while proposed and proposed[0] + reach <= num_frames:
            found.append(_lasting(proposed.popleft(), num_frames, recent))
    found += [_lasting(cut, num_frames, recent) for cut in proposed]
    return [Cut(cut, cut, detector) for cut in found if cut is not None]


def _timecode(index: int, frame_rate: Fraction) -> FrameTimecode:
    # PySceneDetect refuses whole numbers, a Fraction among them
    return FrameTimecode(index, fps=float(frame_rate))


def _lasting(cut: int, num_frames: int, recent: deque[np.ndarray]) -> int | None:
    """The cut, unless a frame shortly before it looks like one shortly after it.

        flash   A A A W W A A A
                      ^ cut       the A before is like the A after

    Args:
      cut: first frame of the new scene.
      num_frames: seen so far; the last of them is the last of `recent`, uint8 [H, W, 3] BGR each.
    """
    first = num_frames - len(recent)
    before = [recent[i - first] for i in range(max(first, cut - FLASH_FRAMES - 1), cut)]
    after = [recent[i - first] for i in range(cut, min(num_frames, cut + FLASH_FRAMES + 1))]
    if not before:
        return None
    before, after = [_to_hsv(frame) for frame in before], [_to_hsv(frame) for frame in after]
    least = min(_difference(a, b) for a in before for b in after)
    return cut if least >= LASTING_SHARE * _difference(before[-1], after[0]) else None


def _to_hsv(bgr: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV)


def _difference(first: np.ndarray, second: np.ndarray) -> float:
    """Mean absolute difference of two HSV frames, the score of PySceneDetect's content detector."""
    return float(cv2.absdiff(first, second).mean())


# ---- fades


def find_fades(levels: np.ndarray, threshold: float) -> list[Cut]:
    """Soft cuts over dark stretches, from the first dimmed frame to the first full one.

        level   ------.          .-----
                       \\        /
                        `______'
                       [  cut   )

    Args:
      levels: float [T], 0..255: mean level of each frame.
      threshold: frames below it are dark (PySceneDetect's ThresholdDetector calls them faded out).
    """
    dark = np.concatenate([[False], levels < threshold, [False]])
    starts, stops = np.flatnonzero(~dark[:-1] & dark[1:]), np.flatnonzero(dark[:-1] & ~dark[1:])
    cuts = []
    for start, stop in zip(starts, stops, strict=True):
        num_before = _count_rising(levels[:start][::-1])
        num_after = _count_rising(levels[stop:])
        cuts.append(Cut(int(start - num_before), int(stop + num_after), "fade"))
    return cuts


def _count_rising(levels: np.ndarray) -> int:
    """Frames before the level has stopped rising: it is to pass its highest by a step within two frames."""
    highest, count = -np.inf, 0
    for index, level in enumerate(levels):
        if level > highest * (1 + FADE_STEP_SHARE):
            highest, count = level, index
        elif index - count >= 2:
            break
    return count
