"""The low-res networks: filters, sizes, streaming, and what training needs of them. All of them tiny."""

from __future__ import annotations

import copy
import itertools
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from lvg_train.filters import crop_axis, downsample, firwin, triangle, upsample
from lvg_train.layers import EqualLinear, follow, magnitude_gain
from lvg_train.networks.lowres_discriminator import LowresDiscriminator, pad_to_square
from lvg_train.networks.lowres_generator import (
    LATENT_TAPS,
    LowresGenerator,
    blur_filters,
    blur_noise,
    draw_grid_noise,
    fast_fft_size,
    input_frames,
    modulated_conv,
    noise_frames,
)

TINY = 1 / 64
FILTERINGS = list(itertools.product((4, 6, 12), (2, 3, 4), (1, 2)))  # taps, factor, axis
SIZES = [(edge * aspect // 16, edge) for edge in (16, 32, 64, 128) for aspect in (16, 9)]


@pytest.fixture(scope="module")
def generator() -> LowresGenerator:
    """36x64, with biases and averages that are not those at construction."""
    torch.manual_seed(0)
    network = LowresGenerator(36, 64, 1 / 32)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "bias" in name:
                parameter += 0.1 * torch.randn_like(parameter)
        for buffer in network.buffers():
            if buffer.ndim == 0:
                buffer.copy_(torch.rand([]) + 0.5)
    return network.requires_grad_(False)


# ---- filters


FIRWIN_12 = (
    -1.44228023124e-06,
    -0.000188171901586,
    0.00265589947649,
    0.0391980371107,
    0.158488434662,
    0.299847242933,
)
FIRWIN_5 = (0.199831514774, 0.200084229839, 0.200168510775, 0.200084229839, 0.199831514774)


def test_firwin_is_scipys():
    """Expected values: scipy.signal.firwin(12, 1, width=6, fs=8), and (5, 2, width=12, fs=250)."""
    half = FIRWIN_12
    assert_close(firwin(12, cutoff=1, width=6, fs=8), (*half, *half[::-1]), rtol=1e-9, atol=1e-12)
    assert_close(firwin(5, cutoff=2, width=12, fs=250), FIRWIN_5, rtol=1e-9, atol=1e-12)


def test_the_triangle_interpolates_linearly():
    assert triangle() == (1 / 8, 3 / 8, 3 / 8, 1 / 8)
    assert_close(
        upsample(torch.tensor([[4.0, 8.0]]), triangle(), 1), torch.tensor([[3.0, 5.0, 7.0, 6.0]])
    )  # zeros outside


@pytest.mark.parametrize(("num_taps", "factor", "dim"), FILTERINGS)
def test_upsampling_is_filtering_between_inserted_zeros(num_taps, factor, dim):
    x, taps = torch.randn(3, 7, 9, dtype=torch.float64), symmetric_taps(num_taps)
    low, high = (num_taps + factor - 1) // 2, (num_taps - factor) // 2

    spread = torch.zeros(*x.transpose(dim, 2).shape[:2], x.shape[dim] * factor, dtype=x.dtype)
    spread[..., ::factor] = x.transpose(dim, 2)
    expected = filter_last_axis(F.pad(spread, (low, high)), taps) * factor

    assert_close(upsample(x, taps, dim, factor), expected.transpose(dim, 2))


@pytest.mark.parametrize(("num_taps", "factor", "dim"), FILTERINGS)
def test_downsampling_is_filtering_then_keeping_every_nth(num_taps, factor, dim):
    x, taps = torch.randn(3, 13, 9, dtype=torch.float64), symmetric_taps(num_taps)
    padding = ((num_taps - factor + 1) // 2, (num_taps - factor) // 2)

    expected = filter_last_axis(F.pad(x.transpose(dim, 2), padding), taps)[..., ::factor]

    assert_close(downsample(x, taps, dim, factor), expected.transpose(dim, 2))


def symmetric_taps(num_taps: int) -> tuple[float, ...]:
    taps = np.random.default_rng(num_taps).random(num_taps)
    return tuple((taps + taps[::-1]).tolist())


def filter_last_axis(x: torch.Tensor, taps: tuple[float, ...]) -> torch.Tensor:
    kernel = torch.tensor(taps, dtype=x.dtype)[None, None]
    return F.conv1d(x.flatten(0, -2)[:, None], kernel).unflatten(0, x.shape[:-1])[..., 0, :]


def test_crops_start_at_the_floor_of_half_the_excess():
    assert crop_axis(torch.arange(8)[None], 1, 3).tolist() == [[2, 3, 4]]


# ---- temporal embedding


def test_the_blur_filters_have_125_to_5000_taps_of_unit_norm_at_the_right():
    filters = blur_filters(128)
    num_taps = [5000 - int(row.nonzero()[0]) for row in filters]

    assert (num_taps[0], num_taps[-1]) == (125, 5000)
    assert num_taps == sorted(num_taps)
    assert_close(filters.square().sum(1), torch.ones(128))


def test_blur_filters_of_other_lengths_have_unit_norm_at_the_right_too():
    filters = blur_filters(8, (16, 625))
    num_taps = [5000 - int(row.nonzero()[0]) for row in filters]

    assert num_taps == [16, 28, 46, 77, 130, 220, 371, 625]
    assert_close(filters.square().sum(1), torch.ones(8))


@pytest.mark.parametrize("filter_frames", [(2, 100), (16, 5001), (100, 16)])
def test_filters_of_no_use_are_refused(filter_frames):
    shortest, longest = filter_frames
    with pytest.raises(ValueError, match=f"of 3 to 5000 frames, got {shortest} and {longest}"):
        LowresGenerator(16, 16, TINY, filter_frames)


def test_with_shorter_filters_a_video_changes_faster():
    assert change_of(LowresGenerator(16, 16, TINY, (16, 625))) > 4 * change_of(LowresGenerator(16, 16, TINY))


@torch.no_grad()
def change_of(generator: LowresGenerator) -> float:
    """Of latents from frame to frame, as a share of their size."""
    latents = generator.latents_of(draw_grid_noise(0, 0, noise_frames(32)))[0]
    return float(latents.diff(dim=2).abs().mean() / latents.abs().mean())


def test_the_blur_by_fft_is_a_direct_convolution():
    noise, filters = torch.randn(2, 3, 5063), blur_filters(4)
    direct = F.conv1d(noise.reshape(6, 1, -1), filters[:, None]).reshape(2, 12, 64)

    assert_close(blur_noise(noise, filters), direct, rtol=1e-4, atol=1e-5)


def test_fft_sizes_are_products_of_small_primes_not_below_the_length():
    assert [fast_fft_size(n) for n in (5543, 5671, 8192, 8193)] == [5760, 5760, 8192, 9216]


def test_noise_is_a_function_of_seed_and_frame():
    whole = draw_grid_noise(seed=7, start_frame=0, stop_frame=200)

    assert whole.shape == (1, 8, 200)
    assert torch.equal(draw_grid_noise(7, 45, 130), whole[..., 45:130])
    assert not torch.equal(draw_grid_noise(8, 0, 32), whole[..., :32])
    assert whole.unfold(2, 32, 32).flatten(0, 1).unique(dim=1).shape[1] == 6  # no block repeats
    assert abs(draw_grid_noise(7, 0, 32_000).std() - 1) < 0.01


# ---- generator


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_networks_take_every_size_of_the_stage(height, width):
    video = LowresGenerator(height, width, TINY)(torch.randn(2, 8, noise_frames(3)), 3)
    logits = LowresDiscriminator(height, width, 3, TINY)(video)

    assert video.shape == (2, 3, 3, height, width)
    assert logits.shape == (2,)


@pytest.mark.parametrize("network", [LowresGenerator, LowresDiscriminator])
@pytest.mark.parametrize(("height", "width"), [(48, 48), (36, 65), (256, 256), (8, 8), (0, 64)])
def test_other_sizes_are_refused(network, height, width):
    with pytest.raises(ValueError, match=f"long edge of 16, 32, 64, 128 pixels, got {height}x{width}"):
        network(height, width)


def test_a_video_of_128_frames_runs_at_the_papers_lengths(generator):
    assert input_frames(128) == 20
    assert list(generator.block_shapes(128)) == [
        (24, 3, 4), (32, 5, 8), (48, 5, 8), (80, 9, 16), (144, 9, 16),
        (128, 9, 16), (128, 18, 32), (128, 18, 32), (128, 36, 64), (128, 36, 64),
    ]  # fmt: skip


@pytest.mark.parametrize("num_frames", [1, 31, 33, 100])
def test_any_number_of_frames_can_be_generated(generator, num_frames):
    video = generator(torch.randn(1, 8, noise_frames(num_frames)), num_frames)

    assert video.shape == (1, 3, num_frames, 36, 64)
    assert video.isfinite().all()


def test_noise_of_another_length_is_refused(generator):
    with pytest.raises(ValueError, match=r"32 frames need noise of shape \[N, 8, 5543\], got \[1, 8, 5000\]"):
        generator(torch.randn(1, 8, 5000), 32)


def test_a_modulated_convolution_is_one_with_its_own_weight_for_every_frame():
    """The textbook form: modulated and demodulated weights, one set a frame (kernel 1 in time)."""
    x, weight, styles = torch.randn(2, 5, 3, 8, 8), torch.randn(4, 5, 1, 3, 3), torch.randn(2, 5, 3)

    expected = torch.empty(2, 4, 3, 8, 8)
    for n, t in itertools.product(range(2), range(3)):
        modulated = weight[:, :, 0] * styles[n, :, t, None, None]
        modulated = modulated / modulated.square().sum((1, 2, 3), keepdim=True).sqrt()
        expected[n, :, t] = F.conv2d(x[n, :, t], modulated, padding=1)

    assert_close(modulated_conv(x, weight, styles), expected, rtol=1e-4, atol=1e-5)


def test_magnitude_averages_move_only_when_told():
    network = LowresGenerator(16, 16, TINY)
    noise = torch.randn(2, 8, noise_frames(4))
    start = {name: value.clone() for name, value in network.state_dict().items()}

    network(noise, 4)
    assert all(torch.equal(value, start[name]) for name, value in network.state_dict().items())

    network(noise, 4, averages_share=1)
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, start[name])}
    assert moved == {name for name in start if "magnitude_ema" in name}
    assert len(moved) == 21


def test_a_magnitude_average_decays_by_0_999():
    average = torch.ones([])
    gain = magnitude_gain(average, torch.full([2, 3], 3.0), averages_share=1)

    assert_close(average, torch.tensor(0.999 + 0.001 * 9))
    assert_close(gain, average.rsqrt())


def test_passes_that_share_a_step_move_an_average_as_far_as_one():
    whole, shared = torch.ones([]), torch.ones([])
    follow(whole, torch.tensor(9.0), 0.999, share=1)
    for _ in range(4):
        follow(shared, torch.tensor(9.0), 0.999, share=0.25)

    assert_close(shared, whole)


def test_a_learning_rate_multiplier_changes_the_stored_weights_only():
    torch.manual_seed(0)
    plain = EqualLinear(64, 64, bias_init=1)
    torch.manual_seed(0)
    slow = EqualLinear(64, 64, bias_init=1, lr_multiplier=0.01)
    x = torch.randn(2, 64)

    assert_close(slow.weight, plain.weight * 100)
    assert_close(slow(x), plain(x))
    assert 0.5 < plain(x).std() < 2


# ---- streaming


@pytest.fixture(scope="module")
def whole_video(generator) -> torch.Tensor:
    return generator(draw_grid_noise(3, 0, noise_frames(192)), 192)


@pytest.mark.parametrize("chunk_frames", [32, 96, 1024])
def test_a_stream_is_the_whole_video_whatever_its_chunks(generator, whole_video, chunk_frames):
    chunks = list(generator.stream(3, 192, chunk_frames=chunk_frames))

    assert all(chunk.shape[2] <= chunk_frames for chunk in chunks)
    assert_close(torch.cat(chunks, 2), whole_video, rtol=0, atol=1e-5)


def test_a_stream_starts_at_any_multiple_of_32_and_stops_anywhere(generator, whole_video):
    chunks = list(generator.stream(3, 75, start_frame=96, chunk_frames=64))

    assert [chunk.shape[2] for chunk in chunks] == [64, 11]
    assert_close(torch.cat(chunks, 2), whole_video[:, :, 96:171], rtol=0, atol=1e-5)


def test_a_chunk_needs_nothing_of_the_rest_of_its_stream(generator):
    """The first chunks of a billion frames come at once, and far ones need nothing before them."""
    stream = generator.stream(3, 10**9, chunk_frames=32)
    assert [next(stream).shape[2] for _ in range(2)] == [32, 32]
    assert next(generator.stream(3, 1, start_frame=32 * 10**7)).isfinite().all()


def test_different_seeds_are_different_videos(generator):
    first, second = (next(generator.stream(seed, 32)) for seed in (1, 2))
    assert (first - second).abs().max() > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_frame": 16}, "start_frame must be a multiple of 32 from 0 up, got 16"),
        ({"start_frame": -32}, "start_frame must be a multiple of 32 from 0 up, got -32"),
        ({"chunk_frames": 0}, "chunk_frames must be a multiple of 32 from 32 up, got 0"),
    ],
)
def test_a_stream_off_the_grid_is_refused(generator, options, message):
    with pytest.raises(ValueError, match=message):
        next(generator.stream(3, 64, **options))


