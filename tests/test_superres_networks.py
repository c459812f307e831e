"""Super-res networks: sizes, which inputs count, running averages, gradients, and resampling by definition."""

from __future__ import annotations

import math
import os

import pytest
import torch
import torch.nn.functional as F

from lvg_train.layers import lrelu
from lvg_train.networks.superres_discriminator import SuperresDiscriminator, stack_resolutions
from lvg_train.networks.superres_generator import (
    SuperresGenerator,
    fit_axis,
    frame_windows,
    plan_signals,
    resample_square,
)
from lvg_train.networks.superres_sizes import dtype_at
from lvg_train.resample2d import filter_image, filtered_lrelu, nonlinearity_padding, upsample_image

LOW, HIGH = (9, 16), (36, 64)
TINY = 1 / 32


@pytest.fixture
def generator() -> SuperresGenerator:
    torch.manual_seed(0)
    return SuperresGenerator(LOW, HIGH, TINY)


@pytest.fixture
def discriminator() -> SuperresDiscriminator:
    torch.manual_seed(0)
    return SuperresDiscriminator(LOW, HIGH, channel_scale=TINY)


def cuda() -> torch.device:
    if not torch.cuda.is_available():
        assert os.environ.get("LVG_REQUIRE_CUDA") != "1", "LVG_REQUIRE_CUDA=1, and there is no CUDA device"
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")


def num_parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# ---- sizes


def test_the_papers_networks_have_as_many_parameters_as_the_release():
    with torch.device("meta"):
        assert num_parameters(SuperresGenerator((36, 64), (144, 256))) == 27_169_940
        assert num_parameters(SuperresDiscriminator((36, 64), (144, 256))) == 23_997_825


def test_a_narrow_network_is_small():
    with torch.device("meta"):
        assert num_parameters(SuperresGenerator((36, 64), (144, 256), TINY)) < 100_000
        assert num_parameters(SuperresDiscriminator((36, 64), (144, 256), channel_scale=TINY)) < 50_000


@pytest.mark.parametrize(
    ("low_size", "high_size"),
    [
        ((9, 16), (18, 32)),
        ((8, 8), (16, 16)),
        ((36, 64), (144, 256)),
        ((64, 64), (256, 256)),
        ((18, 32), (72, 128)),
        ((64, 64), (512, 512)),
        ((36, 64), (576, 1024)),
        ((128, 128), (1024, 1024)),
    ],
)
def test_frames_have_the_size_that_was_asked_for(low_size, high_size):
    with torch.device("meta"):
        low = torch.zeros(2, 3, 12, *low_size)
        generator = SuperresGenerator(low_size, high_size, TINY)
        discriminator = SuperresDiscriminator(low_size, high_size, channel_scale=TINY)

        video = generator(low, torch.zeros(2, generator.latent_channels))

        assert video.shape == (2, 3, 4, *high_size)
        assert discriminator(low[:, :, 4:-4], video).shape == (2,)


@pytest.mark.parametrize(
    ("low_size", "high_size", "message"),
    [
        ((36, 64), (100, 200), "high-res .* power of two from 8 to 1024; got 100x200"),
        ((36, 64), (1152, 2048), "high-res .* power of two from 8 to 1024; got 1152x2048"),
        ((64, 36), (256, 144), "low-res frames that are square or wide.*; got 64x36"),
        ((0, 64), (144, 256), "low-res .* got 0x64"),
        ((64, 64), (144, 256), "larger than the low-res ones by one factor, got 64x64 and 144x256"),
        ((64, 64), (64, 64), "larger than the low-res ones by one factor, got 64x64 and 64x64"),
    ],
)
@pytest.mark.parametrize("network", [SuperresGenerator, SuperresDiscriminator])
def test_other_sizes_are_refused(network, low_size, high_size, message):
    with pytest.raises(ValueError, match=message):
        network(low_size, high_size, channel_scale=TINY)


def test_input_of_another_shape_is_refused(generator, discriminator):
    latent = torch.zeros(1, generator.latent_channels)
    with pytest.raises(
        ValueError, match=r"T at least 9 \(4 of context on each side\), got \[1, 3, 8, 9, 16\]"
    ):
        generator(torch.zeros(1, 3, 8, *LOW), latent)
    with pytest.raises(ValueError, match=r"latents must be \[2, 16\], one a video; got \[1, 16\]"):
        generator(torch.zeros(2, 3, 9, *LOW), latent)
    with pytest.raises(
        ValueError, match=r"low-res videos must be \[N, 3, 4, 9, 16\], got \[1, 3, 5, 9, 16\]"
    ):
        discriminator(torch.zeros(1, 3, 5, *LOW), torch.zeros(1, 3, 4, *HIGH))


