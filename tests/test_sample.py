"""Sampling: one endless video a seed, whatever is asked of it, in memory that does not grow."""

from __future__ import annotations

import copy
import gc
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

from lvg_train.checkpoint import save_checkpoint
from lvg_train.cli import main
from lvg_train.commands.common import FRAME_RATE, SEEDS
from lvg_train.errors import TrainError
from lvg_train.model_file import ModelFile, NetworkSpec, save_model
from lvg_train.movie import MovieWriter
from lvg_train.networks.lowres_generator import LowresGenerator
from lvg_train.networks.superres_generator import SuperresGenerator
from lvg_train.pictures import to_uint8
from lvg_train.sample import (
    Model,
    Sampler,
    Take,
    build_sampler,
    choose_show,
    draw_latent,
    film,
    frame_rate_of,
    load_model,
    make_movie,
    regroup,
    show_both,
    show_high,
    show_low,
    stream_low,
    stream_pairs,
)

TINY = 1 / 64
LOW, HIGH = (9, 16), (18, 32)
#: of frames in [-1, 1], where a level is 0.008; the contrast of `sampler` is raised, and rounding with it
ROUNDING = 4e-4
LOW_SPEC = NetworkSpec("lowres_generator", {"height": 9, "width": 16, "channel_scale": TINY})
HIGH_SPEC = NetworkSpec("superres_generator", {"low_size": LOW, "high_size": HIGH, "channel_scale": TINY})


def join(chunks: Iterator[Tensor]) -> Tensor:
    return torch.cat(list(chunks), 2)


@pytest.fixture(scope="session")
def sampler() -> Sampler:
    """Untrained networks whose frames have contrast and change with time, seed and context."""
    torch.manual_seed(2)
    low, high = LOW_SPEC.build().requires_grad_(False), HIGH_SPEC.build().requires_grad_(False)
    assert isinstance(low, LowresGenerator) and isinstance(high, SuperresGenerator)
    frames = join(low.stream(1, 256))
    low.to_rgb.weight.mul_(0.4 / frames.std())
    low.to_rgb.bias.sub_(join(low.stream(1, 256)).mean((0, 2, 3, 4)) / 0.25)  # the output's gain
    *_, to_rgb = high.SG3.synthesis.children()
    assert isinstance(to_rgb.weight, Tensor)
    to_rgb.weight.mul_(3)
    return Sampler(low, high)


@pytest.fixture(scope="session")
def files(sampler: Sampler, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """low.safetensors and high.safetensors, of data at 24 frames a second."""
    folder = tmp_path_factory.mktemp("models")
    for name, network, spec in (("low", sampler.low, LOW_SPEC), ("high", sampler.high, HIGH_SPEC)):
        description = ModelFile({"generator_ema": spec}, {"frame_rate": "24"})
        save_model(folder / f"{name}.safetensors", {"generator_ema": network}, description)
    return folder


@pytest.fixture(scope="session")
def low_video(sampler: Sampler) -> Tensor:
    return join(show_low(sampler, 3, 0, 200))


@pytest.fixture(scope="session")
def high_video(sampler: Sampler) -> Tensor:
    return join(show_high(sampler, 3, 0, 40))


def cut(sampler: Sampler, low_chunk: int, high_chunk: int) -> Sampler:
    return Sampler(sampler.low, sampler.high, sampler.precision, low_chunk, high_chunk)


def assert_same_frames(a: Tensor, b: Tensor) -> None:
    """Equal but for rounding: no level further off than one, and that in few pixels."""
    assert_close(a, b, atol=ROUNDING, rtol=0)
    off = np.abs(to_uint8(a).astype(int) - to_uint8(b))
    assert off.max() <= 1
    assert (off > 0).mean() < 1e-3


# ---- one video a seed


@pytest.mark.parametrize("name", ["low_video", "high_video"])
def test_videos_have_something_to_see(request: pytest.FixtureRequest, name: str):
    levels = to_uint8(request.getfixturevalue(name)).astype(int)

    assert levels.std() > 20
    assert np.abs(np.diff(levels, axis=1)).mean() > 1


@pytest.mark.parametrize("chunk", [32, 64, 96])
def test_low_frames_do_not_depend_on_the_chunk(sampler: Sampler, low_video: Tensor, chunk: int):
    assert_same_frames(join(show_low(cut(sampler, chunk, 8), 3, 0, 200)), low_video)


@pytest.mark.parametrize(("low_chunk", "high_chunk"), [(32, 1), (32, 7), (64, 40)])
def test_high_frames_do_not_depend_on_the_chunks(
    sampler: Sampler, high_video: Tensor, low_chunk: int, high_chunk: int
):
    video = join(show_high(cut(sampler, low_chunk, high_chunk), 3, 0, 20))

    assert_same_frames(video, high_video[:, :, :20])


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (5, 40), (31, 33), (64, 200), (77, 78), (127, 190)])
def test_low_frames_do_not_depend_on_the_start(sampler: Sampler, low_video: Tensor, start: int, stop: int):
    video = join(show_low(sampler, 3, start, stop - start))

    assert video.shape == (1, 3, stop - start, *LOW)
    assert_same_frames(video, low_video[:, :, start:stop])


