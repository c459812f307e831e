"""`lvg-train describe`: parameters and work against the paper's table, counted by hand where it is short."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lvg_train import cli
from lvg_train.checkpoint import save_checkpoint
from lvg_train.describe import Summary, summarise, summarise_file, summarise_preset
from lvg_train.model_file import ModelFile, NetworkSpec, save_model
from lvg_train.networks.superres_generator import TAPS_A_SAMPLE, plan_signals


@pytest.fixture(scope="module")
def paper() -> list[Summary]:
    return summarise_preset("paper", (36, 64), (144, 256))


def run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "120"}).invoke(cli.main, ["describe", *map(str, arguments)])


def test_the_paper_s_networks_have_its_parameters(paper):
    assert [s.parameters for s in paper] == [83_215_939, 46_424_609, 27_169_940, 23_997_825]


def test_stage_1_takes_the_work_that_the_release_was_counted_to_take(paper):
    generator, discriminator = (s.flops / 1e9 for s in paper[:2])
    embedding = paper[0].parts[0].flops / 1e9
    direct = paper[0].direct_embedding_flops / 1e9

    assert direct == pytest.approx(6.9, abs=0.05)
    assert generator - embedding + direct == pytest.approx(814, rel=0.002)
    assert discriminator == pytest.approx(291, rel=0.025)  # the release's filters are counted there


def test_stage_2_takes_the_work_that_the_release_was_counted_to_take_but_for_zeros(paper):
    """The release's filters work at the high rate of the nonlinearity, on the zeros between samples too."""
    weights, filters = superres_flops()

    assert weights + filters == pytest.approx(1380e9, rel=0.006)
    assert weights < paper[2].flops < weights + 0.4 * filters
    assert paper[3].flops == pytest.approx(31.5e9, rel=0.02)


