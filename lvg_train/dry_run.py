"""What a run would cost, before it is started: configuration, parameters, memory, one batch."""

from __future__ import annotations

import json
import resource
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from lvg_data.reader import Dataset
from lvg_train import config as configs
from lvg_train.config import LowresConfig, TrainConfig
from lvg_train.dist import World
from lvg_train.loop import open_job
from lvg_train.model_file import NetworkSpec
from lvg_train.networks.lowres_generator import NOISE_CHANNELS, noise_frames
from lvg_train.networks.superres_generator import CONTEXT_FRAMES
from lvg_train.stages import stage_of
from lvg_train.updates import check_shares

FLOAT_BYTES = 4
GIB = 2**30


def rehearse(config: TrainConfig, world: World, dataset: Dataset) -> None:
    """Prints what a run of this configuration is, and takes its first step; nothing stays of it.

    Raises:
      TrainError: what would stop the run itself at its start.
    """
    check_shares(config, world)
    estimate = estimate_memory(config, world)
    if world.is_main:
        click.echo(json.dumps(configs.to_json(config), indent=1))
        for role, count in estimate.parameters.items():
            click.echo(f"{role}: {count:,} parameters")
        click.echo(estimate.tell(config))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        alone = config.model_copy(update={"also": ()})
        job = open_job(alone, Path(folder), world, dataset, opened)
        start = time.perf_counter()
        job.take_step()
        job.updates.watch.check()
        seconds = time.perf_counter() - start
        losses = job.updates.take_means(lambda sums: None)
    if world.is_main:
        told = ", ".join(f"{name} {value:.3f}" for name, value in losses.items() if name.startswith("loss/"))
        click.echo(f"one step on {world.device}, with the gradient penalty: {seconds:.1f} s, {told}")
        click.echo(f"memory in that step, measured: {peak_bytes(world.device) / GIB:.2f} GiB")


def peak_bytes(device: torch.device) -> int:
    """The most that was in use: on a GPU by tensors, on the CPU by the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ---- the estimate


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of one process, estimated without running anything.

    Attributes:
      parameters: their number by role.
      state_bytes: parameters, gradients and two moments of both networks, and the generator's average.
      activation_bytes: what the backward pass of the generator's update keeps, the largest of the step.
    """

    parameters: Mapping[str, int]
    state_bytes: int
    activation_bytes: int

    def tell(self, config: TrainConfig) -> str:
        total = self.state_bytes + self.activation_bytes
        return (
            f"memory of a process, estimated: {total / GIB:.2f} GiB = {self.state_bytes / GIB:.2f} for parameters, "
            f"gradients, moments and the average + {self.activation_bytes / GIB:.2f} for what the backward pass of "
            f"the generator's update keeps ({config.rounds} rounds; counted in float32 on shapes alone, without "
            "augmentation; half precision takes less)"
        )


def estimate_memory(config: TrainConfig, world: World) -> MemoryEstimate:
    """Counts on the meta device: nothing is allocated or computed."""
    specs = stage_of(config).specs(config.dataset)
    size = len(world.share_of(config.batch)) // config.rounds
    with torch.device("meta"):
        generator, discriminator = (specs[role].build().to("meta") for role in ("generator", "discriminator"))
        kept = kept_bytes(config, generator, discriminator, size)
    counts = {role: count_parameters(specs[role]) for role in ("generator", "discriminator")}
    state = FLOAT_BYTES * (5 * counts["generator"] + 4 * counts["discriminator"])
    return MemoryEstimate(counts, state, kept)


def count_parameters(spec: NetworkSpec) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in spec.build().parameters())


def kept_bytes(config: TrainConfig, generator: nn.Module, discriminator: nn.Module, size: int) -> int:
    """Bytes that autograd keeps for the generator's update with `size` windows; each storage counts once."""
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        score_samples(config, generator, discriminator, size)
    return sum(storage.nbytes() for storage in storages.values())


def score_samples(config: TrainConfig, generator: nn.Module, discriminator: nn.Module, size: int) -> Tensor:
    """The generator's update up to its logits, of empty videos."""
    length = config.num_frames
    if isinstance(config, LowresConfig):
        total = length + config.shift_frames
        video = generator(torch.empty(size, NOISE_CHANNELS, noise_frames(total)), total)
        return discriminator(video[:, :, :length])
    low = torch.empty(size, 3, length + 2 * CONTEXT_FRAMES, *config.dataset.low_size)
    channels = generator.latent_channels
    assert isinstance(channels, int)
    high = generator(low, torch.empty(size, channels))
    return discriminator(low[:, :, CONTEXT_FRAMES:-CONTEXT_FRAMES], high)