@pytest.mark.parametrize(("start", "stop"), [(1, 9), (27, 40), (31, 34)])
def test_high_frames_do_not_depend_on_the_start(sampler: Sampler, high_video: Tensor, start: int, stop: int):
    video = join(show_high(sampler, 3, start, stop - start))

    assert video.shape == (1, 3, stop - start, *HIGH)
    assert_same_frames(video, high_video[:, :, start:stop])


def test_frame_0_has_real_frames_before_it(sampler: Sampler, low_video: Tensor, high_video: Tensor):
    endless = join(sampler.low.stream(3, 64)).clamp(-1, 1)
    latent = draw_latent(sampler.high, 3)

    assert_close(low_video[:, :, :32], endless[:, :, 32:], atol=ROUNDING, rtol=0)
    first = sampler.high(endless[:, :, 28:37], latent)
    assert_close(high_video[:, :, :1], first, atol=ROUNDING, rtol=0)
    # the context counts: with an edge repeated instead the frame would be another
    repeated = torch.cat([endless[:, :, 32:33].expand(-1, -1, 4, -1, -1), endless[:, :, 32:37]], 2)
    assert (sampler.high(repeated, latent) - first).abs().max() > 1e-3


def test_low_and_high_frames_that_come_together_show_one_moment(sampler: Sampler, low_video: Tensor):
    lows = join(low for low, _ in stream_pairs(sampler, 3, 10, 11))

    assert_close(lows, low_video[:, :, 10:21], atol=ROUNDING, rtol=0)


def test_a_seed_is_one_video_and_another_seed_another(
    sampler: Sampler, low_video: Tensor, high_video: Tensor
):
    assert torch.equal(join(show_low(sampler, 3, 0, 32)), join(show_low(sampler, 3, 0, 32)))
    other = join(show_low(sampler, 4, 0, 32))
    assert (other - low_video[:, :, :32]).abs().mean() > 0.01
    assert not torch.equal(draw_latent(sampler.high, 3), draw_latent(sampler.high, 4))


def test_a_video_may_start_far_away(sampler: Sampler):
    (frame,) = show_low(sampler, 3, 10**12 + 7, 1)

    assert frame.shape == (1, 3, 1, *LOW) and frame.isfinite().all()


def test_low_frames_stay_in_the_range_of_frames(sampler: Sampler):
    bright = copy.deepcopy(sampler.low)
    bright.to_rgb.bias.fill_(10)

    assert join(stream_low(Sampler(bright), 0, 0, 4)).max() == 1


# ---- chunks


@pytest.mark.parametrize(
    ("lengths", "num_frames", "context", "pieces"),
    [
        ([9], 3, 1, ["01234", "34567", "678"]),
        ([4, 5], 3, 1, ["01234", "34567", "678"]),
        ([1] * 8, 2, 1, ["0123", "2345", "4567"]),
        ([2], 3, 1, []),
        ([3], 3, 1, ["012"]),
        ([5, 1], 2, 0, ["01", "23", "45"]),
        ([], 2, 1, []),
    ],
)
def test_a_stream_is_regrouped_with_context(
    lengths: list[int], num_frames: int, context: int, pieces: list[str]
):
    stops = list(itertools.accumulate(lengths, initial=0))
    chunks = (torch.arange(a, b).reshape(1, 1, -1, 1, 1) for a, b in itertools.pairwise(stops))

    found = ["".join(map(str, piece.flatten().tolist())) for piece in regroup(chunks, num_frames, context)]

    assert found == pieces


def test_nothing_is_made_before_it_is_asked_for(sampler: Sampler):
    frames = film(sampler, Take((0,), 10**12), "high")

    assert next(frames).shape == (8, *HIGH, 3)


