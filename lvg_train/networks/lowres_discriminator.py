"""The low-res discriminator: 3D residual blocks over a window, then convolutions over time. Brooks et al. 2022.

    video         N x 3 x 128 x 36 x 64, zero-padded to 64 x 64
    blocks        32, 64, 128, 256, 512 channels; 128 x 64 x 64 to 16 x 4 x 4
    epilogue      N x 8192 x 16, one vector a frame -> 1024 channels -> one logit

N batch, T frames: 128 in the paper, which the blocks reduce to 16.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvg_train.filters import downsample, triangle
from lvg_train.layers import (
    CLAMP,
    EqualLinear,
    add_bias,
    channels_last,
    equalise,
    full_precision,
    lrelu,
    random_weight,
    reduced_precision,
)
from lvg_train.networks.lowres_sizes import check_frame_size, scale_channels

BLOCK_CHANNELS = (32, 64, 128, 256, 512)
EPILOGUE_CHANNELS = 1024
TRIANGLE_TAPS = triangle()
TIME, ROWS, COLUMNS = 2, 3, 4  # axes


class EqualConv(nn.Module):
    """Convolution with "same" padding by zeros. Its bias waits for `activate`: downsampling comes between."""

    def __init__(self, in_channels: int, out_channels: int, *kernel: int, bias: bool = True):
        super().__init__()
        self.weight = random_weight(out_channels, in_channels, *kernel)
        self._bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        convolve = F.conv1d if self.weight.ndim == 3 else F.conv3d
        x, weight = channels_last(x), channels_last(equalise(self.weight))
        return convolve(x, weight, padding=[n // 2 for n in self.weight.shape[2:]])

    def activate(self, x: Tensor, bound: float | None = CLAMP) -> Tensor:
        """Bias and leaky ReLU, for the convolution's output."""
        assert self._bias is not None
        return lrelu(add_bias(x, self._bias), bound)


class ResidualBlock(nn.Module):
    """Two convolutions beside a skip; both ways are downsampled by the FIR filter."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_frames: int, halves_time: bool, halves_space: bool
    ):
        super().__init__()
        self.halves_time, self.halves_space = halves_time, halves_space
        self.conv_0 = EqualConv(in_channels, in_channels, kernel_frames, 3, 3)
        self.conv_1 = EqualConv(in_channels, out_channels, kernel_frames, 3, 3)
        self.conv_skip = EqualConv(in_channels, out_channels, 1, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_0.activate(self.conv_0(x))
        y = self.conv_1.activate(self.resize(self.conv_1(y)))
        skip = self.conv_skip(self.resize(x)).clamp(-CLAMP, CLAMP)
        return (y + skip) * math.sqrt(0.5)

    def resize(self, x: Tensor) -> Tensor:
        if self.halves_space:
            x = downsample(downsample(x, TRIANGLE_TAPS, ROWS), TRIANGLE_TAPS, COLUMNS)
        return downsample(x, TRIANGLE_TAPS, TIME) if self.halves_time else x


class FirstBlock(ResidualBlock):
    """With a 1x1x1 convolution from RGB in front."""

    def __init__(self, in_channels: int, out_channels: int, halves_space: bool):
        super().__init__(in_channels, out_channels, 1, halves_time=False, halves_space=halves_space)
        self.conv_vid = EqualConv(3, in_channels, 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.conv_vid.activate(self.conv_vid(x)))


class Epilogue(nn.Module):
    """Features [N, C, T, h, w] to logits [N], in float32."""

    def __init__(self, features: int, num_frames: int, channels: int):
        super().__init__()
        self.conv1d_0 = EqualConv(features, channels, 1)
        self.conv1d_1 = EqualConv(channels, channels, 3)
        self.conv1d_2 = EqualConv(channels, channels, 3)
        self.conv1d_3 = EqualConv(channels, channels, 3)
        self.linear_0 = EqualLinear(channels * num_frames, channels)
        self.linear_1 = EqualLinear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        with full_precision(x):
            # N C T h w -> N (C h w) T
            x = x.float().permute(0, 1, 3, 4, 2).flatten(1, 3)
            for conv in (self.conv1d_0, self.conv1d_1, self.conv1d_2, self.conv1d_3):
                x = conv.activate(conv(x), None)
            return self.linear_1(lrelu(self.linear_0(x.flatten(1)), None)).squeeze(1)


class LowresDiscriminator(nn.Module):
    """Stage 1's discriminator for windows of `num_frames` frames of height x width.

    `channel_scale` is its width relative to the paper's.

    Raises:
      ValueError: the long edge is not 16, 32, 64 or 128, or there is no frame.
    """

    def __init__(self, height: int, width: int, num_frames: int = 128, channel_scale: float = 1.0):
        super().__init__()
        edge = check_frame_size(height, width)
        if num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {num_frames}")
        self.shape = (3, num_frames, height, width)
        channels = [scale_channels(n, channel_scale) for n in BLOCK_CHANNELS]

        first = FirstBlock(channels[0], channels[1], halves_space=edge > 32)
        rest = [
            ResidualBlock(channels[i], channels[i + 1], 5, num_frames >= 2 ** (i + 1), halves_space=True)
            for i in (1, 2, 3)
        ]
        self.blocks = nn.Sequential(first, *rest)
        for block in (first, *rest):
            edge, num_frames = edge // (1 + block.halves_space), num_frames // (1 + block.halves_time)
        self.epilogue = Epilogue(
            channels[-1] * edge**2, num_frames, scale_channels(EPILOGUE_CHANNELS, channel_scale)
        )

    def forward(self, video: Tensor, precision: str = "fast") -> Tensor:
        """Logits float32 [N] of videos [N, 3, T, H, W] in [-1, 1].

        `precision`: a policy of `layers.reduced_precision`.

        Raises:
          ValueError: the video has another shape than the discriminator was made for, or there is no such policy.
        """
        if video.shape[1:] != self.shape:
            raise ValueError(
                f"the discriminator takes videos of shape [N, {str(self.shape)[1:-1]}], got {list(video.shape)}"
            )
        with reduced_precision(video, precision):
            return self.epilogue(self.blocks(pad_to_square(video)))


def pad_to_square(video: Tensor) -> Tensor:
    """Zeros around [..., H, W], centred, to the long edge."""
    height, width = video.shape[-2:]
    edge = max(height, width)
    top, left = (edge - height) // 2, (edge - width) // 2
    return F.pad(video, [left, edge - width - left, top, edge - height - top])
