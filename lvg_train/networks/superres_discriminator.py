"""The super-res discriminator: StyleGAN2's, on low-res and high-res frames stacked in channels. Paper, section 3.3.

input     N x 24 x 256 x 256     2 resolutions x 3 colours x 4 frames; wide frames between zeros
blocks    N x 512 x 4 x 4        residual, each halves the size
logits    N
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvg_train.filters import triangle, upsample
from lvg_train.layers import EqualLinear, channels_last, equalise, full_precision, lrelu, random_weight
from lvg_train.networks.lowres_sizes import scale_channels
from lvg_train.networks.superres_sizes import check_frame_sizes, dtype_at
from lvg_train.resample2d import filter_image

CHANNEL_BASE = 16384
MAX_CHANNELS = 512
LAST_RESOLUTION = 4
ROWS, COLUMNS = 3, 4  # axes of a video


def channels_at(resolution: int, channel_scale: float) -> int:
    """Karras et al. 2020, "Training GANs with Limited Data", appendix D."""
    return scale_channels(min(CHANNEL_BASE // resolution, MAX_CHANNELS), channel_scale)


def enlarge(low: Tensor, factor: int) -> Tensor:
    """Low-res videos [N, 3, T, h, w], `factor` times as high and wide.

    They are interpolated linearly between zeros, so that their edges fade.
    """
    if factor == 1:
        return low
    taps = triangle(factor)
    return upsample(upsample(low, taps, ROWS, factor), taps, COLUMNS, factor)


def stack_resolutions(low: Tensor, high: Tensor) -> Tensor:
    """Videos [N, 3, T, h, w] and [N, 3, T, H, W] as one image [N, 6 * T, W, W], low-res channels first."""
    low = enlarge(low, high.shape[COLUMNS] // low.shape[COLUMNS])
    return pad_to_square(torch.stack([low, high], dim=1).flatten(1, 3))


def pad_to_square(x: Tensor) -> Tensor:
    """Wide images with zeros above and below."""
    missing = x.shape[3] - x.shape[2]
    return F.pad(x, [0, 0, missing // 2, missing - missing // 2])


class EqualConv(nn.Module):
    """2D convolution with equalised learning rate, in the dtype of its input."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, has_bias: bool = True):
        super().__init__()
        self.weight = random_weight(out_channels, in_channels, kernel, kernel)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if has_bias else None

    def forward(self, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        weight = channels_last(equalise(self.weight).to(x.dtype))
        return F.conv2d(channels_last(x), weight, bias, stride, padding)


class Block(nn.Module):
    """Two convolutions beside a skip; halves the size. Karras et al. 2020, StyleGAN2, section 4.1 and fig. 7."""

    taps: Tensor

    def __init__(self, in_channels: int, out_channels: int, input_channels: int | None):
        """`input_channels`: those of the network's input, which the first block takes instead of features."""
        super().__init__()
        self.fromrgb = None if input_channels is None else EqualConv(input_channels, in_channels, 1)
        self.conv0 = EqualConv(in_channels, in_channels, 3)
        self.conv1 = EqualConv(in_channels, out_channels, 3)
        self.skip = EqualConv(in_channels, out_channels, 1, has_bias=False)
        self.register_buffer("taps", torch.tensor(triangle()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.fromrgb is not None:
            x = lrelu(self.fromrgb(x))
        skip = self.skip(filter_image(x, self.taps, stride=2, padding=1))
        x = lrelu(self.conv0(x, padding=1))
        x = lrelu(self.conv1(filter_image(x, self.taps, padding=2), stride=2))
        return (x + skip) * math.sqrt(0.5)


class Epilogue(nn.Module):
    """From features [N, C, 4, 4] to logits [N]."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = EqualConv(channels, channels, 3)
        self.fc = EqualLinear(channels * LAST_RESOLUTION**2, channels)
        self.out = EqualLinear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = lrelu(self.conv(x, padding=1))
        return self.out(lrelu(self.fc(x.flatten(1)), None)).squeeze(1)


class SuperresDiscriminator(nn.Module):
    """Stage 2's discriminator of `num_frames` frames at both sizes (height, width).

    `channel_scale` is its width as a part of the paper's.

    Raises:
      ValueError: the stage does not take these sizes.
    """

    def __init__(
        self,
        low_size: tuple[int, int],
        high_size: tuple[int, int],
        num_frames: int = 4,
        channel_scale: float = 1.0,
    ):
        super().__init__()
        check_frame_sizes(low_size, high_size)
        self.low_shape = (3, num_frames, *low_size)
        self.high_shape = (3, num_frames, *high_size)
        self.long_edge = max(high_size)
        self.resolutions = [
            2**i for i in range(int(math.log2(self.long_edge)), int(math.log2(LAST_RESOLUTION)), -1)
        ]
        for resolution in self.resolutions:
            in_channels, out_channels = (channels_at(n, channel_scale) for n in (resolution, resolution // 2))
            input_channels = 2 * 3 * num_frames if resolution == self.long_edge else None
            self.add_module(f"b{resolution}", Block(in_channels, out_channels, input_channels))
        self.b4 = Epilogue(channels_at(LAST_RESOLUTION, channel_scale))

    def forward(self, low: Tensor, high: Tensor, precision: str = "fast") -> Tensor:
        """Logits float32 [N] of videos [N, 3, T, h, w] and [N, 3, T, H, W] in [-1, 1].

        `low` may come enlarged to [N, 3, T, H, W], see `enlarge`: training augments both resolutions as one.
        `precision`: a policy of `superres_sizes`.

        Raises:
          ValueError: a video has another shape.
        """
        is_enlarged = low.shape[1:] == self.high_shape
        low_shape = self.high_shape if is_enlarged else self.low_shape
        for name, video, shape in (("low-res", low, low_shape), ("high-res", high, self.high_shape)):
            if video.shape[1:] != shape:
                raise ValueError(f"{name} videos must be [N, {str(shape)[1:-1]}], got {list(video.shape)}")
        with full_precision(high):  # dtypes are chosen here, tensor by tensor
            x = stack_resolutions(low.float(), high.float())
            for resolution in self.resolutions:
                dtype = dtype_at(resolution, self.long_edge, precision, x.device)
                x = self.get_submodule(f"b{resolution}")(x.to(dtype))
            return self.b4(x.float())
