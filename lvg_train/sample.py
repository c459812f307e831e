"""Videos of any length, made chunk by chunk: low-res frames, enlarged as they come, straight to the encoder.

    generator's frames   0 ..... 28 .. 32 ................. 32 + N .. 36 + N
    video's frames                      0 ....................... N
    low-res chunks       |-- 128 --|-- 128 --|-- 128 --|               multiples of 32
    super-res windows          c c c c f f f f f f f f c c c c         8 frames and 4 of context on each side
                                               c c c c f f f ...

The generator's video is endless, but begins with its noise. A video therefore starts 32 frames, one step of the
generator's grid, after that: its first frames then have real frames before them. So frame t of seed s is the same
at low and at high resolution, in every chunk size, and whatever frame the video was started at, but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lvg_train.checkpoint import find_generator
from lvg_train.draws import Draws
from lvg_train.errors import TrainError
from lvg_train.model_file import describe_model, load_network
from lvg_train.movie import MovieWriter, strip_places
from lvg_train.networks.lowres_generator import TEMPORAL_SCALE, LowresGenerator, check_grid
from lvg_train.networks.superres_generator import CONTEXT_FRAMES, SuperresGenerator
from lvg_train.pictures import captioned, grid, to_uint8

LEAD_FRAMES = TEMPORAL_SCALE  # of the generator's endless video, before a video's frame 0
DEFAULT_FRAME_RATE = Fraction(30)
TIME, COLUMNS = 2, 4  # axes

#: uint8 [N, T, H, W, 3] of N seeds to one [T, H', W', 3]
Layout = Callable[[np.ndarray], np.ndarray]


# ---- what to sample with


@dataclass(frozen=True)
class Model:
    """A generator and where it comes from; `frame_rate` (frames per second) is None where the file says none."""

    file: Path
    network: LowresGenerator | SuperresGenerator
    frame_rate: Fraction | None


@dataclass(frozen=True)
class Sampler:
    """The generators of a video and how they run.

    Attributes:
      high: None where only low-res videos are made.
      precision: a policy of the networks, "fast" or "reference".
      low_chunk, high_chunk: frames that each generator makes at a time: more are faster and take more memory.
    """

    low: LowresGenerator
    high: SuperresGenerator | None = None
    precision: str = "fast"
    low_chunk: int = 128
    high_chunk: int = 8

    def __post_init__(self) -> None:
        check_grid("low_chunk", self.low_chunk, TEMPORAL_SCALE)
        if self.high_chunk < 1:
            raise ValueError(f"high_chunk must be at least 1 frame, got {self.high_chunk}")

    @property
    def low_size(self) -> tuple[int, int]:
        return self.low.height, self.low.width


def load_model(path: Path, device: torch.device | str = "cpu") -> Model:
    """The generator of a run or a model file, for sampling only.

    Raises:
      TrainError: there is none, or it cannot be read.
    """
    file, role = find_generator(path)
    network = load_network(file, role, device).requires_grad_(False).eval()
    if not isinstance(network, LowresGenerator | SuperresGenerator):
        raise TrainError(f"{file} has a {type(network).__name__} as its {role}, which makes no frames")
    return Model(file, network, _frame_rate(file, describe_model(file).notes.get("frame_rate")))


def _frame_rate(file: Path, said: object) -> Fraction | None:
    if said is None:
        return None
    try:
        return Fraction(str(said)).limit_denominator(1001)
    except (ValueError, ZeroDivisionError) as err:
        raise TrainError(f"{file} has the frame rate {said!r}, which is no number; convert it again") from err


def build_sampler(
    models: Sequence[Model], precision: str = "fast", low_chunk: int = 128, high_chunk: int = 8
) -> Sampler:
    """Of one low-res model, or of one of each stage in either order.

    Raises:
      TrainError: two are of one stage, the low-res one is missing, or the sizes do not fit together.
    """
    lows = [(m.file, m.network) for m in models if isinstance(m.network, LowresGenerator)]
    highs = [(m.file, m.network) for m in models if isinstance(m.network, SuperresGenerator)]
    _check_stages([file for file, _ in lows], [file for file, _ in highs])
    low_file, low = lows[0]
    high = None
    for high_file, high in highs:
        if high.low_size != (low.height, low.width):
            raise TrainError(
                f"{low_file} makes frames of {low.height}x{low.width}, and {high_file} enlarges those of "
                f"{high.low_size[0]}x{high.low_size[1]}; give models that were trained at the same low-res size"
            )
    return Sampler(low, high, precision, low_chunk, high_chunk)


def _check_stages(lows: Sequence[Path], highs: Sequence[Path]) -> None:
    for stage, files in (("low-res", lows), ("super-res", highs)):
        if len(files) > 1:
            both = " and ".join(map(str, files))
            raise TrainError(f"{both} are both of the {stage} stage; give one of each stage")
    if not lows:
        raise TrainError(
            f"{highs[0]} is of the super-res stage, which enlarges low-res videos; give a low-res run or model "
            "beside it"
        )


def frame_rate_of(models: Sequence[Model]) -> Fraction:
    """At which videos of these models play: that of the data that they were trained on, 30 where none says so.

    Raises:
      TrainError: they differ.
    """
    rates = sorted({m.frame_rate for m in models if m.frame_rate is not None})
    if len(rates) > 1:
        said = " and ".join(f"{m.file} ({m.frame_rate})" for m in models)
        raise TrainError(f"{said} were trained at different frame rates; choose one with --fps")
    return rates[0] if rates else DEFAULT_FRAME_RATE


# ---- streams of frames


def stream_low(sampler: Sampler, seed: int, start_frame: int, num_frames: int) -> Iterator[Tensor]:
    """Low-res frames [start, start + num_frames) of video `seed`: float32 [1, 3, t, h, w] in [-1, 1], at most
    `low_chunk` at a time. Any start from -32 up.
    """
    first = start_frame + LEAD_FRAMES
    skipped = first % TEMPORAL_SCALE
    chunks = sampler.low.stream(
        seed, skipped + num_frames, first - skipped, sampler.low_chunk, sampler.precision
    )
    for chunk in chunks:
        # frames, as stage 2 was trained on
        yield chunk[:, :, skipped:].clamp(-1, 1)
        skipped = 0


def stream_pairs(
    sampler: Sampler, seed: int, start_frame: int, num_frames: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Frames [start, start + num_frames) of video `seed` at both resolutions, from start 0 up; see `enlarge`."""
    assert sampler.high is not None
    low = stream_low(sampler, seed, start_frame - CONTEXT_FRAMES, num_frames + 2 * CONTEXT_FRAMES)
    latent = draw_latent(sampler.high, seed)
    return enlarge(sampler.high, low, latent, sampler.high_chunk, sampler.precision)


