"""Movies: frames that come a few at a time to one file. The only user of av in this package.

.mp4 .mov .mkv   H.264, streamed to the encoder in constant memory; needs av
.webp            animated WebP by Pillow; memory grows with the frames, all are kept until the end; frames that
                 hardly differ become one that is shown longer
.png             a strip of some frames, evenly spaced, side by side
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial as bind
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from PIL import Image

from lvg_data.store import sync
from lvg_train.errors import TrainError

#: FFmpeg's name of the container
CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
#: of libx264: twice as many frames a CPU second as its default, 256 x 256, for 1 dB less at the same crf
PRESET = "veryfast"
#: frames in a strip
STRIP_FRAMES = 8


def strip(video: np.ndarray, num_frames: int) -> Image.Image:
    """Frames of a video side by side, evenly spaced, the first and the last among them.

    Args:
      video: uint8 [T, H, W, 3], sRGB.
      num_frames: how many; all where the video has no more.
    """
    return Image.fromarray(np.concatenate(list(video[strip_places(len(video), num_frames)]), axis=1))


def strip_places(num_video_frames: int, num_frames: int = STRIP_FRAMES) -> list[int]:
    """Which frames of a video a strip shows; see `strip`."""
    if num_frames < 1 or num_video_frames < 1:
        raise ValueError(f"a strip needs at least 1 frame, got {num_frames} of {num_video_frames}")
    places = np.linspace(0, num_video_frames - 1, min(num_frames, num_video_frames))
    return [round(place) for place in places.tolist()]


class MovieWriter:
    """Writes a movie as its frames come: `with MovieWriter(...) as movie: movie.write(frames)`.

    The file appears under its name when it is whole; where the block raises, nothing appears.
    """

    def __init__(
        self,
        path: Path,
        height: int,
        width: int,
        frame_rate: Fraction,
        *,
        crf: int = 18,
        webp_quality: int = 90,
        strip_frames: int = STRIP_FRAMES,
    ):
        """Opens the file, so that what cannot be written fails before the first frame is made.

        Args:
          path: its extension says the format, see the top of this file. Missing folders are made.
          height, width: of every frame, in pixels. H.264 stores colours for 2x2 pixels: an odd size is made even
            by repeating the last row or column.
          frame_rate: frames per second.
          crf: of H.264, 0 (lossless but for the colours) to 51 (worst).
          webp_quality: 0 to 100.
          strip_frames: of a .png; about evenly spaced, for the number of frames is not known before the end.

        Raises:
          TrainError: an unknown extension, no av, or a place that cannot be written to.
        """
        self.path, self.height, self.width, self.num_frames = Path(path), height, width, 0
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        make = _sink_of(self.path, height, width, frame_rate, crf, webp_quality, strip_frames)
        with _named(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._sink = make(self._partial)

    def write(self, frames: np.ndarray) -> None:
        """Adds frames uint8 [T, H, W, 3], sRGB.

        Raises:
          ValueError: they are of another type or size.
          TrainError: the file cannot be written, e.g. the disk is full.
        """
        wanted = (self.height, self.width, 3)
        if frames.dtype != np.uint8 or frames.shape[1:] != wanted:
            raise ValueError(f"frames must be uint8 [T, {wanted}], got {frames.dtype} {list(frames.shape)}")
        with _named(self.path):
            self._sink.write(frames)
        self.num_frames += len(frames)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                with contextlib.suppress(OSError, ValueError):
                    self._sink.close()
                return
            if not self.num_frames:
                raise ValueError(f"{self.path}: no frame was written")
            with _named(self.path):
                self._sink.close()
                sync(self._partial)
                os.replace(self._partial, self.path)
        finally:
            self._partial.unlink(missing_ok=True)


class _Sink(Protocol):
    def write(self, frames: np.ndarray) -> None: ...

    def close(self) -> None: ...


def _sink_of(
    path: Path, height: int, width: int, frame_rate: Fraction, crf: int, webp_quality: int, strip_frames: int
) -> Callable[[Path], _Sink]:
    suffix = path.suffix.lower()
    if suffix in CONTAINERS:
        _import_av()
        return bind(_H264, CONTAINERS[suffix], height, width, Fraction(frame_rate), crf)
    if suffix == ".webp":
        return bind(_WebP, Fraction(frame_rate), webp_quality)
    if suffix == ".png":
        return bind(_Strip, strip_frames)
    known = ", ".join([*CONTAINERS, ".webp", ".png"])
    raise TrainError(f"{path}: no movie format has the extension {path.suffix!r}; there are {known}")


def _import_av() -> Any:
    try:
        import av
    except ImportError as err:
        raise TrainError(
            f"H.264 needs PyAV ({err}): `pip install av`, or name a file that ends in .webp or .png"
        ) from err
    return av


class _H264:
    """yuv420p by libx264, tagged and converted as BT.709 in limited range."""

    def __init__(self, container: str, height: int, width: int, frame_rate: Fraction, crf: int, path: Path):
        from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

        options = {"movflags": "+faststart"} if container != "matroska" else {}
        self._av = _import_av()
        self._pad = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
        self._tick, self._num_frames = 1 / frame_rate, 0
        self._container = self._av.open(str(path), "w", format=container, options=options)
        self._stream = self._container.add_stream(
            "libx264", rate=frame_rate, options={"crf": str(crf), "preset": PRESET}
        )
        context = self._stream.codec_context
        context.width, context.height, context.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        context.time_base = self._tick
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709

    def write(self, frames: np.ndarray) -> None:
        for picture in np.pad(frames, self._pad, "edge"):
            self._container.mux(self._stream.encode(self._yuv(picture)))

    def _yuv(self, picture: np.ndarray) -> Any:
        from av.video.reformatter import ColorRange, Colorspace, Interpolation

        frame = self._av.VideoFrame.from_ndarray(
            np.ascontiguousarray(picture), "rgb24"
        ).reformat(
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.AREA,  # colours are means of 2x2 pixels; the default smears them over more
        )
        frame.pts, frame.time_base = self._num_frames, self._tick
        self._num_frames += 1
        return frame

    def close(self) -> None:
        try:
            if self._num_frames:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()


class _WebP:
    def __init__(self, frame_rate: Fraction, quality: int, path: Path):
        self._frame_rate, self._quality, self._path = frame_rate, quality, path
        self._pictures: list[Image.Image] = []

    def write(self, frames: np.ndarray) -> None:
        self._pictures += [Image.fromarray(frame) for frame in frames]

    def close(self) -> None:
        first, *others = self._pictures
        # whole milliseconds whose sum never drifts from the frame rate: 33 33 34 33 33 34
        times = [round(index * 1000 / self._frame_rate) for index in range(len(self._pictures) + 1)]
        durations = [stop - start for start, stop in pairwise(times)]
        first.save(
            self._path, "WEBP", save_all=True, append_images=others, duration=durations, loop=0,
            quality=self._quality, kmin=0, kmax=1,  # only key frames: others drop changes of a few levels
        )  # fmt: skip


class _Strip:
    """Keeps every 1st, 2nd, 4th ... frame: always fewer than 4 times as many as are wanted."""

    def __init__(self, num_wanted: int, path: Path):
        self._num_wanted, self._path = num_wanted, path
        self._kept: list[np.ndarray] = []
        self._num_frames, self._stride = 0, 1

    def write(self, frames: np.ndarray) -> None:
        for frame in frames:
            if self._num_frames % self._stride == 0:
                self._kept.append(frame.copy())
            if len(self._kept) == 4 * self._num_wanted:
                self._kept, self._stride = self._kept[::2], 2 * self._stride
            self._num_frames += 1

    def close(self) -> None:
        strip(np.stack(self._kept), self._num_wanted).save(self._path, "PNG")


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """What goes wrong with the file, as an error that names it."""
    try:
        yield
    except OSError as err:
        raise TrainError(f"{path} cannot be written: {err}") from err
