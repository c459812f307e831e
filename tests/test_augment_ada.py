"""ADA: geometry against analytic pictures and whole-pixel moves, colour against per-pixel algebra; its promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lvg_train.augment import geometry
from lvg_train.augment.ada import Ada, Colours, ada
from lvg_train.augment.geometry import Blits, Geometry, Strength, needed_samples, warp
from lvg_train.augment.matrices import rotate, rotate_hue, scale, scale_chroma, scale_luma, translate
from lvg_train.draws import Draws
from tests.augmentations import (
    SIZES,
    check_cuda,
    check_integers,
    check_normal,
    check_precisions,
    check_refused,
    check_share,
    check_two_orders,
    check_uniform,
    draws,
    points,
    random_video,
    smooth_picture,
    still_video,
)

NUM_DRAWS = 4000


@pytest.fixture(scope="module")
def always() -> Ada:
    return Ada.draw(draws(NUM_DRAWS), 1.0)


@pytest.fixture(scope="module")
def sometimes() -> Ada:
    return Ada.draw(draws(NUM_DRAWS), 0.4)


def blits(flip: bool = False, quarter_turns: int = 0, right: float = 0.0, down: float = 0.0) -> Blits:
    return Blits(torch.tensor([flip]), torch.tensor([quarter_turns]), torch.tensor([[right, down]]))


def one_geometry(
    log2_scale: float = 0.0,
    pre_angle: float = 0.0,
    log2_stretch: float = 0.0,
    post_angle: float = 0.0,
    right: float = 0.0,
    down: float = 0.0,
) -> Geometry:
    numbers = (torch.tensor([x]) for x in (log2_scale, pre_angle, log2_stretch, post_angle))
    return Geometry(*numbers, shift=torch.tensor([[right, down]]))


def colours(
    brightness: float = 0.0,
    log2_contrast: float = 0.0,
    flip: bool = False,
    hue: float = 0.0,
    log2_saturation: float = 0.0,
) -> Colours:
    return Colours(*(torch.tensor([x]) for x in (brightness, log2_contrast, flip, hue, log2_saturation)))


def warped(video: Tensor, numbers: Blits | Geometry) -> Tensor:
    return warp(video, numbers.inverse(*video.shape[3:]))


# ---- whole pixels


def smooth_video(height: int, width: int) -> Tensor:
    x, y = points(height, width)
    return smooth_picture(x[None], y[None]).float()


def check_moved(moved: Tensor, expected: Tensor) -> None:
    """But for a bend at the edge, where the frame is reflected, the filters lose nothing of long waves."""
    torch.testing.assert_close(moved, expected, atol=0.05, rtol=0)
    inner = (
        (..., slice(5, -5), slice(5, -5)) if min(moved.shape[3:]) > 12 else (..., slice(4, -4), slice(4, -4))
    )
    torch.testing.assert_close(moved[inner], expected[inner], atol=0.005, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_a_flip_mirrors_columns(size):
    video = smooth_video(*size)
    check_moved(warped(video, blits(flip=True)), video.flip(4))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_of_a_square_turn_its_pixels_clockwise(turns):
    video = smooth_video(24, 24)
    turned = video.rot90(-turns, (3, 4))
    check_moved(warped(video, blits(quarter_turns=turns)), turned)


def test_a_quarter_turn_of_a_wide_frame_is_about_its_middle():
    video = smooth_video(36, 64)
    turned = warped(video, blits(quarter_turns=1))
    expected = video[..., 14:50].rot90(-1, (3, 4))
    check_moved(turned[..., 14:50], expected)


@pytest.mark.parametrize(("right", "down"), [(0.125, 0.0), (-0.125, 0.125), (0.05, -0.1)])
@pytest.mark.parametrize("size", [(16, 16), (36, 64)])
def test_a_whole_pixel_shift_is_exact_even_for_noise(size, right, down):
    height, width = size
    video = random_video(1, 3, 2, *size)
    moved = warped(video, blits(right=right, down=down))
    columns, rows = round(right * width), round(down * height)
    padding = [(0, 0)] * 3 + [(height, height), (width, width)]
    expected = np.pad(video.numpy(), padding, mode="reflect")[..., height - rows :, width - columns :]
    expected = torch.from_numpy(expected[..., :height, :width])
    torch.testing.assert_close(moved, expected, atol=2e-4, rtol=0)


# ---- general geometry


GENERAL = {
    "scaled up": one_geometry(log2_scale=0.4),
    "scaled down": one_geometry(log2_scale=-0.3),
    "turned": one_geometry(pre_angle=0.7),
    "turned after": one_geometry(post_angle=-2.5),
    "stretched": one_geometry(log2_stretch=0.5),
    "stretched aslant": one_geometry(pre_angle=0.5, log2_stretch=-0.4),
    "shifted": one_geometry(right=0.113, down=-0.071),
    "all": one_geometry(0.2, 0.9, 0.25, -0.4, 0.05, 0.04),
}


@pytest.mark.parametrize("name", GENERAL)
@pytest.mark.parametrize("size", [(48, 48), (36, 64)])
def test_the_picture_is_moved_to_where_the_operations_take_it(name, size):
    """Against the same waves, calculated at the points from where the pixels come, where those are in the frame."""
    numbers, (height, width) = GENERAL[name], size
    x, y = points(*size)
    source_x, source_y = undo(numbers, x, y, height, width)
    expected = smooth_picture(source_x[None], source_y[None]).float()
    is_inside = (source_x.abs() <= width / 2 - 4) & (source_y.abs() <= height / 2 - 4)
    assert is_inside.double().mean() > 0.3
    difference = (warped(smooth_video(*size), numbers) - expected).abs().amax((0, 1, 2))
    assert difference[is_inside].max() < 0.02


def undo(numbers: Geometry, x: Tensor, y: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The operations backwards, one after another, in plain trigonometry."""
    x, y = x - numbers.shift[0, 0].item() * width, y - numbers.shift[0, 1].item() * height
    x, y = turn(x, y, -numbers.post_angle.item())
    stretch = 2 ** numbers.log2_stretch.item()
    x, y = turn(x / stretch, y * stretch, -numbers.pre_angle.item())
    return x / 2 ** numbers.log2_scale.item(), y / 2 ** numbers.log2_scale.item()


