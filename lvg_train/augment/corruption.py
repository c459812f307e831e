"""Corruption of the low-res frames that stage 2 is conditioned on, so that it forgives stage 1. Brooks et al. 2022.

Five operations of ADA (Karras et al. 2020, appendix B), each applied to a video with probability 1/2; the strengths are
those of the paper's strength 8:

    scale by 2^N(0, 0.08), rotation to 0.016 pi, stretch by 2^N(0, 0.08), shift by N(0, 0.016) of the frame
    x + |N(0, 0.08)| * noise      how much: once a video;  noise: N(0, 1) for every pixel of every frame
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lvg_train.augment.geometry import Geometry, Strength, warp
from lvg_train.augment.videos import check_video, in_full_precision
from lvg_train.draws import Draws

PROBABILITY = 0.5
STRENGTH = Strength(scale=0.08, rotation=0.016, anisotropy=0.08, translation=0.016)
NOISE = 0.08


@dataclass(frozen=True)
class Corruption:
    """The numbers for N videos: `geometry` on the CPU; `sigma` float32 [N] and `noise`, of the video's shape."""

    geometry: Geometry
    sigma: Tensor
    noise: Tensor

    @staticmethod
    def draw(draws: Draws, num_frames: int, height: int, width: int) -> Corruption:
        """The geometry, whether there is noise and how much, then the noise."""
        geometry = Geometry.draw(draws.on("cpu"), PROBABILITY, STRENGTH)
        sigma = draws.chance(PROBABILITY) * draws.normal().abs() * NOISE
        return Corruption(geometry, sigma, draws.normal([3, num_frames, height, width]))

    def apply(self, low: Tensor) -> Tensor:
        """`low` [N, 3, T, h, w], warped alike in all its frames, with noise."""
        return in_full_precision(self._apply, low)

    def _apply(self, low: Tensor) -> Tensor:
        warped = warp(low, self.geometry.inverse(*low.shape[3:]))
        return warped + self.sigma.to(low)[:, None, None, None, None] * self.noise.to(low)


def corrupt(low: Tensor, draws: Draws) -> Tensor:
    """`low` float32 [N, 3, T, h, w] in [-1, 1], each operation applied to a sample with probability 1/2.

    The result may leave [-1, 1].

    Raises:
      ValueError: the video has another shape, or another number of samples than `draws`.
    """
    check_video(low, draws)
    return Corruption.draw(draws, *low.shape[2:]).apply(low)
