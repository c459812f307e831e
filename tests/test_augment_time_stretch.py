"""Time stretch: against PyTorch's resampling and a loop over frames; padding, cropping, distribution, gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lvg_train.augment.time_stretch import TimeStretch, stretch_time
from tests.augmentations import (
    check_cuda,
    check_precisions,
    check_refused,
    check_share,
    check_two_orders,
    check_uniform,
    draws,
    random_video,
)


def stretch(factor: float, offset: float = 0.0) -> TimeStretch:
    return TimeStretch(torch.tensor([factor], dtype=torch.float64), torch.tensor([offset]))


def ramp(num_frames: int) -> torch.Tensor:
    """A video whose frame t has the value t + 1."""
    return torch.arange(1.0, num_frames + 1).reshape(1, 1, -1, 1, 1).expand(1, 3, -1, 2, 2)


def values(video: torch.Tensor) -> list[float]:
    return video[0, 0, :, 0, 0].tolist()


def slow_stretch(video: np.ndarray, factor: float, offset: float) -> np.ndarray:
    """One sample [3, T, H, W], frame by frame."""
    num_frames = video.shape[1]
    length = max(1, math.floor(num_frames * factor))
    stretched = np.zeros((3, length, *video.shape[2:]))
    for j in range(length):
        position = min(max((j + 0.5) / factor - 0.5, 0), num_frames - 1)
        before = math.floor(position)
        after = min(before + 1, num_frames - 1)
        stretched[:, j] = video[:, before] + (position - before) * (video[:, after] - video[:, before])
    out = np.zeros(video.shape)
    places = abs(length - num_frames) + 1
    start = min(math.floor(offset * places), places - 1)
    if length < num_frames:
        out[:, start : start + length] = stretched
    else:
        out[:] = stretched[:, start : start + num_frames]
    return out


def test_half_the_length_is_padded_with_zeros_at_the_offset():
    assert values(stretch(0.5).apply(ramp(4))) == [1.5, 3.5, 0, 0]
    assert values(stretch(0.5, 0.4).apply(ramp(4))) == [0, 1.5, 3.5, 0]
    assert values(stretch(0.5, 0.99).apply(ramp(4))) == [0, 0, 1.5, 3.5]


def test_twice_the_length_is_cropped_at_the_offset():
    assert values(stretch(2.0).apply(ramp(3))) == [1, 1.25, 1.75]
    assert values(stretch(2.0, 0.26).apply(ramp(3))) == [1.25, 1.75, 2.25]
    assert values(stretch(2.0, 0.99).apply(ramp(3))) == [2.25, 2.75, 3]


@pytest.mark.parametrize("num_frames", [5, 16, 128])
def test_it_is_pytorchs_linear_resampling_by_the_same_factor(num_frames):
    """But where the length stays, as PyTorch then copies the video whatever the factor."""
    video = random_video(1, 3, num_frames, 2, 3)
    for factor in (0.5, 0.61, 0.93, 1.0, 1.23, 1.9, 2.0):
        rows = video.permute(0, 1, 3, 4, 2).flatten(1, 3)
        expected = F.interpolate(rows, scale_factor=factor, mode="linear", align_corners=False)
        length = min(expected.shape[2], num_frames)
        stretched = stretch(factor).apply(video).permute(0, 1, 3, 4, 2).flatten(1, 3)
        torch.testing.assert_close(stretched[..., :length], expected[..., :length], atol=2e-5, rtol=0)
        assert (stretched[..., length:] == 0).all()


@pytest.mark.parametrize("num_frames", [1, 2, 7, 33, 128])
def test_it_is_what_the_definition_says_frame_by_frame(num_frames):
    video = random_video(16, 3, num_frames, 2, 3)
    numbers = TimeStretch.draw(draws(16))
    pairs = zip(video.double().numpy(), numbers.factor.tolist(), numbers.offset.tolist(), strict=True)
    expected = np.stack([slow_stretch(sample, factor, offset) for sample, factor, offset in pairs])
    np.testing.assert_allclose(numbers.apply(video).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("num_frames", [1, 4, 128])
@pytest.mark.parametrize("offset", [0.0, 0.5, 0.999])
def test_a_factor_of_1_changes_nothing(num_frames, offset):
    video = random_video(1, 3, num_frames, 4, 6)
    assert torch.equal(stretch(1.0, offset).apply(video), video)


@pytest.mark.parametrize("size", [(8, 8), (9, 16)])
def test_every_pixel_gets_the_same_stretch(size):
    video = random_video(5, 3, 16, 1, 1).expand(-1, -1, -1, *size)
    stretched = stretch_time(video, draws(5))
    torch.testing.assert_close(stretched, stretched[..., :1, :1].expand_as(stretched), atol=1e-6, rtol=0)


def test_the_same_draw_changes_real_and_generated_alike():
    numbers = TimeStretch.draw(draws(4))
    for video in (random_video(4, 3, 16, 4, 4), torch.ones(4, 3, 16, 4, 4)):
        torch.testing.assert_close(stretch_time(video, draws(4)), numbers.apply(video), atol=0, rtol=0)
    assert len(set(numbers.factor.tolist())) == 4


def test_the_numbers_have_the_documented_distribution():
    numbers = TimeStretch.draw(draws(4000))
    check_uniform(numbers.factor.log2(), -1, 1)
    check_uniform(numbers.offset, 0, 1)


def test_shorter_videos_begin_everywhere_equally_often():
    """50 frames by 0.95: 47 frames, with four places to begin."""
    offset = TimeStretch.draw(draws(2000)).offset
    numbers = TimeStretch(torch.full([2000], 0.95, dtype=torch.float64), offset)
    is_filled = numbers.weights(50).sum(2) > 0
    assert (is_filled.sum(1) == 47).all()
    starts = is_filled.int().argmax(1)
    for start in range(4):
        check_share(starts == start, 1 / 4)


def test_it_has_two_orders_of_gradients():
    check_two_orders(TimeStretch.draw(draws(4)).apply, 4, 3, 5, 2, 2)


def test_half_precision_and_autocast_are_left_aside():
    check_precisions(TimeStretch.draw(draws(2)).apply, random_video(2, 3, 8, 4, 4))


def test_other_shapes_are_refused():
    check_refused(stretch_time)


def test_cuda_agrees():
    check_cuda(stretch_time, random_video(4, 3, 16, 9, 16))
