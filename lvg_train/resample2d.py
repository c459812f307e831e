"""Separable FIR filters over images, as depth-wise convolutions, and StyleGAN3's resampling nonlinearity.

All filters are symmetric. Images are [N, C, H, W], taps one-dimensional tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lvg_train.layers import lrelu

Padding = tuple[int, int]  # before and after, in samples; negative: cropped


def filter_image(x: Tensor, taps: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """`x`, with `padding` zeros on all sides, filtered along both axes; every `stride`-th sample of that.

    n samples become floor((n + 2 * padding - len(taps)) / stride) + 1.
    """
    channels = x.shape[1]
    rows, columns = depthwise_kernels(x, taps)
    x = F.conv2d(x, rows, stride=(stride, 1), padding=(padding, 0), groups=channels)
    return F.conv2d(x, columns, stride=(1, stride), padding=(0, padding), groups=channels)


def upsample_image(
    x: Tensor, taps: Tensor, factor: int, row_padding: Padding, column_padding: Padding
) -> Tensor:
    """`x` with factor - 1 zeros after each sample, then padded with zeros and filtered, gain `factor` an axis.

    n samples become n * factor + before + after - len(taps) + 1.
    """
    channels, excess = x.shape[1], len(taps) - 1
    rows, columns = depthwise_kernels(x, taps * factor)
    x = F.conv_transpose2d(x, rows, stride=(factor, 1), groups=channels)
    x = F.conv_transpose2d(x, columns, stride=(1, factor), groups=channels)
    # the transposed convolution gives all that the samples reach: `excess` on both sides, no zeros after the last
    top, bottom = row_padding[0] - excess, row_padding[1] - excess + factor - 1
    left, right = column_padding[0] - excess, column_padding[1] - excess + factor - 1
    return F.pad(x, [left, right, top, bottom])


def depthwise_kernels(x: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
    """Kernels that filter all channels of `x` alike, along its rows' axis and along its columns'."""
    kernel = taps.to(x.dtype).repeat(x.shape[1], 1)[:, None]
    return kernel[..., None], kernel[:, :, None]


def filtered_lrelu(
    x: Tensor, up_taps: Tensor, down_taps: Tensor, up: int, down: int, out_size: tuple[int, int]
) -> Tensor:
    """Upsampling by `up`, leaky ReLU and downsampling by `down`, centred on `out_size` (height, width).

    The activation works at a higher sample rate, where the frequencies that it makes have room, and the
    filter takes them away: Karras et al. 2021, "Alias-Free GANs", section 3.2, "Filtered nonlinearities".
    """
    num_taps = len(up_taps) + len(down_taps)
    rows, columns = (
        nonlinearity_padding(n, out, num_taps, up, down) for n, out in zip(x.shape[2:], out_size, strict=True)
    )
    return _FilteredLrelu.apply(x, up_taps, down_taps, (up, rows, columns), down)


class _FilteredLrelu(torch.autograd.Function):
    """Keeps its input alone for the backward pass, which upsamples again: at the high rate, one image and the
    steps of its activation take many times the memory of all else that a layer keeps."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        up_taps: Tensor,
        down_taps: Tensor,
        upsampling: tuple[int, Padding, Padding],
        down: int,
    ) -> Tensor:
        ctx.save_for_backward(x, up_taps, down_taps)
        ctx.upsampling, ctx.down = upsampling, down
        return filter_image(lrelu(upsample_image(x, up_taps, *upsampling)), down_taps, stride=down)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, up_taps, down_taps = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            activated = lrelu(upsample_image(x, up_taps, *ctx.upsampling))
        grad = unfilter_image(grad, down_taps, ctx.down, activated.shape[2:])
        return *torch.autograd.grad(activated, x, grad), None, None, None, None


def unfilter_image(x: Tensor, taps: Tensor, stride: int, size: Sequence[int]) -> Tensor:
    """The transpose of `filter_image` without padding: `x` spread over an image of `size` (height, width)."""
    rows, columns = depthwise_kernels(x, taps)
    top, left = (n - (m - 1) * stride - len(taps) for n, m in zip(size, x.shape[2:], strict=True))
    x = F.conv_transpose2d(x, columns, stride=(1, stride), output_padding=(0, left), groups=x.shape[1])
    return F.conv_transpose2d(x, rows, stride=(stride, 1), output_padding=(top, 0), groups=x.shape[1])


def nonlinearity_padding(length: int, out_length: int, num_taps: int, up: int, down: int) -> Padding:
    """Zeros (negative: a crop) at the high rate that turn `length` samples into `out_length`, centred."""
    total = (out_length - 1) * down + 1 - length * up + num_taps - 2
    before = (total + up) // 2
    return before, total - before
