"""A dataset as a movie: several clips side by side, played from the shards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
from PIL import Image

from lvg_data.errors import DatasetError
from lvg_data.report import FrameSource, spread

_GAP_PIXELS = 4


def write_preview(dataset: str, path: Path, columns: int = 4, rows: int = 3, seconds: float = 8.0) -> Path:
    """Writes an H.264 movie of up to columns x rows clips, each begun again when it ends.

    Clips are taken evenly over the dataset; all play at the rate of the first.

    Raises:
      DatasetError: the dataset has no clip, or FFmpeg cannot write the file.
    """
    source = FrameSource(dataset)
    clips = spread(source.clips, columns * rows)
    if not clips:
        raise DatasetError(f"{dataset} has no clip to show")
    rate = Fraction(clips[0].frame_rate)
    height, width = source.high_size
    rows = -(-len(clips) // columns)
    size = (rows * (height + _GAP_PIXELS), columns * (width + _GAP_PIXELS))
    video = ffmpeg.input(
        "pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{size[1]}x{size[0]}", framerate=str(rate)
    )
    output = video.output(str(path), vcodec="libx264", pix_fmt="yuv420p", crf=20, movflags="+faststart")
    command = output.overwrite_output().global_args("-loglevel", "error")
    encoder = command.run_async(cmd=imageio_ffmpeg.get_ffmpeg_exe(), pipe_stdin=True, pipe_stderr=True)
    with contextlib.suppress(BrokenPipeError):  # FFmpeg's own words say why, below
        for picture in _grids(source, clips, columns, size, round(seconds * rate)):
            encoder.stdin.write(picture.tobytes())
    _, messages = encoder.communicate()
    if encoder.returncode:
        raise DatasetError(f"{path}: FFmpeg failed: {messages.decode(errors='replace')[-300:]}")
    return path


def _grids(
    source: FrameSource, clips: list, columns: int, size: tuple[int, int], num_frames: int
) -> Iterator[np.ndarray]:
    """uint8 [H, W, 3] pictures of all clips at one moment after the other."""
    height, width = source.high_size
    grid = np.zeros((*size, 3), np.uint8)
    for frame in range(num_frames):
        for place, clip in enumerate(clips):
            picture = source.read(clip, frame % clip.num_frames)
            if picture.shape[:2] != (height, width):
                picture = np.asarray(Image.fromarray(picture).resize((width, height)))
            top, left = place // columns * (height + _GAP_PIXELS), place % columns * (width + _GAP_PIXELS)
            grid[top : top + height, left : left + width] = picture
        yield grid
