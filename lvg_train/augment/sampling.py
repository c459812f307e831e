"""Bilinear sampling whose gradient can be differentiated again, as R1 needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BILINEAR, ZEROS = 0, 0  # ATen's numbers of interpolation and padding mode


def sample_bilinear(images: Tensor, grid: Tensor) -> Tensor:
    """`images` [N, C, H, W] read at `grid` [N, H', W', 2], zero beyond the edge: [N, C, H', W'].

    As `torch.nn.functional.grid_sample(align_corners=False)`, for a grid that needs no gradient. Sampling is linear
    in the images: its gradient scatters, and the gradient of scattering is sampling again.
    """
    # PyTorch 2.10 cannot differentiate its own gradient, 2.13 can: https://github.com/pytorch/pytorch/pull/177487;
    # use grid_sample when 2.13 is the oldest that we support
    return Sample.apply(images, grid)


class Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.size = images.shape[2:]
        return torch.ops.aten.grid_sampler_2d(images, grid, BILINEAR, ZEROS, False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return Scatter.apply(gradient, grid, ctx.size), None


class Scatter(torch.autograd.Function):
    """The transpose of sampling: [N, C, H', W'] to [N, C, H, W]."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, grid: Tensor, size: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        # only the shape of the images counts
        images = values.new_empty(1).expand(*values.shape[:2], *size)
        return torch.ops.aten.grid_sampler_2d_backward(
            values, images, grid, BILINEAR, ZEROS, False, [True, False]
        )[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return Sample.apply(gradient, grid), None, None
