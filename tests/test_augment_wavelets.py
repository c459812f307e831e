"""The sym6 filter's properties, resampling by it, and bilinear sampling with two orders of gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lvg_train.augment.sampling import sample_bilinear
from lvg_train.augment.wavelets import (
    CENTRE,
    SYM6,
    doubling_matrix,
    halving_matrix,
    num_samples,
    reflect,
    resample,
)
from tests.augmentations import random_video

DOUBLE = torch.zeros([], dtype=torch.float64)


# ---- the filter


def test_the_taps_sum_to_the_square_root_of_2():
    assert sum(SYM6) == pytest.approx(math.sqrt(2), abs=1e-12)


@pytest.mark.parametrize("shift", range(6))
def test_the_taps_are_orthonormal_to_their_even_shifts(shift):
    product = np.dot(SYM6[2 * shift :], SYM6[: len(SYM6) - 2 * shift])
    assert product == pytest.approx(1.0 if shift == 0 else 0.0, abs=1e-11)


def test_the_high_pass_has_six_vanishing_moments_and_no_seventh():
    k = np.arange(len(SYM6))
    moments = [np.sum((-1.0) ** k * SYM6 * (k / 11) ** order) for order in range(7)]
    np.testing.assert_allclose(moments[:6], 0, atol=1e-11)
    assert abs(moments[6]) > 1e-4


def test_the_taps_are_the_published_ones():
    """Daubechies, "Ten Lectures on Wavelets", table 6.3, N = 6, in its normalisation to a sum of 2."""
    published = [0.021784700327, 0.004936612372, -0.166863215412, -0.068323121587, 0.694457972958]
    published += [1.113892783926, 0.477904371333, -0.102724969862, -0.029783751299, 0.063250562660]
    published += [0.002499922093, -0.011031867509]
    np.testing.assert_allclose(np.array(SYM6) * math.sqrt(2), published, atol=1e-11)


def test_smooth_content_is_found_at_the_filters_centre():
    """A ramp's samples lie on the ramp, pixel j at 2j + CENTRE; the third decimal tells it from the middle tap."""
    length = 30
    samples = doubling_matrix(length, 20, 40, DOUBLE) @ torch.arange(length, dtype=torch.float64)
    expected = (torch.arange(20, 40, dtype=torch.float64) - CENTRE) / 2
    torch.testing.assert_close(samples, expected, atol=1e-10, rtol=0)


# ---- matrices


def slow_doubling(pixels: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Zeros between pixels, filtered by a loop; NumPy's reflection far beyond the edges."""
    extended = np.pad(pixels, 60, mode="reflect")
    samples = dict.fromkeys(range(start, stop), 0.0)
    for j, value in enumerate(extended):
        for k, tap in enumerate(SYM6):
            m = 2 * (j - 60) + k
            if m in samples:
                samples[m] += value * tap * math.sqrt(2)
    return np.array(list(samples.values()))


@pytest.mark.parametrize("length", [2, 5, 16])
def test_doubling_filters_and_reflects_any_number_of_times(length):
    pixels = np.random.default_rng(0).normal(size=length)
    samples = doubling_matrix(length, -40, 70, DOUBLE) @ torch.from_numpy(pixels)
    np.testing.assert_allclose(samples.numpy(), slow_doubling(pixels, -40, 70), atol=1e-12)


def test_reflection_does_not_repeat_the_edge():
    assert reflect(torch.arange(-4, 8), 4).tolist() == [2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]
    assert reflect(torch.arange(-2, 3), 1).tolist() == [0] * 5


@pytest.mark.parametrize("length", [1, 2, 9, 64])
def test_halving_undoes_doubling(length):
    there = doubling_matrix(length, 0, num_samples(length), DOUBLE)
    back = halving_matrix(length, DOUBLE)
    torch.testing.assert_close(back @ there, torch.eye(length).double(), atol=1e-11, rtol=0)


def test_a_constant_keeps_its_value_both_ways():
    for matrix in (doubling_matrix(7, -20, 30, DOUBLE), halving_matrix(7, DOUBLE)):
        torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix)).double(), atol=1e-11, rtol=0)


def test_resampling_takes_rows_and_columns_apart():
    rows, columns = torch.tensor([[1.0, 1, 0]]), torch.tensor([[1.0, 0], [0, 2]])
    images = torch.arange(6.0).reshape(1, 1, 3, 2)
    assert resample(images, rows, columns).tolist() == [[[[2.0, 8.0]]]]


# ---- bilinear sampling


def random_grid(*shape: int) -> torch.Tensor:
    """Points a little beyond the edges, too."""
    return random_video(*shape, 2).double() * 1.2


def test_sampling_is_pytorchs():
    images, grid = random_video(2, 3, 5, 6).double(), random_grid(2, 4, 7)
    expected = F.grid_sample(images, grid, align_corners=False)
    torch.testing.assert_close(sample_bilinear(images, grid), expected, atol=0, rtol=0)


def test_samplings_gradient_is_its_transpose():
    """<S x, y> = <x, S' y>."""
    images = random_video(2, 3, 5, 6).double().requires_grad_()
    sampled = sample_bilinear(images, random_grid(2, 4, 7))
    weights = torch.randn_like(sampled)
    (gradient,) = torch.autograd.grad(sampled, images, weights)
    torch.testing.assert_close((images * gradient).sum(), (sampled * weights).sum())


def test_sampling_has_two_orders_of_gradients():
    images, grid = random_video(2, 3, 3, 4).double().requires_grad_(), random_grid(2, 3, 2)
    assert torch.autograd.gradcheck(lambda x: sample_bilinear(x, grid), (images,))
    assert torch.autograd.gradgradcheck(lambda x: sample_bilinear(x, grid), (images,))
    assert torch.autograd.gradgradcheck(lambda x: sample_bilinear(x, grid).pow(3), (images,))
