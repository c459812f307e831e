"""FIR filters and resampling by them, along one axis at a time, in plain PyTorch.

All filters are symmetric and all borders zero. Factors are integers and padding is symmetric, so that n samples
become n * factor or floor(n / factor):

    x2, 4 taps       in      a       b       c          /2, 4 taps      in   a b c d e f
                     out   0   1   2   3   4   5                        out   0   1   2
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def firwin(num_taps: int, cutoff: float, width: float, fs: float) -> tuple[float, ...]:
    """Low-pass filter by the Kaiser-window design; sum 1.

    Frequencies are in the units of `fs`, the sample rate; `width` is the transition band. Equal to
    scipy.signal.firwin(num_taps, cutoff, width=width, fs=fs): Oppenheim & Schafer, "Discrete-Time Signal
    Processing", section 7.5.3.
    """
    attenuation_db = 2.285 * (num_taps - 1) * math.pi * width / (fs / 2) + 7.95
    times = np.arange(num_taps) - (num_taps - 1) / 2
    taps = np.sinc(2 * cutoff / fs * times) * np.kaiser(num_taps, kaiser_beta(attenuation_db))
    return tuple((taps / taps.sum()).tolist())


def kaiser_beta(attenuation_db: float) -> float:
    """The Kaiser window's shape for a stop-band attenuation; Oppenheim & Schafer, eq. 7.75."""
    if attenuation_db > 50:
        return 0.1102 * (attenuation_db - 8.7)
    if attenuation_db > 21:
        return 0.5842 * (attenuation_db - 21) ** 0.4 + 0.07886 * (attenuation_db - 21)
    return 0.0


def triangle(factor: int = 2) -> tuple[float, ...]:
    """Linear interpolation's filter for an integer factor, sum 1: [1, 3, 3, 1]/8 for 2."""
    rising = [(i + 0.5) / factor**2 for i in range(factor)]
    return (*rising, *rising[::-1])


def upsample(x: Tensor, taps: Sequence[float], dim: int, factor: int = 2) -> Tensor:
    """`x` with `factor` times the samples along `dim`, filtered by `taps` of sum 1, gain `factor`.

    Equal to inserting factor - 1 zeros after each sample and filtering; here each output phase is a filter of
    its own on the samples.
    """
    length, low = x.shape[dim], (len(taps) + factor - 1) // 2
    pad_low, pad_high = -(-low // factor), (len(taps) - 1 - low + factor - 1) // factor
    padded = pad_axis(x, dim, pad_low, pad_high)
    phases = []
    for phase in range(factor):
        used = range((low - phase) % factor, len(taps), factor)
        starts = [pad_low + (phase + k - low) // factor for k in used]
        slices = [padded.narrow(dim, start, length) for start in starts]
        phases.append(weigh(slices, [taps[k] * factor for k in used]))
    return torch.stack(phases, dim + 1).flatten(dim, dim + 1)


def downsample(x: Tensor, taps: Sequence[float], dim: int, factor: int = 2) -> Tensor:
    """Every `factor`-th sample of `x` along `dim`, filtered by `taps` of sum 1; floor(length / factor) of them."""
    num_outputs, padding = x.shape[dim] // factor, len(taps) - factor
    padded = pad_axis(x, dim, (padding + 1) // 2, padding // 2)
    span = (num_outputs - 1) * factor + 1
    slices = [stride_axis(padded.narrow(dim, k, span), dim, factor) for k in range(len(taps))]
    return weigh(slices, taps)


def weigh(slices: Sequence[Tensor], taps: Sequence[float]) -> Tensor:
    """The sum of slices times taps. Few passes over memory for few taps, and one when compiled."""
    total = slices[0] * taps[0]
    for piece, tap in zip(slices[1:], taps[1:], strict=True):
        total = total.add(piece, alpha=tap)
    return total


def pad_axis(x: Tensor, dim: int, low: int, high: int) -> Tensor:
    """`x` with zeros at both ends of `dim` (counted from the front)."""
    return F.pad(x, [0, 0] * (x.ndim - dim - 1) + [low, high])


def stride_axis(x: Tensor, dim: int, step: int) -> Tensor:
    return x[(slice(None),) * dim + (slice(None, None, step),)]


def crop_axis(x: Tensor, dim: int, length: int) -> Tensor:
    """The middle `length` samples along `dim`, from floor(excess / 2)."""
    return x.narrow(dim, (x.shape[dim] - length) // 2, length)
