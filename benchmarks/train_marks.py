"""Marks in the time of a training step: when reading, a network, augmentation or an optimiser begins.

The step is the real one. Marks come from hooks of the networks and the optimisers, from a stage that passes all on to
the stage itself, and from updates that only add marks to `Updates`:

    generator's update    reading, noise or corruption -> generator -> augmentation -> discriminator ->
    its backward pass     -> discriminator -> augmentation -> generator -> optimiser
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.utils.hooks import RemovableHandle

from lvg_train import updates as updating
from lvg_train.data import DeviceBatch
from lvg_train.networks.lowres_generator import LowresGenerator
from lvg_train.stages import Clips, Stage
from lvg_train.state import TrainingState
from lvg_train.updates import Updates

# ---- time -----------------------------------------------------------------------------------------


class Clock(Protocol):
    """The time of a device."""

    def now(self) -> Any:
        """A moment: when all that was asked of the device so far is done."""

    def ms_between(self, start: Any, stop: Any) -> float: ...


@dataclass(frozen=True)
class CpuClock:
    """`read`: seconds, such as `time.perf_counter`."""

    read: Callable[[], float]

    def now(self) -> float:
        return self.read()

    def ms_between(self, start: float, stop: float) -> float:
        return (stop - start) * 1000


class CudaClock:
    """By events, so that nothing has to wait; on one stream, also where autograd calls from its own thread."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device)

    def now(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(self._stream)
        return event

    def ms_between(self, start: torch.cuda.Event, stop: torch.cuda.Event) -> float:
        stop.synchronize()
        return float(start.elapsed_time(stop))


def clock_of(device: torch.device) -> Clock:
    return CudaClock(device) if device.type == "cuda" else CpuClock(time.perf_counter)


def seconds_of(device: torch.device, work: Callable[[], object]) -> float:
    clock = clock_of(device)
    start = clock.now()
    work()
    return clock.ms_between(start, clock.now()) / 1000


class Timeline:
    """Marks in a device's time; each says what begins there, and the next one ends it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._marks: list[tuple[str, Any]] = []
        self._is_closed = False

    def mark(self, what: str) -> None:
        if not self._is_closed:
            self._marks.append((what, self._clock.now()))

    @contextmanager
    def only(self, what: str, then: str) -> Iterator[None]:
        """All of it is `what`, whatever is marked inside; then begins `then`."""
        self.mark(what)
        was_closed, self._is_closed = self._is_closed, True
        try:
            yield
        finally:
            self._is_closed = was_closed
            self.mark(then)

    def take(self) -> dict[str, float]:
        """Milliseconds by name from the first mark to the last; begins anew."""
        marks, self._marks = self._marks, []
        found: dict[str, float] = defaultdict(float)
        for (what, start), (_, stop) in pairwise(marks):
            found[what] += self._clock.ms_between(start, stop)
        return dict(found)


# ---- the parts of a step --------------------------------------------------------------------------

READING, NOISE, EMBEDDING, GENERATOR = "reading", "noise and latents", "embedding", "generator"
DISCRIMINATOR, AUGMENTATION, R1 = "discriminator", "augmentation", "R1"
OPTIMISER, OTHER = "optimiser + EMA", "other"
PARTS = (READING, NOISE, EMBEDDING, GENERATOR, AUGMENTATION, DISCRIMINATOR, R1, OPTIMISER, OTHER)


@dataclass(frozen=True)
class MarkedStage:
    """A stage that marks where its augmentations begin."""

    stage: Stage
    timeline: Timeline

    def __getattr__(self, name: str) -> Any:
        """All else is the stage's own."""
        return getattr(self.stage, name)

    def present(self, *args: Any, **options: Any) -> Clips:
        self.timeline.mark(AUGMENTATION)
        return self.stage.present(*args, **options)

    def generate(self, *args: Any, **options: Any) -> Clips:
        """Before the generator's forward pass, which has marks of its own: noise, or the clips' corruption."""
        self.timeline.mark(AUGMENTATION if self.stage.generates_from_clips else NOISE)
        return self.stage.generate(*args, **options)

    def judge(self, *args: Any, **options: Any) -> Tensor:
        self.timeline.mark(AUGMENTATION)
        return self.stage.judge(*args, **options)


class MarkedUpdates(Updates):
    """The updates of a run, which mark what they begin."""

    timeline: Timeline

    def take_step(self) -> None:
        self.timeline.mark(OTHER)
        super().take_step()
        self.timeline.mark(OTHER)

    def update_by_penalty(self, step: int) -> Tensor:
        with self.timeline.only(R1, then=OTHER):
            return super().update_by_penalty(step)

    def average_generator(self, step: int) -> None:
        with self.timeline.only(OPTIMISER, then=OTHER):
            super().average_generator(step)

    def batch_of(self, stream: str, number: int) -> DeviceBatch:
        with self.timeline.only(READING, then=OTHER):
            return super().batch_of(stream, number)


@contextmanager
def marked_networks(state: TrainingState, timeline: Timeline) -> Iterator[None]:
    """Marks passes of both networks, forward and backward, and what the optimisers do.

    backward    logits -> discriminator -> its inputs -> augmentation -> generated videos -> generator -> gradients
    """
    generator, discriminator, mark = state.generator, state.discriminator, timeline.mark

    def enter_discriminator(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        mark(DISCRIMINATOR)
        wanted = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
        if wanted:
            register_multi_grad_hook(wanted, lambda _: mark(AUGMENTATION))

    def leave(backward: str, then: str) -> Callable[..., None]:
        def left(_: nn.Module, __: Any, output: Tensor) -> None:
            mark(then)
            if output.requires_grad:
                output.register_hook(lambda _: mark(backward))

        return left

    def average_gradients(*args: Any) -> None:
        mark(OPTIMISER)
        unmarked(*args)

    unmarked = updating.average_gradients
    is_lowres = isinstance(generator, LowresGenerator)
    handles: list[RemovableHandle] = [
        generator.register_forward_pre_hook(lambda *_: mark(EMBEDDING if is_lowres else GENERATOR)),
        generator.register_forward_hook(leave(GENERATOR, AUGMENTATION)),
        discriminator.register_forward_pre_hook(enter_discriminator),
        discriminator.register_forward_hook(leave(DISCRIMINATOR, OTHER)),
        state.generator_adam.register_step_post_hook(lambda *_: mark(OTHER)),
        state.discriminator_adam.register_step_post_hook(lambda *_: mark(OTHER)),
    ]
    if is_lowres:
        mapping = generator.get_submodule("latent_mapping")
        handles.append(mapping.register_forward_pre_hook(lambda *_: mark(GENERATOR)))
    try:
        with patch.object(updating, "average_gradients", average_gradients):
            yield
    finally:
        for handle in handles:
            handle.remove()
