"""What the tests of augmentations share: videos, draws, and what is asked of each augmentation."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lvg_train.draws import Draws

SIZES = [(16, 16), (9, 16), (36, 64)]


def draws(num_samples: int, step: int = 0) -> Draws:
    return Draws(seed=1, step=step, purpose="a test", samples=range(num_samples))


def random_video(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(3).uniform(-1, 1, shape).astype(np.float32))


def still_video(num_samples: int, num_frames: int, height: int, width: int) -> Tensor:
    return random_video(num_samples, 3, 1, height, width).expand(-1, -1, num_frames, -1, -1)


def smooth_picture(x: Tensor, y: Tensor, num_frames: int = 2) -> Tensor:
    """A picture of long waves at points [N, H, W] in pixels: [N, 3, T, H, W], the same in all frames."""
    waves = [torch.cos(x / 5 + 0.4), torch.sin(y / 4 - x / 7), torch.cos(y / 6) * torch.sin(x / 6 + 1)]
    return torch.stack(waves, dim=1)[:, :, None].expand(-1, -1, num_frames, -1, -1)


def points(height: int, width: int) -> tuple[Tensor, Tensor]:
    """x and y [H, W] of the pixels, from the middle of the frame."""
    y = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    return x.expand(height, width), y[:, None].expand(height, width)


def check_two_orders(apply: Callable[[Tensor], Tensor], *shape: int) -> None:
    """First and second derivatives against finite differences, as R1 takes them: of something curved."""
    video = random_video(*shape).double().requires_grad_()
    assert torch.autograd.gradcheck(apply, (video,), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda v: apply(v).pow(3), (video,), fast_mode=True)


def check_precisions(apply: Callable[[Tensor], Tensor], video: Tensor) -> None:
    """Half precision and autocast give what float32 gives, in the dtype that came in."""
    expected = apply(video)
    assert expected.dtype == torch.float32
    half = apply(video.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), apply(video.half().float()), atol=2e-3, rtol=2e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(apply(video), expected, atol=0, rtol=0)


def check_refused(augment: Callable[[Tensor, Draws], Tensor]) -> None:
    for shape in ([2, 4, 2, 8, 8], [3, 3, 2, 8, 8], [2, 3, 8, 8], [2, 3, 0, 8, 8]):
        with pytest.raises(ValueError, match=r"videos must be \[N, 3, T, H, W\] with N = 2, .* got \["):
            augment(torch.zeros(shape), draws(2))


def check_cuda(augment: Callable[[Tensor, Draws], Tensor], video: Tensor) -> None:
    """The same result, gradient and gradient of a gradient on the CPU and on CUDA."""
    results = []
    for device in (torch.device("cpu"), cuda()):
        leaf = video.to(device).requires_grad_()
        changed = augment(leaf, Draws(1, 0, "a test", range(len(video)), device))
        (slope,) = torch.autograd.grad(changed.pow(3).sum(), leaf, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.square().sum(), leaf)
        results.append([x.detach().cpu() for x in (changed, slope, curvature)])
    torch.testing.assert_close(*results, atol=1e-2, rtol=1e-2)


def cuda() -> torch.device:
    if not torch.cuda.is_available():
        assert os.environ.get("LVG_REQUIRE_CUDA") != "1", "LVG_REQUIRE_CUDA=1, and there is no CUDA device"
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")


def check_uniform(numbers: Tensor, low: float, high: float) -> None:
    """Kolmogorov-Smirnov: the largest distance of the distributions is below 2.2 / sqrt(n), p = 1e-4."""
    numbers = numbers.double().sort().values
    assert numbers[0] >= low and numbers[-1] <= high
    check_distribution((numbers - low) / (high - low))


def check_normal(numbers: Tensor, deviation: float) -> None:
    check_distribution(torch.special.ndtr(numbers.double().sort().values / deviation))


def check_distribution(sorted_ranks: Tensor) -> None:
    n = len(sorted_ranks)
    assert n >= 500
    expected = (torch.arange(n) + 0.5) / n
    assert (sorted_ranks - expected).abs().max() < 2.2 / n**0.5


def check_share(events: Tensor, probability: float) -> None:
    """How often something happens is within 4 standard deviations of its probability."""
    deviation = (probability * (1 - probability) / events.numel()) ** 0.5
    assert abs(events.double().mean().item() - probability) <= 4 * deviation


def check_integers(numbers: Tensor, values: range) -> None:
    """All of `values` come equally often, and no others."""
    assert set(numbers.unique().tolist()) == set(values)
    for value in values:
        check_share(numbers == value, 1 / len(values))
