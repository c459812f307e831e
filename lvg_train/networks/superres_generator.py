"""The super-res generator: StyleGAN3's layers, fed with low-res frames at every layer. Paper, section 3.3.

    conditioning   N x 3 x (T + 8) x h x w      low-res frames, 4 of context on each side
    windows        N * T x 27 x ...             the 9 frames about each output frame, at every layer's sample rate
    latent         N x 512                      one a video, mapped to the styles of all its frames
    features       N * T x 512 x 29 x 36 ...    14 layers, from 16 samples a width to that of the output
    video          N x 3 x T x H x W

An output frame depends on its 9 low-res frames and the video's latent alone, so frames can be made in any order.
The attributes SG3, mapping and synthesis, and the layers' names, are the release's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvg_train.filters import crop_axis, downsample, firwin, upsample
from lvg_train.layers import (
    CLAMP,
    EqualLinear,
    add_bias,
    channels_last,
    follow,
    full_precision,
    lrelu,
    magnitude_gain,
    normalise_rms,
    random_weight,
)
from lvg_train.networks.lowres_sizes import scale_channels
from lvg_train.networks.superres_sizes import check_frame_sizes, dtype_at
from lvg_train.resample2d import filtered_lrelu

LATENT_CHANNELS = 512
CONTEXT_FRAMES = 4  # low-res frames before and after the one that is enlarged
CONDITIONING_CHANNELS = 3 * (2 * CONTEXT_FRAMES + 1)
MAPPING_LR_MULTIPLIER = 0.01
MEAN_LATENT_DECAY = 0.998
OUTPUT_GAIN = 0.25
ROWS, COLUMNS = 2, 3  # axes of an image

# Karras et al. 2021, "Alias-Free GANs", section 3.2, config T; all frequencies are in cycles a picture width.
NUM_LAYERS = 14  # and the one to RGB
NUM_CRITICALLY_SAMPLED = 2
FIRST_CUTOFF, FIRST_STOPBAND = 2, 2**2.1
LAST_STOPBAND = 2**0.3  # over the last cutoff
MARGIN = 10  # samples around the picture, on each side
TAPS_A_SAMPLE = 6
NONLINEARITY_UPSAMPLING = 2
CHANNEL_BASE, MAX_CHANNELS = 32768, 512


# ---- the layers' design


@dataclass(frozen=True)
class Signal:
    """What a layer emits: its band limits and sample rate, in cycles and samples a width, and its shape."""

    cutoff: float
    half_width: float  # of the transition band
    rate: int
    channels: int
    height: int
    width: int

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.rate, self.height, self.width


def plan_signals(height: int, width: int, channel_scale: float) -> list[Signal]:
    """The outputs of the 14 layers and of the one to RGB.

    "Alias-Free GANs", section 3.2, "Flexible layer specifications": cutoff and stop-band grow geometrically, and
    the last layers are critically sampled. The picture's margin is left out of those, as it ends there.
    """
    signals = []
    for i in range(NUM_LAYERS + 1):
        progress = min(i / (NUM_LAYERS - NUM_CRITICALLY_SAMPLED), 1)
        cutoff = FIRST_CUTOFF * (width / 2 / FIRST_CUTOFF) ** progress
        stopband = FIRST_STOPBAND * (width / 2 * LAST_STOPBAND / FIRST_STOPBAND) ** progress
        rate = 2 ** math.ceil(math.log2(min(2 * stopband, width)))
        channels = scale_channels(round(min(CHANNEL_BASE / 2 / cutoff, MAX_CHANNELS)), channel_scale)
        signals.append(
            Signal(
                cutoff,
                half_width=max(stopband, rate / 2) - cutoff,
                rate=rate,
                channels=3 if i == NUM_LAYERS else channels,
                height=height if i >= NUM_LAYERS - 1 else math.ceil(rate * height / width) + 2 * MARGIN,
                width=width if i >= NUM_LAYERS - 1 else rate + 2 * MARGIN,
            )
        )
    return signals


def low_pass(signal: Signal, rate: int) -> Tensor:
    """The filter that limits to a signal's band between its own rate and `rate`, a multiple."""
    num_taps = TAPS_A_SAMPLE * (rate // signal.rate)
    return torch.tensor(firwin(num_taps, signal.cutoff, 2 * signal.half_width, rate))


# ---- conditioning


def frame_windows(frames: Tensor) -> Tensor:
    """The 9 frames about each inner one of [N, C, T + 8, H, W]: [N * T, C * 9, H, W], colour slowest."""
    windows = frames.unfold(2, 2 * CONTEXT_FRAMES + 1, 1)  # [N, C, T, H, W, 9]
    return windows.permute(0, 2, 1, 5, 3, 4).flatten(0, 1).flatten(1, 2)


def extend_to_square(images: Tensor) -> Tensor:
    """[N, C, h, w] to [N, C, w + 20, w + 20] by repeating the edge."""
    edge = images.shape[COLUMNS] + 2 * MARGIN
    return fit_axis(fit_axis(images, ROWS, edge), COLUMNS, edge)


def fit_axis(images: Tensor, dim: int, length: int) -> Tensor:
    """The middle `length` samples along an axis of images, the edge repeated where there are fewer.

    An odd sample is taken or added at the end.
    """
    missing = length - images.shape[dim]
    if missing <= 0:
        return crop_axis(images, dim, length)
    before, after = missing // 2, missing - missing // 2
    padding = [0, 0, before, after] if dim == ROWS else [before, after, 0, 0]
    return F.pad(images, padding, mode="replicate")


@torch.compiler.assume_constant_result
def conditioning_taps(factor: int) -> tuple[float, ...]:
    return firwin(6 * factor, cutoff=1, width=6, fs=4 * factor)


def resample_square(images: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Square images from one sample rate to another, both powers of two.

    Kaiser-window filters. The edge is repeated for one sample of the lower rate, zeros lie beyond.
    """
    factor = max(from_rate, to_rate) // min(from_rate, to_rate)
    if factor == 1:
        return images
    taps = conditioning_taps(factor)
    resample, border, extra = (downsample, factor, 1) if to_rate < from_rate else (upsample, 1, factor)
    images = F.pad(images, [border] * 4, mode="replicate")
    images = resample(resample(images, taps, ROWS, factor), taps, COLUMNS, factor)
    return images[..., extra:-extra, extra:-extra]


def condition(square: Tensor, from_rate: int, signal: Signal) -> Tensor:
    """Windows [N * T, 27, H, W] at a signal's rate and size, of extended frames [N, 3 * (T + 8), ...]."""
    images = resample_square(square, from_rate, signal.rate)
    images = fit_axis(fit_axis(images, ROWS, signal.height), COLUMNS, signal.width)
    return frame_windows(images.unflatten(1, (3, -1)))


# ---- layers


def modulated_conv(x: Tensor, weight: Tensor, styles: Tensor, gain: Tensor) -> Tensor:
    """Full convolution of `x` [N, I, H, W], styled by [N, I] and demodulated, times `gain`.

    Karras et al. 2020, StyleGAN2, eq. 1 and 3, as "Alias-Free GANs" has it: styles are brought to unit RMS first,
    and `gain` is that of the magnitude average (section 3.1). Here the styles are put on the activations, so that
    one convolution serves the whole batch, and a filter has unit norm, which keeps half precision in range; the
    demodulation takes both scales out again.
    """
    weight = weight / weight.square().sum((1, 2, 3), keepdim=True).sqrt()
    styles = styles * styles.square().mean().rsqrt()
    variance = styles.square() @ weight.square().sum((2, 3)).T  # [N, O]
    x = modulate(x, styles * gain)
    x = F.conv2d(channels_last(x), channels_last(weight.to(x.dtype)), padding=weight.shape[2] - 1)
    return modulate(x, (variance + 1e-8).rsqrt())


def modulate(x: Tensor, factors: Tensor) -> Tensor:
    """`x` [N, C, H, W] times [N, C], in the dtype of `x`."""
    return x * factors.to(x.dtype)[..., None, None]


class Layer(nn.Module):
    """A modulated convolution, and an alias-free leaky ReLU that also resamples."""

    magnitude_ema: Tensor
    up_filter: Tensor
    down_filter: Tensor

    def __init__(self, source: Signal, target: Signal, in_channels: int, latent_channels: int):
        super().__init__()
        self.target = target
        rate = max(source.rate, target.rate) * NONLINEARITY_UPSAMPLING
        self.up, self.down = rate // source.rate, rate // target.rate
        self.weight = random_weight(target.channels, in_channels, 3, 3)
        self.bias = nn.Parameter(torch.zeros(target.channels))
        self.affine = EqualLinear(latent_channels, in_channels, bias_init=1.0)
        self.register_buffer("magnitude_ema", torch.ones([]))
        self.register_buffer("up_filter", low_pass(source, rate), persistent=False)
        self.register_buffer("down_filter", low_pass(target, rate), persistent=False)

    def forward(self, x: Tensor, latents: Tensor, averages_share: float) -> Tensor:
        """`x` [N, I, h, w] with latents [N, L] to [N, O, H, W]."""
        gain = magnitude_gain(self.magnitude_ema, x, averages_share)
        x = add_bias(modulated_conv(x, self.weight, self.affine(latents), gain), self.bias)
        size = (self.target.height, self.target.width)
        return filtered_lrelu(x, self.up_filter, self.down_filter, self.up, self.down, size)


class ToRGB(nn.Module):
    """A linear 1x1 modulated convolution, not demodulated."""

    magnitude_ema: Tensor

    def __init__(self, in_channels: int, latent_channels: int):
        super().__init__()
        self.weight = random_weight(3, in_channels, 1, 1)
        self.bias = nn.Parameter(torch.zeros(3))
        self.affine = EqualLinear(latent_channels, in_channels, bias_init=1.0)
        self.register_buffer("magnitude_ema", torch.ones([]))

    def forward(self, x: Tensor, latents: Tensor, averages_share: float) -> Tensor:
        """`x` [N, I, H, W] with latents [N, L] to [N, 3, H, W]."""
        gain = magnitude_gain(self.magnitude_ema, x, averages_share)
        styles = self.affine(latents) * (gain / math.sqrt(x.shape[1]))
        x = F.conv2d(modulate(x, styles), self.weight.to(x.dtype))
        return add_bias(x, self.bias).clamp(-CLAMP, CLAMP)


# ---- the network


class Mapping(nn.Module):
    """Two fully connected layers, and the running mean of what they emit: [N, L] to [N, L]."""

    w_avg: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.fc0 = EqualLinear(channels, channels, lr_multiplier=MAPPING_LR_MULTIPLIER)
        self.fc1 = EqualLinear(channels, channels, lr_multiplier=MAPPING_LR_MULTIPLIER)
        self.register_buffer("w_avg", torch.zeros(channels))

    def forward(self, latents: Tensor, averages_share: float) -> Tensor:
        x = lrelu(self.fc0(normalise_rms(latents)), None)
        x = lrelu(self.fc1(x), None)
        if averages_share:
            follow(self.w_avg, x.detach().mean(0), MEAN_LATENT_DECAY, averages_share)
        return x


class Synthesis(nn.Module):
    """The layers, each with the conditioning beside its input; the first has nothing else."""

    def __init__(self, signals: list[Signal], latent_channels: int):
        super().__init__()
        self.signals = signals
        self.names = [f"L{i}_{s.width}_{s.height}_{s.channels}" for i, s in enumerate(signals)]
        self.sources = [signals[0], *signals[:-1]]
        pairs = list(zip(self.sources, signals, strict=True))
        for i, (name, (source, target)) in enumerate(zip(self.names, pairs, strict=True)):
            in_channels = CONDITIONING_CHANNELS + (source.channels if i else 0)
            is_last = i == NUM_LAYERS
            layer = (
                ToRGB(in_channels, latent_channels)
                if is_last
                else Layer(source, target, in_channels, latent_channels)
            )
            self.add_module(name, layer)

    def forward(self, low: Tensor, latents: Tensor, averages_share: float, precision: str) -> Tensor:
        """Images float32 [N * T, 3, H, W] of frames [N, 3, T + 8, h, w] with latents [N * T, L]."""
        square = extend_to_square(low.flatten(1, 2))
        x = low.new_empty(len(latents), 0, self.sources[0].height, self.sources[0].width)
        windows: dict[tuple[int, int, int], Tensor] = {}  # of the latest grid only
        for name, source, target in zip(self.names, self.sources, self.signals, strict=True):
            if source.grid not in windows:
                windows = {source.grid: condition(square, low.shape[4], source)}
            dtype = dtype_at(target.rate, self.signals[-1].rate, precision, low.device)
            x = torch.cat([x.to(dtype), windows[source.grid].to(dtype)], dim=1)
            x = self.get_submodule(name)(x, latents, averages_share)
        return x.float() * OUTPUT_GAIN


class StyleGAN3(nn.Module):
    """Only the release's level of names: mapping and synthesis."""

    def __init__(self, signals: list[Signal], latent_channels: int):
        super().__init__()
        self.synthesis = Synthesis(signals, latent_channels)
        self.mapping = Mapping(latent_channels)


class SuperresGenerator(nn.Module):
    """Stage 2's generator between sizes (height, width), `channel_scale` times as wide as the paper's.

    Raises:
      ValueError: the stage does not take these sizes.
    """

    def __init__(self, low_size: tuple[int, int], high_size: tuple[int, int], channel_scale: float = 1.0):
        super().__init__()
        check_frame_sizes(low_size, high_size)
        self.low_size, self.high_size = low_size, high_size
        self.latent_channels = scale_channels(LATENT_CHANNELS, channel_scale)
        self.SG3 = StyleGAN3(plan_signals(*high_size, channel_scale), self.latent_channels)

    def forward(
        self, low: Tensor, latent: Tensor, averages_share: float = 0.0, precision: str = "fast"
    ) -> Tensor:
        """Frames float32 [N, 3, T, H, W] of low-res ones [N, 3, T + 8, h, w] and a latent [N, L] a video.

        `averages_share` lets magnitude averages and the mean latent follow this pass: for the discriminator's
        step. `precision`: a policy of `superres_sizes`.

        Raises:
          ValueError: the input has another shape.
        """
        self.check_input(low, latent)
        with full_precision(low):  # dtypes are chosen here, tensor by tensor
            num_frames = low.shape[2] - 2 * CONTEXT_FRAMES
            latents = self.SG3.mapping(latent, averages_share).repeat_interleave(num_frames, 0)
            images = self.SG3.synthesis(low.float(), latents, averages_share, precision)
        return images.unflatten(0, (len(low), num_frames)).transpose(1, 2)

    def check_input(self, low: Tensor, latent: Tensor) -> None:
        height, width = self.low_size
        min_frames = 2 * CONTEXT_FRAMES + 1
        if low.ndim != 5 or low.shape[1] != 3 or low.shape[2] < min_frames or low.shape[3:] != self.low_size:
            raise ValueError(
                f"low-res frames must be [N, 3, T, {height}, {width}] with T at least {min_frames}"
                f" ({CONTEXT_FRAMES} of context on each side), got {list(low.shape)}"
            )
        if latent.shape != (len(low), self.latent_channels):
            raise ValueError(
                f"latents must be [{len(low)}, {self.latent_channels}], one a video; got {list(latent.shape)}"
            )
