"""What all four networks are made of: equalised weights, the activation, magnitude averages.

Parameters keep the names of LongVideoGAN's release, so that its checkpoints map by name.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# keeps half-precision activations finite; Karras et al. 2020, "Training GANs with Limited Data", appendix D
CLAMP = 256.0
MAGNITUDE_DECAY = 0.999


def equalise(weight: Tensor) -> Tensor:
    """A stored N(0, 1) weight [out, in, *kernel], scaled by 1/sqrt(fan_in).

    Equalised learning rate, Karras et al. 2018, "Progressive Growing of GANs", section 4.1.
    """
    return weight * (1 / math.sqrt(weight[0].numel()))


def lrelu(x: Tensor, bound: float | None = CLAMP) -> Tensor:
    """Leaky ReLU with slope 0.2, a gain of sqrt(2), then a limit to [-bound, bound] (None: no limit)."""
    x = F.leaky_relu(x, 0.2) * math.sqrt(2)
    return x if bound is None else x.clamp(-bound, bound)


def add_bias(x: Tensor, bias: Tensor) -> Tensor:
    """`x` [N, C, ...] plus `bias` [C], in the dtype of `x`."""
    return x + bias.to(x.dtype).reshape(-1, *[1] * (x.ndim - 2))


def channels_last(x: Tensor) -> Tensor:
    """`x` [N, C, (T,) H, W] or a weight, with its channels side by side in memory: how convolutions are fastest.

    On a CPU a step of the tiny preset costs a quarter (low-res) to two fifths (super-res) less; not measured on GPUs.
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats.get(x.ndim, torch.contiguous_format))


def normalise_rms(x: Tensor, dim: int = 1) -> Tensor:
    """`x` divided by its root mean square along `dim`, in float32."""
    x = x.float()
    return x * (x.square().mean(dim, keepdim=True) + 1e-8).rsqrt()


def random_weight(*shape: int, lr_multiplier: float = 1.0) -> nn.Parameter:
    """A weight as stored: N(0, 1), divided by the learning-rate multiplier that it gets at run time."""
    return nn.Parameter(torch.randn(shape) / lr_multiplier)


class EqualLinear(nn.Module):
    """Fully connected layer with equalised learning rate, over the last axis; no activation.

    `lr_multiplier` scales weight and bias at run time; the stored ones are larger by its inverse.
    """

    def __init__(
        self, in_features: int, out_features: int, bias_init: float = 0.0, lr_multiplier: float = 1.0
    ):
        super().__init__()
        self.weight = random_weight(out_features, in_features, lr_multiplier=lr_multiplier)
        self.bias = nn.Parameter(torch.full([out_features], bias_init / lr_multiplier))
        self.lr_multiplier = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, equalise(self.weight) * self.lr_multiplier, self.bias * self.lr_multiplier)


def reduced_precision(x: Tensor, policy: str) -> AbstractContextManager:
    """Convolutions inside run in bfloat16 under the policy `fast` on CUDA, else in float32.

    Raises:
      ValueError: there is no such policy.
    """
    if policy not in ("reference", "fast"):
        raise ValueError(f"precision must be reference or fast, got {policy!r}")
    enabled = policy == "fast" and x.device.type == "cuda"
    return torch.autocast("cuda", dtype=torch.bfloat16) if enabled else full_precision(x)


def full_precision(x: Tensor) -> AbstractContextManager:
    """No autocast inside, on the device of `x`: for what is cheap and must be exact. Nothing on "meta"."""
    has_autocast = torch.amp.is_autocast_available(x.device.type)
    return torch.autocast(x.device.type, enabled=False) if has_autocast else nullcontext()


def follow(average: Tensor, value: Tensor, decay: float, share: float) -> None:
    """Moves a running average towards `value` [...], averaged over the ranks, in place.

    `share`: 1 for a pass that counts whole; a pass of which several make up one counts less, so that they
    together leave `decay` of what there was.
    """
    average.lerp_(average_over_ranks(value).to(average.dtype), 1 - decay**share)


def magnitude_gain(average: Tensor, x: Tensor, averages_share: float) -> Tensor:
    """The factor that brings `x` to unit mean square: rsqrt of `average`, a buffer of shape [].

    With a share above 0 the mean square of `x` enters `average` first, see `follow`.
    Karras et al. 2021, "Alias-Free GANs", section 3.2.
    """
    if averages_share:
        with torch.no_grad():
            follow(average, x.detach().float().square().mean(), MAGNITUDE_DECAY, averages_share)
    return average.rsqrt()


def average_over_ranks(value: Tensor) -> Tensor:
    """The mean of `value` over all ranks, in place; `value` itself where training is not distributed."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
        value /= torch.distributed.get_world_size()
    return value
