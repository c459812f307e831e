"""Evaluating: samples beside windows of the data, each as it would be drawn and sampled alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from lvg_data.reader import Dataset, open_dataset
from lvg_data.window import View
from lvg_train.checkpoint import save_checkpoint
from lvg_train.cli import main
from lvg_train.config import dataset_facts, resolve, to_json
from lvg_train.errors import TrainError
from lvg_train.evaluate import (
    Comparison,
    evaluate,
    load_results,
    pairs,
    plot_similarity,
    save_results,
    suitable_frames,
)
from lvg_train.metrics import METRICS, colour_distance, colour_similarity, motion, motion_distance
from lvg_train.model_file import ModelFile, NetworkSpec, save_model
from lvg_train.networks.superres_generator import SuperresGenerator
from lvg_train.pictures import to_uint8
from lvg_train.sample import Model, Sampler, Take, draw_latent, film, load_model
from tests.builds import build_dataset, make_once, small_card
from tests.videos import RECIPES, write_video

TINY = 1 / 64
SPECS = {
    "low": NetworkSpec("lowres_generator", {"height": 16, "width": 16, "channel_scale": TINY}),
    "high": NetworkSpec(
        "superres_generator", {"low_size": (16, 16), "high_size": (32, 32), "channel_scale": TINY}
    ),
    "wide": NetworkSpec("lowres_generator", {"height": 9, "width": 16, "channel_scale": TINY}),
}
#: in seconds at 30 frames a second: clips of 60, 24 and 17 frames
INTERVALS = {"a.mp4": [["0", "1.98"], ["2.49", "3.29"]], "b.mp4": [["0", "0.55"]]}


def make_files(folder: Path) -> None:
    """A dataset in data/ of clips of 60, 24 and 17 frames, and an untrained model file of each kind."""
    for name, num_frames in (("a", 100), ("b", 30)):
        write_video(folder / f"{name}.mp4", RECIPES["h264_bframes"], num_frames, width=192, height=108)
    card = small_card(
        sources=[{"kind": "files", "path": "*.mp4", "intervals": INTERVALS}],
        low={"height": 16, "width": 16, "min_frames": 10},
        high={"height": 32, "width": 32},
    )
    build_dataset(card, folder, folder / "data", store=folder / "store")
    for name, spec in SPECS.items():
        torch.manual_seed(0)
        network = spec.build()
        save_model(folder / f"{name}.safetensors", {"generator": network}, ModelFile({"generator": spec}))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To be read only."""
    return make_once(tmp_path_factory, "evaluate", make_files)


@pytest.fixture(scope="session")
def dataset(folder: Path) -> Dataset:
    return open_dataset(folder / "data")


@pytest.fixture(scope="session")
def low(folder: Path) -> Model:
    return load_model(folder / "low.safetensors")


@pytest.fixture(scope="session")
def high(folder: Path) -> Model:
    return load_model(folder / "high.safetensors")


# ---- data and samples


def test_data_are_windows_as_training_draws_them_and_samples_videos_of_successive_seeds(
    dataset: Dataset, low: Model
):
    comparison = Comparison(dataset, low, num_windows=4, num_frames=20, seed=5)

    for i, (data, sample) in enumerate(pairs(comparison, comparison.windows())):
        assert np.array_equal(data, dataset.window(View(20), i, seed=5).low[None])
        (video,) = film(Sampler(low.network), Take((5 + i,), 20), "low")
        assert np.array_equal(sample, video[None])


def test_super_res_samples_are_the_datas_low_frames_enlarged(dataset: Dataset, high: Model):
    comparison = Comparison(dataset, high, num_windows=2, num_frames=11, seed=3)
    view = View(11, context=4, roles=("low", "high"))
    assert isinstance(high.network, SuperresGenerator)

    for i, (data, sample) in enumerate(pairs(comparison, comparison.windows())):
        window = dataset.window(view, i, seed=3)
        assert np.array_equal(data, window.high[None, 4:-4])
        frames = torch.from_numpy(window.low[None]).permute(0, 4, 1, 2, 3) / 127.5 - 1
        whole = to_uint8(high.network(frames, draw_latent(high.network, 3 + i)))
        assert sample.shape == whole.shape == data.shape
        assert np.abs(sample.astype(int) - whole).max() <= 1