def superres_flops(num_frames: int = 4) -> tuple[float, float]:
    """Work of convolutions by weights, and of filters over samples with zeros between, both axes one by one."""
    signals = plan_signals(144, 256, 1.0)
    weights = filters = 0
    for i, (source, target) in enumerate(zip([signals[0], *signals[:-1]], signals, strict=True)):
        in_channels = 27 + (source.channels if i else 0)
        if i == 14:
            weights += 2 * target.channels * in_channels * source.height * source.width
            continue
        height, width = source.height + 2, source.width + 2  # full convolution
        weights += 2 * target.channels * in_channels * 9 * height * width
        rate = 2 * max(source.rate, target.rate)
        up_taps, down_taps = (TAPS_A_SAMPLE * (rate // signal.rate) for signal in (source, target))
        down = rate // target.rate
        rows, columns = (down * (n - 1) + down_taps for n in (target.height, target.width))
        up = 2 * up_taps * columns * (rows + up_taps - 1 + rows)
        down_rows, down_columns = rows - down_taps + 1, columns - down_taps + 1
        filters += target.channels * (up + 2 * down_taps * down_columns * (rows + down_rows))
    return float(num_frames * weights), float(num_frames * filters)


def test_parts_are_in_the_order_in_which_they_work_and_have_their_shapes(paper):
    low, judge = paper[0].parts, paper[1].parts

    assert [part.name for part in low[:5]] == [
        "embedding (FFT)", "spatial_input", "latent_mapping", "w_to_temp_input", "temporal_layers.0",
    ]  # fmt: skip
    assert low[0].shape == low[2].shape == (1024, 672)
    assert (low[-1].name, low[-1].shape) == ("to_rgb", (3, 160, 36, 64))
    assert [part.shape for part in judge] == [
        (64, 128, 32, 32), (128, 64, 16, 16), (256, 32, 8, 8), (512, 16, 4, 4), (),
    ]  # fmt: skip
    assert paper[2].parts[-1].shape == (4, 3, 144, 256)


def test_a_part_s_work_is_what_its_convolutions_take():
    summary = summarise(NetworkSpec("lowres_discriminator", {"height": 16, "width": 16, "num_frames": 8}), 0)

    # 8 frames of 16 x 16, one 1x1x1 convolution 3 -> 32, then 1x3x3 32 -> 32 and 32 -> 64, a skip 32 -> 64
    pixels = 8 * 16 * 16
    expected = 2 * pixels * (3 * 32 + 9 * 32 * 32 + 9 * 32 * 64 + 32 * 64)
    assert summary.parts[0].flops == expected
    assert summary.parts[0].parameters == 3 * 32 + 32 + 9 * 32 * 32 + 32 + 9 * 32 * 64 + 64 + 32 * 64


def test_a_network_that_no_memory_holds_is_described():
    spec = NetworkSpec("lowres_discriminator", {"height": 128, "width": 128, "channel_scale": 8.0})

    assert summarise(spec, 0).parameters * 4 > 10e9  # bytes; it would not be built


def test_the_command_prints_four_tables():
    answer = run("--preset", "paper", "--low-size", "64x64", "--high-size", "256x256")

    assert answer.exit_code == 0, answer.output
    for text in (
        "Stage 1, generator: 160 frames of 64x64",
        "Stage 1, discriminator: 128 frames of 64x64",
        "Stage 2, generator: 4 frames of 64x64 to 256x256",
        "Stage 2, discriminator: 4 frames of 64x64 and",
        "23,997,825",
        "the embedding by direct convolution: 6.88 GFLOP",
    ):
        assert text in answer.output


def test_the_tiny_preset_is_small():
    assert sum(s.parameters for s in summarise_preset("tiny", (64, 64), (256, 256))) < 2_000_000


@pytest.fixture
def model_file(tmp_path) -> Path:
    sizes = {"low_size": [9, 16], "high_size": [18, 32], "channel_scale": 1 / 64}
    low = {"height": 9, "width": 16, "num_frames": 4, "channel_scale": 1 / 32}
    specs = {
        "generator_ema": NetworkSpec("superres_generator", sizes),
        "discriminator": NetworkSpec("lowres_discriminator", low),
    }
    path = tmp_path / "models.safetensors"
    save_model(path, {role: spec.build() for role, spec in specs.items()}, ModelFile(specs))
    return path


def test_a_model_file_s_networks_are_described(model_file):
    discriminator, generator = summarise_file(model_file)

    assert generator.title == "Stage 2, generator: 4 frames of 9x16 to 18x32 (generator_ema)"
    assert discriminator.title == "Stage 1, discriminator: 4 frames of 9x16 (discriminator)"
    assert f"{generator.parameters:,}" in run(model_file).output


def test_of_a_run_the_newest_checkpoint_is_described(tmp_path):
    sizes = {"height": 9, "width": 16, "num_frames": 4, "channel_scale": 1 / 32}
    spec = NetworkSpec("lowres_discriminator", sizes)
    for step in (1, 2):
        save_checkpoint(
            tmp_path, step, {"discriminator": spec.build()}, ModelFile({"discriminator": spec}), {}, {}
        )

    answer = run(tmp_path)

    assert answer.exit_code == 0, answer.output
    assert f"Networks of {tmp_path}/checkpoints/step-000000002/models.safetensors" in answer.output
    assert "Stage 1, discriminator: 4 frames of 9x16" in answer.output


def test_a_run_without_a_checkpoint_has_nothing_to_describe(tmp_path):
    assert f"{tmp_path} has no checkpoint yet" in run(tmp_path).output
    assert f"{tmp_path / 'gone'} does not exist" in run(tmp_path / "gone").output


def test_a_file_has_no_preset(model_file):
    answer = run(model_file, "--preset", "tiny")

    assert answer.exit_code == 2
    assert "leave out --preset" in answer.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "huge"], "no preset 'huge'"),
        (["--low-size", "36"], "'36' is not a height and a width such as 36x64"),
        (["--low-size", "36x65"], "36x65"),
        (["--high-size", "144x2048"], "144x2048"),
        ([__file__], "cannot be read as a model"),
    ],
)
def test_what_cannot_be_described_is_said_in_words(arguments, message):
    answer = run(*arguments)

    assert answer.exit_code != 0
    assert message in answer.output
    assert isinstance(answer.exception, SystemExit)  # a message, not a traceback
