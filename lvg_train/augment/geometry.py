"""Geometric augmentations: draws, their matrices, and warping by them. Karras et al. 2020, appendix B.

"Training Generative Adversarial Networks with Limited Data", figure 14. All operations of a sample become one matrix,
and all its frames are warped at once:

      frame        twice the rate     the same, warped         frame
    h x w   --->   2h+ x 2w+   --->   2(h+5) x 2(w+5)   --->   h x w
          sym6 filter,         bilinear               sym6 filter
          reflected beyond the edge

Points are in pixels from the frame's middle, x to the right and y down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lvg_train.augment.matrices import is_identity, rotate, scale, translate
from lvg_train.augment.sampling import sample_bilinear
from lvg_train.augment.wavelets import (
    CENTRE,
    NUM_TAPS,
    doubling_matrix,
    halving_matrix,
    num_samples,
    resample,
)
from lvg_train.draws import Draws

INTEGER_SHIFT = 0.125  # of the frame's width and height


@dataclass(frozen=True)
class Strength:
    """How strong the operations of `Geometry` are.

    `scale`, `anisotropy`: standard deviation of log2; `rotation`: largest angle, in pi; `translation`: standard
    deviation in widths and heights.
    """

    scale: float
    rotation: float
    anisotropy: float
    translation: float


@dataclass(frozen=True)
class Blits:
    """Operations that only move whole pixels, for N videos; all zero is identity. On the CPU.

    `flip` bool [N]; `quarter_turns` int64 [N], 0 to 3, x towards y; `shift` float32 [N, 2], right and down, in widths
    and heights, rounded to whole pixels when applied.
    """

    flip: Tensor
    quarter_turns: Tensor
    shift: Tensor

    @staticmethod
    def draw(draws: Draws, probability: float) -> Blits:
        """Whether each applies, then flips, turns and shifts. Half of the flips that apply do nothing."""
        flips, turns, moves = draws.chance(probability, [3]).unbind(1)
        return Blits(
            flip=flips & draws.chance(0.5),
            quarter_turns=turns * draws.integers(0, 3),
            shift=moves[:, None] * draws.uniform(-INTEGER_SHIFT, INTEGER_SHIFT, [2]),
        )

    def inverse(self, height: int, width: int) -> Tensor:
        """From where each point comes, float64 [N, 3, 3]."""
        x, y = (self.shift.double() * torch.tensor([width, height])).round().unbind(1)
        mirror = 1 - 2 * self.flip.double()
        turn = rotate(-self.quarter_turns * (math.pi / 2)).round()
        return scale(mirror, torch.ones_like(mirror)) @ turn @ translate(-x, -y)


@dataclass(frozen=True)
class Geometry:
    """General operations for N videos, in this order; all zero is identity. float32, on the CPU.

    `log2_scale` [N]; `pre_angle` [N] in radians, x towards y; `log2_stretch` [N], wider and as much lower;
    `post_angle` [N]; `shift` [N, 2], right and down, in widths and heights.
    """

    log2_scale: Tensor
    pre_angle: Tensor
    log2_stretch: Tensor
    post_angle: Tensor
    shift: Tensor

    @staticmethod
    def draw(draws: Draws, probability: float, strength: Strength) -> Geometry:
        """Whether each applies, whether each rotation applies, then four Gaussian and two uniform numbers.

        Each rotation has a probability of 1 - sqrt(1 - p), so that one or both apply with p.
        """
        scales, stretches, moves = draws.chance(probability, [3]).unbind(1)
        turns = draws.chance(1 - math.sqrt(1 - probability), [2])
        gaussian = draws.normal([4])
        angles = turns * draws.uniform(-math.pi, math.pi, [2]) * strength.rotation
        return Geometry(
            log2_scale=scales * gaussian[:, 0] * strength.scale,
            pre_angle=angles[:, 0],
            log2_stretch=stretches * gaussian[:, 1] * strength.anisotropy,
            post_angle=angles[:, 1],
            shift=moves[:, None] * gaussian[:, 2:] * strength.translation,
        )

    def inverse(self, height: int, width: int) -> Tensor:
        """From where each point comes, float64 [N, 3, 3]."""
        size, stretch = (torch.exp2(-x.double()) for x in (self.log2_scale, self.log2_stretch))
        x, y = (self.shift.double() * torch.tensor([width, height])).unbind(1)
        return (
            scale(size, size)
            @ rotate(-self.pre_angle)
            @ scale(stretch, 1 / stretch)
            @ rotate(-self.post_angle)
            @ translate(-x, -y)
        )


# ---- warping


def warp(video: Tensor, inverse: Tensor) -> Tensor:
    """`video` [N, C, T, H, W], where each point shows what was at `inverse` times the point.

    `inverse` float64 [N, 3, 3], affine, on the CPU, so that the size of what is computed is known without waiting
    for the device. The frame goes on by reflection for as much as its long edge; beyond that there is zero.
    """
    if is_identity(inverse):
        return video
    height, width = video.shape[3:]
    # N (C T) H W
    images = video.flatten(1, 2)
    columns, rows = needed_samples(inverse, height, width)
    images = resample(
        images,
        doubling_matrix(height, rows.start, rows.stop, images),
        doubling_matrix(width, columns.start, columns.stop, images),
    )
    images = sample_bilinear(images, sampling_grid(images, inverse, columns, rows, height, width))
    images = resample(images, halving_matrix(height, images), halving_matrix(width, images))
    return images.view(video.shape)


def needed_samples(inverse: Tensor, height: int, width: int) -> tuple[range, range]:
    """Columns and rows at the double rate that hold all that any output reads, as far as the frame goes on.

    An affine map takes the output's corners to the corners of what it reads.
    """
    to_samples = samples_from_points(height, width)
    right, bottom = num_samples(width) - 1, num_samples(height) - 1
    corners = torch.tensor([[0, right, 0, right], [0, 0, bottom, bottom], [1] * 4], dtype=torch.float64)
    read = to_samples @ inverse @ torch.linalg.inv(to_samples) @ corners
    spans = []
    for axis, length in enumerate((width, height)):
        reach = 2 * max(height, width) + NUM_TAPS
        limits = (-reach, num_samples(length) - 1 + reach)
        # a hair less and more, as the same is computed in float32 later
        first = math.floor(min(max(read[:, axis].min().item() - 1e-3, limits[0]), limits[1]))
        last = math.floor(min(max(read[:, axis].max().item() + 1e-3, limits[0]), limits[1])) + 1
        spans.append(range(first, last + 1))
    return spans[0], spans[1]


def samples_from_points(height: int, width: int) -> Tensor:
    """float64 [3, 3]: points in pixels from the frame's middle to (column, row) at the double rate."""
    matrix = torch.diag(torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64))
    matrix[0, 2], matrix[1, 2] = width - 1 + CENTRE, height - 1 + CENTRE
    return matrix


