"""Samples to look at: strips and grids of videos, labelled, as PNG files and movies."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lvg_data.store import write_atomic
from lvg_train.movie import MovieWriter, strip

__all__ = [
    "beside", "captioned", "grid", "labelled", "save_png", "save_samples", "save_webp", "strip", "to_uint8",
]  # fmt: skip

#: frames of one video in a picture of samples, and the widest such row in pixels
STRIP_FRAMES, STRIP_PIXELS = 8, 1024
#: videos lower than this are shown larger, in whole multiples
SHOWN_PIXELS = 96
_GAP_PIXELS, _LABEL_PIXELS, _CHUNK_FRAMES = 4, 22, 16
_CAPTION_PIXELS = 11  # size of the text
_GROUND, _INK = 24, (235, 235, 235)


def to_uint8(video: Tensor) -> np.ndarray:
    """float [N, 3, T, H, W], -1 to 1, on any device -> uint8 [N, T, H, W, 3]: floor(clamp(127.5 x + 128, 0, 255))."""
    levels = (video.detach().float() * 127.5 + 128).clamp(0, 255).floor().byte()
    return np.ascontiguousarray(levels.permute(0, 2, 3, 4, 1).cpu().numpy())


def grid(videos: np.ndarray, num_columns: int | None = None, gap: int = _GAP_PIXELS) -> np.ndarray:
    """Videos that play at once, in rows from left to right.

    Args:
      videos: uint8 [N, T, H, W, 3].
      num_columns: by default so many that the whole is about square.
      gap: pixels between two of them; dark, like places without a video.

    Returns:
      uint8 [T, rows * (H + gap) - gap, columns * (W + gap) - gap, 3].
    """
    n, t, h, w, _ = videos.shape
    columns = num_columns or min(n, max(1, round((n * h / w) ** 0.5)))
    rows = -(-n // columns)
    canvas = np.full((t, rows * (h + gap) - gap, columns * (w + gap) - gap, 3), _GROUND, np.uint8)
    for place, video in enumerate(videos):
        top, left = place // columns * (h + gap), place % columns * (w + gap)
        canvas[:, top : top + h, left : left + w] = video
    return canvas


def labelled(video: np.ndarray, text: str) -> np.ndarray:
    """A video uint8 [T, H, W, 3] with a line of text over it: uint8 [T, H + 22, W, 3]."""
    line = Image.new("RGB", (video.shape[2], _LABEL_PIXELS), (_GROUND,) * 3)
    ImageDraw.Draw(line).text((4, 3), text, _INK, ImageFont.load_default(14))
    head = np.broadcast_to(np.asarray(line), (len(video), *np.asarray(line).shape))
    return np.concatenate([head, video], axis=1)


def captioned(videos: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Videos uint8 [N, T, H, W, 3], each with its line of small text over it: uint8 [N, T, H + 15, W', 3].

    W' is W, or what the widest text takes where that is more.
    """
    font = ImageFont.load_default(_CAPTION_PIXELS)
    width = max(videos.shape[3], *(int(np.ceil(font.getlength(text))) + 2 for text in texts))
    n, t, h, w, _ = videos.shape
    canvas = np.full((n, t, h + _CAPTION_PIXELS + 4, width, 3), _GROUND, np.uint8)
    for cell, video, text in zip(canvas, videos, texts, strict=True):
        line = Image.new("RGB", (width, _CAPTION_PIXELS + 4), (_GROUND,) * 3)
        ImageDraw.Draw(line).text((1, 1), text, _INK, font)
        cell[:, : line.height] = np.asarray(line)
        cell[:, line.height :, :w] = video
    return canvas


def beside(videos: Sequence[np.ndarray], gap: int = 3 * _GAP_PIXELS) -> np.ndarray:
    """Videos uint8 [T, H, W, 3] of one length and any sizes from left to right, aligned at the top."""
    height, width = max(v.shape[1] for v in videos), sum(v.shape[2] + gap for v in videos) - gap
    canvas = np.full((len(videos[0]), height, width, 3), _GROUND, np.uint8)
    left = 0
    for video in videos:
        canvas[:, : video.shape[1], left : left + video.shape[2]] = video
        left += video.shape[2] + gap
    return canvas


