"""The training loop, one for both stages: when what is done.

    train     opens the run, goes on where it is, and then for each step
                1. takes the step            updates.py
                2. saves                     every checkpoint_every, at the end, and where it is stopped
                3. reports                   every report_every
                4. shows samples             every sample_every
                5. draws curves              with each checkpoint and each samples

A run that is started again goes on from its newest whole checkpoint, bit for bit on the CPU. All processes of a run
must see its folder; the first one writes to it.
"""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import numpy as np
import torch

from lvg_data.reader import Dataset, open_dataset
from lvg_data.store import write_atomic
from lvg_train import checkpoint, pictures, stats
from lvg_train import config as configs
from lvg_train.config import TrainConfig
from lvg_train.data import Data
from lvg_train.dist import World, any_rank, set_precision, sum_over_ranks
from lvg_train.errors import TrainError
from lvg_train.metrics import colour_distance, motion_distance
from lvg_train.model_file import ModelFile
from lvg_train.stages import Clips, Dice, Stage, stage_of
from lvg_train.state import TrainingState, resume_state, start_state
from lvg_train.updates import DivergedError, Updates, check_shares, first_bad_tensor

#: what the best checkpoint is chosen by: samples against the clips beside them, in levels of 0 to 255
BEST_METRIC = "colour and motion distance"


def train(config: TrainConfig, run: Path, world: World, dataset: Dataset | None = None) -> End:
    """Trains to `config.steps`, from where the run is.

    Args:
      dataset: the one of the configuration, where it is open already.

    Raises:
      TrainError: the run, the dataset or the numbers are not fit to go on; the text says what to do.
      DatasetError: a shard is damaged.
    """
    with ExitStack() as opened:
        job = open_job(config, run, world, dataset, opened)
        signals = opened.enter_context(Signals())
        first_step = job.state.step
        while job.state.step < job.config.steps:
            job.take_step()
            is_stopped = any_rank(signals.received is not None)
            if job.is_due(job.config.checkpoint_every) or is_stopped:
                job.save()
            if job.is_due(job.config.report_every) or is_stopped:
                job.report()
            if job.is_due(job.config.sample_every):
                job.show_samples()
            if job.is_due(job.config.checkpoint_every) or job.is_due(job.config.sample_every) or is_stopped:
                job.draw_curves()
            if is_stopped and job.state.step < job.config.steps:
                return End(first_step, job.state.step, True, signals.received)
        if job.state.step > first_step:
            job.finish()
        job.draw_curves()
        return End(first_step, job.state.step)


@dataclass(frozen=True)
class End:
    """How one start of a run ended.

    Attributes:
      first_step, step: steps done before it and after it.
      is_stopped: it was asked to end early, and has saved.
      signal: that asked, if this process got it.
    """

    first_step: int
    step: int
    is_stopped: bool = False
    signal: signal.Signals | None = None


class Signals:
    """While it is entered, SIGTERM and the first SIGINT are only noted; the second SIGINT interrupts as usual."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)


# ---- opening a run


def open_job(config: TrainConfig, run: Path, world: World, dataset: Dataset | None, opened: ExitStack) -> Job:
    """Everything that a run needs, checked before anything is written; `opened` closes it again.

    Raises:
      TrainError: see `train`.
    """
    check_shares(config, world)
    stage = stage_of(config)
    opened.enter_context(checkpoint.lock_run(run) if world.is_main else nullcontext())
    any_rank(False)  # nobody looks at the run before it is locked
    config = as_started(config, run)
    share = len(world.share_of(config.batch))
    data = opened.enter_context(
        Data(
            dataset or open_dataset(config.data), stage.view, share, config.seed, world.rank, world.size,
            device=world.device, flip=config.flip, access=config.access, workers=config.workers,
            split=config.split,
        )
    )  # fmt: skip
    config = config.model_copy(update={"access": data.access})
    set_precision(config.precision, world.device)
    state = open_state(config, stage, run, world)
    log = None
    if world.is_main:
        # first, for it refuses what is not installed
        log = opened.enter_context(
            stats.Log(run, config.steps, state.step, config.also, configs.to_json(config))
        )
        write_atomic(str(run / "config.json"), json.dumps(configs.to_json(config), indent=1).encode())
    counter = stats.Counter()
    return Job(config, run, world, stage, state, Updates(config, stage, state, data, world, counter), log)


def as_started(config: TrainConfig, run: Path) -> TrainConfig:
    """The configuration to go on with in a run's folder.

    Raises:
      TrainError: the run was started with another one.
    """
    before = configs.read_config(run)
    if before is None:
        return config
    if config.access == "auto":
        config = config.model_copy(update={"access": before.access})
    configs.check_same_run(before, config, run)
    return config


def open_state(config: TrainConfig, stage: Stage, run: Path, world: World) -> TrainingState:
    """The state of a run's newest whole checkpoint; a new one where it has none."""
    specs = stage.specs(config.dataset)
    found = checkpoint.load_newest(run) if world.is_main else None
    any_rank(False)  # the first process removes what killed ones left, before the others look
    found = found or checkpoint.load_newest(run)
    if found is None:
        return start_state(config, specs, world.device)
    return resume_state(config, specs, found, world)


# ---- a run under way


