"""Corruption and dropout of the conditioning: what is drawn how often, the noise, frames alike, gradients."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lvg_train.augment.corruption import Corruption, corrupt
from lvg_train.augment.dropout import drop_conditioning
from lvg_train.draws import Draws
from tests.augmentations import (
    SIZES,
    check_cuda,
    check_normal,
    check_precisions,
    check_refused,
    check_share,
    check_two_orders,
    check_uniform,
    draws,
    random_video,
    still_video,
)


@pytest.fixture(scope="module")
def numbers() -> Corruption:
    return Corruption.draw(draws(8000), 1, 2, 2)


def without_noise(corruption: Corruption) -> Corruption:
    return replace(corruption, sigma=torch.zeros_like(corruption.sigma))


def without_geometry(corruption: Corruption) -> Corruption:
    still = {name: torch.zeros_like(x) for name, x in vars(corruption.geometry).items()}
    return replace(corruption, geometry=type(corruption.geometry)(**still))


# ---- corruption


def test_half_of_the_videos_get_each_operation(numbers):
    g = numbers.geometry
    for applied in (g.log2_scale, g.log2_stretch, g.shift[:, 0], numbers.sigma):
        check_share(applied != 0, 0.5)
    check_share((g.pre_angle != 0) | (g.post_angle != 0), 0.5)


def test_every_operation_has_its_documented_strength(numbers):
    g = numbers.geometry
    check_normal(g.log2_scale[g.log2_scale != 0], 0.08)
    check_normal(g.log2_stretch[g.log2_stretch != 0], 0.08)
    for axis in range(2):
        check_normal(g.shift[:, axis][g.shift[:, axis] != 0], 0.016)
    for angle in (g.pre_angle, g.post_angle):
        check_uniform(angle[angle != 0], -0.016 * math.pi, 0.016 * math.pi)


def test_the_noises_strength_is_the_magnitude_of_a_gaussian(numbers):
    sigma = numbers.sigma[numbers.sigma != 0]
    assert (sigma > 0).all()
    # with random signs the magnitude of a Gaussian is one again
    signs = torch.tensor([1.0, -1.0]).repeat(len(sigma))[: len(sigma)]
    check_normal(sigma * signs, 0.08)


def test_the_noise_is_independent_over_pixels_and_frames():
    corruption = without_geometry(Corruption.draw(draws(4), 3, 20, 20))
    corruption = replace(corruption, sigma=torch.full([4], 0.1))
    noise = corruption.apply(torch.zeros(4, 3, 3, 20, 20)) / 0.1
    check_normal(noise.flatten(), 1.0)
    frames = torch.corrcoef(noise.transpose(1, 2).flatten(0, 1).flatten(1)) - torch.eye(12)
    assert frames.abs().max() < 4.5 / 1200**0.5
    assert abs((noise[..., 1:] * noise[..., :-1]).mean()) < 4 / noise[..., 1:].numel() ** 0.5


@pytest.mark.parametrize("size", SIZES)
def test_all_frames_are_warped_alike(size):
    corruption = without_noise(Corruption.draw(draws(6), 4, *size))
    warped = corruption.apply(still_video(6, 4, *size))
    torch.testing.assert_close(warped, warped[:, :, :1].expand_as(warped), atol=1e-5, rtol=0)


def test_a_frame_is_changed_as_it_would_be_alone():
    low = random_video(4, 3, 3, 9, 16)
    corruption = Corruption.draw(draws(4), 3, 9, 16)
    alone = replace(corruption, noise=corruption.noise[:, :, 1:2]).apply(low[:, :, 1:2])
    torch.testing.assert_close(corruption.apply(low)[:, :, 1:2], alone, atol=1e-5, rtol=0)


def test_with_all_strengths_0_nothing_changes():
    low = random_video(3, 3, 2, 9, 16)
    corruption = without_noise(without_geometry(Corruption.draw(draws(3), 2, 9, 16)))
    assert torch.equal(corruption.apply(low), low)


def test_it_is_mild():
    """The low-res frames stay recognisable: by strength 8, most pixels change by less than 0.3."""
    x = torch.linspace(-3, 3, 64)
    low = torch.sin(x[:, None] + 2 * x).expand(32, 3, 2, 64, 64)
    change = (corrupt(low, draws(32)) - low).abs()
    assert 0.01 < change.mean() < 0.3


def test_the_same_draw_corrupts_real_and_generated_alike():
    corruption = Corruption.draw(draws(4), 2, 9, 16)
    for low in (random_video(4, 3, 2, 9, 16), torch.zeros(4, 3, 2, 9, 16)):
        assert torch.equal(corrupt(low, draws(4)), corruption.apply(low))


def test_corruption_has_two_orders_of_gradients():
    check_two_orders(Corruption.draw(draws(3), 2, 4, 6).apply, 3, 3, 2, 4, 6)


def test_half_precision_and_autocast_are_left_aside():
    check_precisions(Corruption.draw(draws(2), 2, 8, 8).apply, random_video(2, 3, 2, 8, 8))


def test_other_shapes_are_refused():
    check_refused(corrupt)
    check_refused(drop_conditioning)


def test_cuda_agrees():
    check_cuda(corrupt, random_video(4, 3, 4, 36, 64))


def test_the_geometry_is_drawn_on_the_cpu_and_the_noise_on_the_draws_device():
    """As the size of what is computed depends on the geometry; the numbers are the same as on one device."""
    split = Corruption.draw(Draws(1, 0, "a test", range(3), "meta"), 2, 4, 4)
    assert split.sigma.device.type == split.noise.device.type == "meta"
    together = Corruption.draw(draws(3), 2, 4, 4)
    assert torch.equal(split.geometry.inverse(4, 4), together.geometry.inverse(4, 4))


def test_draws_on_another_device_go_on_where_the_first_ended():
    there_and_here, here = draws(2), draws(2)
    assert there_and_here.on("meta").normal().device.type == "meta"
    here.normal()
    assert torch.equal(there_and_here.normal(), here.normal())


# ---- dropout


def test_nine_of_ten_samples_are_dropped_whole_and_the_others_kept():
    low = random_video(1, 3, 2, 2, 2).expand(2000, -1, -1, -1, -1)
    kept = drop_conditioning(low, draws(2000))
    is_zero = (kept == 0).flatten(1).all(1)
    assert torch.equal(kept[~is_zero], low[~is_zero])
    check_share(is_zero, 0.9)


def test_dropping_is_the_same_for_real_and_generated_and_keeps_the_dtype():
    real, generated = random_video(40, 3, 1, 2, 2), torch.ones(40, 3, 1, 2, 2).half()
    zeros = [(drop_conditioning(low, draws(40)) == 0).flatten(1).all(1) for low in (real, generated)]
    assert torch.equal(*zeros)
    assert 0 < zeros[0].sum() < 40
    assert drop_conditioning(generated, draws(40)).dtype == torch.float16


def test_a_dropped_sample_has_no_gradient():
    low = random_video(40, 3, 1, 2, 2).requires_grad_()
    dropped = drop_conditioning(low, draws(40))
    (gradient,) = torch.autograd.grad(dropped.sum(), low)
    assert torch.equal(gradient != 0, dropped != 0)


def test_dropout_has_two_orders_of_gradients():
    check_two_orders(lambda low: drop_conditioning(low, draws(12)), 12, 3, 1, 2, 2)