def draw_latent(generator: SuperresGenerator, seed: int) -> Tensor:
    """The one latent of video `seed`, float32 [1, L] on the generator's device."""
    device = generator.SG3.mapping.w_avg.device
    return Draws(seed, 0, "latent of a video", range(1), device).normal((generator.latent_channels,))


@torch.no_grad()
def enlarge(
    generator: SuperresGenerator, low: Iterable[Tensor], latent: Tensor, chunk_frames: int, precision: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Low-res frames [1, 3, t, h, w] and the high-res ones [1, 3, t, H, W] that show the same moments.

    Args:
      low: in chunks of any length; the first 4 frames and the last 4 of all are context only.
      latent: [1, L], the same for every frame.
    """
    for window in regroup(low, chunk_frames, CONTEXT_FRAMES):
        yield window[:, :, CONTEXT_FRAMES:-CONTEXT_FRAMES], generator(window, latent, precision=precision)


def regroup(chunks: Iterable[Tensor], num_frames: int, context: int) -> Iterator[Tensor]:
    """Pieces of `num_frames` with `context` more on each side, of a stream in chunks of other lengths.

    stream    0 1 2 3 4 5 6 7 8        num_frames 3, context 1
    pieces    0 1 2 3 4
                    3 4 5 6 7
                          6 7 8        what is left over
    """
    held: list[Tensor] = []
    for chunk in chunks:
        waiting = torch.cat([*held, chunk], TIME)
        while waiting.shape[TIME] >= num_frames + 2 * context:
            yield waiting[:, :, : num_frames + 2 * context]
            waiting = waiting[:, :, num_frames:]
        held = [waiting]
    if held and held[0].shape[TIME] > 2 * context:
        yield held[0]


# ---- what a movie shows


def show_low(sampler: Sampler, seed: int, start_frame: int, num_frames: int) -> Iterator[Tensor]:
    return stream_low(sampler, seed, start_frame, num_frames)


def show_high(sampler: Sampler, seed: int, start_frame: int, num_frames: int) -> Iterator[Tensor]:
    return (high for _, high in stream_pairs(sampler, seed, start_frame, num_frames))


def show_both(sampler: Sampler, seed: int, start_frame: int, num_frames: int) -> Iterator[Tensor]:
    """Left the low-res frames, each pixel a square; right the high-res ones."""
    for low, high in stream_pairs(sampler, seed, start_frame, num_frames):
        factor = high.shape[COLUMNS] // low.shape[COLUMNS]
        squares = low.repeat_interleave(factor, COLUMNS - 1).repeat_interleave(factor, COLUMNS)
        yield torch.cat([squares, high], COLUMNS)


#: name -> a stream of float32 [1, 3, t, H, W]
SHOWS: dict[str, Callable[[Sampler, int, int, int], Iterator[Tensor]]] = {
    "low": show_low,
    "high": show_high,
    "both": show_both,
}


def choose_show(name: str | None, sampler: Sampler) -> str:
    """A name of `SHOWS`; without one the best that there is.

    Raises:
      TrainError: high-res frames are asked for, and there is no super-res generator.
    """
    if name is None:
        return "low" if sampler.high is None else "high"
    if sampler.high is None and name != "low":
        raise TrainError(f"--show {name} needs a super-res run or model beside the low-res one")
    return name


def shown_size(show: str, sampler: Sampler) -> tuple[int, int]:
    """Height and width of one video as `show` shows it."""
    if show == "low" or sampler.high is None:
        return sampler.low_size
    height, width = sampler.high.high_size
    return height, width * (2 if show == "both" else 1)


@dataclass(frozen=True)
class Take:
    """What to film: frames [start, start + num_frames) of the video of each seed.

    Several seeds go to the rows and columns of a grid, in their order.
    """

    seeds: tuple[int, ...]
    num_frames: int
    start_frame: int = 0

    def __post_init__(self) -> None:
        if not self.seeds or min(self.seeds) < 0 or max(self.seeds) >= 1 << 64:
            raise ValueError(f"seeds must be one or more numbers from 0 to 2^64 - 1, got {self.seeds}")
        if self.num_frames < 1 or self.start_frame < 0:
            raise ValueError(
                f"a video has at least 1 frame and starts at 0 or later, got {self.num_frames} from {self.start_frame}"
            )


def arrange(videos: np.ndarray) -> np.ndarray:
    """uint8 [N, T, H, W, 3] as one [T, H', W', 3]: a single video as it is, several in a grid."""
    return videos[0] if len(videos) == 1 else grid(videos)


def arrange_named(videos: np.ndarray, seeds: Sequence[int], num_columns: int | None = None) -> np.ndarray:
    """The same, with its seed over each of several videos; see `grid` for the columns."""
    if len(seeds) == 1:
        return videos[0]
    return grid(captioned(videos, [f"seed {seed}" for seed in seeds]), num_columns)


def film(sampler: Sampler, take: Take, show: str, layout: Layout = arrange) -> Iterator[np.ndarray]:
    """The frames of a movie in order, uint8 [t, H, W, 3], a few at a time; memory does not grow with their number.

    Raises:
      TrainError: the device's memory does not hold a chunk.
    """
    streams = [SHOWS[show](sampler, seed, take.start_frame, take.num_frames) for seed in take.seeds]
    try:
        for chunks in zip(*streams, strict=True):
            yield layout(to_uint8(torch.cat(chunks)))
    except torch.OutOfMemoryError as err:
        raise TrainError(
            f"{len(streams)} videos in chunks of {sampler.low_chunk} low-res and {sampler.high_chunk} high-res "
            "frames take more memory than the device has; lower --high-chunk-frames, --chunk-frames or the number "
            "of seeds"
        ) from err


def film_strip(sampler: Sampler, take: Take, show: str, layout: Layout = arrange) -> Iterator[np.ndarray]:
    """As `film`, those frames only that a strip of the take shows. What lies between them is not made."""
    places = strip_places(take.num_frames)
    if len(places) == take.num_frames:
        yield from film(sampler, take, show, layout)
        return
    for place in places:
        frame = replace(take, start_frame=take.start_frame + place, num_frames=1)
        yield from film(sampler, frame, show, layout)


def strip_layout(take: Take) -> Layout:
    """Of a strip's frames: a row for each of several videos, or a grid of them where there is one frame only."""
    return partial(arrange_named, seeds=take.seeds, num_columns=1 if take.num_frames > 1 else None)


def is_strip(path: Path) -> bool:
    return path.suffix.lower() == ".png"


def num_shown(path: Path, num_frames: int) -> int:
    """How many frames of a take a file shows: some in a strip, all in a movie."""
    return len(strip_places(num_frames)) if is_strip(path) else num_frames


def make_movie(
    path: Path,
    sampler: Sampler,
    take: Take,
    show: str,
    frame_rate: Fraction,
    report: Callable[[int], None] = lambda num_frames: None,
) -> tuple[int, int]:
    """Films `take` into `path`, in constant memory for .mp4; one chunk is encoded while the next is made.

    A strip of several frames has a row for each video, and names the seeds of several.

    Args:
      show: a name of `SHOWS`.
      report: told how many more frames were made.

    Returns:
      Height and width of the movie's frames.

    Raises:
      TrainError: see `film` and `MovieWriter`.
    """
    in_strip = is_strip(path)
    layout = strip_layout(take) if in_strip else arrange
    frames_of = film_strip if in_strip else film
    blank = np.zeros((len(take.seeds), 1, *shown_size(show, sampler), 3), np.uint8)
    height, width = layout(blank).shape[1:3]
    with (
        MovieWriter(path, height, width, frame_rate) as movie,
        ThreadPoolExecutor(1, "lvg-encoder") as encoder,
    ):
        written = encoder.submit(lambda: None)
        for frames in frames_of(sampler, take, show, layout):
            written.result()
            written = encoder.submit(movie.write, frames)
            report(len(frames))
        written.result()
    return height, width
