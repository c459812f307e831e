"""Doubling and halving the sample rate by an orthogonal wavelet's low-pass filter, as matrices.

    pixel j           0         1         2
    sample m      0 1 2 3 4 5 6 7 8 9 ...            pixel j spreads over samples 2j ... 2j + 11
                                                     and is gathered from them again

As the filter is orthogonal to itself shifted by even steps, halving undoes doubling exactly, while content that
moved between the two is low-pass filtered: Karras et al. 2020, "Training GANs with Limited Data", appendix B.2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# least asymmetric with six vanishing moments ("sym6"): Daubechies, "Ten Lectures on Wavelets", table 6.3; sum sqrt(2)
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
NUM_TAPS = len(SYM6)

# the filter's centre of gravity: smooth content of pixel j is found about sample 2j + CENTRE
CENTRE = sum(k * tap for k, tap in enumerate(SYM6)) / sum(SYM6)


def num_samples(length: int) -> int:
    """How many samples `length` pixels are gathered from, the first being sample 0."""
    return 2 * (length - 1) + NUM_TAPS


def doubling_matrix(length: int, start: int, stop: int, like: Tensor) -> Tensor:
    """Samples [start, stop) of `length` pixels that go on by reflection: [stop - start, length].

    Reflection is about the middle of the first and the last pixel, any number of times. With the dtype and device
    of `like`; a constant keeps its value.
    """
    taps = torch.tensor(SYM6, dtype=torch.float64, device=like.device) * math.sqrt(2)
    samples = torch.arange(start, stop, device=like.device)[:, None]
    spread = samples - torch.arange(NUM_TAPS, device=like.device)
    matrix = torch.zeros(stop - start, length, dtype=torch.float64, device=like.device)
    pixels = reflect(spread.div(2, rounding_mode="floor"), length)
    return matrix.scatter_add_(1, pixels, taps * (spread % 2 == 0)).to(like.dtype)


def halving_matrix(length: int, like: Tensor) -> Tensor:
    """`length` pixels of samples [0, num_samples): [length, num_samples]. A constant keeps its value."""
    taps = torch.tensor(SYM6, dtype=torch.float64, device=like.device) / math.sqrt(2)
    pixels, tap = (torch.arange(n, device=like.device) for n in (length, NUM_TAPS))
    matrix = torch.zeros(length, num_samples(length), dtype=torch.float64, device=like.device)
    return matrix.scatter_(1, 2 * pixels[:, None] + tap, taps.expand(length, -1)).to(like.dtype)


def reflect(index: Tensor, length: int) -> Tensor:
    """Indices folded into [0, length): ... 2 1 [0 1 2 3] 2 1 0 1 ..."""
    period = max(2 * (length - 1), 1)
    folded = index.remainder(period)
    return folded.minimum(period - folded)


def resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Matrices [H', H] and [W', W] along the axes of [..., H, W]: [..., H', W']."""
    return rows @ (images @ columns.mT)
