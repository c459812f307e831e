"""What the networks are made of: shapes, parameters and work, part by part, without a number of them in memory.

Work is what convolutions and matrix products take forward, for one sample, a multiply-add as 2. The embedding's FFT is
computed. Not counted: stage 1's resampling filters, activations, normalisation. The release's own figures are higher
where its filters multiply the zeros that they upsample by: 1,380 GFLOP for stage 2's generator, here 1,296.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lvg_train.config import DatasetFacts, LowresConfig, SuperresConfig, resolve
from lvg_train.model_file import NetworkSpec, describe_model
from lvg_train.networks.lowres_discriminator import LowresDiscriminator
from lvg_train.networks.lowres_generator import (
    MAX_TAPS,
    NOISE_CHANNELS,
    TEMPORAL_SCALE,
    LowresGenerator,
    fast_fft_size,
    input_frames,
    noise_frames,
)
from lvg_train.networks.superres_discriminator import SuperresDiscriminator
from lvg_train.networks.superres_generator import CONTEXT_FRAMES, StyleGAN3, SuperresGenerator, Synthesis
from lvg_train.stages import stage_of

#: modules that only hold others, whose parts are shown instead
HOLDERS = (nn.ModuleList, nn.Sequential, StyleGAN3, Synthesis)


@dataclass(frozen=True)
class Part:
    """A part of a network.

    Attributes:
      name: as in a state dict.
      shape: of what it gives for one sample; stage 2's generator makes the frames of a video as a batch.
      parameters: how many.
      flops: of a forward pass of one sample.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int
    flops: float


@dataclass(frozen=True)
class Summary:
    """A network and its parts, in the order in which they work.

    Attributes:
      title: what it is and what it takes.
      direct_embedding_flops: what the temporal embedding would take as a convolution; 0 where there is none.
    """

    title: str
    parts: tuple[Part, ...]
    direct_embedding_flops: float = 0.0

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts)

    @property
    def flops(self) -> float:
        return sum(part.flops for part in self.parts)


def summarise_preset(preset: str, low_size: tuple[int, int], high_size: tuple[int, int]) -> list[Summary]:
    """The four networks of a preset, as training runs them; sizes are height and width.

    Raises:
      TrainError: there is no such preset, or the stages do not take these sizes.
    """
    facts = DatasetFacts(fingerprint="", low_size=low_size, high_size=high_size, frame_rate="30")
    summaries = []
    for stage in ("lowres", "superres"):
        config = resolve(stage, "", facts, preset)
        shift_frames = config.shift_frames if isinstance(config, LowresConfig) else 0
        specs = stage_of(config).specs(facts)
        summaries += [summarise(spec, config.num_frames + shift_frames) for spec in specs.values()]
    return summaries


def summarise_file(path: Path) -> list[Summary]:
    """The networks of a model file; generators make as many frames as in the paper's training.

    A title ends with the network's role.

    Raises:
      ModelError: it is no model file, or its networks cannot be built.
    """
    low, high = LowresConfig.model_fields, SuperresConfig.model_fields
    frames = {
        "lowres_generator": low["num_frames"].default + low["shift_frames"].default,
        "superres_generator": high["num_frames"].default,
    }
    summaries = {
        role: summarise(spec, frames.get(spec.kind, 0))
        for role, spec in describe_model(path).networks.items()
    }
    return [replace(summary, title=f"{summary.title} ({role})") for role, summary in summaries.items()]


def summarise(spec: NetworkSpec, num_frames: int) -> Summary:
    """A network's parts; `num_frames` are those that a generator makes.

    Raises:
      ModelError: it cannot be built.
    """
    with torch.device("meta"):
        network = spec.build().to("meta")
        inputs = INPUTS[spec.kind](network, num_frames)
    parts = measure_parts(network, inputs)
    if isinstance(network, LowresGenerator):
        parts = [embedding_part(network, num_frames), *parts]
    return Summary(title_of(network, num_frames), tuple(parts), direct_embedding_flops(network, num_frames))


