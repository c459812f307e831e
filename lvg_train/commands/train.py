"""What the commands of both stages share: their options, and what a run says at its end."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from lvg_train.loop import End

#: exit status after Ctrl-C, as shells use it
INTERRUPTED = 130

_OPTIONS = (
    click.option("--data", required=True, metavar="DATASET", help="Dataset of lvg-data: a folder or an address."),
    click.option(
        "--out", required=True, type=click.Path(file_okay=False, path_type=Path), metavar="RUN",
        help="Folder of the run. Where there is a run already, it goes on.",
    ),
    click.option(
        "--preset", default="paper", show_default=True, metavar="NAME",
        help="`paper`, or `tiny`: small enough for a CPU, to see that all is well.",
    ),
    click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE",
        help="Change a field of the configuration, e.g. batch=16 or r1.gamma=0.5; may be repeated.",
    ),
    click.option("--steps", type=click.IntRange(1), help="Training iterations in all: --set steps=N."),
    click.option(
        "--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]),
        help="auto: the GPU where there is one.",
    ),
    click.option(
        "--dry-run", is_flag=True,
        help="Show configuration, parameters and estimated memory, run one batch, and write nothing.",
    ),
)  # fmt: skip

_ENDS = f"""
    Stop it with Ctrl-C or SIGTERM: it saves after the current step. The same command goes on where it was.

    \b
    Exit status:
      0    all steps are done, or SIGTERM stopped it and it has saved
      {INTERRUPTED}  Ctrl-C stopped it and it has saved; a second Ctrl-C stops it at once, without
      1    it cannot go on, and has said why: data, configuration, divergence, memory, a full disk
      2    an option is unknown or impossible

    \b
    In RUN: config.json, log.jsonl, curves.png, samples/ beside clips of the data, checkpoints/.
    """


def with_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options that both stages have."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def run_stage(
    stage: str,
    data: str,
    out: Path,
    preset: str,
    overrides: tuple[str, ...],
    steps: int | None,
    device: str,
    dry_run: bool,
) -> None:
    """Trains one stage in this process, and ends it where training was interrupted.

    Raises:
      TrainError: see `loop.train`.
    """
    from lvg_data.reach import check_answers
    from lvg_data.reader import open_dataset
    from lvg_data.store import is_local, local_path
    from lvg_train import config as configs
    from lvg_train.dist import connect
    from lvg_train.dry_run import rehearse
    from lvg_train.loop import train

    overrides += () if steps is None else (f"steps={steps}",)
    data = str(local_path(data).resolve()) if is_local(data) else data  # found again from any folder
    check_answers(data)
    dataset = open_dataset(data)
    config = configs.resolve(stage, data, configs.dataset_facts(dataset), preset, overrides)
    if config.frame_cache:
        dataset = open_dataset(
            data, frame_cache=config.frame_cache, frame_cache_bytes=config.frame_cache_bytes
        )
    with connect(device) as world:
        if dry_run:
            rehearse(config, world, dataset)
            return
        end = train(config, out, world, dataset)
        if world.is_main:
            click.echo(told_end(end, f"{out}" if stage == "lowres" else f"LOWRES_RUN {out}"))
    if end.signal is signal.SIGINT:
        sys.exit(INTERRUPTED)


def told_end(end: End, models: str) -> str:
    """What a run says last; `models`: what `lvg-train sample` makes a video with."""
    if end.is_stopped:
        return f"stopped and saved after step {end.step}; to go on: {command_line()}"
    movie = f"`lvg-train sample {models} --out movie.mp4` makes a video"
    if end.step > end.first_step:
        return f"done: {end.step} steps; {movie}"
    more = end.step + max(end.step // 2, 1)
    return f"nothing to do: the run has {end.step} steps already; --steps {more} would go on; {movie}"


def command_line() -> str:
    """What this process was started with."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def make_command(stage: str, text: str) -> click.Command:
    """The command of a stage; `text` is its help, but for how it ends."""

    @click.command(stage, help=text + _ENDS, context_settings={"help_option_names": ["-h", "--help"]})
    @with_options
    def command(**options: Any) -> None:
        run_stage(stage, **options)

    return command