# ---- discriminator


@pytest.mark.parametrize(
    ("num_frames", "remaining"), [(1, 1), (3, 3), (4, 2), (7, 3), (8, 2), (15, 3), (16, 2), (128, 16)]
)
def test_short_windows_are_halved_less_often(num_frames, remaining):
    epilogue = LowresDiscriminator(16, 16, num_frames, TINY).epilogue

    assert epilogue.linear_0.weight.shape[1] == 16 * remaining


@pytest.mark.parametrize(("edge", "remaining"), [(16, 2), (32, 4), (64, 4), (128, 8)])
def test_small_frames_skip_the_first_halving_of_space(edge, remaining):
    epilogue = LowresDiscriminator(edge, edge, 8, TINY).epilogue

    assert epilogue.conv1d_0.weight.shape[1] == 8 * remaining**2


def test_wide_frames_are_padded_to_a_square_around_the_middle():
    padded = pad_to_square(torch.ones(1, 1, 1, 3, 6))[0, 0, 0]

    assert padded.sum(1).tolist() == [0, 6, 6, 6, 0, 0]


def test_a_video_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"takes videos of shape \[N, 3, 8, 9, 16\], got \[1, 3, 4, 9, 16\]"):
        LowresDiscriminator(9, 16, 8, TINY)(torch.zeros(1, 3, 4, 9, 16))