@pytest.mark.parametrize("name", ["low", "high"])
def test_figures_are_those_of_all_windows_together(
    dataset: Dataset, name: str, request: pytest.FixtureRequest
):
    comparison = Comparison(dataset, request.getfixturevalue(name), num_windows=3, num_frames=9)
    data, samples = map(np.concatenate, zip(*pairs(comparison, comparison.windows()), strict=True))

    results = evaluate(comparison)

    curves = results["colour_similarity"].curves
    assert curves["data_mean"] == pytest.approx(colour_similarity(data).mean(0))
    assert curves["samples_std"] == pytest.approx(colour_similarity(samples).std(0))
    assert results["motion"].figures["data_mean"] == pytest.approx(motion(data).mean)
    assert results["motion"].figures["distance"] == pytest.approx(motion_distance(data, samples))
    assert results["colour"].figures["distance"] == pytest.approx(colour_distance(data, samples))


def test_a_generator_is_at_no_distance_from_its_own_samples(
    dataset: Dataset, low: Model, monkeypatch: pytest.MonkeyPatch
):
    """The whole way, with samples for data."""
    comparison = Comparison(dataset, low, num_windows=2, num_frames=8)
    samples = [sample for _, sample in pairs(comparison, comparison.windows())]
    monkeypatch.setattr("lvg_train.evaluate.pairs", lambda *_: zip(samples, samples, strict=True))

    figures = {name: result.figures for name, result in evaluate(comparison).items()}

    assert figures["colour_similarity"]["gap"] == figures["motion"]["distance"] == 0
    assert figures["colour"]["distance"] == 0


def test_a_result_says_how_it_was_made(dataset: Dataset, folder: Path, low: Model, high: Model):
    reported: list[int] = []
    results = evaluate(Comparison(dataset, low, 2, 8, seed=4, precision="reference"), reported.append)

    assert set(results) == set(METRICS) and reported == [1, 1]
    recipe = dataclasses.asdict(results["motion"].recipe)
    assert recipe == {
        "metric": "motion",
        "version": 1,
        "stage": "low-res",
        "dataset": dataset.description["fingerprint"],
        "split": "train",
        "num_windows": 2,
        "num_frames": 8,
        "height": 16,
        "width": 16,
        "frame_rate": "native",
        "data_seed": 4,
        "first_sample_seed": 4,
        "precision": "reference",
        "resize": "none",
        "crop": "none",
        "extractor": "none",
    }
    assert results["motion"].model == hashlib.sha256((folder / "low.safetensors").read_bytes()).hexdigest()
    enlarged = Comparison(dataset, high, 2, 8).recipe()
    assert (enlarged.stage, enlarged.height, enlarged.width) == ("super-res", 32, 32)


def test_results_are_read_back_as_they_were_saved(dataset: Dataset, low: Model, tmp_path: Path):
    results = evaluate(Comparison(dataset, low, 2, 8))

    assert load_results(save_results(tmp_path, results)) == results


@pytest.mark.parametrize("text", ["", "[]", '{"format": "lvg-evaluation-1"}', '{"format": "other"}'])
def test_what_is_no_evaluation_is_refused(tmp_path: Path, text: str):
    (tmp_path / "evaluation.json").write_text(text)

    with pytest.raises(TrainError, match=r"evaluation.json (cannot be read|is of format 'other')"):
        load_results(tmp_path / "evaluation.json")


def test_the_plot_is_a_picture(dataset: Dataset, low: Model, tmp_path: Path):
    result = evaluate(Comparison(dataset, low, 2, 8))["colour_similarity"]

    plot = plot_similarity(tmp_path, result, result)

    assert plot == tmp_path / "colour-similarity.png"
    picture = np.asarray(Image.open(plot).convert("RGB"))
    assert picture.shape[0] > 400 and picture.std() > 10


def test_the_plot_has_whole_frames_and_a_legend_beside_its_curves(
    dataset: Dataset, low: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from matplotlib.figure import Figure

    figures, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *a, **k: (figures.append(figure), save(figure, *a, **k))
    )
    result = evaluate(Comparison(dataset, low, 2, 4))["colour_similarity"]

    plot_similarity(tmp_path, result, result)

    (axes,), (legend,) = figures[0].axes, figures[0].legends
    assert axes.get_xticks().tolist() == [0, 1, 2, 3]
    assert [text.get_text() for text in legend.get_texts()] == ["data", "samples", "earlier samples"]
    for label in (axes.bbox, axes.xaxis.label.get_window_extent(), axes.title.get_window_extent()):
        assert not legend.get_window_extent().overlaps(label)
    assert figures[0].bbox.containsy(axes.yaxis.label.get_window_extent().y1)


