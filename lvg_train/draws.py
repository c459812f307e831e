"""Random numbers of training: a pure function of (seed, step, what for, sample).

    step 7, batch 6      one process        samples 0 1 2 3 4 5
                         rank 0 of 2        samples 0 1 2
                         rank 1 of 2                    3 4 5

A sample's numbers do not depend on the rank that draws them, on the accumulation round that it falls in, or on what
was drawn before, so that training resumes at a number and is the same on any number of devices, but for rounding.
The words are those of Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


class Draws:
    """The numbers of some samples of a step for one purpose; each call goes on where the last one ended.

    Every method gives a tensor [N, *shape] on `device`, N the number of samples, drawn on the CPU.
    """

    def __init__(
        self, seed: int, step: int, purpose: str, samples: range, device: torch.device | str = "cpu"
    ):
        """`seed` and `step` from 0; `samples`: their numbers in the whole batch, over all ranks."""
        key = np.array([seed, zlib.crc32(purpose.encode())], np.uint64)
        self.seed, self.step, self.samples, self.device = seed, step, samples, torch.device(device)
        self._random = [
            np.random.Generator(np.random.Philox(key=key, counter=[0, 0, step, sample])) for sample in samples
        ]

    def __len__(self) -> int:
        return len(self._random)

    def on(self, device: torch.device | str) -> Draws:
        """The same numbers, on another device: both go on where either ended."""
        other = copy.copy(self)
        other.device = torch.device(device)
        return other

    def uniform(self, low: float, high: float, shape: Sequence[int] = ()) -> Tensor:
        """float32, each number in [low, high) equally likely."""
        return self._draw(lambda random: (low + (high - low) * random.random(shape)).astype(np.float32))

    def normal(self, shape: Sequence[int] = ()) -> Tensor:
        """float32, Gaussian with mean 0 and variance 1."""
        return self._draw(lambda random: random.standard_normal(shape, np.float32))

    def integers(self, low: int, high: int, shape: Sequence[int] = ()) -> Tensor:
        """int64, each number of [low, high] equally likely, both ends included."""
        return self._draw(lambda random: random.integers(low, high, shape, np.int64, endpoint=True))

    def chance(self, probability: float, shape: Sequence[int] = ()) -> Tensor:
        """bool, True with the probability given."""
        return self._draw(lambda random: random.random(shape) < probability)

    def _draw(self, draw: Callable[[np.random.Generator], object]) -> Tensor:
        numbers = np.stack([np.asarray(draw(random)) for random in self._random])
        return torch.from_numpy(numbers).to(self.device, non_blocking=True)
