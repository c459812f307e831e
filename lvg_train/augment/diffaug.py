"""DiffAug: colour, translation and cutout, one draw for all frames of a video. Zhao et al. 2020.

"Differentiable Augmentation for Data-Efficient GAN Training", section 3, with one contrast mean a video (Brooks et al.
2022). In this order:

    brightness    x + b                          b in [-0.5, 0.5]
    saturation    m + s * (x - m)                s in [0, 2], m the mean of the pixel's channels
    contrast      M + c * (x - M)                c in [0.5, 1.5], M the mean of the video
    translation   by whole pixels, zeros come in
    cutout        zeros in half the height and width

                  a b c         0 0 0         0 0 0
                  d e f   ->    0 a b   ->    0 a 0
                  g h i         0 d e         0 0 0
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lvg_train.augment.videos import check_video, in_full_precision, mix_colours
from lvg_train.draws import Draws


@dataclass(frozen=True)
class DiffAug:
    """The numbers for N videos, on their device.

    `brightness`, `saturation`, `contrast`: float32 [N]. `shift`: int64 [N, 2], how far pixels move down and right.
    `cutout`: int64 [N, 2], the first row and column that are cut; they may be outside.
    """

    brightness: Tensor
    saturation: Tensor
    contrast: Tensor
    shift: Tensor
    cutout: Tensor

    @staticmethod
    def draw(draws: Draws, height: int, width: int) -> DiffAug:
        """In the order of the fields: five draws, for rows before columns.

        Shifts are uniform up to a quarter of the long edge both ways, a half rounded up; the cutout's centre is
        uniform over the frame, the edges of pixels where its length is even, else their middles.
        """
        max_shift = (max(height, width) + 2) // 4
        return DiffAug(
            brightness=draws.uniform(-0.5, 0.5),
            saturation=draws.uniform(0, 2),
            contrast=draws.uniform(0.5, 1.5),
            shift=draws.integers(-max_shift, max_shift, [2]),
            cutout=torch.stack([draw_cutout(draws, height), draw_cutout(draws, width)], dim=1),
        )

    def apply(self, video: Tensor) -> Tensor:
        """`video` [N, 3, T, H, W], changed alike in all its frames."""
        return in_full_precision(self._apply, video)

    def _apply(self, video: Tensor) -> Tensor:
        return self._move(self._colour(video))

    def _colour(self, video: Tensor) -> Tensor:
        """All three at once: they are affine, and neither brightness nor saturation needs the mean again.

        c * (s * x + (1 - s) * m + b) + (1 - c) * M, with M the mean of x + b.
        """
        brightness, saturation, contrast = (
            x.to(video) for x in (self.brightness, self.saturation, self.contrast)
        )
        own, others = contrast * saturation, contrast * (1 - saturation) / 3
        matrix = own[:, None, None] * torch.eye(3).to(video) + others[:, None, None]
        offset = brightness + (1 - contrast) * video.mean((1, 2, 3, 4))
        return mix_colours(video, matrix, offset[:, None].expand(-1, 3))

    def _move(self, video: Tensor) -> Tensor:
        """Rolls every video by its own shift, and blackens what wrapped around and what is cut."""
        height, width = video.shape[3:]
        rows, rows_inside, rows_cut = self._axis(0, height)
        columns, columns_inside, columns_cut = self._axis(1, width)
        index = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
        mask = outer(rows_inside, columns_inside) & ~outer(rows_cut, columns_cut)
        # N (3 T) (H W), where pixels are gathered
        images = video.flatten(3).flatten(1, 2)
        rolled = images.gather(2, index[:, None].expand_as(images)).view(video.shape)
        return rolled * mask[:, None, None].to(video.dtype)

    def _axis(self, axis: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """For each position [N, length]: the one that it is read from, is that in the frame, is it cut."""
        here = torch.arange(length, device=self.shift.device)
        source = here - self.shift[:, axis, None]
        from_start = here - self.cutout[:, axis, None]
        return (
            source.remainder(length),
            (source >= 0) & (source < length),
            (from_start >= 0) & (from_start < cutout_length(length)),
        )


def diffaug(video: Tensor, draws: Draws) -> Tensor:
    """`video` float32 [N, 3, T, H, W] in [-1, 1] with the draw of each sample applied to all its frames.

    The result may leave [-1, 1].

    Raises:
      ValueError: the video has another shape, or another number of samples than `draws`.
    """
    check_video(video, draws)
    return DiffAug.draw(draws, *video.shape[3:]).apply(video)


def cutout_length(length: int) -> int:
    """Half of `length` pixels, rounded up."""
    return (length + 1) // 2


def draw_cutout(draws: Draws, length: int) -> Tensor:
    """Where the cut begins along an axis, int64 [N]; it may be before 0 or end after `length`."""
    cut = cutout_length(length)
    return draws.integers(0, length - cut % 2) - cut // 2


def outer(rows: Tensor, columns: Tensor) -> Tensor:
    """bool [N, H, W]: where both [N, H] and [N, W] are true."""
    return rows[:, :, None] & columns[:, None, :]
