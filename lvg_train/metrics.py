"""Figures of videos, from their pixels alone: what colours they have, how long those last, how much moves.

    videos     uint8 [N, T, H, W, 3], sRGB, as a movie shows them
    measure    a metric's numbers of each video, [N, ...]                          in one pass, chunk by chunk
    summarise  those of data and of samples together: figures and curves

A `Result` carries the recipe by which it was made, and only results of one recipe are compared. A metric with a
detector (FVD, FID) has the same two functions: features of each video, then the distance of two sets of features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from lvg_train.errors import TrainError

BINS_PER_CHANNEL = 20
NUM_BINS = BINS_PER_CHANNEL**3
NUM_LEVELS = 256
#: level -> bin: floor(19 v + 0.5) with v = level / 255, in whole numbers
BIN_OF_LEVEL = ((38 * np.arange(NUM_LEVELS) + 255) // 510).astype(np.int16)


# ---- colour


def colour_similarity(videos: np.ndarray) -> np.ndarray:
    """S(x, t): how much of frame 0's colours frame t has; float64 [N, T] of uint8 [N, T, H, W, 3].

    The intersection of the two frames' histograms of 20 x 20 x 20 colours (Swain and Ballard 1991, "Color
    Indexing"), as shares of the pixels: 1 at t = 0, 0 where no colour is left. Brooks et al. 2022, section 5.

    Raises:
      ValueError: the array is of another dtype or shape.
    """
    check_videos(videos)
    return np.stack([_similarity_to_first(colour_histograms(video)) for video in videos])


def _similarity_to_first(histograms: np.ndarray) -> np.ndarray:
    """float64 [T] of int64 [T, bins]."""
    return np.minimum(histograms, histograms[0]).sum(1) / histograms[0].sum()


def colour_histograms(frames: np.ndarray) -> np.ndarray:
    """Pixels of each colour: int64 [T, 8000] of uint8 [T, H, W, 3]; the bin is 400 r + 20 g + b."""
    bins = BIN_OF_LEVEL[frames]
    codes = (bins[..., 0] * BINS_PER_CHANNEL + bins[..., 1]) * BINS_PER_CHANNEL + bins[..., 2]
    return _count_rows(codes.reshape(len(frames), -1), NUM_BINS)


def level_shares(videos: np.ndarray) -> np.ndarray:
    """The share of each level in each channel of each video: float64 [N, 3, 256] of uint8 [N, T, H, W, 3]."""
    check_videos(videos)
    by_channel = np.moveaxis(videos, -1, 1).reshape(len(videos) * 3, -1)
    counts = np.stack([np.bincount(row, minlength=NUM_LEVELS) for row in by_channel])
    return counts.reshape(-1, 3, NUM_LEVELS) / by_channel.shape[1]


def colour_distance(a: np.ndarray, b: np.ndarray) -> float:
    """How far apart the colours of two sets of videos are, in levels 0 to 255; both uint8 [N, T, H, W, 3].

    Of each channel the histograms of all pixels, and between them the earth mover's distance: the mean number
    of levels by which pixels would have to change. Unlike an intersection it also tells far from farther.
    """
    return _shares_distance(level_shares(a), level_shares(b))


def _shares_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Of [N, 3, 256] and [M, 3, 256]; every video counts the same."""
    difference = a.mean(0).cumsum(1) - b.mean(0).cumsum(1)
    return float(np.abs(difference).sum(1).mean())


def _count_rows(codes: np.ndarray, num_codes: int) -> np.ndarray:
    """How often each of 0 ... num_codes - 1 comes in each row: int64 [rows, num_codes]."""
    rows = np.arange(len(codes))[:, None] * num_codes
    return np.bincount((codes + rows).ravel(), minlength=len(codes) * num_codes).reshape(len(codes), -1)


# ---- motion


@dataclass(frozen=True)
class Motion:
    """How much successive frames differ, in levels 0 to 255: over all pairs of frames of all videos."""

    mean: float
    std: float


def frame_differences(videos: np.ndarray) -> np.ndarray:
    """Mean absolute difference of successive frames, in levels: float64 [N, T - 1] of uint8 [N, T, H, W, 3].

    Raises:
      ValueError: the array is of another dtype or shape, or the videos have one frame only.
    """
    check_videos(videos, min_frames=2)
    return np.stack([np.abs(np.diff(video.astype(np.int16), axis=0)).mean((1, 2, 3)) for video in videos])


def motion(videos: np.ndarray) -> Motion:
    """Of uint8 [N, T, H, W, 3]; raises as `frame_differences`."""
    return _motion_of(frame_differences(videos))


def _motion_of(differences: np.ndarray) -> Motion:
    return Motion(float(differences.mean()), float(differences.std()))


def motion_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The earth mover's distance of two sets' frame differences, in levels; both uint8 [N, T, H, W, 3]."""
    return earth_movers_distance(frame_differences(a), frame_differences(b))


def earth_movers_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Between two sets of numbers: the area between their cumulative distributions (Vallender 1974)."""
    points = np.sort(np.concatenate([a.ravel(), b.ravel()]))
    shares_a, shares_b = (np.searchsorted(np.sort(x.ravel()), points[:-1], "right") / x.size for x in (a, b))
    return float(np.abs(shares_a - shares_b) @ np.diff(points))


def check_videos(videos: np.ndarray, min_frames: int = 1) -> None:
    """Whether an array is videos.

    Raises:
      ValueError: it is not uint8 [N, T, H, W, 3], is empty, or has fewer frames.
    """
    fits = videos.ndim == 5 and videos.shape[-1] == 3 and videos.size and videos.shape[1] >= min_frames
    if videos.dtype != np.uint8 or not fits:
        raise ValueError(
            f"videos must be uint8 [N, T, H, W, 3] with T at least {min_frames}, got {videos.dtype} "
            f"{list(videos.shape)}"
        )


