"""A generator's samples against the data: windows of both in pairs, every metric in one pass, constant memory.

    stage 1    data     low-res window i              samples    the first frames of the video of seed i
    stage 2    data     high-res window i             samples    its low-res frames enlarged, with the latent of seed i

Windows are drawn uniformly over clips, then over starts, as training draws them: see `lvg_data.window`.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lvg_data import store
from lvg_data.reader import Dataset, WindowFrames
from lvg_data.window import View, Windows
from lvg_train.config import read_config
from lvg_train.data import normalise
from lvg_train.errors import TrainError
from lvg_train.metrics import METRICS, Recipe, Result, summarise
from lvg_train.networks.lowres_generator import LowresGenerator
from lvg_train.networks.superres_generator import CONTEXT_FRAMES, SuperresGenerator
from lvg_train.pictures import to_uint8
from lvg_train.sample import Model, Sampler, draw_latent, enlarge, stream_low

PAPER_FRAMES = 129  # t = 0 ... 128
MIN_FRAMES = max(metric.min_frames for metric in METRICS.values())
FORMAT = "lvg-evaluation-1"
RESULTS, PLOT = "evaluation.json", "colour-similarity.png"

Generator = LowresGenerator | SuperresGenerator


# ---- which windows


@dataclass(frozen=True)
class Comparison:
    """Which windows of a dataset a generator's samples stand beside, and how they are made.

    Attributes:
      num_windows: of the data, and as many samples.
      num_frames: of each.
      seed: of the stream of windows; sample i is of seed `seed` + i.
    """

    dataset: Dataset
    model: Model
    num_windows: int
    num_frames: int
    split: str = "train"
    seed: int = 0
    precision: str = "fast"

    def windows(self) -> Windows:
        """Every window there is.

        Raises:
          TrainError: the data has frames of other sizes, or none long enough; the text has the numbers.
        """
        check_sizes(self.dataset, self.model)
        try:
            return self.dataset.windows(view_of(self.model.network, self.num_frames), self.split)
        except ValueError as err:
            raise TrainError(f"{self.dataset.address}: {err} (--frames, --split)") from err

    def recipe(self) -> Recipe:
        """Of no metric yet, see `Recipe.of_metric`."""
        role = view_of(self.model.network, self.num_frames).roles[-1]
        height, width = self.dataset.size(role)
        return Recipe(
            metric="",
            version=0,
            stage={"low": "low-res", "high": "super-res"}[role],
            dataset=self.dataset.description["fingerprint"],
            split=self.split,
            num_windows=self.num_windows,
            num_frames=self.num_frames,
            height=height,
            width=width,
            frame_rate=str(self.dataset.description["recipe"]["frame_rate"]),
            data_seed=self.seed,
            first_sample_seed=self.seed,
            precision=self.precision,
        )


def view_of(network: Generator, num_frames: int) -> View:
    """The windows of the data that show what a generator makes, and for stage 2 what it makes them of."""
    if isinstance(network, LowresGenerator):
        return View(num_frames)
    return View(num_frames, context=CONTEXT_FRAMES, roles=("low", "high"), high_context=False)


def check_sizes(dataset: Dataset, model: Model) -> None:
    """Whether a dataset has frames of a generator's sizes.

    Raises:
      TrainError: it has not.
    """
    network = model.network
    if isinstance(network, LowresGenerator):
        wanted = {"low": (network.height, network.width)}
    else:
        wanted = {"low": network.low_size, "high": network.high_size}
    for role, (height, width) in wanted.items():
        if dataset.size(role) != (height, width):
            found = "x".join(map(str, dataset.size(role)))
            raise TrainError(
                f"{model.file} is for {role}-res frames of {height}x{width}, and those of {dataset.address} are "
                f"{found}; name the dataset that it was trained on with --data"
            )


def suitable_frames(dataset: Dataset, network: Generator, split: str = "train") -> int:
    """129 frames, as in the paper; or where fewer than half of the clips have so many, as many as half of them have."""
    view = view_of(network, MIN_FRAMES)
    rows = (clip.row for clip in dataset.clips if clip.row.split == split)
    eligible = (row for row in rows if (row.in_low if view.roles[-1] == "low" else row.in_high))
    lengths = sorted(row.num_frames - 2 * view.context for row in eligible)
    median = lengths[len(lengths) // 2] if lengths else PAPER_FRAMES
    return max(MIN_FRAMES, min(PAPER_FRAMES, median))


def dataset_of_run(run: Path) -> str | None:
    """The dataset that a run trains on; None for a model file."""
    config = read_config(run) if run.is_dir() else None
    return None if config is None else config.data


# ---- data and samples


def pairs(comparison: Comparison, windows: Windows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A window of the data and a sample, `num_windows` times; each uint8 [1, T, H, W, 3]."""
    view, sample = windows.view, sample_low if windows.view.roles == ("low",) else sample_high
    for index in range(comparison.num_windows):
        window = windows.draw_window(index, comparison.seed)
        frames = comparison.dataset.read_window(window, view.roles, view.frames_of("high"))
        shown = frames.low if frames.high is None else frames.high
        chunks = [to_uint8(chunk) for chunk in sample(comparison, frames, comparison.seed + index)]
        yield shown[None], np.concatenate(chunks, axis=1)


