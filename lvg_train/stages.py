"""What differs between the two stages: which windows, which networks, what is generated and how it is judged.

                  low-res                                    super-res
    a clip        low                                        low (4 frames of context on both sides), high
    real          low                                        corrupted low, high
    generated     a random window of a longer video          corrupted low, high made of it
    judged        DiffAug, time stretch -> D                  ADA for both at once, low dropped -> D
    penalised     the gradient of low                        the gradient of high

Each stage is a frozen value with the same methods; `loop` knows nothing else of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvg_data.window import View
from lvg_train.augment.ada import ada
from lvg_train.augment.corruption import corrupt
from lvg_train.augment.diffaug import diffaug
from lvg_train.augment.dropout import drop_conditioning
from lvg_train.augment.time_stretch import stretch_time
from lvg_train.config import DatasetFacts, LowresConfig, SuperresConfig, TrainConfig
from lvg_train.draws import Draws
from lvg_train.model_file import NetworkSpec
from lvg_train.networks.lowres_generator import NOISE_CHANNELS, noise_frames, round_to_grid
from lvg_train.networks.superres_discriminator import enlarge
from lvg_train.networks.superres_generator import CONTEXT_FRAMES


@dataclass(frozen=True)
class Clips:
    """Videos of a batch, float32 [N, 3, T, H, W] in [-1, 1]; `high` is None in the low-res stage.

    Clips of the data in the super-res stage have low-res frames for the context too.
    """

    low: Tensor
    high: Tensor | None = None

    @property
    def finest(self) -> Tensor:
        """The videos that the stage generates: high-res ones, else low-res ones."""
        return self.low if self.high is None else self.high

    def with_finest(self, videos: Tensor) -> Clips:
        """The same with other videos of that kind."""
        return Clips(videos) if self.high is None else replace(self, high=videos)

    def part(self, samples: slice) -> Clips:
        """Some of the batch."""
        return Clips(self.low[samples], None if self.high is None else self.high[samples])


@dataclass(frozen=True)
class Dice:
    """The random numbers of some samples in one update of a step; each thing that is drawn has its own stream."""

    seed: int
    step: int
    update: str
    samples: range
    device: torch.device

    def throw(self, what: str) -> Draws:
        return Draws(self.seed, self.step, f"{self.update}.{what}", self.samples, self.device)


class Stage(Protocol):
    """What the loop asks of a stage. Videos of generated clips are differentiable."""

    @property
    def view(self) -> View:
        """The windows of a clip."""

    @property
    def paper_rounds(self) -> int:
        """In how many rounds the paper's run took a step; its averages moved in each of them."""

    @property
    def generates_from_clips(self) -> bool:
        """Whether the generator needs clips; if so, its update gets a batch of its own."""

    def specs(self, dataset: DatasetFacts) -> dict[str, NetworkSpec]:
        """How the generator and the discriminator are built."""

    def present(self, clips: Clips, dice: Dice) -> Clips:
        """Clips of the data as what is judged: without context, corrupted as the stage has it."""

    def generate(self, generator: nn.Module, clips: Clips | None, dice: Dice, averages_share: float) -> Clips:
        """Generated clips for as many samples as `dice` has; of `clips` where the stage needs them."""

    def judge(self, discriminator: nn.Module, clips: Clips, strength: float, dice: Dice) -> Tensor:
        """Logits [N] of augmented clips; real and generated ones go the same way.

        `strength`: probability of adaptive augmentation, where the stage has it.
        """

    def exhibit(self, generator: nn.Module, clips: Clips, dice: Dice) -> dict[str, Tensor]:
        """Videos to look at by name: those of the data, and what the generator makes beside them."""


@dataclass(frozen=True)
class LowresStage:
    """Stage 1: videos from noise."""

    config: LowresConfig
    generates_from_clips: bool = False
    paper_rounds: int = 2

    @property
    def view(self) -> View:
        return View(num_frames=self.config.num_frames)

    def specs(self, dataset: DatasetFacts) -> dict[str, NetworkSpec]:
        height, width = dataset.low_size
        sizes = {"height": height, "width": width}
        return network_specs(self.config, sizes, filter_frames=list(self.config.filter_frames))

    def present(self, clips: Clips, dice: Dice) -> Clips:
        return clips

    def generate(self, generator: nn.Module, clips: Clips | None, dice: Dice, averages_share: float) -> Clips:
        """A random window of videos that are `shift_frames` longer: an offset of 0 to shift_frames - 1."""
        length, shift = self.config.num_frames, self.config.shift_frames
        noise = draw_noise(dice, length + shift)
        videos = generator(noise, length + shift, averages_share, self.config.precision)
        offsets = dice.throw("offset").on("cpu").integers(0, shift - 1).tolist()
        windows = [video[:, start : start + length] for video, start in zip(videos, offsets, strict=True)]
        return Clips(torch.stack(windows))

    def judge(self, discriminator: nn.Module, clips: Clips, strength: float, dice: Dice) -> Tensor:
        video = diffaug(clips.low, dice.throw("diffaug"))
        video = stretch_time(video, dice.throw("time_stretch"))
        return discriminator(video, self.config.precision)

    def exhibit(self, generator: nn.Module, clips: Clips, dice: Dice) -> dict[str, Tensor]:
        """Samples are the beginnings of videos on the grid of 32 frames, as sampling makes them."""
        length = self.config.num_frames
        made = round_to_grid(length)
        samples = generator(draw_noise(dice, made), made, precision=self.config.precision)
        return {"data": clips.low, "samples": samples[:, :, :length]}