@dataclass
class Job:
    """One run in this process. What is written is written by the first process alone.

    Attributes:
      waited_s: seconds that reading had cost up to the last report.
      clock: when that was, by `Updates.clock`.
      shown: clips of the data that samples are compared with, always the same.
    """

    config: TrainConfig
    run: Path
    world: World
    stage: Stage
    state: TrainingState
    updates: Updates
    log: stats.Log | None
    shown: list[Clips] = field(default_factory=list)
    waited_s: float = 0.0

    def is_due(self, every: int) -> bool:
        return self.state.step % every == 0

    def take_step(self) -> None:
        """One step.

        Raises:
          TrainError: the run has diverged, or memory is out.
        """
        try:
            self.updates.take_step()
        except DivergedError as err:
            raise TrainError(self.told_divergence(err)) from err
        except RuntimeError as err:
            if is_out_of_memory(err):
                raise TrainError(self.told_memory(err)) from err
            raise
        if self.log:
            self.log.progress(self.state.step)

    def report(self) -> None:
        """Means since the last report, over all processes."""
        values = self.updates.take_means(sum_over_ranks)
        if self.log:
            self.log.report(self.state.step, values)

    def show_samples(self) -> dict[str, np.ndarray]:
        """Samples of the averaged generator beside clips of the data; empty in all processes but the first."""
        if not self.world.is_main:
            return {}
        videos = self.exhibit()
        rate = Fraction(self.config.dataset.frame_rate)
        try:
            pictures.save_samples(self.run, self.state.step, videos, rate)
        except OSError as err:  # not worth a run; what matters fails at the next checkpoint
            self.say(f"no pictures of step {self.state.step}: {err}; training goes on")
        return videos

    def draw_curves(self) -> None:
        """RUN/curves.png, of all reports so far."""
        if not self.world.is_main:
            return
        try:
            stats.plot_curves(self.run)
        except OSError as err:
            self.say(f"no curves of step {self.state.step}: {err}; training goes on")

    def say(self, text: str) -> None:
        if self.log:
            self.log.say(text)

    def save(self) -> None:
        """A checkpoint, whether it is the best one, and room for the next.

        Raises:
          TrainError: a number of it is not finite, or the disk is full.
        """
        self.check_numbers()
        values = self.state.values()
        if not self.world.is_main:
            return
        step = self.state.step
        networks, spec = self.state.networks, self.state.specs
        description = ModelFile(
            {**spec, "generator_ema": spec["generator"]},
            {"frame_rate": self.config.dataset.frame_rate, "step": step, "data": self.config.data},
        )
        checkpoint.save_checkpoint(self.run, step, networks, description, self.state.tensors(), values)
        self.mark_if_best(step)
        checkpoint.prune(self.run, self.config.keep_checkpoints)

    def mark_if_best(self, step: int) -> None:
        distance = sample_distance(self.exhibit())
        best = checkpoint.read_best(self.run)
        if best is None or distance < best.value:
            checkpoint.mark_best(self.run, step, BEST_METRIC, distance)

    def finish(self) -> None:
        """What the end of a run leaves, where the last step has not left it: a report, a checkpoint, samples."""
        if not self.is_due(self.config.report_every):
            self.report()
        if not self.is_due(self.config.checkpoint_every):
            self.save()
        if not self.is_due(self.config.sample_every):
            self.show_samples()

    # ---- samples

    @torch.no_grad()
    def exhibit(self) -> dict[str, np.ndarray]:
        """uint8 [N, T, H, W, 3] by name: "data" and "samples", N being `num_samples`; always the same noise."""
        self.shown = self.shown or self.updates.read_clips("exhibit", self.config.num_samples)
        columns: dict[str, list[np.ndarray]] = {}
        first = 0
        for clips in self.shown:
            samples = range(first, first + len(clips.low))
            dice = Dice(self.config.seed, 0, "exhibit", samples, self.world.device)
            for name, videos in self.stage.exhibit(self.state.generator_ema, clips, dice).items():
                columns.setdefault(name, []).append(pictures.to_uint8(videos))
            first = samples.stop
        return {name: np.concatenate(videos) for name, videos in columns.items()}

    # ---- what can go wrong

    def check_numbers(self) -> None:
        """Whether losses and parameters are finite.

        Raises:
          TrainError: they are not.
        """
        try:
            self.updates.watch.check()
            bad = first_bad_tensor(self.state)
            if bad is not None:
                raise DivergedError(f"step {self.state.step - 1}: {bad} is not finite")
        except DivergedError as err:
            raise TrainError(self.told_divergence(err)) from err

    def told_divergence(self, err: DivergedError) -> str:
        bad = first_bad_tensor(self.state)
        tensor = (
            "all parameters are finite" if bad is None else f"the first tensor that is not finite is {bad}"
        )
        kept = sorted((self.run / "checkpoints").glob("step-*"))
        good = f"the last good checkpoint is {kept[-1]}" if kept else "no checkpoint had been saved"
        return (
            f"the run has diverged at {err}; {tensor}; {good}. The same command goes on from there; where it diverges "
            "again, start a new run with lower learning rates, a larger r1.gamma or --set precision=reference"
        )

    def told_memory(self, err: Exception) -> str:
        share, rounds = len(self.world.share_of(self.config.batch)), self.config.rounds
        first_line = str(err).splitlines()[0]
        return (
            f"{self.world.device} is out of memory at step {self.state.step}, with {share // rounds} windows at once "
            f"({first_line}); raise --set rounds={rounds * 2} first, which leaves what is learned as it is, or lower "
            "num_frames, channel_scale or batch"
        )


def sample_distance(videos: dict[str, np.ndarray]) -> float:
    """How far samples are from the data beside them, in levels: colours, and motion where there are two frames."""
    data, samples = videos["data"], videos["samples"]
    motion = motion_distance(data, samples) if data.shape[1] > 1 else 0.0
    return colour_distance(data, samples) + motion


def is_out_of_memory(err: RuntimeError) -> bool:
    """PyTorch has a type for it on GPUs, and only words on CPUs."""
    return isinstance(err, torch.OutOfMemoryError) or "can't allocate memory" in str(err)