def turn(x: Tensor, y: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    return x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)


def test_operations_follow_one_another_in_the_papers_order():
    """A point taken through all of them, one by one, is where the matrix says that it comes from."""
    numbers = Ada.draw(draws(50), 1.0)
    width, height = 64, 36
    for n, inverse in enumerate(numbers.inverse(height, width)):
        x, y = torch.tensor(5.0).double(), torch.tensor(-3.0).double()
        b, g = (
            type(part)(*(v[n] for v in vars(part).values())) for part in (numbers.blits, numbers.geometry)
        )
        x = -x if b.flip else x
        x, y = turn(x, y, b.quarter_turns.item() * math.pi / 2)
        x, y = x + round(b.shift[0].item() * width), y + round(b.shift[1].item() * height)
        x, y = turn(x * 2 ** g.log2_scale.item(), y * 2 ** g.log2_scale.item(), g.pre_angle.item())
        x, y = turn(x * 2 ** g.log2_stretch.item(), y / 2 ** g.log2_stretch.item(), g.post_angle.item())
        x, y = x + g.shift[0].item() * width, y + g.shift[1].item() * height
        came_from = inverse @ torch.stack([x, y, torch.ones_like(x)])
        torch.testing.assert_close(came_from, torch.tensor([5.0, -3.0, 1.0]).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(16, 16), (9, 16), (36, 64)])
def test_nothing_but_reflections_come_in_from_outside(size):
    """A constant stays one, however ADA turns and shrinks the frame."""
    video = torch.full([64, 3, 1, *size], 0.7)
    numbers = Ada.draw(draws(64), 1.0)
    torch.testing.assert_close(warp(video, numbers.inverse(*size)), video, atol=1e-5, rtol=0)


def test_outside_is_the_frames_reflection():
    """Half as large: the frame in the middle, its mirror images around."""
    x, y = points(32, 32)
    half = warped(smooth_video(32, 32), one_geometry(log2_scale=-1.0))
    edge = 31 / 2
    folded = [edge - (p * 2 + edge).remainder(62).sub(31).abs() for p in (x, y)]
    expected = smooth_picture(folded[0][None], folded[1][None]).float()
    difference = (half - expected).abs()
    assert difference.mean() < 0.01
    assert difference.max() < 0.15  # at the folds


def test_what_is_computed_is_bounded_and_a_frame_out_of_sight_is_black():
    inverse = one_geometry(log2_scale=-9.0).inverse(8, 8)
    columns, rows = needed_samples(inverse, 8, 8)
    assert len(columns) == len(rows) <= 2 * (3 * 8 + 20)
    far = warp(torch.ones(1, 3, 1, 8, 8), translate(torch.tensor([1e4]), torch.tensor([0.0])))
    assert (far == 0).all()


