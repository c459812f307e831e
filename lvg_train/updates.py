"""One training step: which batch goes where, and what each update does to the state.

    update           batch                       networks               every
    generator        its own, where needed       G trained, D frozen    step
    discriminator    one for both kinds          D trained, G without gradient; magnitude averages follow
    penalty (R1)     its own                     D trained              16th step, from step 0
    augmentation     -                           -                      4th step, from step 0 (super-res)
    average          -                           G to generator_ema     step

A batch of the whole run is shared evenly by the processes, and a process's share is worked off in rounds. Random
numbers belong to the sample, so that neither changes what is drawn. What does depend on them:

    gradients            the same up to rounding; in the super-res stage up to the 1e-8 of its demodulation, as styles
                         are normalised over the samples that a process works on at once
    magnitude averages   follow each round's mean over the processes; in more rounds by less each, so that a step
                         moves them as far as in the paper's run (two rounds in the low-res stage)

Losses of single samples are scaled up for the backward pass and gradients down after it, by a power of two: float16,
in which the super-res networks' finest layers compute on a GPU, has no numbers as small as their gradients are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor, nn

from lvg_train import losses
from lvg_train.config import SuperresConfig, TrainConfig
from lvg_train.data import Batches, Data, DeviceBatch
from lvg_train.dist import World, average_gradients, sum_over_ranks
from lvg_train.errors import TrainError
from lvg_train.stages import Clips, Dice, Stage
from lvg_train.state import TrainingState
from lvg_train.stats import Counter

#: a sample's loss in the backward pass; at 1 half of the super-res generator's tensors get no gradient in float16
SAMPLE_LOSS_SCALE = 32
#: a loss beyond this is taken for divergence
LOSS_BOUND = 1e6


class DivergedError(Exception):
    """A loss that is not finite, or beyond all sense; the text names it, the step and the value."""


@dataclass(frozen=True)
class Round:
    """A part of this process's share of a batch.

    Attributes:
      clips: of the data; None where the update needs none.
      samples: as numbered over all processes and rounds.
      weight: of the round's mean in that of the share.
    """

    clips: Clips | None
    samples: range
    weight: float


@dataclass
class Watch:
    """Looks at each step's losses while the next one is under way, so that the GPU never waits for it.

    They are means over the processes, so that all of them stop at the same step.
    """

    num_ranks: int = 1
    names: list[str] = field(default_factory=list)
    values: Tensor | None = None
    step: int = 0

    def see(self, step: int, values: dict[str, Tensor]) -> None:
        """Remembers the losses of a step, after a look at those of the one before."""
        self.check()
        self.step, self.names = step, list(values)
        self.values = torch.stack([v.detach().float() for v in values.values()])
        sum_over_ranks(self.values)
        self.values /= self.num_ranks

    def check(self) -> None:
        """Looks at what is remembered.

        Raises:
          DivergedError: a loss is NaN, infinite or larger than `LOSS_BOUND`.
        """
        if self.values is None:
            return
        numbers, self.values = self.values.tolist(), None
        for name, number in zip(self.names, numbers, strict=True):
            if not abs(number) <= LOSS_BOUND:
                raise DivergedError(f"step {self.step}: {name} is {number}")


class Updates:
    """The updates of one run, in this process."""

    def __init__(
        self,
        config: TrainConfig,
        stage: Stage,
        state: TrainingState,
        data: Data,
        world: World,
        counter: Counter,
    ):
        self.config, self.stage, self.state = config, stage, state
        self.data, self.world, self.counter = data, world, counter
        self.watch = Watch(world.size)
        self.streams: dict[str, Batches] = {}
        self._clock, self._waited_s = time.monotonic(), 0.0
        # the penalty's second derivative cannot go through a compiled network
        prepare: Callable[[nn.Module], nn.Module] = torch.compile if config.compile else (lambda n: n)  # type: ignore[assignment]
        self.generator, self.discriminator = prepare(state.generator), prepare(state.discriminator)

    def take_step(self) -> None:
        """One training step.

        Raises:
          DivergedError: see `Watch.check`; of this step or the one before.
        """
        step = self.state.step
        seen = {"loss/generator": self.update_generator(step)}
        seen |= self.update_discriminator(step)
        if step % self.config.r1.every == 0:
            seen["loss/r1"] = self.update_by_penalty(step)
        self.steer_augmentation(step)
        self.average_generator(step)
        self.watch.see(step, seen)
        self.counter.add(seen)
        self.state.step = step + 1

    def take_means(self, all_reduce: Callable[[Tensor], None]) -> dict[str, float]:
        """Means since they were last taken, over all processes; the time that was lost to reading as a share."""
        now, waited_s = time.monotonic(), self.data.waited_s
        self.counter.add({"loader/wait_share": (waited_s - self._waited_s) / (now - self._clock)})
        self._clock, self._waited_s = now, waited_s
        values = self.counter.take(all_reduce)
        has_ada = isinstance(self.config, SuperresConfig) and self.config.ada is not None
        return values | ({"augment/probability": self.strength} if has_ada else {})

    def read_clips(self, stream: str, num_samples: int) -> list[Clips]:
        """The first clips of a stream, in parts no larger than a round."""
        size = len(self.world.share_of(self.config.batch)) // self.config.rounds
        batches = self.data.batches(stream)
        parts: list[Clips] = []
        while sum(len(part.low) for part in parts) < num_samples:
            batch = next(batches)
            clips = Clips(batch.low, batch.high)
            parts += [clips.part(slice(i, i + size)) for i in range(0, len(batch.low), size)]
        batches.close()
        excess = sum(len(part.low) for part in parts) - num_samples
        while excess >= len(parts[-1].low):
            excess -= len(parts.pop().low)
        return [*parts[:-1], parts[-1].part(slice(0, len(parts[-1].low) - excess))]

    # ---- the updates

    def update_generator(self, step: int) -> Tensor:
        """Returns the loss."""
        stage, total = self.stage, self.zero()
        train_only(self.state.generator, self.state.discriminator)
        self.state.generator_adam.zero_grad(set_to_none=True)
        for part in self.rounds("generator", step, stage.generates_from_clips):
            dice = self.dice(step, "generator", part)
            fake = stage.generate(self.generator, part.clips, dice, averages_share=0)
            logits = stage.judge(self.discriminator, fake, self.strength, dice)
            loss = losses.generator_loss(logits) * part.weight
            (loss * self.loss_scale).backward()
            total += loss.detach()
        average_gradients(self.state.generator.parameters(), self.world, self.loss_scale)
        self.state.generator_adam.step()
        return total

    def update_discriminator(self, step: int) -> dict[str, Tensor]:
        """Returns both losses. One batch serves generated and real clips; each has its own backward pass."""
        stage, fake_total, real_total = self.stage, self.zero(), self.zero()
        train_only(self.state.discriminator, self.state.generator)
        self.state.discriminator_adam.zero_grad(set_to_none=True)
        for part in self.rounds("discriminator", step, needs_clips=True):
            assert part.clips is not None
            fake_dice, real_dice = (self.dice(step, f"discriminator.{n}", part) for n in ("fake", "real"))
            with torch.no_grad():
                share = stage.paper_rounds / self.config.rounds
                fake = stage.generate(self.generator, part.clips, fake_dice, share)
            fake_logits = stage.judge(self.discriminator, fake, self.strength, fake_dice)
            fake_loss = losses.fake_loss(fake_logits) * part.weight
            (fake_loss * self.loss_scale).backward()
            real = stage.present(part.clips, real_dice)
            real_logits = stage.judge(self.discriminator, real, self.strength, real_dice)
            real_loss = losses.real_loss(real_logits) * part.weight
            (real_loss * self.loss_scale).backward()
            self.state.augment.see(real_logits)
            self.counter.add({"logits/fake": fake_logits.detach(), "logits/real": real_logits.detach()})
            fake_total += fake_loss.detach()
            real_total += real_loss.detach()
        average_gradients(self.state.discriminator.parameters(), self.world, self.loss_scale)
        self.state.discriminator_adam.step()
        return {"loss/fake": fake_total, "loss/real": real_total}

    def update_by_penalty(self, step: int) -> Tensor:
        """Returns the penalty, gamma / 2 * squared gradient norm; its gradient counts for all the steps between."""
        stage, r1, total = self.stage, self.config.r1, self.zero()
        train_only(self.state.discriminator, self.state.generator)
        self.state.discriminator_adam.zero_grad(set_to_none=True)
        for part in self.rounds("r1", step // r1.every, needs_clips=True):
            assert part.clips is not None
            dice = self.dice(step, "r1", part)
            real = stage.present(part.clips, dice)
            videos = real.finest.detach().requires_grad_()
            logits = stage.judge(self.state.discriminator, real.with_finest(videos), self.strength, dice)
            penalty = losses.gradient_penalty(logits, videos).mean() * (r1.gamma / 2 * part.weight)
            (penalty * r1.every).backward()
            total += penalty.detach()
        average_gradients(self.state.discriminator.parameters(), self.world)
        self.state.discriminator_adam.step()
        return total

    def steer_augmentation(self, step: int) -> None:
        """Moves the probability of augmentation; the steps between two moves count."""
        ada = self.config.ada if isinstance(self.config, SuperresConfig) else None
        if ada is not None and step % ada.every == 0:
            self.state.augment.move(ada.target, ada.speed * ada.every, ada.maximum)

    @torch.no_grad()
    def average_generator(self, step: int) -> None:
        """Parameters and buffers alike: the magnitude averages and the mean latent belong to the network."""
        beta = ema_beta(self.config, step)
        averages, news = (list_floats(n) for n in (self.state.generator_ema, self.state.generator))
        torch._foreach_lerp_(averages, news, 1 - beta)

    # ---- what they share

    @property
    def loss_scale(self) -> int:
        """The factor that losses have in the backward pass. The penalty needs none: it sums logits."""
        return SAMPLE_LOSS_SCALE * 2 ** math.ceil(math.log2(len(self.world.share_of(self.config.batch))))

    @property
    def strength(self) -> float:
        """The probability of augmentation."""
        return self.state.augment.probability

    def rounds(self, stream: str, number: int, needs_clips: bool) -> Iterator[Round]:
        """The rounds of one update; the clips are batch `number` of a stream."""
        share, num_rounds = self.world.share_of(self.config.batch), self.config.rounds
        clips = None
        if needs_clips:
            batch = self.batch_of(stream, number)
            clips = Clips(batch.low, batch.high)
        size = len(share) // num_rounds
        for first in range(0, len(share), size):
            part = None if clips is None else clips.part(slice(first, first + size))
            yield Round(part, share[first : first + size], 1 / num_rounds)

    def batch_of(self, stream: str, number: int) -> DeviceBatch:
        """Batch `number` of a stream, which go one by one."""
        if stream not in self.streams:
            self.streams[stream] = self.data.batches(stream, number)
        batch = next(self.streams[stream])
        assert batch.step == number, f"{stream}: batch {batch.step} came in the place of {number}"
        return batch

    def dice(self, step: int, update: str, part: Round) -> Dice:
        return Dice(self.config.seed, step, update, part.samples, self.world.device)

    def zero(self) -> Tensor:
        return torch.zeros([], device=self.world.device)


def check_shares(config: TrainConfig, world: World) -> None:
    """Whether the batch can be shared by processes and rounds.

    Raises:
      TrainError: it cannot, evenly.
    """
    share = len(world.share_of(config.batch))
    if share % config.rounds:
        raise TrainError(
            f"{share} windows on each of {world.size} processes cannot be taken in {config.rounds} even rounds; "
            "set batch to a multiple of processes times rounds"
        )


def train_only(trained: nn.Module, frozen: nn.Module) -> None:
    """Gradients for the parameters of one network."""
    for parameter in trained.parameters():
        parameter.requires_grad_(True)
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)


def ema_beta(config: TrainConfig, step: int) -> float:
    """What the average keeps of itself in a step: short at the start, long in the end."""
    return min(config.ema.beta, config.ema.beta ** (config.ema.ramp_steps / (step + 1)))


def list_floats(network: nn.Module) -> list[Tensor]:
    """Parameters and stored buffers, in one order; all are floats."""
    return list(network.state_dict().values())


def first_bad_tensor(state: TrainingState) -> str | None:
    """The name of a parameter or buffer that is not finite; None where all are."""
    named = chain.from_iterable(
        ((f"{role}.{name}", tensor) for name, tensor in network.state_dict().items())
        for role, network in state.networks.items()
    )
    return next((name for name, tensor in named if not torch.isfinite(tensor).all()), None)
