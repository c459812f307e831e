"""ADA: the augmentations of stage 2's discriminator, each applied with probability p. Karras et al. 2020.

"Training Generative Adversarial Networks with Limited Data", appendix B and figure 14, with one transform for all
frames. In this order:

    x-flip, quarter turns, whole-pixel shift     up to 1/8 of the frame
    scale, rotation, stretch, rotation, shift    log2 by N(0, 0.2), any angle, log2 by N(0, 0.2), by N(0, 0.125)
    brightness, contrast                         + N(0, 0.2), x 2^N(0, 0.5)
    luma flip, hue, saturation                   mirror grey, any angle about grey, x 2^N(0, 1)

Colours are [r g b 1], so that all of a sample's operations are one 4 x 4 matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lvg_train.augment.geometry import Blits, Geometry, Strength, warp
from lvg_train.augment.matrices import (
    is_identity,
    rotate_hue,
    scale,
    scale_chroma,
    scale_luma,
    translate,
)
from lvg_train.augment.videos import check_video, in_full_precision, mix_colours
from lvg_train.draws import Draws

STRENGTH = Strength(scale=0.2, rotation=1.0, anisotropy=0.2, translation=0.125)
BRIGHTNESS, CONTRAST, SATURATION = 0.2, 0.5, 1.0


@dataclass(frozen=True)
class Colours:
    """Colour operations for N videos, in this order; all zero is identity. On the CPU.

    `brightness` float32 [N]; `log2_contrast` float32 [N], about 0; `flip` bool [N], of luma; `hue` float32 [N] in
    radians; `log2_saturation` float32 [N].
    """

    brightness: Tensor
    log2_contrast: Tensor
    flip: Tensor
    hue: Tensor
    log2_saturation: Tensor

    @staticmethod
    def draw(draws: Draws, probability: float) -> Colours:
        """Whether each applies, then three Gaussian numbers, flips and hues. Half of the flips do nothing."""
        brightens, contrasts, flips, hues, saturates = draws.chance(probability, [5]).unbind(1)
        gaussian = draws.normal([3])
        return Colours(
            brightness=brightens * gaussian[:, 0] * BRIGHTNESS,
            log2_contrast=contrasts * gaussian[:, 1] * CONTRAST,
            flip=flips & draws.chance(0.5),
            hue=hues * draws.uniform(-math.pi, math.pi),
            log2_saturation=saturates * gaussian[:, 2] * SATURATION,
        )

    def matrix(self) -> Tensor:
        """float64 [N, 4, 4], for colours [r g b 1]."""
        contrast = torch.exp2(self.log2_contrast.double())
        return (
            scale_chroma(torch.exp2(self.log2_saturation.double()))
            @ rotate_hue(self.hue)
            @ scale_luma(1 - 2 * self.flip.double())
            @ scale(contrast, contrast, contrast)
            @ translate(self.brightness, self.brightness, self.brightness)
        )

    def apply(self, video: Tensor) -> Tensor:
        matrix = self.matrix()
        return video if is_identity(matrix) else mix_colours(video, matrix[:, :3, :3], matrix[:, :3, 3])


@dataclass(frozen=True)
class Ada:
    """All that is drawn for N videos."""

    blits: Blits
    geometry: Geometry
    colours: Colours

    @staticmethod
    def draw(draws: Draws, probability: float) -> Ada:
        """In the order of the fields; how much is drawn does not depend on the probability.

        Raises:
          ValueError: the probability is not in [0, 1].
        """
        if not 0 <= probability <= 1:
            raise ValueError(f"ADA's probability must be in [0, 1], got {probability}")
        return Ada(
            Blits.draw(draws, probability),
            Geometry.draw(draws, probability, STRENGTH),
            Colours.draw(draws, probability),
        )

    def inverse(self, height: int, width: int) -> Tensor:
        """From where each point comes, float64 [N, 3, 3]."""
        return self.blits.inverse(height, width) @ self.geometry.inverse(height, width)

    def apply(self, video: Tensor) -> Tensor:
        """`video` [N, 3, T, H, W], changed alike in all its frames."""
        return in_full_precision(self._apply, video)

    def _apply(self, video: Tensor) -> Tensor:
        return self.colours.apply(warp(video, self.inverse(*video.shape[3:])))


def ada(video: Tensor, probability: float, draws: Draws) -> Tensor:
    """`video` float32 [N, 3, T, H, W] in [-1, 1], every operation applied to a sample with `probability`.

    Frames of two resolutions get the same transform when they are one video: upsample one and join them in time.
    The result may leave [-1, 1].

    Raises:
      ValueError: the video has another shape, another number of samples than `draws`, or there is no such
        probability.
    """
    check_video(video, draws)
    return Ada.draw(draws.on("cpu"), probability).apply(video)