# ---- training


def test_the_loss_reaches_every_parameter_of_both_networks_and_r1_every_weight():
    generator, discriminator = LowresGenerator(9, 16, 1 / 32), LowresDiscriminator(9, 16, 8, 1 / 32)
    video = generator(torch.randn(2, 8, noise_frames(8)), 8, averages_share=1)
    F.softplus(-discriminator(video)).sum().backward()

    for name, parameter in (*generator.named_parameters(), *discriminator.named_parameters()):
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name

    real = video.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
    discriminator.zero_grad()
    gradient.square().sum().backward()
    for name, parameter in discriminator.named_parameters():
        if "bias" not in name:
            assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name


def test_reduced_precision_stays_close_to_the_reference(generator):
    noise = draw_grid_noise(3, 0, noise_frames(32))
    exact = generator(noise, 32, precision="reference")
    with torch.autocast("cpu", torch.bfloat16):
        rounded = generator.synthesise(generator.latents_of(noise), 32)

    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).square().mean().sqrt() < 0.03 * exact.std()


def test_an_unknown_precision_is_refused(generator):
    with pytest.raises(ValueError, match="precision must be reference or fast, got 'half'"):
        generator(torch.zeros(1, 8, noise_frames(32)), 32, precision="half")


@pytest.mark.skipif(
    not torch.cuda.is_available() and not os.environ.get("LVG_REQUIRE_CUDA"), reason="needs a GPU"
)
def test_fast_and_reference_agree_on_cuda(generator):
    network = copy.deepcopy(generator).cuda()
    noise = draw_grid_noise(3, 0, noise_frames(32)).cuda()
    exact, fast = (network(noise, 32, precision=precision) for precision in ("reference", "fast"))

    assert 0 < (fast - exact).square().mean().sqrt() < 0.03 * exact.std()


def test_latents_are_halved_by_a_filter_that_keeps_slow_changes():
    slow = torch.sin(torch.arange(256) / 40)[None, None]

    assert_close(downsample(slow, LATENT_TAPS, 2)[..., 8:-8], (slow[..., ::2] + slow[..., 1::2])[..., 8:-8] / 2,
                 rtol=0, atol=1e-3)  # fmt: skip