def sampling_grid(
    images: Tensor, inverse: Tensor, columns: range, rows: range, height: int, width: int
) -> Tensor:
    """Where to read `images`, which hold samples (columns, rows), for all samples of the output.

    [N, rows, columns, 2] in grid_sample's units: -1 and 1 are the edges of the images.
    """
    to_samples = samples_from_points(height, width)
    to_output = unit_square(range(num_samples(width)), range(num_samples(height)))
    move = to_samples @ inverse @ torch.linalg.inv(to_samples)
    theta = unit_square(columns, rows) @ move @ torch.linalg.inv(to_output)
    theta = theta[:, :2].to(images)[:, None, None]  # [N, 1, 1, 2, 3]
    x, y = (_centres(count, images) for count in (num_samples(width), num_samples(height)))
    # by products and sums: as a matrix product, affine_grid would be TF32 on a GPU, a tenth of a pixel off
    return theta[..., 0] * x[:, None] + theta[..., 1] * y[:, None, None] + theta[..., 2]


def _centres(count: int, like: Tensor) -> Tensor:
    """Where `count` samples have their centres between -1 and 1: [count], on the device of `like`."""
    return (2 * torch.arange(count, dtype=like.dtype, device=like.device) + 1) / count - 1


def unit_square(columns: range, rows: range) -> Tensor:
    """float64 [3, 3]: sample numbers to [-1, 1], from the first sample's edge to the last one's."""
    matrix = torch.eye(3, dtype=torch.float64)
    for axis, span in enumerate((columns, rows)):
        matrix[axis, axis] = 2 / len(span)
        matrix[axis, 2] = (1 - 2 * span.start) / len(span) - 1
    return matrix