def test_the_identity_by_way_of_the_filters_is_exact_for_noise():
    """With a second sample that does turn, so that the first is not just returned."""
    video = random_video(1, 3, 2, 9, 16).expand(2, -1, -1, -1, -1)
    changed = warp(video, rotate(torch.tensor([0.0, 1.0])))
    torch.testing.assert_close(changed[0], video[0], atol=1e-4, rtol=0)
    assert (changed[1] - video[1]).abs().max() > 0.1


# ---- colour


def per_pixel(pixel: np.ndarray, numbers: Colours) -> np.ndarray:
    """One colour [3], operation by operation, each by what it means."""
    brightness, log2_contrast, flip, hue, log2_saturation = (x.item() for x in vars(numbers).values())
    pixel = (pixel + brightness) * 2**log2_contrast
    if flip:
        pixel = pixel - 2 * pixel.mean()
    axis = np.ones(3) / math.sqrt(3)
    along = axis * (axis @ pixel)
    across = pixel - along
    across = across * math.cos(hue) + np.cross(axis, across) * math.sin(hue)
    return along + across * 2**log2_saturation


@pytest.mark.parametrize("size", [(4, 4), (3, 6)])
def test_colours_change_as_the_operations_say_pixel_by_pixel(size):
    video = random_video(6, 3, 2, *size)
    numbers = Colours.draw(draws(6), 0.7)
    changed = numbers.apply(video).double().numpy()
    for n in range(6):
        one = Colours(*(x[n : n + 1] for x in vars(numbers).values()))
        expected = np.apply_along_axis(per_pixel, 0, video[n].double().numpy(), one)
        np.testing.assert_allclose(changed[n], expected, atol=1e-5)


def test_known_colours():
    red = torch.tensor([1.0, 0, 0]).reshape(1, 3, 1, 1, 1)

    def change(**numbers) -> list[float]:
        return [round(x, 4) for x in colours(**numbers).apply(red).flatten().tolist()]

    assert change(brightness=0.5) == [1.5, 0.5, 0.5]
    assert change(log2_contrast=1.0) == [2, 0, 0]
    assert change(flip=True) == [0.3333, -0.6667, -0.6667]
    assert change(hue=2 * math.pi / 3) == [0, 1, 0]  # red turns into green
    assert change(log2_saturation=1.0) == [1.6667, -0.3333, -0.3333]
    assert change() == [1, 0, 0]


def test_grey_has_no_hue_and_no_saturation():
    grey = torch.full([1, 3, 1, 2, 2], 0.3)
    torch.testing.assert_close(colours(hue=1.0, log2_saturation=1.5).apply(grey), grey)


def test_turns_and_mirrors_keep_lengths():
    for matrix in (
        rotate_hue(torch.tensor([0.7])),
        scale_luma(torch.tensor([-1.0])),
        rotate(torch.tensor([2.0])),
    ):
        torch.testing.assert_close(matrix @ matrix.mT, torch.eye(matrix.shape[-1])[None].double())


def test_scaling_luma_and_chroma_alike_is_scaling():
    two = torch.tensor([2.0])
    torch.testing.assert_close(scale_luma(two) @ scale_chroma(two), scale(two, two, two))


# ---- promises


@pytest.mark.parametrize("size", SIZES)
def test_all_frames_get_the_same_transform(size):
    changed = ada(still_video(6, 3, *size), 0.8, draws(6))
    torch.testing.assert_close(changed, changed[:, :, :1].expand_as(changed), atol=1e-5, rtol=0)


def test_a_frame_is_changed_as_it_would_be_alone():
    video = random_video(4, 3, 3, 9, 16)
    numbers = Ada.draw(draws(4), 0.8)
    torch.testing.assert_close(
        numbers.apply(video)[:, :, 1:2], numbers.apply(video[:, :, 1:2]), atol=1e-5, rtol=0
    )