def test_the_layers_for_1024_are_those_of_the_stylegan3_paper():
    """ "Alias-Free GANs", appendix: StyleGAN3-T, whose layers are named by size and channels."""
    signals = plan_signals(1024, 1024, channel_scale=1.0)

    assert [s.width for s in signals] == [
        36,
        36,
        52,
        52,
        84,
        148,
        148,
        276,
        276,
        532,
        *[1044] * 3,
        1024,
        1024,
    ]
    assert [s.channels for s in signals] == [*[512] * 7, 323, 203, 128, 81, 51, 32, 32, 3]


# ---- what a frame depends on


def test_frames_can_be_made_in_any_order(generator):
    low, latent = torch.randn(1, 3, 12, *LOW), torch.randn(1, generator.latent_channels)

    with torch.no_grad():
        together = generator(low, latent)
        alone = {t: generator(low[:, :, t : t + 9], latent) for t in (2, 0, 3, 1)}

    for t, frame in alone.items():
        torch.testing.assert_close(frame[:, :, 0], together[:, :, t], rtol=1e-4, atol=1e-6)


def test_a_frame_sees_its_nine_low_res_frames_and_no_other(generator):
    low = torch.randn(1, 3, 13, *LOW, requires_grad=True)
    video = generator(low, torch.randn(1, generator.latent_channels))

    (gradient,) = torch.autograd.grad(video[:, :, 2].square().sum(), low)

    seen = gradient.abs().sum((0, 1, 3, 4)) > 0
    assert seen.nonzero().flatten().tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 10]


def test_another_video_in_the_batch_changes_nothing(generator):
    low, latent = torch.randn(2, 3, 10, *LOW), torch.randn(2, generator.latent_channels)

    with torch.no_grad():
        both, second = generator(low, latent), generator(low[1:], latent[1:])

    torch.testing.assert_close(both[1:], second, rtol=1e-4, atol=1e-6)


def test_a_video_has_one_latent(generator):
    low, latents = torch.randn(1, 3, 10, *LOW), torch.randn(2, generator.latent_channels)

    with torch.no_grad():
        first, second = (generator(low, latent[None]) for latent in latents)

    assert (first - second).abs().mean((0, 1, 3, 4)).min() > 1e-3  # in every frame


def test_windows_have_colour_slowest_and_frame_fastest():
    frames = torch.arange(3 * 10.0).reshape(1, 3, 10, 1, 1)

    windows = frame_windows(frames)

    assert windows[1, :, 0, 0].tolist() == [*range(1, 10), *range(11, 20), *range(21, 30)]


# ---- running averages


def averages_of(network: SuperresGenerator) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in network.named_buffers() if "_filter" not in name}


def test_averages_follow_a_pass_only_when_told_to(generator):
    low, latent = torch.randn(2, 3, 9, *LOW), torch.randn(2, generator.latent_channels)
    before = averages_of(generator)

    generator(low, latent)
    assert all(torch.equal(before[name], value) for name, value in averages_of(generator).items())

    generator(low, latent, averages_share=1)
    assert len(before) == 16
    assert not any(torch.equal(before[name], value) for name, value in averages_of(generator).items())


def test_averages_decay_by_0_999_and_0_998(generator):
    latent = torch.randn(2, generator.latent_channels)
    mean_latent = generator.SG3.mapping(latent, averages_share=0).mean(0)

    generator(torch.full((2, 3, 9, *LOW), 0.5), latent, averages_share=1)

    # grey frames stay grey up to the filters' ripple, so that the first layer sees a mean square of 0.25
    (first, *_) = (v for name, v in averages_of(generator).items() if name.endswith("magnitude_ema"))
    assert float(first) == pytest.approx(0.999 + 0.001 * 0.25, abs=1e-5)
    torch.testing.assert_close(generator.SG3.mapping.w_avg, 0.002 * mean_latent, rtol=1e-3, atol=1e-6)


# ---- gradients


def test_every_generator_parameter_learns(generator):
    video = generator(torch.randn(1, 3, 9, *LOW), torch.randn(1, generator.latent_channels))

    video.square().mean().backward()

    assert [name for name, p in generator.named_parameters() if not p.grad.abs().sum() > 0] == []


def test_r1_reaches_every_discriminator_weight(discriminator):
    low, high = torch.randn(2, 3, 4, *LOW), torch.randn(2, 3, 4, *HIGH, requires_grad=True)

    (gradient,) = torch.autograd.grad(discriminator(low, high).sum(), high, create_graph=True)
    gradient.square().sum().backward()

    weights = {name: p.grad for name, p in discriminator.named_parameters() if name.endswith("weight")}
    assert [name for name, gradient in weights.items() if not gradient.abs().sum() > 0] == []