def measure_parts(network: nn.Module, inputs: tuple[Tensor | int, ...]) -> list[Part]:
    """Runs the network on tensors without memory, and counts."""
    parts = dict(find_parts(network))
    shapes: dict[str, tuple[int, ...]] = {}
    for name, part in parts.items():
        part.register_forward_hook(lambda _, __, output, name=name: shapes.update({name: shape_of(output)}))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*inputs, precision="reference")
    flops = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    root = type(network).__name__
    measured = {
        name: Part(name, shapes[name], count_parameters(part), flops.get(f"{root}.{name}", 0.0))
        for name, part in parts.items()
    }
    own = [Part(n, shape_of(p), p.numel(), 0.0) for n, p in network.named_parameters(recurse=False)]
    return own + [measured[name] for name in shapes]


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """Without a batch of one."""
    return tuple(tensor.shape[1:] if tensor.shape[0] == 1 else tensor.shape)


def find_parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if isinstance(child, HOLDERS):
            yield from find_parts(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ---- the temporal embedding, which is no module


def embedding_part(network: LowresGenerator, num_frames: int) -> Part:
    """Noise blurred by FFT: transforms of noise, filters and products, real, 2.5 n log2 n each."""
    num_filters, length = len(network.filters), noise_frames(num_frames)
    size = fast_fft_size(length)
    products = NOISE_CHANNELS * num_filters
    transforms = (NOISE_CHANNELS + num_filters + products) * 2.5 * size * math.log2(size)
    shape = (products, input_frames(num_frames) * TEMPORAL_SCALE)
    return Part("embedding (FFT)", shape, 0, transforms + 6 * products * (size // 2 + 1))


def direct_embedding_flops(network: nn.Module, num_frames: int) -> float:
    if not isinstance(network, LowresGenerator):
        return 0.0
    num_outputs = NOISE_CHANNELS * len(network.filters) * input_frames(num_frames) * TEMPORAL_SCALE
    return 2.0 * num_outputs * MAX_TAPS


# ---- what the networks take


def lowres_generator_inputs(network: LowresGenerator, num_frames: int) -> tuple[Tensor | int, ...]:
    return torch.empty(1, NOISE_CHANNELS, noise_frames(num_frames)), num_frames


def lowres_discriminator_inputs(network: LowresDiscriminator, _: int) -> tuple[Tensor, ...]:
    return (torch.empty(1, *network.shape),)


def superres_generator_inputs(network: SuperresGenerator, num_frames: int) -> tuple[Tensor, ...]:
    low = torch.empty(1, 3, num_frames + 2 * CONTEXT_FRAMES, *network.low_size)
    return low, torch.empty(1, network.latent_channels)


def superres_discriminator_inputs(network: SuperresDiscriminator, _: int) -> tuple[Tensor, ...]:
    return torch.empty(1, *network.low_shape), torch.empty(1, *network.high_shape)


INPUTS: dict[str, Callable[..., tuple[Tensor | int, ...]]] = {
    "lowres_generator": lowres_generator_inputs,
    "lowres_discriminator": lowres_discriminator_inputs,
    "superres_generator": superres_generator_inputs,
    "superres_discriminator": superres_discriminator_inputs,
}


def title_of(network: nn.Module, num_frames: int) -> str:
    match network:
        case LowresGenerator():
            return f"Stage 1, generator: {num_frames} frames of {network.height}x{network.width}"
        case LowresDiscriminator(shape=(_, frames, height, width)):
            return f"Stage 1, discriminator: {frames} frames of {height}x{width}"
        case SuperresGenerator(low_size=low, high_size=high):
            return f"Stage 2, generator: {num_frames} frames of {low[0]}x{low[1]} to {high[0]}x{high[1]}"
        case SuperresDiscriminator(low_shape=(_, frames, *low), high_shape=(_, _, *high)):
            return f"Stage 2, discriminator: {frames} frames of {low[0]}x{low[1]} and {high[0]}x{high[1]}"
    raise AssertionError(type(network).__name__)
