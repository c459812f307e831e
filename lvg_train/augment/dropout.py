"""Conditioning dropout: the super-res discriminator mostly judges high-res frames alone. Brooks et al. 2022.

low-res    0   0   0   c   0   0   0   0   0   0      1 sample of 10 keeps them
"""

from __future__ import annotations

from torch import Tensor

from lvg_train.augment.videos import check_video
from lvg_train.draws import Draws

PROBABILITY = 0.9


def drop_conditioning(low: Tensor, draws: Draws) -> Tensor:
    """`low` [N, 3, T, h, w]; all frames of a sample are zero with probability 0.9, else unchanged.

    Raises:
      ValueError: the video has another shape, or another number of samples than `draws`.
    """
    check_video(low, draws)
    drop = draws.chance(PROBABILITY, [1, 1, 1, 1])
    return low.masked_fill(drop, 0)