@pytest.mark.parametrize(("show", "num_frames"), [("low", 640), ("both", 64)])
def test_frames_that_were_shown_are_let_go(sampler: Sampler, show: str, num_frames: int):
    """Bytes held by tensors while a video is made: late as many as early, but for where in a chunk it is."""
    held = [held_bytes() for _ in film(cut(sampler, 32, 4), Take((0,), num_frames), show)]
    half_bytes = num_frames // 2 * (9 * 16 if show == "low" else 9 * 16 + 18 * 64) * 3 * 4

    assert max(held[len(held) // 2 :]) - max(held[: len(held) // 2]) < half_bytes / 8


def held_bytes() -> int:
    found = [x for x in gc.get_objects() if type(x) in (Tensor, nn.Parameter)]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in found}
    return sum(storages.values())


@pytest.mark.slow
def test_five_times_as_many_frames_take_no_more_memory(tmp_path: Path):
    """The whole command in a process of its own, its peak memory by the kernel's account."""
    spec = NetworkSpec("lowres_generator", {"height": 64, "width": 64, "channel_scale": TINY})
    save_model(tmp_path / "low.safetensors", {"generator": spec.build()}, ModelFile({"generator": spec}))

    peaks = [peak_mib(tmp_path, num_frames) for num_frames in (1000, 5000)]

    assert peaks[1] < peaks[0] + 12  # the 4,000 further frames have 47 MiB in bytes and 188 as floats


def peak_mib(folder: Path, num_frames: int) -> float:
    arguments = ["sample", "low.safetensors", "--frames", str(num_frames), "--out", "movie.mp4"]
    code = (
        "import resource; from lvg_train.cli import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    # what was freed goes back to the system, so that the peak is of what is in use
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


# ---- what a movie shows


def test_both_shows_each_low_pixel_as_a_square_left_of_the_high_frame(sampler: Sampler):
    (shown,) = show_both(sampler, 3, 0, 2)
    ((low, high),) = stream_pairs(sampler, 3, 0, 2)

    assert shown.shape == (1, 3, 2, 18, 64)
    left = low[:, :, :, torch.arange(18) // 2][..., torch.arange(32) // 2]
    assert_close(shown, torch.cat([left, high], 4))


def test_seeds_stand_in_a_grid_in_their_order(sampler: Sampler):
    (grid,) = film(sampler, Take((5, 6, 7, 8), 3), "low")

    for seed, (row, column) in zip((5, 6, 7, 8), itertools.product((0, 1), (0, 1)), strict=True):
        (alone,) = film(sampler, Take((seed,), 3), "low")
        place = place_of(alone, grid)
        assert place == (row * (grid.shape[1] - 9), column * (grid.shape[2] - 16))


def place_of(part: np.ndarray, whole: np.ndarray) -> tuple[int, int]:
    """Row and column at which one video lies in another."""
    (_, height, width, _), (_, rows, columns, _) = part.shape, whole.shape
    found = [
        (y, x)
        for y, x in itertools.product(range(rows - height + 1), range(columns - width + 1))
        if np.array_equal(whole[:, y : y + height, x : x + width], part)
    ]
    (place,) = found
    return place


def test_high_resolution_is_shown_where_there_is_one(sampler: Sampler):
    assert choose_show(None, sampler) == "high"
    assert choose_show(None, Sampler(sampler.low)) == "low"
    assert choose_show("low", sampler) == "low"
    with pytest.raises(TrainError, match="--show both needs a super-res run or model beside the low-res one"):
        choose_show("both", Sampler(sampler.low))


def test_a_movie_is_what_was_filmed(sampler: Sampler, tmp_path: Path):
    """In order, at its frame rate; the last chunk too."""
    counts: list[int] = []
    take = Take((3,), 21)

    size = make_movie(tmp_path / "a.mp4", sampler, take, "both", Fraction(30000, 1001), counts.append)

    with av.open(str(tmp_path / "a.mp4")) as movie:
        frames = np.stack([f.to_ndarray(format="rgb24") for f in movie.decode(video=0)])
        assert movie.streams.video[0].average_rate == Fraction(30000, 1001)
    filmed = np.concatenate(list(film(sampler, take, "both")))
    assert size == (18, 64) and frames.shape == filmed.shape == (21, 18, 64, 3)
    brightness = np.abs(frames.mean((2, 3)) - filmed.mean((2, 3)))  # of each row of each frame
    assert brightness.mean() < 3
    assert sum(counts) == 21 and len(counts) > 1


@pytest.mark.parametrize("show", ["low", "both"])
def test_a_strip_shows_frames_of_the_video_and_makes_no_others(
    sampler: Sampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, show: str
):
    made: list[int] = []
    forward = LowresGenerator.forward

    def counted(self: LowresGenerator, noise: Tensor, num_frames: int, **options: str) -> Tensor:
        made.append(num_frames)
        return forward(self, noise, num_frames, **options)

    whole = np.concatenate(list(film(sampler, Take((3,), 200, 50), show)))
    monkeypatch.setattr(LowresGenerator, "forward", counted)
    counts: list[int] = []
    make_movie(tmp_path / "a.png", sampler, Take((3,), 200, 50), show, Fraction(30), counts.append)

    picture = np.asarray(Image.open(tmp_path / "a.png"))
    shown = np.concatenate([whole[t] for t in (0, 28, 57, 85, 114, 142, 171, 199)], axis=1)
    assert picture.shape == shown.shape
    assert np.abs(picture.astype(int) - shown).max() <= 1
    assert sum(counts) == 8 and len(made) == 8 and max(made) <= 64


def test_a_strip_of_a_video_of_a_year_is_made_in_no_time(sampler: Sampler, tmp_path: Path):
    make_movie(tmp_path / "a.png", sampler, Take((3,), 10**9), "low", Fraction(30))

    assert Image.open(tmp_path / "a.png").size == (8 * 16, 9)


def test_a_strip_names_its_seeds(sampler: Sampler, tmp_path: Path):
    """A row for each over a line of 15 pixels; with one frame alone a grid."""
    seeds = (5, 6, 70, 8)
    make_movie(tmp_path / "rows.png", sampler, Take(seeds, 2), "both", Fraction(30))
    make_movie(tmp_path / "grid.png", sampler, Take(seeds, 1), "both", Fraction(30))

    rows, cells = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("rows", "grid"))
    assert rows.shape == (4 * (15 + 18) + 3 * 4, 2 * 64, 3)
    assert cells.shape == (4 * (15 + 18) + 3 * 4, 64, 3)
    lines = [rows[top : top + 15] for top in range(0, len(rows), 37)]
    assert all(50 < (line > 128).sum() / 3 < 400 for line in lines)
    assert len({line.tobytes() for line in lines}) == 4
    for number, seed in enumerate(seeds):
        (alone,) = film(sampler, Take((seed,), 2), "both")
        row = rows[37 * number + 15 : 37 * number + 33]
        assert np.array_equal(row, np.concatenate(list(alone), axis=1))


def test_a_movie_that_fails_midway_is_not_there(sampler: Sampler, tmp_path: Path):
    def stop(num_frames: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_movie(tmp_path / "a.mp4", sampler, Take((0,), 40), "low", Fraction(30), stop)

    assert not list(tmp_path.iterdir())


def test_a_last_chunk_that_cannot_be_written_is_no_movie(
    sampler: Sampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def write(self: MovieWriter, frames: np.ndarray) -> None:
        raise TrainError("the disk is full")

    monkeypatch.setattr(MovieWriter, "write", write)

    with pytest.raises(TrainError, match="the disk is full"):
        make_movie(tmp_path / "a.mp4", sampler, Take((0,), 4), "low", Fraction(30))
    assert not list(tmp_path.iterdir())


def test_memory_that_runs_out_says_what_to_lower(sampler: Sampler, monkeypatch: pytest.MonkeyPatch):
    def forward(*args: object, **kwargs: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(SuperresGenerator, "forward", forward)

    with pytest.raises(
        TrainError, match=r"1 videos in chunks of 128 low-res and 8 high-res frames.*--high-chunk"
    ):
        next(film(sampler, Take((0,), 4), "high"))


# ---- which models


def model(name: str, network: nn.Module, frame_rate: int | None = None) -> Model:
    assert isinstance(network, LowresGenerator | SuperresGenerator)
    return Model(Path(name), network, frame_rate and Fraction(frame_rate))


def test_models_may_come_in_either_order(sampler: Sampler):
    low, high = model("low", sampler.low), model("high", sampler.high)

    for models in ([low, high], [high, low]):
        built = build_sampler(models, "reference", 64, 3)
        assert (built.low, built.high) == (sampler.low, sampler.high)
        assert (built.precision, built.low_chunk, built.high_chunk) == ("reference", 64, 3)
    assert build_sampler([low]).high is None


def test_models_that_do_not_belong_together_are_refused(sampler: Sampler):
    low, high = model("a/low", sampler.low), model("a/high", sampler.high)
    square = model("a/square", LowresGenerator(16, 16, TINY))

    with pytest.raises(
        TrainError, match="a/low and a/square are both of the low-res stage; give one of each"
    ):
        build_sampler([low, square])
    with pytest.raises(TrainError, match="a/high and a/high are both of the super-res stage"):
        build_sampler([high, high])
    with pytest.raises(
        TrainError, match=r"a/high is of the super-res stage.* give a low-res run or model beside"
    ):
        build_sampler([high])
    with pytest.raises(TrainError, match="a/square makes frames of 16x16, and a/high enlarges those of 9x16"):
        build_sampler([square, high])


def test_a_movie_plays_at_the_rate_of_the_data(sampler: Sampler, files: Path):
    assert load_model(files / "low.safetensors").frame_rate == 24
    assert frame_rate_of([model("a", sampler.low, 25), model("b", sampler.high)]) == 25
    assert frame_rate_of([model("a", sampler.low)]) == 30
    with pytest.raises(TrainError, match=r"a \(25\) and b \(24\) were trained at different.*with --fps"):
        frame_rate_of([model("a", sampler.low, 25), model("b", sampler.high, 24)])


@pytest.mark.parametrize(
    ("said", "rate"), [("30000/1001", Fraction(30000, 1001)), (29.97002997, Fraction(30000, 1001)), (25, 25)]
)
def test_a_frame_rate_is_read_however_it_is_noted(
    sampler: Sampler, tmp_path: Path, said: object, rate: Fraction
):
    path = tmp_path / "low.safetensors"
    save_model(path, {"generator": sampler.low}, ModelFile({"generator": LOW_SPEC}, {"frame_rate": said}))

    assert load_model(path).frame_rate == rate


def test_a_model_that_makes_no_frames_is_refused(tmp_path: Path):
    spec = NetworkSpec(
        "lowres_discriminator", {"height": 16, "width": 16, "num_frames": 8, "channel_scale": TINY}
    )
    path = tmp_path / "d.safetensors"
    save_model(path, {"generator": spec.build()}, ModelFile({"generator": spec}))

    with pytest.raises(TrainError, match=r"d.safetensors has a LowresDiscriminator as its generator"):
        load_model(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda s: Sampler(s.low, low_chunk=33),
        lambda s: Sampler(s.low, low_chunk=0),
        lambda s: Sampler(s.low, high_chunk=0),
        lambda s: Take((), 1),
        lambda s: Take((-1,), 1),
        lambda s: Take((1 << 64,), 1),
        lambda s: Take((0,), 0),
        lambda s: Take((0,), 1, -1),
    ],
)
def test_what_cannot_be_sampled_is_refused(sampler: Sampler, make: object):
    with pytest.raises(ValueError, match=r"must be|has at least"):
        make(sampler)


# ---- the command


def run(folder: Path, *arguments: str) -> click.testing.Result:
    paths = [str(folder / a) if a.endswith(".safetensors") else a for a in arguments]
    return CliRunner().invoke(main, ["sample", *paths])


@pytest.mark.parametrize(
    ("arguments", "size", "num_frames", "frame_rate"),
    [
        (["low.safetensors", "--frames", "33"], (10, 16), 33, 24),
        (
            ["high.safetensors", "low.safetensors", "--frames", "5", "--fps", "12.5"],
            (18, 32),
            5,
            Fraction(25, 2),
        ),
        (["low.safetensors", "--seeds", "0-1,7", "--seed", "9", "--frames", "3"], (22, 36), 3, 24),
    ],
)
def test_the_command_writes_a_movie(
    files: Path,
    tmp_path: Path,
    arguments: list[str],
    size: tuple[int, int],
    num_frames: int,
    frame_rate: Fraction,
):
    """Heights and widths are even in H.264; the grid has a gap of 4 pixels."""
    out = tmp_path / "movie.mp4"

    done = run(files, *arguments, "--out", str(out))

    assert done.exit_code == 0, done.output
    assert f"wrote {out}: {num_frames} frames of " in done.output
    assert f"at {float(frame_rate):g} frames/s ({float(num_frames / frame_rate):.1f} s)" in done.output
    with av.open(str(out)) as movie:
        stream = movie.streams.video[0]
        assert (stream.height, stream.width, stream.average_rate) == (*size, frame_rate)
        assert sum(1 for _ in movie.decode(stream)) == num_frames


def test_a_run_is_sampled_at_its_newest_checkpoint(sampler: Sampler, tmp_path: Path):
    description = ModelFile({"generator_ema": LOW_SPEC}, {"frame_rate": "20"})
    run_folder, before = tmp_path / "run", copy.deepcopy(sampler.low)
    before.to_rgb.bias.add_(1)
    for step, network in ((1, before), (2, sampler.low)):
        save_checkpoint(run_folder, step, {"generator_ema": network}, description, {}, {})

    loaded = load_model(run_folder)
    done = run(tmp_path, str(run_folder), "--frames", "2", "--out", str(tmp_path / "movie.mp4"))

    assert done.exit_code == 0 and "at 20 frames/s" in done.output
    assert loaded.file == run_folder / "checkpoints" / "step-000000002" / "models.safetensors"
    assert torch.equal(join(show_low(Sampler(loaded.network), 3, 0, 2)), join(show_low(sampler, 3, 0, 2)))


def test_the_command_also_writes_webp_and_png(files: Path, tmp_path: Path):
    for name in ("movie.webp", "strip.png"):
        done = run(
            files, "low.safetensors", "--frames", "8", "--start-frame", "100", "--out", str(tmp_path / name)
        )
        assert done.exit_code == 0, done.output

    assert Image.open(tmp_path / "movie.webp").n_frames > 1  # equal frames become one
    assert Image.open(tmp_path / "strip.png").size == (8 * 16, 9)
    done = run(files, "low.safetensors", "--frames", "5000", "--out", str(tmp_path / "long.png"))
    assert "8 of 5,000 frames of 9x16, evenly spaced over 208.3 s; only they were made" in done.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["low.safetensors", "low.safetensors"], "are both of the low-res stage"),
        (["high.safetensors"], "give a low-res run or model beside"),
        (["low.safetensors", "--show", "high"], "--show high needs a super-res run"),
        (["low.safetensors"] * 3, "give one or two runs or model files, not 3"),
        (["gone.safetensors"], "gone.safetensors"),
        (["low.safetensors", "--chunk-frames", "48"], "48 is not a multiple of 32"),
        (["low.safetensors", "--seeds", "8-2"], "'8-2' is not a number, a range such as 0-8"),
        (["low.safetensors", "--fps", "0"], "'0' is not a number of frames per second"),
        (["low.safetensors", "--frames", "0"], "x>=1"),
    ],
)
def test_the_command_says_what_is_wrong(files: Path, tmp_path: Path, arguments: list[str], told: str):
    done = run(files, *arguments, "--out", str(tmp_path / "movie.mp4"))

    assert done.exit_code in (1, 2)
    assert told in " ".join(done.output.replace("│", " ").split())
    assert "Traceback" not in done.output
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_is_refused_before_anything_is_made(files: Path, tmp_path: Path):
    done = run(files, "low.safetensors", "--frames", "1000000000", "--out", str(tmp_path / "movie.gif"))

    assert done.exit_code == 1 and ".mp4" in done.output


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", (3,)), ("0-3", (0, 1, 2, 3)), ("0,7,2-3", (0, 7, 2, 3)), ("4-4", (4,))]
)
def test_seeds_are_numbers_ranges_and_lists(text: str, seeds: tuple[int, ...]):
    assert SEEDS.convert(text, None, None) == seeds


@pytest.mark.parametrize("text", ["", "a", "-1", "3-1", "1,,2", "1-2-3", str(1 << 64)])
def test_other_seeds_are_refused(text: str):
    with pytest.raises(click.BadParameter, match="is not a number, a range"):
        SEEDS.convert(text, None, None)


def test_frame_rates_are_exact():
    assert FRAME_RATE.convert("29.97", None, None) == Fraction(2997, 100)
    assert FRAME_RATE.convert("30000/1001", None, None) == Fraction(30000, 1001)
    for text in ("0", "-3", "1/0", "fast", "1e9"):
        with pytest.raises(click.BadParameter, match="is not a number of frames per second"):
            FRAME_RATE.convert(text, None, None)


def test_the_help_has_examples():
    done = CliRunner().invoke(main, ["sample", "--help"])

    assert done.exit_code == 0
    assert "lvg-train sample runs/low runs/high --frames 900 --seed 7 --out ride.mp4" in done.output