def test_a_sample_is_changed_as_it_would_be_in_another_batch():
    """What the others draw decides how much is computed, not what comes out."""
    video = random_video(4, 3, 2, 9, 16)
    alone = ada(video[2:3], 0.8, Draws(1, 0, "a test", range(2, 3)))
    torch.testing.assert_close(ada(video, 0.8, draws(4))[2:3], alone, atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_a_probability_of_0_changes_nothing(size):
    video = random_video(3, 3, 2, *size)
    assert torch.equal(ada(video, 0.0, draws(3)), video)


def test_the_same_draw_changes_real_and_generated_alike():
    real, generated = random_video(4, 3, 2, 9, 16), torch.zeros(4, 3, 2, 9, 16)
    numbers = Ada.draw(draws(4), 0.6)
    assert torch.equal(ada(real, 0.6, draws(4)), numbers.apply(real))
    assert torch.equal(ada(generated, 0.6, draws(4)), numbers.apply(generated))


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_there_is_no_such_probability(probability):
    with pytest.raises(ValueError, match=rf"probability must be in \[0, 1\], got {probability}"):
        ada(torch.zeros(2, 3, 1, 8, 8), probability, draws(2))


def test_it_has_two_orders_of_gradients():
    check_two_orders(Ada.draw(draws(3), 1.0).apply, 3, 3, 2, 4, 6)


def test_half_precision_and_autocast_are_left_aside():
    check_precisions(Ada.draw(draws(2), 0.8).apply, random_video(2, 3, 2, 8, 8))


def test_other_shapes_are_refused():
    check_refused(lambda video, numbers: ada(video, 0.5, numbers))


def test_cuda_agrees():
    check_cuda(lambda video, numbers: ada(video, 0.8, numbers), random_video(4, 3, 4, 36, 64))


# ---- distribution


def test_every_operation_has_its_documented_strength(always):
    b, g, c = always.blits, always.geometry, always.colours
    check_share(b.flip, 0.5)
    check_integers(b.quarter_turns, range(4))
    for axis in range(2):
        check_uniform(b.shift[:, axis], -0.125, 0.125)
        check_normal(g.shift[:, axis], 0.125)
    check_normal(g.log2_scale, 0.2)
    check_normal(g.log2_stretch, 0.2)
    for angle in (g.pre_angle, g.post_angle, c.hue):
        check_uniform(angle, -math.pi, math.pi)
    check_normal(c.brightness, 0.2)
    check_normal(c.log2_contrast, 0.5)
    check_share(c.flip, 0.5)
    check_normal(c.log2_saturation, 1.0)


def test_every_operation_applies_with_its_probability(sometimes):
    """Half of the flips and a quarter of the quarter turns that apply do nothing."""
    b, g, c = sometimes.blits, sometimes.geometry, sometimes.colours
    check_share(b.flip, 0.2)
    check_share(b.quarter_turns != 0, 0.3)
    check_share(c.flip, 0.2)
    for numbers in (b.shift[:, 0], g.log2_scale, g.log2_stretch, g.shift[:, 0]):
        check_share(numbers != 0, 0.4)
    for numbers in (c.brightness, c.log2_contrast, c.hue, c.log2_saturation):
        check_share(numbers != 0, 0.4)


def test_one_or_both_rotations_apply_with_the_probability(sometimes):
    pre, post = sometimes.geometry.pre_angle != 0, sometimes.geometry.post_angle != 0
    check_share(pre | post, 0.4)
    check_share(pre, 1 - math.sqrt(0.6))
    check_share(post, 1 - math.sqrt(0.6))


def test_operations_apply_independently_of_each_other(sometimes):
    b, g, c = sometimes.blits, sometimes.geometry, sometimes.colours
    applied = [
        b.flip,
        b.quarter_turns,
        b.shift[:, 0],
        g.log2_scale,
        g.pre_angle,
        g.log2_stretch,
        g.post_angle,
    ]
    applied += [g.shift[:, 0], *vars(c).values()]
    table = torch.stack([(x != 0).double() for x in applied])
    correlation = torch.corrcoef(table) - torch.eye(len(applied))
    assert correlation.abs().max() < 4.5 / NUM_DRAWS**0.5


def test_at_a_probability_of_one_half_half_of_the_draws_of_an_operation_are_identity():
    numbers = Geometry.draw(draws(2000), 0.5, Strength(0.2, 0.0, 0.0, 0.0))
    is_same = (numbers.inverse(8, 8) == torch.eye(3)).all(2).all(1)
    check_share(is_same, 0.5)


def test_how_much_is_drawn_does_not_depend_on_the_probability():
    """So that what is drawn afterwards is the same."""
    first, second = draws(2), draws(2)
    Ada.draw(first, 0.0)
    Ada.draw(second, 1.0)
    assert torch.equal(first.normal(), second.normal())


def test_a_stronger_probability_keeps_what_a_weaker_one_applied():
    weak, strong = Ada.draw(draws(50), 0.2).colours, Ada.draw(draws(50), 0.6).colours
    applied = weak.brightness != 0
    assert applied.any()
    assert torch.equal(weak.brightness[applied], strong.brightness[applied])


def test_whole_pixel_shifts_reach_an_eighth_of_the_frame():
    assert geometry.INTEGER_SHIFT == 0.125
    inverse = blits(right=0.12, down=-0.06).inverse(36, 64)
    assert inverse[0, :2, 2].tolist() == [-8, 2]
