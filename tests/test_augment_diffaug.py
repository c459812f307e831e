"""DiffAug: one draw for all frames, against loops over pixels; its distribution, gradients and identity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lvg_train.augment.diffaug import DiffAug, diffaug
from tests.augmentations import (
    SIZES,
    check_cuda,
    check_integers,
    check_precisions,
    check_refused,
    check_two_orders,
    check_uniform,
    draws,
    random_video,
    still_video,
)


def no_change(num_samples: int) -> DiffAug:
    one = torch.ones(num_samples)
    place = torch.zeros(num_samples, 2, dtype=torch.int64)
    return DiffAug(0 * one, one, one, place, place - 1000)


def slow_diffaug(video: np.ndarray, numbers: DiffAug) -> np.ndarray:
    """By definition, sample by sample and pixel by pixel."""
    out = np.zeros(video.shape, np.float64)
    num_samples, _, _, height, width = video.shape
    for n in range(num_samples):
        x = video[n] + numbers.brightness[n].item()
        grey = x.mean(0, keepdims=True)
        x = grey + numbers.saturation[n].item() * (x - grey)
        x = x.mean() + numbers.contrast[n].item() * (x - x.mean())
        down, right = numbers.shift[n].tolist()
        top, left = numbers.cutout[n].tolist()
        for row in range(height):
            for column in range(width):
                is_inside = 0 <= row - down < height and 0 <= column - right < width
                is_cut = 0 <= row - top < (height + 1) // 2 and 0 <= column - left < (width + 1) // 2
                if is_inside and not is_cut:
                    out[n, :, :, row, column] = x[:, :, row - down, column - right]
    return out


@pytest.mark.parametrize("size", [(8, 8), (5, 8), (9, 16)])
def test_it_is_what_the_definition_says_pixel_by_pixel(size):
    video = random_video(12, 3, 3, *size)
    numbers = DiffAug.draw(draws(12), *size)
    expected = slow_diffaug(video.double().numpy(), numbers)
    np.testing.assert_allclose(numbers.apply(video).numpy(), expected, atol=2e-6)


def test_a_shift_moves_pixels_and_lets_zeros_in():
    video = torch.arange(1.0, 10).reshape(1, 1, 1, 3, 3).expand(1, 3, 1, 3, 3)
    shifted = replace(no_change(1), shift=torch.tensor([[1, -1]])).apply(video)
    torch.testing.assert_close(shifted[0, 2, 0], torch.tensor([[0.0, 0, 0], [2, 3, 0], [5, 6, 0]]))


def test_a_cutout_blackens_half_the_height_and_width_and_may_hang_over():
    cut = replace(no_change(2), cutout=torch.tensor([[1, 0], [3, -1]])).apply(torch.ones(2, 3, 1, 4, 4))
    assert cut[0, 0, 0].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1]]
    assert cut[1, 0, 0].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]]


@pytest.mark.parametrize("size", SIZES)
def test_all_frames_get_the_same_transform(size):
    changed = diffaug(still_video(6, 4, *size), draws(6))
    torch.testing.assert_close(changed, changed[:, :, :1].expand_as(changed), atol=0, rtol=0)


def test_a_frame_is_changed_as_it_would_be_alone_but_for_contrast():
    video = random_video(4, 3, 3, 9, 16)
    numbers = replace(DiffAug.draw(draws(4), 9, 16), contrast=torch.ones(4))
    torch.testing.assert_close(numbers.apply(video)[:, :, 1:2], numbers.apply(video[:, :, 1:2]))


def test_contrast_is_about_the_mean_of_the_whole_video():
    video = torch.zeros(1, 3, 2, 4, 4)
    video[:, :, 1] = 1
    stronger = replace(no_change(1), contrast=torch.tensor([1.5])).apply(video)
    torch.testing.assert_close(stronger, 0.5 + 1.5 * (video - 0.5))


def test_neutral_numbers_change_nothing():
    video = random_video(5, 3, 2, 9, 16)
    torch.testing.assert_close(no_change(5).apply(video), video, atol=1e-6, rtol=0)


def test_the_same_draw_changes_any_two_videos_alike():
    """With x the real one and y the generated one; affine, so that the middle goes to the middle."""
    x, y = random_video(4, 3, 2, 8, 8), torch.zeros(4, 3, 2, 8, 8)
    numbers = DiffAug.draw(draws(4), 8, 8)
    torch.testing.assert_close(diffaug(x, draws(4)), numbers.apply(x), atol=0, rtol=0)
    torch.testing.assert_close(diffaug(y, draws(4)), numbers.apply(y), atol=0, rtol=0)
    both = numbers.apply((x + y) / 2)
    torch.testing.assert_close(both, (numbers.apply(x) + numbers.apply(y)) / 2, atol=1e-5, rtol=0)


def test_samples_and_steps_have_draws_of_their_own():
    video = still_video(1, 2, 8, 8).expand(2, -1, -1, -1, -1)
    first, later = diffaug(video, draws(2)), diffaug(video, draws(2, step=1))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, later)


def test_the_numbers_have_the_documented_distribution():
    numbers = DiffAug.draw(draws(4000), 8, 16)
    check_uniform(numbers.brightness, -0.5, 0.5)
    check_uniform(numbers.saturation, 0, 2)
    check_uniform(numbers.contrast, 0.5, 1.5)
    for axis, length in enumerate((8, 16)):
        check_integers(numbers.shift[:, axis], range(-4, 5))
        check_integers(numbers.cutout[:, axis] + length // 4, range(length + 1))


def test_the_cutouts_centre_is_uniform_for_an_odd_half_too():
    numbers = DiffAug.draw(draws(2000), 9, 10)  # 5 of 9 rows, 5 of 10 columns
    check_integers(numbers.cutout[:, 0] + 2, range(9))
    check_integers(numbers.cutout[:, 1] + 2, range(10))


def test_the_numbers_do_not_depend_on_each_other():
    numbers = DiffAug.draw(draws(4000), 8, 16)
    columns = [numbers.brightness, numbers.saturation, numbers.contrast, *numbers.shift.T, *numbers.cutout.T]
    correlation = torch.corrcoef(torch.stack([x.double() for x in columns])) - torch.eye(len(columns))
    assert correlation.abs().max() < 4.5 / 4000**0.5


def test_it_has_two_orders_of_gradients():
    numbers = DiffAug.draw(draws(3), 4, 6)
    check_two_orders(numbers.apply, 3, 3, 2, 4, 6)


def test_half_precision_and_autocast_are_left_aside():
    numbers = DiffAug.draw(draws(2), 8, 8)
    check_precisions(numbers.apply, random_video(2, 3, 2, 8, 8))


def test_other_shapes_are_refused():
    check_refused(diffaug)


def test_cuda_agrees():
    check_cuda(diffaug, random_video(4, 3, 4, 36, 64))
