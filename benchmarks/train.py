"""How fast training and sampling are, and where the time of a step goes.

    python -m benchmarks.train [--data DATASET] [--preset paper|tiny] [--device cuda|cpu] [--steps N] [--quick]
    python -m benchmarks.train --dataset-only          makes the dataset, for a machine that cannot; prints its path

One run of each stage. Precision policies take its steps in turn, in blocks, so that a busy spell hits both alike:

    block of 4 steps   reference  fast  reference  fast ...       the first of each is not counted
    a block's steps    with R1, without, without, without         a step = without + (with - without) / 16

Times are the device's own on CUDA, by events, and the clock's on the CPU. Of the rows:

    parts               marks between them in a real step; forward and backward; R1 is its update, 1/16 of it a step
    loader wait share   of steps that follow each other without a turn, after those that were read ahead
    FLOPs               `torch.utils.flop_counter` on real steps: convolutions and matrix products as they run, those
                        of filters included; the embedding's FFT is added, by `lvg_train.describe`
    share of rate       FLOPs a second of the whole step, over what a large matrix product reaches in the same
                        process: bfloat16 for `fast` on CUDA, else float32 without TF32
    floors              of the release's networks: FLOPs a window that were counted on them, at the rate measured here

Networks are at their start, and adaptive augmentation is at half its maximum, as at p = 0 it does nothing. On the CPU
both policies are one, and the tiny preset says little about the paper's run: what it shows is that all this works.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import build, own_memory
from benchmarks.table import Row, compared, print_rows, with_load, write_rows
from benchmarks.train_marks import (
    PARTS,
    R1,
    Clock,
    CpuClock,
    MarkedStage,
    MarkedUpdates,
    Timeline,
    clock_of,
    marked_networks,
    seconds_of,
)  # fmt: skip
from lvg_data.reader import Dataset, open_dataset
from lvg_train import config as configs
from lvg_train.config import LowresConfig, SuperresConfig, TrainConfig
from lvg_train.data import Data
from lvg_train.describe import embedding_part
from lvg_train.dist import World, choose_device, set_precision
from lvg_train.dry_run import estimate_memory
from lvg_train.networks.lowres_generator import LowresGenerator
from lvg_train.networks.superres_generator import SuperresGenerator
from lvg_train.sample import Sampler, Take, film
from lvg_train.stages import Stage, stage_of
from lvg_train.state import TrainingState, start_state
from lvg_train.stats import Counter
from lvg_train.updates import Updates

CACHE = Path(tempfile.gettempdir()) / "lvg-benchmarks"
GIB, TERA = 2**30, 1e12
#: FLOPs of a step for each window, counted on the release's networks at 36x64 and 144x256
RELEASE_FLOPS = {"lowres": 384e12 / 64, "superres": 186e12 / 32}
RELEASE_SIZES = ((36, 64), (144, 256))
#: steps between two R1 updates in training; here a block is as long as that
R1_EVERY = 16
#: batches that are read before they are asked for, by the reader and by the upload
READ_AHEAD = 3
#: what an estimate in float32 leaves out, and room for the allocator
MEMORY_MARGIN, MEMORY_SHARE = 1.4, 0.9


# ---- the dataset ----------------------------------------------------------------------------------

#: few enough to be carried to another machine (wide: 45 MB), with more than 64 windows of 128 frames at 24 a second
NUM_CLIPS, CLIP_SECONDS = 4, 6.2
SIZES = {"wide": RELEASE_SIZES, "square": ((64, 64), (256, 256))}
#: drop nothing: the clips only have to be many
KEEP = {"max_black_share": 1.0, "max_frozen_share": 1.0, "max_bar_share": 1.0, "max_overlay_share": 1.0}


def make_dataset(cache: Path, footage: Path | None, size: str) -> Path:
    """A dataset of overlapping stretches of one video, at sizes of `SIZES`."""
    from benchmarks.inputs import base_video  # needs av, which a machine with a GPU may lack

    out = cache / f"train-{size}-{footage.name if footage else 'ride'}"
    if (out / "dataset.json").exists():
        return out
    cache.mkdir(parents=True, exist_ok=True)
    video = base_video(cache, footage)
    starts = [0.1 + 8.0 * number for number in range(NUM_CLIPS)]
    intervals = [[f"{start:.2f}", f"{start + CLIP_SECONDS:.2f}"] for start in starts]
    source = {"kind": "files", "path": str(video), "intervals": {video.name: intervals}}
    low, high = ({"height": height, "width": width} for height, width in SIZES[size])
    card = cache / f"train-{size}.yaml"
    named = {"name": "train", "licence": "CC0-1.0", "attribution": "made here"}
    fields = {**named, "sources": [source], "trim": KEEP, "low": low, "high": high}
    card.write_text(json.dumps(fields), encoding="utf-8")
    build(card, out)
    shutil.rmtree(out / ".work")  # what building needs again, and reading does not
    return out


# ---- a run that is measured -----------------------------------------------------------------------


@dataclass
class Trial:
    """One run of a stage, whose steps are taken by any policy.

    Attributes:
      block_steps: steps between two R1 updates here.
      updates, eager: by policy, as the configuration says and never compiled, where marks and counts see all; they
        share the state and the streams of windows.
    """

    config: TrainConfig
    world: World
    data: Data
    state: TrainingState
    block_steps: int
    updates: dict[str, Updates] = field(init=False)
    eager: dict[str, Updates] = field(init=False)
    timeline: Timeline = field(init=False)

    def __post_init__(self) -> None:
        self.timeline = Timeline(clock_of(self.world.device))
        streams: dict[str, Any] = {}
        configs_of = {
            p: self.config.model_copy(update={"precision": p}) for p in policies_of(self.world.device)
        }
        self.eager = {
            p: self._open_updates(c.model_copy(update={"compile": False}), streams)
            for p, c in configs_of.items()
        }
        self.updates = self.eager
        if self.config.compile:
            self.updates = {p: self._open_updates(c, streams) for p, c in configs_of.items()}

    def _open_updates(self, config: TrainConfig, streams: dict[str, Any]) -> Updates:
        stage = cast(Stage, MarkedStage(stage_of(config), self.timeline))
        made = MarkedUpdates(config, stage, self.state, self.data, self.world, Counter())
        made.timeline, made.streams = self.timeline, streams
        return made

    def take_steps(self, updates: Updates) -> Iterator[None]:
        """A block of steps, the first of them with an R1 update."""
        assert self.state.step % self.block_steps == 0
        set_precision(updates.config.precision, self.world.device)
        for _ in range(self.block_steps):
            updates.take_step()
            yield

    def take_blocks(self, updates: Updates, number: int = 1) -> None:
        for _ in range(number):
            for _ in self.take_steps(updates):
                pass

    def time_block(self, updates: Updates, clocks: Mapping[str, Clock]) -> dict[str, list[float]]:
        """Milliseconds of each step of a block, by clock."""
        moments = {name: [clock.now()] for name, clock in clocks.items()}
        for _ in self.take_steps(updates):
            for name, clock in clocks.items():
                moments[name].append(clock.now())
        self.timeline.take()
        return {
            name: [clock.ms_between(*pair) for pair in pairwise(moments[name])]
            for name, clock in clocks.items()
        }


def policies_of(device: torch.device) -> tuple[str, ...]:
    """On the CPU there is one."""
    return ("reference", "fast") if device.type == "cuda" else ("reference",)


def open_trial(config: TrainConfig, world: World, dataset: Dataset, opened: ExitStack) -> Trial:
    stage = stage_of(config)
    data = opened.enter_context(
        Data(
            dataset,
            stage.view,
            config.batch,
            config.seed,
            device=world.device,
            flip=config.flip,
            access=config.access,
            workers=config.workers,
        )
    )
    state = start_state(config, stage.specs(config.dataset), world.device)
    if isinstance(config, SuperresConfig) and config.ada is not None:
        state.augment.probability = config.ada.maximum / 2
    return Trial(config, world, data, state, config.r1.every)


def resolve(stage: str, dataset: Dataset, world: World, args: argparse.Namespace) -> TrainConfig:
    """The preset, with R1 once a block and as many rounds as memory asks for."""
    facts = configs.dataset_facts(dataset)
    batch = [] if args.batch is None else [f"batch={args.batch}"]
    chosen = [f"r1.every={args.steps}", *batch, *args.overrides]
    config = configs.resolve(stage, dataset.address, facts, args.preset, chosen)
    if world.device.type != "cuda" or any(text.startswith("rounds=") for text in args.overrides):
        return config
    return fit_rounds(config, world, torch.cuda.get_device_properties(world.device).total_memory)


def fit_rounds(config: TrainConfig, world: World, memory_bytes: int) -> TrainConfig:
    """The fewest rounds whose estimate, in float32, leaves room."""
    for rounds in (n for n in range(1, config.batch + 1) if config.batch % n == 0):
        fitted = config.model_copy(update={"rounds": rounds})
        estimate = estimate_memory(fitted, world)
        if estimate.state_bytes + MEMORY_MARGIN * estimate.activation_bytes < MEMORY_SHARE * memory_bytes:
            break
    return fitted


# ---- rows of a stage ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What was measured of one policy.

    Attributes:
      step_ms, cpu_ms, flops: of a step, with its share of the R1 update; in the device's time, and the CPU time of
        all threads of this process, which a busy machine changes less.
      peak_bytes: on CUDA of tensors, on the CPU of the process.
      parts: milliseconds of a step by part.
    """

    step_ms: float
    cpu_ms: float
    flops: float
    peak_bytes: int
    parts: Mapping[str, float]


