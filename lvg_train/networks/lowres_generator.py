"""The low-res generator: noise, blurred over time, to a video of any length. Brooks et al. 2022.

    noise         N x 8 x (T' + 4999)
    embedding     N x 1024 x T'            each channel blurred by 128 low-pass filters, T' = 32 * input frames
    latents       N x 1024 x T', /2 ... /32, one rate for each time scale
    features      N x 512 x 20 x 3 x 4     a constant and a linear map of the coarsest latents (T = 128, 36x64)
    video         N x 3 x T x H x W        ten blocks: five double the frame rate, four the size

The network is a convolution in time, with 8 frames of padding on each side at every time scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvg_train.filters import crop_axis, downsample, firwin, triangle, upsample
from lvg_train.layers import (
    CLAMP,
    EqualLinear,
    add_bias,
    channels_last,
    equalise,
    full_precision,
    lrelu,
    magnitude_gain,
    normalise_rms,
    random_weight,
    reduced_precision,
)
from lvg_train.networks.lowres_sizes import check_frame_size, scale_channels

NOISE_CHANNELS = 8
NUM_FILTERS = 128
FILTER_FRAMES = (125, 5000)  # of the shortest and the longest filter, for windows of 128 frames
MIN_TAPS, MAX_TAPS = 3, 5000
TEMPORAL_SCALE = 32
PADDING_FRAMES = 8  # at every time scale, on each side
BLOCK_CHANNELS = (512, 512, 512, 512, 512, 256, 256, 128, 128, 64, 64)
NUM_TEMPORAL_BLOCKS = 6
LATENT_TAPS = firwin(12, cutoff=1, width=6, fs=8)
TRIANGLE_TAPS = triangle()
MAPPING_LR_MULTIPLIER = 0.01
OUTPUT_GAIN = 0.25
TIME, ROWS, COLUMNS = 2, 3, 4  # axes


@dataclass(frozen=True)
class BlockPlan:
    """A block's channels, its kernel's length in frames, and what it doubles."""

    in_channels: int
    out_channels: int
    kernel_frames: int
    doubles_time: bool
    doubles_space: bool


def plan_blocks(edge: int, channel_scale: float) -> list[BlockPlan]:
    """The ten blocks for a long edge of `edge` pixels; it takes log2(edge / 4) of them to double the size.

    Fewer than four are dropped from the end; a fifth is in the last block.
    """
    doubling_space = (1, 3, 6, 8, 9)[: int(math.log2(edge // 4))]
    channels = [scale_channels(n, channel_scale) for n in BLOCK_CHANNELS]
    return [
        BlockPlan(
            in_channels=channels[i],
            out_channels=channels[i + 1],
            kernel_frames=3 if i < NUM_TEMPORAL_BLOCKS else 1,
            doubles_time=i < NUM_TEMPORAL_BLOCKS - 1,
            doubles_space=i in doubling_space,
        )
        for i in range(len(channels) - 1)
    ]


# ---- time


def input_frames(num_frames: int) -> int:
    """Frames of the coarsest input for a video of `num_frames`."""
    return frames_at(TEMPORAL_SCALE, num_frames)


def frames_at(scale: int, num_frames: int) -> int:
    """Frames of a layer at 1/scale of the frame rate, padding included."""
    return math.ceil(num_frames / scale) + 2 * PADDING_FRAMES


def noise_frames(num_frames: int) -> int:
    """Frames of noise for a video of `num_frames`."""
    return input_frames(num_frames) * TEMPORAL_SCALE + MAX_TAPS - 1


def round_to_grid(num_frames: int) -> int:
    """The next multiple of 32 frames; for videos of other lengths layers are shifted against each other."""
    return math.ceil(num_frames / TEMPORAL_SCALE) * TEMPORAL_SCALE


def draw_grid_noise(seed: int, start_frame: int, stop_frame: int) -> Tensor:
    """The noise of the endless video `seed` in [start, stop), float32 [1, 8, stop - start].

    Frame 0 is the first that the video's frame 0 needs. A block of 32 frames has a counter of its own in
    Philox (Salmon et al. 2011), so that any span is drawn without what comes before it.
    """
    blocks = range(start_frame // TEMPORAL_SCALE, -(-stop_frame // TEMPORAL_SCALE))
    noise = np.concatenate([draw_noise_block(seed, block) for block in blocks], axis=1)
    first = start_frame - blocks.start * TEMPORAL_SCALE
    return torch.from_numpy(noise[None, :, first : first + stop_frame - start_frame])


def draw_noise_block(seed: int, block: int) -> np.ndarray:
    """Gaussian noise float32 [8, 32] of block `block` >= 0."""
    bits = np.random.Philox(key=seed, counter=[0, 0, 0, block])
    return np.random.Generator(bits).standard_normal((NOISE_CHANNELS, TEMPORAL_SCALE), dtype=np.float32)


# ---- temporal embedding


def blur_filters(num_filters: int, filter_frames: tuple[int, int] = FILTER_FRAMES) -> Tensor:
    """Low-pass filters from the shortest to the longest of `filter_frames`; float32 [num_filters, 5000].

    They are right-aligned and each has the L2 norm 1. Kaiser filters, log-spaced (Brooks et al. 2022: 125 to
    5000 taps); every output then keeps the noise's unit variance.

    Raises:
      ValueError: the lengths are not in order, or not in [3, 5000].
    """
    check_filter_frames(filter_frames)
    bank = np.zeros((num_filters, MAX_TAPS))
    lowest, highest = (2 * taps for taps in filter_frames)
    rates = np.logspace(np.log2(lowest), np.log2(highest), num_filters, base=2)
    for row, rate in zip(bank, rates.clip(lowest, highest), strict=True):
        taps = firwin(math.ceil(rate / 2), cutoff=2, width=12, fs=rate)
        row[-len(taps) :] = np.array(taps) / np.linalg.norm(taps)
    return torch.from_numpy(bank).float()


def check_filter_frames(filter_frames: tuple[int, int]) -> None:
    shortest, longest = filter_frames
    if not MIN_TAPS <= shortest <= longest <= MAX_TAPS:
        raise ValueError(
            f"filter_frames must be the shortest and the longest filter, of {MIN_TAPS} to {MAX_TAPS} frames,"
            f" got {shortest} and {longest}"
        )


def blur_noise(noise: Tensor, filters: Tensor) -> Tensor:
    """Every channel of `noise` [N, C, T + K - 1] by every filter [F, K]: [N, C * F, T], filters fastest.

    A cross-correlation, as conv1d's: output t sees noise t ... t + K - 1. By FFT, in float32.
    """
    num_outputs = noise.shape[2] - filters.shape[1] + 1
    size = fast_fft_size(noise.shape[2])
    spectrum = torch.fft.rfft(noise.float(), size)[:, :, None] * torch.fft.rfft(filters, size).conj()
    return torch.fft.irfft(spectrum, size)[..., :num_outputs].flatten(1, 2)


def fast_fft_size(length: int) -> int:
    """The smallest 2^a * {1, 3, 5, 9, 15, 27, 45} that is at least `length`."""
    return min(odd * 2 ** math.ceil(math.log2(length / odd)) for odd in (1, 3, 5, 9, 15, 27, 45))


# ---- synthesis


def normalise_max(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """`x` divided by its largest magnitude over `dims`; demodulation takes the factor out again."""
    return x / x.abs().amax(dims, keepdim=True)


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """3D convolution with "same" padding by zeros, for odd kernels."""
    return F.conv3d(channels_last(x), channels_last(weight), padding=[n // 2 for n in weight.shape[2:]])


def modulated_conv(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """Convolution of `x` [N, I, T, H, W] with a style [N, I, T] for each frame, demodulated: [N, O, T, H, W].

    Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", eq. 1 and 3, with the style
    on the activations and the demodulation per output frame.
    """
    weight = equalise(normalise_max(weight, (1, 2, 3, 4)))
    styles = normalise_max(styles, (1, 2))
    with full_precision(x):
        # [O, I] @ [N, I, T] -> [N, O, T]
        variance = weight.square().sum((2, 3, 4)) @ styles.square()
    return modulate(convolve(modulate(x, styles), weight), (variance + 1e-8).rsqrt())


def modulate(x: Tensor, factors: Tensor) -> Tensor:
    """`x` [N, C, T, H, W] times [N, C, T], in the dtype of `x`."""
    return x * factors.to(x.dtype)[..., None, None]


class Affine(EqualLinear):
    """Styles [N, C, T], about 1, of latents [N, L, T]."""

    def __init__(self, latent_channels: int, channels: int):
        super().__init__(latent_channels, channels, bias_init=1.0)

    def forward(self, latents: Tensor) -> Tensor:
        return super().forward(latents.mT).mT


class LatentMapping(nn.Module):
    """Two fully connected layers, frame by frame: [N, C, T] to [N, C, T]."""

    def __init__(self, channels: int):
        super().__init__()
        self.layer_0 = EqualLinear(channels, channels, lr_multiplier=MAPPING_LR_MULTIPLIER)
        self.layer_1 = EqualLinear(channels, channels, lr_multiplier=MAPPING_LR_MULTIPLIER)

    def forward(self, embedding: Tensor) -> Tensor:
        x = normalise_rms(embedding).mT
        x = lrelu(self.layer_0(x), None)
        x = lrelu(self.layer_1(x), None)
        return x.mT


class SynthesisBlock(nn.Module):
    """Two modulated convolutions beside a skip, then upsampling."""

    magnitude_ema_0: Tensor
    magnitude_ema_1: Tensor

    def __init__(self, plan: BlockPlan, latent_channels: int):
        super().__init__()
        self.plan = plan
        in_channels, out_channels = plan.in_channels, plan.out_channels
        self.weight_0 = random_weight(in_channels, in_channels, plan.kernel_frames, 3, 3)
        self.weight_1 = random_weight(out_channels, in_channels, plan.kernel_frames, 3, 3)
        self.weight_skip = random_weight(out_channels, in_channels, 1, 1, 1)
        self.bias_0 = nn.Parameter(torch.zeros(in_channels))
        self.bias_1 = nn.Parameter(torch.zeros(out_channels))
        self.affine_0 = Affine(latent_channels, in_channels)
        self.affine_1 = Affine(latent_channels, in_channels)
        self.register_buffer("magnitude_ema_0", torch.ones([]))
        self.register_buffer("magnitude_ema_1", torch.ones([]))

    def forward(
        self, x: Tensor, latents: Tensor, shape: tuple[int, int, int], averages_share: float
    ) -> Tensor:
        """`x` [N, C, t, h, w] with latents [N, L, t] to [N, C', *shape]."""
        with full_precision(x):
            styles_0, styles_1 = self.affine_0(latents), self.affine_1(latents)
        x = x * magnitude_gain(self.magnitude_ema_0, x, averages_share).to(x.dtype)
        y = lrelu(add_bias(modulated_conv(x, self.weight_0, styles_0), self.bias_0))
        y = y * magnitude_gain(self.magnitude_ema_1, y, averages_share).to(y.dtype)
        y = modulated_conv(y, self.weight_1, styles_1)
        y = (y + convolve(x, equalise(self.weight_skip))) * math.sqrt(0.5)
        return lrelu(add_bias(self.resize(y, shape), self.bias_1))

    def resize(self, x: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """Doubles what the block's plan says, time first, and crops to `shape`."""
        frames, height, width = shape
        if self.plan.doubles_time:
            x = upsample(x, TRIANGLE_TAPS, TIME)
        x = crop_axis(x, TIME, frames)
        if self.plan.doubles_space:
            x = upsample(upsample(x, TRIANGLE_TAPS, ROWS), TRIANGLE_TAPS, COLUMNS)
        return crop_axis(crop_axis(x, ROWS, height), COLUMNS, width)


class ToRGB(nn.Module):
    """A linear 1x1x1 modulated convolution, not demodulated; in float32."""

    magnitude_ema: Tensor

    def __init__(self, in_channels: int, latent_channels: int):
        super().__init__()
        self.weight = random_weight(3, in_channels, 1, 1, 1)
        self.bias = nn.Parameter(torch.zeros(3))
        self.affine = Affine(latent_channels, in_channels)
        self.register_buffer("magnitude_ema", torch.ones([]))

    def forward(self, x: Tensor, latents: Tensor, averages_share: float) -> Tensor:
        with full_precision(x):
            x = x.float()
            x = x * magnitude_gain(self.magnitude_ema, x, averages_share)
            y = convolve(modulate(x, self.affine(latents)), equalise(self.weight))
            return add_bias(y, self.bias).clamp(-CLAMP, CLAMP)


class LowresGenerator(nn.Module):
    """Stage 1's generator for frames of height x width, `channel_scale` times as wide as the paper's.

    `filter_frames`: of the shortest and the longest filter that blurs noise. What is made cannot change much
    faster than the shortest at first, so it should be about as long as the windows to learn from.

    Raises:
      ValueError: the long edge is not 16, 32, 64 or 128, or there are no such filters.
    """

    filters: Tensor

    def __init__(
        self,
        height: int,
        width: int,
        channel_scale: float = 1.0,
        filter_frames: tuple[int, int] = FILTER_FRAMES,
    ):
        super().__init__()
        edge = check_frame_size(height, width)
        self.height, self.width = height, width
        plans = plan_blocks(edge, channel_scale)
        filters = blur_filters(scale_channels(NUM_FILTERS, channel_scale), filter_frames)
        latent_channels = NOISE_CHANNELS * len(filters)

        self.register_buffer("filters", filters, persistent=False)
        self.latent_mapping = LatentMapping(latent_channels)
        self.w_to_temp_input = EqualLinear(latent_channels, plans[0].in_channels)
        self.spatial_input = random_weight(1, plans[0].in_channels, 1, *self.size_at(edge // 4))
        blocks = [SynthesisBlock(plan, latent_channels) for plan in plans]
        self.temporal_layers = nn.ModuleList(blocks[:NUM_TEMPORAL_BLOCKS])
        self.spatial_layers = nn.ModuleList(blocks[NUM_TEMPORAL_BLOCKS:])
        self.to_rgb = ToRGB(plans[-1].out_channels, latent_channels)

    def forward(
        self, noise: Tensor, num_frames: int, averages_share: float = 0.0, precision: str = "fast"
    ) -> Tensor:
        """A video float32 [N, 3, num_frames, H, W] of noise [N, 8, noise_frames(num_frames)].

        `averages_share` lets the magnitude averages follow this pass (the discriminator's step), see `layers.follow`.
        `precision`: a policy of `layers.reduced_precision`.

        Raises:
          ValueError: the noise has another shape, or there is no such policy.
        """
        expected = (NOISE_CHANNELS, noise_frames(num_frames))
        if noise.shape[1:] != expected:
            raise ValueError(
                f"{num_frames} frames need noise of shape [N, {expected[0]}, {expected[1]}],"
                f" got {list(noise.shape)}"
            )
        with reduced_precision(noise, precision):
            return self.synthesise(self.latents_of(noise), num_frames, averages_share)

    def latents_of(self, noise: Tensor) -> list[Tensor]:
        """Latents [N, L, T' / s] for s = 1, 2 ... 32, in float32."""
        with full_precision(noise):
            latents = [self.latent_mapping(blur_noise(noise, self.filters))]
            while len(latents) <= math.log2(TEMPORAL_SCALE):
                latents.append(downsample(latents[-1], LATENT_TAPS, TIME))
            return latents

    def synthesise(self, latents: list[Tensor], num_frames: int, averages_share: float = 0.0) -> Tensor:
        """The video of what `latents_of` gives."""
        x, rate = self.input_of(latents[-1]), len(latents) - 1
        for block, shape in zip(self.blocks(), self.block_shapes(num_frames), strict=True):
            x = block(x, crop_axis(latents[rate], TIME, x.shape[TIME]), shape, averages_share)
            rate -= block.plan.doubles_time
        return self.to_rgb(x, crop_axis(latents[rate], TIME, num_frames), averages_share) * OUTPUT_GAIN

    def input_of(self, latents: Tensor) -> Tensor:
        """Features [N, C, T, h, w] of the coarsest latents [N, L, T], the same everywhere but for the constant."""
        with full_precision(latents):
            temporal = self.w_to_temp_input(latents.mT).mT
        return (temporal[..., None, None] + self.spatial_input) * math.sqrt(0.5)

    def blocks(self) -> Iterator[SynthesisBlock]:
        for block in (*self.temporal_layers, *self.spatial_layers):
            assert isinstance(block, SynthesisBlock)
            yield block

    def block_shapes(self, num_frames: int) -> Iterator[tuple[int, int, int]]:
        """Frames, height and width of each block's output: T = 128 has 24, 32, 48, 80, 144, then 128 frames.

        Blocks after the last doubling of time have no padding.
        """
        time_scale, space_scale = TEMPORAL_SCALE, max(self.height, self.width) // 4
        for plan in (block.plan for block in self.blocks()):
            time_scale //= 1 + plan.doubles_time
            space_scale //= 1 + plan.doubles_space
            frames = frames_at(time_scale, num_frames) if plan.doubles_time else num_frames
            yield frames, *self.size_at(space_scale)

    def size_at(self, scale: int) -> tuple[int, int]:
        """Height and width of features at 1/scale of the resolution."""
        return math.ceil(self.height / scale), math.ceil(self.width / scale)

    @torch.no_grad()
    def stream(
        self,
        seed: int,
        num_frames: int,
        start_frame: int = 0,
        chunk_frames: int = 128,
        precision: str = "fast",
    ) -> Iterator[Tensor]:
        """Frames [start, start + num_frames) of the endless video `seed`, float32 [1, 3, <= chunk_frames, H, W].

        Memory does not grow with the number of frames. Every chunk is generated with its own padding, as

            chunk 0  [256 + 4999 frames of noise around 0..127]
            chunk 1                     [... around 128..255]

        so that it does not depend on where the stream or the chunk starts, but for rounding.

        Raises:
          ValueError: start or chunk are not on the grid of 32 frames.
        """
        check_grid("start_frame", start_frame, 0)
        check_grid("chunk_frames", chunk_frames, TEMPORAL_SCALE)
        device = self.filters.device
        for start in range(start_frame, start_frame + num_frames, chunk_frames):
            wanted = min(chunk_frames, start_frame + num_frames - start)
            made = round_to_grid(wanted)
            noise = draw_grid_noise(seed, start, start + noise_frames(made))
            yield self(noise.to(device), made, precision=precision)[:, :, :wanted]


def check_grid(name: str, frames: int, minimum: int) -> None:
    if frames < minimum or frames % TEMPORAL_SCALE:
        raise ValueError(f"{name} must be a multiple of {TEMPORAL_SCALE} from {minimum} up, got {frames}")
