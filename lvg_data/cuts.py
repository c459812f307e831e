"""Where scenes change: frames -> scores -> cuts.

PySceneDetect's detectors (or TransNetV2, in a child process) propose cuts from the rendered low-res frames.
What they leave open is settled here, in one pass that keeps a few frames, and 48 numbers of each:

    flashes     a cut has to last: no frame before it may look like a frame after it
    fades       dark frames, and the dimming on both sides, become one soft cut
    dissolves   colours that move in a straight line to another picture, and were at rest before and after

Settings were chosen with `benchmarks/cuts.py`, on rides and footage that its report does not use.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import IO

import cv2
import numpy as np
from scenedetect.common import FrameTimecode
from scenedetect.detector import SceneDetector
from scenedetect.detectors import (
    AdaptiveDetector,
    ContentDetector,
    HashDetector,
    HistogramDetector,
)

from lvg_data.config import CutConfig
from lvg_data.records import Cut

#: raised when the same frames would give other cuts
VERSION = 1

#: detector -> the threshold it has when the card gives none
DEFAULT_THRESHOLDS = {"adaptive": 3.0, "content": 27.0, "hash": 0.4, "histogram": 0.5, "transnetv2": 0.5}
#: smallest mean HSV difference of a cut; PySceneDetect's 15 misses cuts between similar places
MIN_CONTENT = 10.0
#: a flash is at most this long
FLASH_FRAMES = 4
#: what lasts of a real cut's difference; flashes keep up to 0.6, real cuts 0.83 and more
LASTING_SHARE = 0.7

#: a fade reaches as far as each frame is brighter, away from the dark, by this share of the level ...
FADE_STEP_SHARE = 0.01
#: ... and of a mean step; motion changes the level too, but less
FADE_SLOPE_SHARE = 0.25

#: dissolves: colours are compared on this grid, over this many seconds
GRID_SIZE = 4
DISSOLVE_S = Fraction(4, 5)
MIN_DISSOLVE_CHANGE = 16.0  # mean level
MIN_DISSOLVE_STRAIGHTNESS = 0.7  # of the way that colours went, what brought them farther
MIN_DISSOLVE_RATIO = 1.6  # to the change in as many frames before or after
MAX_DISSOLVE_STEP = 0.25  # of the change, in one frame: more is a hard cut or a flash

TRANSNET_HEIGHT, TRANSNET_WIDTH = 27, 48
TRANSNET_MODULE = "lvg_train.transnet"
#: TransNetV2 marks up to so many frames around a hard cut
MAX_HARD_RUN_FRAMES = 3


def find_cuts(frames: Iterable[np.ndarray], frame_rate: Fraction, config: CutConfig) -> list[Cut]:
    """Every change of scene in a video, in order and apart from each other.

    Args:
      frames: uint8 [H, W, 3] sRGB, low-res and rendered, in order; read once. About 300 bytes of
        each are kept.
      frame_rate: frames per second of `frames`.
      config: see `CutConfig`. A detector of "none" finds nothing.

    Returns:
      Cuts that do not touch each other. How close they may be, and what is trimmed beside them, is not decided
      here: a scene between two of them that is too short is a reject like any other.

    Raises:
      RuntimeError: the detector is transnetv2 and its child failed, for one because a package is missing.
    """
    if config.detector == "none":
        return []
    watch = _Watch()
    threshold = DEFAULT_THRESHOLDS[config.detector] if config.threshold is None else config.threshold
    is_neural = config.detector == "transnetv2"
    if is_neural:
        cuts = find_neural_cuts(watch.pass_on(frames), threshold)
    else:
        cuts = find_hard_cuts(watch.pass_on(frames), frame_rate, config.detector, threshold)
    fades = [] if config.fade_threshold is None else find_fades(watch.levels(), config.fade_threshold)
    dissolves = [] if is_neural else find_dissolves(watch.colours(), frame_rate)
    cuts += fades + [cut for cut in dissolves if not _meets_any(cut, fades)]
    return separate_cuts(cuts)


def _meets_any(cut: Cut, others: Iterable[Cut]) -> bool:
    return any(cut.start_frame < o.stop_frame and o.start_frame < cut.stop_frame for o in others)


class _Watch:
    """Remembers the mean colours of frames that pass by."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._rows)

    def pass_on(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for frame in frames:
            small = cv2.resize(frame.astype(np.float32), (GRID_SIZE, GRID_SIZE), interpolation=cv2.INTER_AREA)
            self._rows.append(small)
            yield frame

    def colours(self) -> np.ndarray:
        """float32 [T, GRID_SIZE * GRID_SIZE * 3], 0..255: mean colours of the blocks of each frame."""
        return np.reshape(self._rows, (len(self._rows), GRID_SIZE * GRID_SIZE * 3))

    def levels(self) -> np.ndarray:
        """float32 [T], 0..255: mean level of each frame."""
        return self.colours().mean(axis=1)


# ---- hard cuts


def _make_detector(name: str, threshold: float) -> SceneDetector:
    """A detector of PySceneDetect, without its minimum scene length: that hides cuts instead of scenes."""
    if name == "adaptive":
        return AdaptiveDetector(threshold, min_scene_len=0, min_content_val=MIN_CONTENT)
    makers: dict[str, Callable[..., SceneDetector]] = {
        "content": ContentDetector,
        "hash": HashDetector,
        "histogram": HistogramDetector,
    }
    return makers[name](threshold=threshold, min_scene_len=0)


def find_hard_cuts(
    frames: Iterable[np.ndarray], frame_rate: Fraction, detector: str, threshold: float
) -> list[Cut]:
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
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
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
    cuts = []
    for start, stop in _runs(levels < threshold):
        num_before = _count_rising(levels[:start][::-1])
        num_after = _count_rising(levels[stop:])
        cuts.append(Cut(start - num_before, stop + num_after, "fade"))
    return cuts


def _count_rising(levels: np.ndarray) -> int:
    """Frames before the level, coming from the dark, has stopped rising as fast as a fade does.

    It is to pass its highest by `FADE_STEP_SHARE` of it, and of a mean step so far, within two frames.
    """
    highest, count = 0.0, 0
    for index, level in enumerate(levels):
        step = max(FADE_STEP_SHARE * highest, FADE_SLOPE_SHARE * highest / (count + 1))
        if level > highest + step:
            highest, count = float(level), index
        elif index - count >= 2:
            break
    return count


# ---- dissolves


def find_dissolves(colours: np.ndarray, frame_rate: Fraction) -> list[Cut]:
    """Soft cuts where one picture is blended into the next.

    In a dissolve every colour goes straight from its old value to its new one; camera motion makes it wander.
    Coarse blocks of the picture are compared over `DISSOLVE_S`:

        change        |last - first|
        straightness  change / sum of the steps between
        ratio         change / the greater change in as many frames before, or after

    Args:
      colours: float [T, K], 0..255: mean colours of the blocks of each frame.
      frame_rate: frames per second.
    """
    lag = max(2, round(DISSOLVE_S * frame_rate))
    if len(colours) <= lag:
        return []
    steps = np.abs(np.diff(colours, axis=0)).mean(axis=1)
    change = np.abs(colours[lag:] - colours[:-lag]).mean(axis=1)  # [i] is from frame i to i + lag
    windows = np.lib.stride_tricks.sliding_window_view(steps, lag)
    straightness = change / np.maximum(windows.sum(axis=1), 1e-6)
    quiet = np.zeros(lag, change.dtype)
    around = np.maximum(np.concatenate([quiet, change])[: len(change)], np.concatenate([change, quiet])[lag:])
    is_dissolve = (
        (change > MIN_DISSOLVE_CHANGE)
        & (straightness > MIN_DISSOLVE_STRAIGHTNESS)
        & (change > MIN_DISSOLVE_RATIO * around)
        & (windows.max(axis=1) < MAX_DISSOLVE_STEP * change)
    )
    return [_narrow_dissolve(start, stop, lag, change) for start, stop in _runs(is_dissolve)]


def _narrow_dissolve(start: int, stop: int, lag: int, change: np.ndarray) -> Cut:
    """The inner frames of the window of greatest change, of those that begin in [start, stop)."""
    best = start + int(np.argmax(change[start:stop]))
    return Cut(best + 1, best + lag, "dissolve")


def _runs(on: np.ndarray) -> list[tuple[int, int]]:
    """Spans [start, stop) in which a bool [T] is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], on, [False]])))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


# ---- TransNetV2


def find_neural_cuts(frames: Iterable[np.ndarray], threshold: float) -> list[Cut]:
    """Hard and soft cuts by TransNetV2 (Soucek and Lokoc 2020), which runs in a child process.

    Args:
      frames: uint8 [H, W, 3] sRGB, in order; resized to 48x27, as the network wants it.
      threshold: probability above which a frame is part of a transition.
    """
    small = (
        cv2.resize(frame, (TRANSNET_WIDTH, TRANSNET_HEIGHT), interpolation=cv2.INTER_AREA).tobytes()
        for frame in frames
    )
    scores = np.frombuffer(_run_child([sys.executable, "-m", TRANSNET_MODULE], small), "<f4").reshape(-1, 2)
    return cuts_from_scores(scores, threshold)


def cuts_from_scores(scores: np.ndarray, threshold: float) -> list[Cut]:
    """Cuts from TransNetV2's two probabilities of each frame.

    Args:
      scores: float32 [T, 2]: that the frame is the middle of a transition (of a hard cut: the last frame of
        the old scene), and that it is any frame of one.
      threshold: of both.
    """
    cuts = []
    for start, stop in _runs(np.any(scores > threshold, axis=1)):
        if stop - start > MAX_HARD_RUN_FRAMES:
            cuts.append(Cut(start, stop, "transnetv2"))
        elif (middle := start + int(np.argmax(scores[start:stop, 0]))) + 1 < len(scores):
            cuts.append(Cut(middle + 1, middle + 1, "transnetv2"))
    return cuts


def _run_child(command: list[str], chunks: Iterable[bytes]) -> bytes:
    """Feeds a child's stdin with `chunks` as they come and returns its stdout, whole.

    Raises:
      RuntimeError: the child failed, or ended before it had read everything.
    """
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        assert child.stdin and child.stdout
        with child, ThreadPoolExecutor(1) as pool:
            output = pool.submit(child.stdout.read)  # beside the writing, or both pipes could fill
            try:
                is_read = _feed(child.stdin, chunks)
            except BaseException:
                child.kill()
                raise
            code = child.wait()
        if code or not is_read:
            errors.seek(0)
            message = errors.read().decode(errors="replace").strip()[-2000:]
            raise RuntimeError(f"{' '.join(command)} ended with status {code}: {message}")
        return output.result()


def _feed(stdin: IO[bytes], chunks: Iterable[bytes]) -> bool:
    """Writes and closes; False if the reader has gone."""
    try:
        with stdin:
            for chunk in chunks:
                stdin.write(chunk)
    except BrokenPipeError:
        return False
    return True


# ---- all together


def separate_cuts(cuts: Iterable[Cut]) -> list[Cut]:
    """Sorted cuts without overlap: those that touch or overlap become one.

    found      |  |  [==|==)
    separate   |  |  [=====)
    """
    separate: list[Cut] = []
    for cut in sorted(cuts, key=lambda cut: (cut.start_frame, cut.stop_frame)):
        if separate and cut.start_frame <= separate[-1].stop_frame:
            separate[-1] = _join(separate[-1], cut)
        else:
            separate.append(cut)
    return separate


def _join(first: Cut, second: Cut) -> Cut:
    """One cut over both, by the detector of the longer."""
    longer = max(first, second, key=lambda cut: cut.stop_frame - cut.start_frame)
    return Cut(first.start_frame, max(first.stop_frame, second.stop_frame), longer.detector)