# ---- which windows


def test_the_default_length_is_what_half_of_the_clips_have(dataset: Dataset, low: Model, high: Model):
    """Clips of 60, 24 and 17 frames; super-resolution takes 4 more on each side."""
    assert sorted(clip.num_frames for clip in dataset.clips) == [17, 24, 60]
    assert suitable_frames(dataset, low.network) == 24
    assert suitable_frames(dataset, high.network) == 16


def test_clips_that_are_too_short_are_refused_with_the_numbers(dataset: Dataset, low: Model, high: Model):
    with pytest.raises(
        TrainError, match=r"spans 61 frames.*longest of the 3 low-res clips.* has 60.*--frames"
    ):
        Comparison(dataset, low, 1, 61).windows()
    with pytest.raises(TrainError, match=r"spans 61 frames \(61 at stride 1\).*high-res clips.* has 60"):
        Comparison(dataset, high, 1, 53).windows()
    assert len(Comparison(dataset, high, 1, 52).windows().clips) == 1


def test_a_split_that_is_not_there_is_refused_with_those_that_are(dataset: Dataset, low: Model):
    with pytest.raises(TrainError, match=r"no clip is of the split 'test'; clips by split: train \(3\)"):
        Comparison(dataset, low, 1, 8, split="test").windows()


def test_data_of_other_sizes_are_refused(dataset: Dataset, folder: Path):
    wide = load_model(folder / "wide.safetensors")

    with pytest.raises(TrainError, match=r"wide.safetensors is for low-res frames of 9x16, and .* are 16x16"):
        Comparison(dataset, wide, 1, 8).windows()


# ---- the command


def run(*arguments: Any) -> click.testing.Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def test_the_command_writes_figures_and_a_plot(folder: Path, tmp_path: Path):
    done = run(
        folder / "low.safetensors",
        "--data",
        folder / "data",
        "--windows",
        3,
        "--frames",
        10,
        "--out",
        tmp_path,
    )

    assert done.exit_code == 0, done.output
    assert f"3 windows of 10 frames, of 3 clips of {folder / 'data'}" in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["colour-similarity.png", "evaluation.json"]
    said = json.loads((tmp_path / "evaluation.json").read_text())["results"]
    assert len(said["colour_similarity"]["curves"]["samples_mean"]) == 10
    assert f"{said['motion']['figures']['distance']:.4f}" in done.output


def test_an_earlier_evaluation_stands_beside_and_one_made_otherwise_is_refused(folder: Path, tmp_path: Path):
    arguments = [folder / "low.safetensors", "--data", folder / "data", "--windows", 2]
    assert run(*arguments, "--frames", 10, "--out", tmp_path / "a").exit_code == 0
    earlier = tmp_path / "a" / "evaluation.json"

    done = run(*arguments, "--frames", 10, "--out", tmp_path / "b", "--against", earlier)
    assert done.exit_code == 0, done.output
    assert "earlier" in done.output

    done = run(*arguments, "--frames", 11, "--out", tmp_path / "c", "--against", earlier)
    assert done.exit_code == 1
    assert "differ in num_frames (11 and 10)" in done.output
    assert not (tmp_path / "c").exists()


def test_a_run_is_compared_with_the_data_that_it_trains_on(folder: Path, dataset: Dataset, tmp_path: Path):
    spec = SPECS["low"]
    save_checkpoint(tmp_path, 1, {"generator_ema": spec.build()}, ModelFile({"generator_ema": spec}), {}, {})
    config = resolve("lowres", str(folder / "data"), dataset_facts(dataset), "tiny")
    (tmp_path / "config.json").write_text(json.dumps(to_json(config)))

    done = run(tmp_path, "--windows", 1)

    assert done.exit_code == 0, done.output
    assert "1 windows of 24 frames, of 2 clips" in done.output
    assert set(load_results(tmp_path / "evaluation" / "evaluation.json")) == set(METRICS)


def test_a_model_file_needs_a_dataset(folder: Path):
    done = run(folder / "low.safetensors")

    assert done.exit_code == 2
    assert "does not say which data it was trained on; name it with --data" in done.output


def test_the_help_has_examples():
    done = run("--help")

    assert done.exit_code == 0
    assert "lvg-train evaluate runs/high --windows 200 --frames 32" in done.output