def network_specs(config: TrainConfig, sizes: dict[str, Any], **of_generator: Any) -> dict[str, NetworkSpec]:
    """How both networks are built for frames of some size; "lowres_generator" etc. are the kinds of model files.

    `of_generator`: arguments that it has alone.
    """
    stage = "lowres" if isinstance(config, LowresConfig) else "superres"
    scale = config.channel_scale
    generator = {**sizes, "channel_scale": scale, **of_generator}
    judge = {**sizes, "channel_scale": config.discriminator_scale or scale, "num_frames": config.num_frames}
    return {
        "generator": NetworkSpec(f"{stage}_generator", generator),
        "discriminator": NetworkSpec(f"{stage}_discriminator", judge),
    }


def draw_noise(dice: Dice, num_frames: int) -> Tensor:
    """The generator's noise for videos of `num_frames`: [N, 8, noise_frames(num_frames)]."""
    return dice.throw("noise").normal((NOISE_CHANNELS, noise_frames(num_frames)))


@dataclass(frozen=True)
class SuperresStage:
    """Stage 2: high-res frames from low-res ones."""

    config: SuperresConfig
    generates_from_clips: bool = True
    paper_rounds: int = 1

    @property
    def view(self) -> View:
        length = self.config.num_frames
        return View(length, context=CONTEXT_FRAMES, roles=("low", "high"), high_context=False)

    def specs(self, dataset: DatasetFacts) -> dict[str, NetworkSpec]:
        sizes = {"low_size": list(dataset.low_size), "high_size": list(dataset.high_size)}
        return network_specs(self.config, sizes)

    def present(self, clips: Clips, dice: Dice) -> Clips:
        """Real low-res frames are corrupted too, by a draw of their own."""
        assert clips.high is not None
        low = corrupt(without_context(clips.low), dice.throw("corruption"))
        return Clips(low, clips.high)

    def generate(self, generator: nn.Module, clips: Clips | None, dice: Dice, averages_share: float) -> Clips:
        """High-res frames of corrupted low-res ones; those are judged beside them."""
        assert clips is not None
        low = corrupt(clips.low, dice.throw("corruption"))
        high = generator(low, draw_latents(generator, dice), averages_share, self.config.precision)
        return Clips(without_context(low), high)

    def judge(self, discriminator: nn.Module, clips: Clips, strength: float, dice: Dice) -> Tensor:
        """Low-res frames are enlarged first, so that one transform serves both resolutions; they are dropped last."""
        assert clips.high is not None
        factor = clips.high.shape[-1] // clips.low.shape[-1]
        both = torch.cat([enlarge(clips.low, factor), clips.high], dim=2)
        if strength > 0:
            both = ada(both, strength, dice.throw("ada"))
        low, high = both.chunk(2, dim=2)
        return discriminator(drop_conditioning(low, dice.throw("dropout")), high, self.config.precision)

    def exhibit(self, generator: nn.Module, clips: Clips, dice: Dice) -> dict[str, Tensor]:
        assert clips.high is not None
        samples = generator(clips.low, draw_latents(generator, dice), precision=self.config.precision)
        low = F.interpolate(without_context(clips.low), clips.high.shape[2:], mode="nearest")
        return {"low": low, "data": clips.high, "samples": samples}


def without_context(video: Tensor) -> Tensor:
    """The inner frames of [N, C, T + 8, H, W]."""
    return video[:, :, CONTEXT_FRAMES:-CONTEXT_FRAMES]


def draw_latents(generator: nn.Module, dice: Dice) -> Tensor:
    """One latent a video: [N, L]."""
    channels = generator.latent_channels
    assert isinstance(channels, int)
    return dice.throw("latent").normal((channels,))


def stage_of(config: TrainConfig) -> Stage:
    """The stage that a configuration is for.

    Raises:
      TrainError: the stage does not take the dataset's frame sizes, or such networks.
    """
    if isinstance(config, LowresConfig):
        stage: Stage = LowresStage(config)
    else:
        assert isinstance(config, SuperresConfig)
        stage = SuperresStage(config)
    with torch.device("meta"):
        for spec in stage.specs(config.dataset).values():
            spec.build()
    return stage