def measure_stage(trial: Trial, num_blocks: int) -> dict[str, Found]:
    """Blocks of each policy in turn, then its parts."""
    flops = {policy: count_flops(trial, updates) for policy, updates in trial.eager.items()}
    clocks = {"device": clock_of(trial.world.device), "cpu": CpuClock(time.process_time)}
    blocks: dict[str, list[dict[str, list[float]]]] = {policy: [] for policy in trial.updates}
    peaks = dict.fromkeys(trial.updates, 0)
    if trial.config.compile:
        for updates in trial.updates.values():
            trial.take_blocks(updates)
    for _ in range(num_blocks):
        for policy in trial.updates:
            reset_peak(trial.world.device)
            blocks[policy].append(trial.time_block(trial.updates[policy], clocks))
            peaks[policy] = max(peaks[policy], peak_bytes(trial.world.device))
    parts = {policy: measure_parts(trial, updates) for policy, updates in trial.eager.items()}
    found = {}
    for policy, taken in blocks.items():
        step_ms, cpu_ms = (mean_step([block[name] for block in taken]) for name in clocks)
        found[policy] = Found(step_ms, cpu_ms, flops[policy], peaks[policy], parts[policy])
    return found


def mean_step(blocks: Sequence[Sequence[float]]) -> float:
    """A step with its share of the R1 update, of blocks whose first step has one; medians.

    [[50, 18, 18]] -> 18 + (50 - 18) / 16 = 20
    """
    plain = statistics.median(step for block in blocks for step in block[1:])
    return plain + (statistics.median(block[0] for block in blocks) - plain) / R1_EVERY