def test_the_discriminator_judges_each_video_alone(discriminator):
    low, high = torch.randn(2, 3, 4, *LOW), torch.randn(2, 3, 4, *HIGH)

    with torch.no_grad():
        both, second = discriminator(low, high), discriminator(low[1:], high[1:])

    torch.testing.assert_close(both[1:], second, rtol=1e-4, atol=1e-6)


# ---- resampling


def test_resolutions_are_stacked_low_first_then_colour_then_frame():
    low = torch.arange(12.0).reshape(1, 3, 4, 1, 1).expand(-1, -1, -1, *LOW)
    high = 100 + torch.arange(12.0).reshape(1, 3, 4, 1, 1).expand(-1, -1, -1, *HIGH)

    stacked = stack_resolutions(low, high)

    assert stacked.shape == (1, 24, 64, 64)
    middle = stacked[0, :, 32, 32]
    torch.testing.assert_close(middle, torch.tensor([*range(12), *range(100, 112)], dtype=torch.float32))
    assert stacked[..., :14, :].abs().max() == stacked[..., -14:, :].abs().max() == 0
    assert stacked[0, 12:, 14:50].min() == 100


def test_low_res_frames_fade_at_the_edges():
    low, high = torch.ones(1, 3, 1, 8, 8), torch.ones(1, 3, 1, 16, 16)

    row = stack_resolutions(low, high)[0, 0, 8]

    torch.testing.assert_close(row, torch.tensor([0.75, *[1.0] * 14, 0.75]))


@pytest.mark.parametrize(
    ("length", "expected"), [(2, [1, 2]), (3, [0, 1, 2]), (5, [0, 1, 2, 3, 3]), (7, [0, 0, 1, 2, 3, 3, 3])]
)
def test_the_odd_sample_is_at_the_end(length, expected):
    images = torch.arange(4.0).reshape(1, 1, 1, 4)

    assert fit_axis(images, 3, length)[0, 0, 0].tolist() == expected


@pytest.mark.parametrize("to_rate", [16, 32, 64, 128, 256])
def test_a_ramp_stays_a_ramp_at_every_rate(to_rate):
    """Pixel i of 84 covers [i, i + 1), and is at its middle, whatever the rate."""
    positions = (torch.arange(84) + 0.5).expand(1, 3, 84, 84)

    found = resample_square(positions, 64, to_rate)

    size = 84 * to_rate // 64
    expected = (torch.arange(size) + 0.5) * 64 / to_rate
    inner = slice(size // 4, -(size // 4))
    torch.testing.assert_close(
        found[0, 0, inner, inner], expected[inner].expand_as(found[0, 0, inner, inner]), rtol=5e-3, atol=0
    )


def upsample_by_definition(x: torch.Tensor, taps: torch.Tensor, factor: int, rows, columns) -> torch.Tensor:
    """Zeros between the samples, padding, and a plain convolution with a 2D kernel."""
    n, c, h, w = x.shape
    spread = x.new_zeros(n, c, h * factor, w * factor)
    spread[:, :, ::factor, ::factor] = x
    padded = F.pad(spread, [*columns, *rows]).reshape(n * c, 1, h * factor + sum(rows), -1)
    return F.conv2d(padded, (torch.outer(taps, taps) * factor**2)[None, None]).unflatten(0, (n, c)).squeeze(2)


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize(("rows", "columns"), [((5, 6), (9, 2)), ((0, 0), (30, 31)), ((-3, 12), (4, -2))])
def test_upsampling_is_what_its_definition_says(factor, rows, columns):
    x, half = torch.randn(2, 3, 12, 16), torch.rand(3 * factor)
    taps = torch.cat([half, half.flip(0)])

    found = upsample_image(x, taps, factor, rows, columns)

    torch.testing.assert_close(
        found, upsample_by_definition(x, taps, factor, rows, columns), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("up", "down"), [(2, 2), (4, 2), (2, 4)])
@pytest.mark.parametrize("out_size", [(10, 13), (31, 20)])
def test_the_nonlinearity_is_what_its_definition_says(up, down, out_size):
    x = torch.randn(2, 3, 14, 17)
    up_taps, down_taps = (
        torch.hann_window(6 * up, periodic=False),
        torch.hann_window(6 * down, periodic=False),
    )
    rows, columns = (
        nonlinearity_padding(n, out, 6 * (up + down), up, down)
        for n, out in zip(x.shape[2:], out_size, strict=True)
    )

    found = filtered_lrelu(x, up_taps, down_taps, up, down, out_size)

    high_rate = lrelu(upsample_by_definition(x, up_taps, up, rows, columns))
    kernel = torch.outer(down_taps, down_taps).expand(3, 1, -1, -1)
    expected = F.conv2d(high_rate, kernel, groups=3)[:, :, ::down, ::down]
    assert found.shape[2:] == out_size
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 2), (4, 2), (2, 4)])
def test_the_nonlinearity_has_the_gradient_of_its_steps_but_keeps_its_input_alone(up, down):
    x = (300 * torch.randn(2, 3, 14, 17)).requires_grad_()  # reaches the limits of the activation
    up_taps, down_taps = torch.rand(6 * up), torch.rand(6 * down)
    padding = [nonlinearity_padding(n, out, 6 * (up + down), up, down) for n, out in ((14, 21), (17, 20))]
    kept: list[torch.Tensor] = []

    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        found = filtered_lrelu(x, up_taps, down_taps, up, down, (21, 20))
    high_rate = lrelu(upsample_image(x, up_taps, up, *padding))
    expected = filter_image(high_rate, down_taps, stride=down)

    seed = torch.randn_like(expected)
    torch.testing.assert_close(torch.autograd.grad(found, x, seed), torch.autograd.grad(expected, x, seed))
    assert {t.data_ptr() for t in kept} == {t.data_ptr() for t in (x, up_taps, down_taps)}


