"""What every augmentation does with a video first: check its shape, and see to its precision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lvg_train.draws import Draws
from lvg_train.layers import full_precision


def check_video(video: Tensor, draws: Draws) -> None:
    """The video is [N, 3, T, H, W], none of them 0, with N samples in `draws`.

    Raises:
      ValueError: it is not.
    """
    if video.ndim != 5 or video.shape[1] != 3 or len(video) != len(draws) or 0 in video.shape:
        raise ValueError(
            f"videos must be [N, 3, T, H, W] with N = {len(draws)}, the number of samples that the draws"
            f" are for; got {list(video.shape)}"
        )


def in_full_precision(change: Callable[[Tensor], Tensor], video: Tensor) -> Tensor:
    """`change(video)` without autocast and in float32 (float64 for float64), in the dtype of `video`."""
    with full_precision(video):
        return change(video.to(torch.promote_types(video.dtype, torch.float32))).to(video.dtype)


def mix_colours(video: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Every pixel's colour times `matrix` [N, 3, 3], plus `offset` [N, 3]; `video` [N, 3, T, H, W]."""
    pixels = torch.baddbmm(offset[..., None].to(video), matrix.to(video), video.flatten(2))
    return pixels.unflatten(2, video.shape[2:])