def count_flops(trial: Trial, updates: Updates) -> float:
    """FLOPs of a step, of a block that also warms up."""
    found, counter = [], FlopCounterMode(display=False)
    with counter:
        for _ in trial.take_steps(updates):
            found.append(counter.get_total_flops())
    trial.timeline.take()
    steps = [after - before for before, after in pairwise([0, *found])]
    return mean_step([steps]) + 2 * trial.config.batch * embedding_flops(trial)


def embedding_flops(trial: Trial) -> float:
    """For a video, by FFT; a step makes two for each window."""
    if not isinstance(trial.config, LowresConfig):
        return 0.0
    assert isinstance(trial.state.generator, LowresGenerator)
    num_frames = trial.config.num_frames + trial.config.shift_frames
    return embedding_part(trial.state.generator, num_frames).flops


def measure_parts(trial: Trial, updates: Updates) -> dict[str, float]:
    """Milliseconds of a step by part."""
    with marked_networks(trial.state, trial.timeline):
        trial.timeline.take()
        trial.take_blocks(updates)
        found = trial.timeline.take()
    times = {part: found.get(part, 0.0) / trial.block_steps for part in PARTS}
    return times | {R1: found.get(R1, 0.0) / R1_EVERY}


def measure_wait(trial: Trial, updates: Updates, num_blocks: int) -> float:
    """The share of the time in which steps wait for windows, in per cent."""
    trial.take_blocks(updates, -(-READ_AHEAD // trial.block_steps))
    waited_s = trial.data.waited_s
    seconds = seconds_of(trial.world.device, lambda: trial.take_blocks(updates, num_blocks))
    trial.timeline.take()
    return 100 * (trial.data.waited_s - waited_s) / seconds


def reset_peak(device: torch.device) -> None:
    """What `peak_bytes` counts begins anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else own_memory()["rss"]


def stage_rows(trial: Trial, rates: Mapping[str, float], num_blocks: int) -> list[Row]:
    found = measure_stage(trial, num_blocks)
    config, stage = trial.config, trial.config.stage  # type: ignore[attr-defined]
    rows = [Row(f"{stage}: {told_config(config)}", config.batch, "windows a step")]
    base = Row(f"{stage} reference: speed", 1000 / found["reference"].step_ms, "steps/s")
    for policy, one in found.items():
        name = f"{stage} {policy}"
        rows.append(
            base if policy == "reference" else compared(f"{name}: speed", 1000 / one.step_ms, "steps/s", base)
        )
        step = Row(f"{name}: a step", one.step_ms, "ms")
        rows += [step, Row(f"{name}: a step, CPU time of the process", one.cpu_ms, "CPU-ms")]
        rows += [Row(f"{name}: peak memory", one.peak_bytes / GIB, "GiB"), *part_rows(name, one.parts)]
        rows += rate_rows(name, one, step, config, rates[policy])
    policy, updates = [*trial.updates.items()][-1]
    wait = measure_wait(trial, updates, num_blocks)
    return [*rows, Row(f"{stage} {policy}: loader wait share", wait, "%")]


def told_config(config: TrainConfig) -> str:
    (low_height, low_width), (height, width) = config.dataset.low_size, config.dataset.high_size
    size = f"{low_height}x{low_width}"
    size = size if isinstance(config, LowresConfig) else f"{size} to {height}x{width}"
    widths = f"width {config.channel_scale:.4g}"
    if config.discriminator_scale is not None:
        widths += f", discriminator {config.discriminator_scale:.4g}"
    return f"{config.num_frames} frames of {size}, {widths}, batch in {config.rounds} rounds"


def part_rows(name: str, parts: Mapping[str, float]) -> list[Row]:
    """The ratio is the share of all parts."""
    whole = Row(f"{name}: all parts", sum(parts.values()), "ms")
    return [whole, *(compared(f"{name}: {part}", ms, "ms", whole) for part, ms in parts.items() if ms)]


def rate_rows(name: str, found: Found, step: Row, config: TrainConfig, rate: float) -> list[Row]:
    """FLOPs, their share of the rate, and the floors: times that a step cannot be under at this rate."""
    share = 100 * found.flops / (found.step_ms / 1000 * rate)
    floors = {"these networks": found.flops}
    if is_release(config):
        floors["the release's"] = RELEASE_FLOPS[config.stage] * config.batch  # type: ignore[attr-defined]
    return [
        Row(f"{name}: work", found.flops / TERA, "TFLOP/step"),
        Row(f"{name}: share of the matmul rate", share, "%"),
        *(
            compared(f"{name}: floor, {whose}", flops / rate * 1000, "ms", step)
            for whose, flops in floors.items()
        ),
    ]


def is_release(config: TrainConfig) -> bool:
    """Whether the floors of the release's networks are for such a run."""
    sizes = (config.dataset.low_size, config.dataset.high_size)
    widths = {config.channel_scale, config.discriminator_scale or config.channel_scale}
    num_frames = type(config).model_fields["num_frames"].default
    return sizes == RELEASE_SIZES and widths == {1} and config.num_frames == num_frames


def matmul_rate(device: torch.device, policy: str, edge: int) -> float:
    """FLOPs a second of a square matrix product, the fastest of five times."""
    dtype = torch.bfloat16 if policy == "fast" and device.type == "cuda" else torch.float32
    torch.set_float32_matmul_precision("highest")
    a, b = (torch.randn(edge, edge, dtype=dtype, device=device) for _ in range(2))
    a @ b
    return 2 * edge**3 / min(seconds_of(device, lambda: a @ b) for _ in range(5))


# ---- sampling -------------------------------------------------------------------------------------


def sampling_rows(
    networks: Mapping[str, nn.Module], world: World, rate: Fraction, num_frames: int, rounds: int
) -> list[Row]:
    """Frames a second over the dataset's, of one video, frames as uint8 on the CPU."""
    low, high = (networks[stage].requires_grad_(False) for stage in ("lowres", "superres"))
    assert isinstance(low, LowresGenerator)
    assert isinstance(high, SuperresGenerator)
    rows: list[Row] = []
    for show, frames in (("low", 4 * num_frames), ("high", num_frames)):
        found: dict[str, list[float]] = defaultdict(list)
        for number in range(rounds + 1):
            for policy in policies_of(world.device):
                seconds = film_seconds(Sampler(low, high, policy), world, policy, show, frames)
                found[policy] += [seconds] if number else []  # the first round warms up
        rows += [
            Row(
                f"sampling {policy}: {show}", frames / statistics.median(seconds) / float(rate), "x real time"
            )
            for policy, seconds in found.items()
        ]
    return rows


def film_seconds(sampler: Sampler, world: World, policy: str, show: str, num_frames: int) -> float:
    set_precision(policy, world.device)
    start = time.perf_counter()
    for _ in film(sampler, Take((0,), num_frames), show):
        pass
    return time.perf_counter() - start


# ---- the program ----------------------------------------------------------------------------------


def profile(trial: Trial) -> None:
    """Prints the operators that take the most time in a block, of the last policy."""
    from torch.profiler import ProfilerActivity

    is_cuda = trial.world.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    updates = [*trial.updates.values()][-1]
    with torch.profiler.profile(activities=activities, record_shapes=True) as profiled:
        trial.take_blocks(updates)
    order = f"self_{'cuda' if is_cuda else 'cpu'}_time_total"
    for table in (profiled.key_averages(), profiled.key_averages(group_by_input_shape=True)):
        print(table.table(sort_by=order, row_limit=25, max_name_column_width=60, max_shapes_column_width=120))


def measure(dataset: Dataset, world: World, args: argparse.Namespace) -> Iterator[tuple[str, list[Row]]]:
    """Rows by title, as they are found."""
    rates = {
        policy: matmul_rate(world.device, policy, args.matmul_edge) for policy in policies_of(world.device)
    }
    matmuls = [Row(f"matmul rate, {policy}", rate / TERA, "TFLOP/s") for policy, rate in rates.items()]
    yield "machine", [machine_row(world), *matmuls]
    networks: dict[str, nn.Module] = {}
    for stage in args.stages or configs.STAGES:
        with ExitStack() as opened:
            trial = open_trial(resolve(stage, dataset, world, args), world, dataset, opened)
            yield stage, stage_rows(trial, rates, args.blocks)
            if args.profile:
                profile(trial)
            networks[stage] = trial.state.generator_ema
    if len(networks) == len(configs.STAGES):
        rate = Fraction(configs.dataset_facts(dataset).frame_rate)
        yield "sampling", sampling_rows(networks, world, rate, args.sample_frames, args.blocks)


def machine_row(world: World) -> Row:
    if world.device.type == "cuda":
        properties = torch.cuda.get_device_properties(world.device)
        return Row(f"on {properties.name}, torch {torch.__version__}", properties.total_memory / GIB, "GiB")
    case = f"on the CPU, torch {torch.__version__}; the policies are one here: float32"
    return Row(case, torch.get_num_threads(), "threads")


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a dataset of lvg-data; without it one is made in --cache")
    parser.add_argument("--size", choices=SIZES, default="wide", help="of the one that is made (%(default)s)")
    parser.add_argument("--dataset-only", action="store_true", help="make it, print where it is, and end")
    parser.add_argument(
        "--footage", type=Path, help="folder with a video for it; without it a ride is generated"
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="where inputs are kept (%(default)s)")
    parser.add_argument("--device", choices=("cuda", "cpu", "auto"), default="auto")
    parser.add_argument("--preset", choices=configs.PRESETS, help="paper on CUDA, tiny on the CPU")
    parser.add_argument("--stage", dest="stages", action="append", choices=configs.STAGES,
                        help="only this one, without sampling")  # fmt: skip
    parser.add_argument("--batch", type=int, help="windows a step, in place of the preset's")
    parser.add_argument("--steps", type=int, help="of a block, at least 2; the first has an R1 update")
    parser.add_argument("--blocks", type=int, help="that count, of each policy")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
                        help="a field of the configuration, e.g. rounds=8; may be repeated")  # fmt: skip
    parser.add_argument("--profile", action="store_true", help="print the operators that take the most time")
    parser.add_argument("--quick", action="store_true", help="less of everything: does it run, roughly what")
    args = parser.parse_args(words)
    if args.steps is not None and args.steps < 2:
        parser.error(f"--steps must be at least 2, one with an R1 update and one without; got {args.steps}")
    return args


def fit_to_device(args: argparse.Namespace, device: torch.device) -> None:
    """Sizes that follow from the device."""
    is_cuda = device.type == "cuda"
    args.preset = args.preset or ("paper" if is_cuda else "tiny")
    args.steps = args.steps or (4 if is_cuda and not args.quick else 2)
    args.blocks = args.blocks or (1 if args.quick else 3 if is_cuda else 2)
    args.matmul_edge = 8192 if is_cuda else 1536
    args.sample_frames = (32 if args.quick else 128) if is_cuda else 8


def main() -> None:
    args = parse_arguments()
    data = args.data or make_dataset(args.cache, args.footage, args.size)
    if args.dataset_only:
        print(data)
        return
    world = World(device=choose_device(args.device))
    fit_to_device(args, world.device)
    rows: list[Row] = []
    for title, found in measure(open_dataset(data), world, args):
        print_rows(title, found)
        rows += found
    write_rows("train", with_load(rows))


if __name__ == "__main__":
    main()