def sample_low(comparison: Comparison, data: WindowFrames, seed: int) -> Iterator[Tensor]:
    """What `lvg-train sample --seed SEED` shows, float32 [1, 3, t, h, w]; nothing of the data."""
    network = comparison.model.network
    assert isinstance(network, LowresGenerator)
    # in one piece: about 160 frames at the paper's length
    chunk = -(-comparison.num_frames // 32) * 32
    return stream_low(Sampler(network, None, comparison.precision, chunk), seed, 0, comparison.num_frames)


def sample_high(comparison: Comparison, data: WindowFrames, seed: int) -> Iterator[Tensor]:
    """The window's low-res frames enlarged, float32 [1, 3, t, H, W]."""
    network = comparison.model.network
    assert isinstance(network, SuperresGenerator)
    latent = draw_latent(network, seed)
    frames = torch.from_numpy(data.low[None]).to(latent.device)
    low = normalise(frames, flipped=torch.zeros(1, dtype=torch.bool, device=latent.device))
    return (high for _, high in enlarge(network, [low], latent, 8, comparison.precision))


# ---- results


def evaluate(
    comparison: Comparison, report: Callable[[int], None] = lambda num_windows: None
) -> dict[str, Result]:
    """Every metric of `METRICS`, by name.

    Args:
      report: told how many more windows were measured.

    Raises:
      TrainError: see `Comparison.windows`.
    """
    windows = comparison.windows()
    measured: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {name: ([], []) for name in METRICS}
    for videos in pairs(comparison, windows):
        for name, metric in METRICS.items():
            for numbers, video in zip(measured[name], videos, strict=True):
                numbers.append(metric.measure(video))
        report(1)
    recipe, model = comparison.recipe(), file_hash(comparison.model.file)
    return {
        name: summarise(recipe.of_metric(name), model, np.concatenate(data), np.concatenate(samples))
        for name, (data, samples) in measured.items()
    }


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_results(folder: Path, results: Mapping[str, Result]) -> Path:
    """Writes `evaluation.json` into a folder, whole or not at all."""
    said: dict[str, Any] = {"format": FORMAT, "results": {name: asdict(r) for name, r in results.items()}}
    return _write(folder / RESULTS, json.dumps(said, indent=1, sort_keys=True).encode() + b"\n")


def load_results(path: Path) -> dict[str, Result]:
    """What `save_results` wrote.

    Raises:
      TrainError: it is no such file.
    """
    try:
        said = json.loads(path.read_bytes())
        if said["format"] != FORMAT:
            raise TrainError(f"{path} is of format {said['format']!r}, not {FORMAT!r}; evaluate again")
        return {name: Result.from_json(result) for name, result in said["results"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise TrainError(
            f"{path} cannot be read as results: {err}; name an {RESULTS} of lvg-train evaluate"
        ) from err


def _write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_atomic(str(path.absolute()), data)
    return path


# ---- the plot


def plot_similarity(folder: Path, result: Result, earlier: Result | None = None) -> Path | None:
    """Draws S(x, t) of data and samples with a band of one standard deviation; None where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return None
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    curves = [("data", "data", result, "#222222", "-"), ("samples", "samples", result, "#d1495b", "-")]
    if earlier is not None:
        curves.append(("earlier samples", "samples", earlier, "#2e86ab", "--"))
    for label, name, source, colour, line in curves:
        mean, std = (np.array(source.curves[f"{name}_{kind}"]) for kind in ("mean", "std"))
        axes.plot(mean, line, color=colour, label=label)
        axes.fill_between(range(len(mean)), mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)
    recipe = result.recipe
    axes.set(
        title=f"Colours that last: {recipe.num_windows:,} windows of {recipe.num_frames} frames, "
        f"{recipe.stage} {recipe.height}x{recipe.width}",
        xlabel="t, frames after the first",
        ylabel="colour similarity S(x, t)\nmean ± std over windows",
        xlim=(0, recipe.num_frames - 1),
        ylim=(0, 1.02),
    )
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    axes.grid(alpha=0.25)
    figure.legend(frameon=False, loc="outside lower center", ncols=len(curves))  # where no curve can come
    picture = io.BytesIO()
    figure.savefig(picture, dpi=130, format="png")
    return _write(folder / PLOT, picture.getvalue())
