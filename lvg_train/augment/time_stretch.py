"""Time stretch: a video slowed down or sped up, in as many frames as before. Brooks et al. 2022, section 4.2.

    s = 1/2, shorter: zeros around      s = 2, longer: a piece of it
    in     a   b   c   d                in               a   b   c   d
    out    0   ab  cd  0                stretched    a  ab  ab  bc  bc  cd  cd  d
                                        out             [--------------]

Frame j of the stretched video is read at (j + 1/2) / s - 1/2, linearly, the first and last frame held at the ends.
It has floor(T * s) frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lvg_train.augment.videos import check_video, in_full_precision
from lvg_train.draws import Draws


@dataclass(frozen=True)
class TimeStretch:
    """The numbers for N videos: `factor` float64 [N], above 1 for slower; `offset` float32 [N] in [0, 1).

    The offset says where the video begins, among all places where it fits.
    """

    factor: Tensor
    offset: Tensor

    @staticmethod
    def draw(draws: Draws) -> TimeStretch:
        """Factors 2^U[-1, 1], then offsets."""
        return TimeStretch(torch.exp2(draws.uniform(-1, 1).double()), draws.uniform(0, 1))

    def apply(self, video: Tensor) -> Tensor:
        """`video` [N, 3, T, H, W] stretched, with T frames."""
        return in_full_precision(self._apply, video)

    def _apply(self, video: Tensor) -> Tensor:
        # [N, 1, T, T] @ [N, 3, T, H W]: one pass over the video, and derivatives of any order
        weights = self.weights(video.shape[2]).to(video)
        return (weights[:, None] @ video.flatten(3)).view(video.shape)

    def weights(self, num_frames: int) -> Tensor:
        """How much of each frame is in each new one: float64 [N, new T, T]; rows sum to 1, or 0 for zeros.

        The coordinate follows the factor itself, as `torch.nn.functional.interpolate(scale_factor=s)` has it; with
        the ratio of whole lengths instead, T / floor(T * s), speed would jump with the rounding. At least one
        frame is left.
        """
        length = (num_frames * self.factor).floor().clamp(min=1)
        frames = torch.arange(num_frames, device=self.factor.device)
        stretched = frames + self._start(length - num_frames)[:, None]
        position = ((stretched + 0.5) / self.factor[:, None] - 0.5).clamp(0, num_frames - 1)
        inside = (stretched >= 0) & (stretched < length[:, None])
        # linear interpolation: a hat of width 2 about the position
        return (1 - (position[..., None] - frames).abs()).clamp(min=0) * inside[..., None]

    def _start(self, excess: Tensor) -> Tensor:
        """The stretched video's frame that becomes frame 0, in [0, excess], or in [excess, 0] for padding."""
        steps = (self.offset * (excess.abs() + 1)).floor().minimum(excess.abs())
        return steps * excess.sign()


def stretch_time(video: Tensor, draws: Draws) -> Tensor:
    """`video` float32 [N, 3, T, H, W] in [-1, 1], each sample stretched in time by its own factor of 1/2 to 2.

    Raises:
      ValueError: the video has another shape, or another number of samples than `draws`.
    """
    check_video(video, draws)
    return TimeStretch.draw(draws).apply(video)