def save_png(path: Path, image: Image.Image) -> None:
    """Writes a picture, whole or not at all; missing folders are made."""
    data = io.BytesIO()
    image.save(data, "PNG")
    write_atomic(str(path), data.getvalue())


def save_webp(path: Path, video: np.ndarray, frame_rate: Fraction, quality: int = 90) -> None:
    """Writes a video uint8 [T, H, W, 3] as animated WebP; `quality` from 0 to 100. Needs no av.

    Raises:
      ValueError: the path does not end in .webp.
    """
    if path.suffix != ".webp":
        raise ValueError(f"an animated WebP ends in .webp, got {path.name}")
    height, width = video.shape[1:3]
    with MovieWriter(path, height, width, frame_rate, webp_quality=quality) as movie:
        movie.write(video)


def save_samples(run: Path, step: int, columns: Mapping[str, np.ndarray], frame_rate: Fraction) -> list[Path]:
    """Writes RUN/samples/step-000000100.png, strips of frames, and .mp4, all videos at once (.webp without av).

    Args:
      columns: what stands beside each other, by label: {"data": ..., "samples": ...}, each uint8 [N, T, H, W, 3].
        Row i of every column shows video i. Heights may differ: lower videos are enlarged to the highest.
      frame_rate: frames per second.

    Returns:
      The files.

    Raises:
      ValueError: the columns have different numbers of videos or frames.
    """
    if len({videos.shape[:2] for videos in columns.values()}) != 1:
        shapes = {label: list(videos.shape) for label, videos in columns.items()}
        raise ValueError(f"columns must have the same numbers of videos and frames, got {shapes}")
    base = run / "samples" / f"step-{step:09d}"
    picture = Image.fromarray(_strips(columns))
    save_png(base.with_suffix(".png"), picture)
    movie = base.with_suffix(".mp4" if importlib.util.find_spec("av") else ".webp")
    chunks = _side_by_side(columns)
    first = next(chunks)
    height, width = first.shape[1:3]
    with MovieWriter(movie, height, width, frame_rate) as writer:
        writer.write(first)
        for chunk in chunks:
            writer.write(chunk)
    return [base.with_suffix(".png"), movie]


def _strips(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """uint8 [H, W, 3]: a row for every video, in each column some of its frames side by side."""
    height = _shown_height(columns)
    blocks = []
    for label, videos in columns.items():
        num_frames = _strip_frames(videos, height)
        strips = np.stack([np.asarray(strip(video, num_frames)) for video in videos])
        blocks.append(labelled(grid(_enlarged(strips[:, None], height), num_columns=1), label))
    return beside(blocks)[0]


def _strip_frames(videos: np.ndarray, height: int) -> int:
    shown_width = videos.shape[3] * height / videos.shape[2]
    return max(1, min(STRIP_FRAMES, int(STRIP_PIXELS // shown_width)))


def _side_by_side(columns: Mapping[str, np.ndarray]) -> Iterator[np.ndarray]:
    """uint8 [T, H, W, 3], some frames at a time."""
    height = _shown_height(columns)
    for start in range(0, next(iter(columns.values())).shape[1], _CHUNK_FRAMES):
        frames = {label: videos[:, start : start + _CHUNK_FRAMES] for label, videos in columns.items()}
        yield beside([labelled(grid(_enlarged(v, height)), label) for label, v in frames.items()])


def _shown_height(columns: Mapping[str, np.ndarray]) -> int:
    highest = max(videos.shape[2] for videos in columns.values())
    return highest * -(-SHOWN_PIXELS // highest)


def _enlarged(videos: np.ndarray, height: int) -> np.ndarray:
    """uint8 [N, T, h, w, 3] -> [N, T, height, W, 3] of the same shape, by repeating pixels."""
    h, w = videos.shape[2:4]
    width = round(w * height / h)
    return videos[:, :, np.arange(height) * h // height][:, :, :, np.arange(width) * w // width]