# ---- metrics by name


@dataclass(frozen=True)
class Summary:
    """What a metric says of data and samples: single numbers, and curves over the frames of a window."""

    figures: Mapping[str, float]
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """How a metric is taken, and what of it the recipe has to say.

    Attributes:
      measure: uint8 [N, T, H, W, 3] to numbers of each video [N, ...].
      summarise: of the numbers of all data windows and of all samples.
      min_frames: that a window must have.
      version: raised when the same videos would give other numbers.
      resize, crop, extractor: what is done to the frames before, and the SHA-256 of the detector.
    """

    measure: Callable[[np.ndarray], np.ndarray]
    summarise: Callable[[np.ndarray, np.ndarray], Summary]
    min_frames: int = 1
    version: int = 1
    resize: str = "none"
    crop: str = "none"
    extractor: str = "none"


def summarise_similarity(data: np.ndarray, samples: np.ndarray) -> Summary:
    """Mean and standard deviation over windows of S(x, t) [N, T], and how far apart the means are."""
    curves = {
        f"{name}_{statistic}": getattr(values, statistic)(0).tolist()
        for name, values in (("data", data), ("samples", samples))
        for statistic in ("mean", "std")
    }
    gap = np.abs(data.mean(0) - samples.mean(0)).mean()
    return Summary(
        {"data_last": curves["data_mean"][-1], "samples_last": curves["samples_mean"][-1], "gap": float(gap)},
        curves,
    )


def summarise_motion(data: np.ndarray, samples: np.ndarray) -> Summary:
    """Of frame differences [N, T - 1]."""
    real, made = _motion_of(data), _motion_of(samples)
    return Summary(
        {
            "data_mean": real.mean,
            "data_std": real.std,
            "samples_mean": made.mean,
            "samples_std": made.std,
            "distance": earth_movers_distance(data, samples),
        }
    )


def summarise_colour(data: np.ndarray, samples: np.ndarray) -> Summary:
    """Of level shares [N, 3, 256]."""
    return Summary({"distance": _shares_distance(data, samples)})


#: every metric that `lvg-train evaluate` takes
METRICS: dict[str, Metric] = {
    "colour_similarity": Metric(colour_similarity, summarise_similarity),
    "motion": Metric(frame_differences, summarise_motion, min_frames=2),
    "colour": Metric(level_shares, summarise_colour),
}


# ---- results


@dataclass(frozen=True)
class Recipe:
    """How a result was made. Two results can be compared where all of this is equal.

    Attributes:
      metric, version: which figure; see `METRICS`.
      stage: "low-res" or "super-res"; samples of the latter are made from the data's low-res frames.
      dataset: the fingerprint of the data.
      split: of the data.
      num_windows: of the data, and as many samples.
      num_frames: of each.
      height, width: of the frames, in pixels.
      frame_rate: of the data, frames per second, or "native".
      data_seed: of the stream of windows, drawn uniformly over clips, then over starts.
      first_sample_seed: sample i is the video of this seed + i.
      precision: by which the networks ran.
      resize, crop, extractor: see `Metric`.
    """

    metric: str
    version: int
    stage: str
    dataset: str
    split: str
    num_windows: int
    num_frames: int
    height: int
    width: int
    frame_rate: str
    data_seed: int
    first_sample_seed: int
    precision: str
    resize: str = "none"
    crop: str = "none"
    extractor: str = "none"

    def of_metric(self, name: str) -> Recipe:
        """The same windows for another metric of `METRICS`."""
        metric = METRICS[name]
        return replace(
            self,
            metric=name,
            version=metric.version,
            resize=metric.resize,
            crop=metric.crop,
            extractor=metric.extractor,
        )


@dataclass(frozen=True)
class Result:
    """Figures of one metric, how they were made, and the SHA-256 of the model file that was measured."""

    recipe: Recipe
    model: str
    figures: Mapping[str, float]
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Result:
        """Of what `dataclasses.asdict` gives.

        Raises:
          TypeError: fields are missing or not known.
        """
        fields = dict(said)
        return cls(**fields | {"recipe": Recipe(**fields.get("recipe", {}))})


def summarise(recipe: Recipe, model: str, data: np.ndarray, samples: np.ndarray) -> Result:
    """The result of a metric's numbers of all data windows and of all samples."""
    summary = METRICS[recipe.metric].summarise(data, samples)
    return Result(recipe, model, summary.figures, summary.curves)


def check_comparable(a: Recipe, b: Recipe) -> None:
    """Whether results by two recipes can stand beside each other.

    Raises:
      TrainError: they cannot; the text names every field that differs, with both values.
    """
    fields_a, fields_b = asdict(a), asdict(b)
    different = [f"{k} ({fields_a[k]} and {fields_b[k]})" for k in fields_a if fields_a[k] != fields_b[k]]
    if different:
        raise TrainError(
            f"results of {a.metric} and {b.metric} cannot be compared, as they differ in {', '.join(different)}; "
            "evaluate both with the same options on the same data"
        )


def compare(a: Result, b: Result) -> dict[str, tuple[float, float]]:
    """Each figure of two results of one recipe, side by side.

    Raises:
      TrainError: their recipes differ; the text says in what.
    """
    check_comparable(a.recipe, b.recipe)
    return {name: (a.figures[name], b.figures[name]) for name in a.figures}
