"""What a run changes as it trains: networks, their average, optimisers, the augmentation probability, the step.

    networks      generator, discriminator, generator_ema      to models.safetensors
    tensors       both optimisers' moments, by parameter name   to optimizers.safetensors
    values        augmentation probability, its counts          to state.json

Nothing else is needed to go on bit for bit: random numbers and windows are functions of the step.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lvg_train.checkpoint import Checkpoint
from lvg_train.config import TrainConfig
from lvg_train.dist import World, sum_over_ranks
from lvg_train.model_file import NetworkSpec

#: parameters of Adam, Karras et al. 2018, "Progressive Growing of GANs", appendix A.1, as StyleGAN2 has them
BETAS = (0.0, 0.99)
EPSILON = 1e-8
#: what torch's Adam keeps of a parameter
ADAM_KEYS = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class AugmentControl:
    """Steers the probability of augmentation by the discriminator's logits of real videos.

    Karras et al. 2020, "Training GANs with Limited Data", section 3.1, r_t.

    Attributes:
      probability: of each operation.
      sum_of_signs, num_signs: of this process's logits since the last change.
    """

    device: torch.device
    probability: float = 0.0
    num_signs: int = 0
    sum_of_signs: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.sum_of_signs = torch.zeros([], dtype=torch.float64, device=self.device)

    def see(self, real_logits: Tensor) -> None:
        """Counts the signs of logits [N]."""
        self.sum_of_signs += real_logits.detach().sign().sum()
        self.num_signs += len(real_logits)

    def move(self, target: float, distance: float, maximum: float) -> None:
        """Moves the probability by `distance` towards what brings the mean sign, over all processes, to `target`."""
        signs = torch.stack([self.sum_of_signs, torch.full_like(self.sum_of_signs, self.num_signs)])
        sum_over_ranks(signs)
        total, count = signs.tolist()
        direction = (total / count > target) - (total / count < target) if count else 0
        self.probability = min(max(self.probability + direction * distance, 0.0), maximum)
        self.sum_of_signs.zero_()
        self.num_signs = 0


@dataclass
class TrainingState:
    """Everything that a checkpoint holds; `step` counts the training iterations that are done."""

    specs: Mapping[str, NetworkSpec]
    generator: nn.Module
    discriminator: nn.Module
    generator_ema: nn.Module
    generator_adam: torch.optim.Adam
    discriminator_adam: torch.optim.Adam
    augment: AugmentControl
    step: int = 0

    @property
    def networks(self) -> dict[str, nn.Module]:
        """By role, as model files name them."""
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "generator_ema": self.generator_ema,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Adam's moments and counts: "generator.to_rgb.weight.exp_avg_sq", ..."""
        return {
            f"{role}.{name}.{key}": value
            for role, network, adam in self._trained()
            for name, parameter in network.named_parameters()
            for key, value in adam.state.get(parameter, {}).items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `tensors` gave, of a run of the same configuration."""
        for role, network, adam in self._trained():
            for name, parameter in network.named_parameters():
                named = {key: f"{role}.{name}.{key}" for key in ADAM_KEYS}
                found = {key: tensors[full] for key, full in named.items() if full in tensors}
                if found:
                    adam.state[parameter] = found

    def values(self) -> dict[str, Any]:
        """The augmentation's probability and counts, over all processes."""
        signs = self.augment.sum_of_signs.clone()
        count = torch.tensor(float(self.augment.num_signs))
        sum_over_ranks(signs)
        sum_over_ranks(count)
        return {
            "augment_probability": self.augment.probability,
            "sum_of_signs": float(signs),
            "num_signs": int(count),
        }

    def _trained(self) -> Iterator[tuple[str, nn.Module, torch.optim.Adam]]:
        yield "generator", self.generator, self.generator_adam
        yield "discriminator", self.discriminator, self.discriminator_adam


# ---- at the start of a run


def start_state(config: TrainConfig, specs: Mapping[str, NetworkSpec], device: torch.device) -> TrainingState:
    """The state of a new run; its parameters follow from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        networks = {role: specs[role].build().to(device) for role in ("generator", "discriminator")}
    return _state_of(config, specs, networks, copy.deepcopy(networks["generator"]), device)


def _state_of(
    config: TrainConfig,
    specs: Mapping[str, NetworkSpec],
    networks: Mapping[str, nn.Module],
    generator_ema: nn.Module,
    device: torch.device,
) -> TrainingState:
    generator, discriminator = networks["generator"], networks["discriminator"]
    return TrainingState(
        specs,
        generator,
        discriminator,
        generator_ema.requires_grad_(False),
        make_adam(generator, config.generator_lr),
        make_adam(discriminator, config.discriminator_lr, config.r1.every),
        AugmentControl(device),
    )


def make_adam(network: nn.Module, learning_rate: float, lazy_every: int | None = None) -> torch.optim.Adam:
    """Adam; where each `lazy_every`-th step has a second update, corrected for it.

    Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", appendix B, "Lazy
    regularization": with c = k / (k + 1), learning rate * c and beta^c.
    """
    correction = 1.0 if lazy_every is None else lazy_every / (lazy_every + 1)
    betas = (BETAS[0] ** correction, BETAS[1] ** correction)
    is_cuda = next(network.parameters()).is_cuda
    return torch.optim.Adam(network.parameters(), learning_rate * correction, betas, EPSILON, fused=is_cuda)


def resume_state(
    config: TrainConfig, specs: Mapping[str, NetworkSpec], checkpoint: Checkpoint, world: World
) -> TrainingState:
    """The state that a checkpoint holds, whatever number of processes saved it.

    Raises:
      TrainError: it lacks a network, or one does not fit its file.
    """
    roles = ("generator", "discriminator", "generator_ema")
    networks = {role: checkpoint.load_network(role, world.device) for role in roles}
    state = _state_of(config, specs, networks, networks["generator_ema"], world.device)
    state.load_tensors(checkpoint.tensors(world.device))
    state.step = checkpoint.step
    state.augment.probability = checkpoint.values["augment_probability"]
    if world.is_main:  # the sums of all processes, once
        state.augment.sum_of_signs += checkpoint.values["sum_of_signs"]
        state.augment.num_signs = checkpoint.values["num_signs"]
    return state