@pytest.mark.parametrize(
    ("up", "down", "length", "out_length"), [(2, 2, 38, 36), (4, 2, 38, 52), (2, 2, 278, 256)]
)
def test_a_mirrored_image_gives_the_mirrored_result(up, down, length, out_length):
    x = torch.randn(1, 2, length, length)
    taps = [torch.hann_window(6 * factor, periodic=False) / (3 * factor) for factor in (up, down)]

    found, mirrored = (
        filtered_lrelu(image, *taps, up, down, (out_length, out_length)) for image in (x, x.flip(2, 3))
    )

    torch.testing.assert_close(mirrored, found.flip(2, 3), rtol=1e-4, atol=1e-5)


def test_filtering_a_constant_keeps_it():
    taps = torch.tensor([1, 3, 3, 1]) / 8

    assert filter_image(torch.ones(1, 2, 8, 8), taps, stride=2).unique().tolist() == [1.0]


# ---- precision


def test_only_the_four_highest_resolutions_are_reduced_and_only_on_cuda():
    on_cuda = {rate: dtype_at(rate, 256, "fast", torch.device("cuda")) for rate in (256, 128, 64, 32, 16)}

    assert [rate for rate, dtype in on_cuda.items() if dtype == torch.float16] == [256, 128, 64, 32]
    assert dtype_at(256, 256, "fast", torch.device("cpu")) == torch.float32
    assert dtype_at(256, 256, "reference", torch.device("cuda")) == torch.float32
    with pytest.raises(ValueError, match="one of reference, fast; got 'half'"):
        dtype_at(256, 256, "half", torch.device("cuda"))


def test_float16_agrees_with_float32_on_cuda():
    device = cuda()
    torch.manual_seed(0)
    generator = SuperresGenerator((36, 64), (144, 256), 0.25).to(device)
    discriminator = SuperresDiscriminator((36, 64), (144, 256), channel_scale=0.25).to(device)
    low = torch.rand(1, 3, 12, 36, 64, device=device) * 2 - 1
    latent = torch.randn(1, generator.latent_channels, device=device)

    with torch.no_grad():
        videos = {name: generator(low, latent, precision=name) for name in ("reference", "fast")}
        inner, high = low[:, :, 4:-4], videos["reference"]
        logits = {name: discriminator(inner, high, precision=name) for name in ("reference", "fast")}

    assert videos["fast"].dtype == logits["fast"].dtype == torch.float32
    difference = (videos["fast"] - videos["reference"]).square().mean().sqrt()
    assert 0 < difference < 0.02 * videos["reference"].std()
    assert math.isclose(logits["fast"].item(), logits["reference"].item(), abs_tol=0.02)


# ---- compilation


@pytest.mark.slow
def test_both_networks_are_one_graph_for_torch_compile(generator, discriminator):
    low, high = torch.randn(1, 3, 9, *LOW), torch.randn(1, 3, 4, *HIGH)
    latent = torch.randn(1, generator.latent_channels)

    with torch.no_grad():
        frame = torch.compile(generator, backend="eager", fullgraph=True)(low, latent)
        logit = torch.compile(discriminator, backend="eager", fullgraph=True)(low[:, :, :4], high)

        torch.testing.assert_close(frame, generator(low, latent))
        torch.testing.assert_close(logit, discriminator(low[:, :, :4], high))
