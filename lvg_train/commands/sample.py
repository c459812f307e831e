"""`lvg-train sample`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import click

from lvg_train.commands.common import FRAME_RATE, SEEDS, device_option, precision_option, progress_bar


@click.command("sample")
@click.argument(
    "models", nargs=-1, required=True, metavar="RUN_OR_FILE [RUN_OR_FILE]", type=click.Path(path_type=Path)
)
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The movie: .mp4, .webp (animated; no av needed) or .png (a strip of 8 frames, evenly "
    "spaced; only they are made).",
)
@click.option(
    "--frames",
    "num_frames",
    default=300,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="How many frames. Memory does not grow with them in an .mp4.",
)
@click.option(
    "--start-frame",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="T",
    help="Begin at this frame of the endless video.",
)
@click.option(
    "--seed",
    "--seeds",
    "seeds",
    multiple=True,
    type=SEEDS,
    default=("0",),
    show_default=True,
    metavar="SEEDS",
    help="Which video: a number, a range 0-8 (both ends included) or a list 0,3,7. Repeatable. "
    "Several go to a grid; a .png has their numbers in it.",
)
@click.option(
    "--show",
    type=click.Choice(["low", "high", "both"]),
    help="What the movie shows; both: side by side. Default: the highest resolution there is.",
)
@click.option(
    "--fps",
    type=FRAME_RATE,
    metavar="RATE",
    help="Frames per second, e.g. 25 or 30000/1001. Default: that of the data the models were trained on, "
    "or 30.",
)
@click.option(
    "--chunk-frames",
    default=128,
    show_default=True,
    type=click.IntRange(min=32),
    metavar="N",
    help="Low-res frames made at a time, a multiple of 32.",
)
@click.option(
    "--high-chunk-frames",
    default=8,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="High-res frames made at a time. Fewer take less memory; the video stays the same.",
)
@precision_option
@device_option
def command(
    models: Sequence[Path],
    out: Path,
    num_frames: int,
    start_frame: int,
    seeds: Sequence[Sequence[int]],
    show: str | None,
    fps: Fraction | None,
    chunk_frames: int,
    high_chunk_frames: int,
    precision: str,
    device: str,
) -> None:
    """Makes a video of any length with the generator of a run or of a model file.

    One RUN_OR_FILE: a low-res one, for a low-res video. Two, in either order: the low-res video is made and
    enlarged by the super-res one as it comes. Of a run the newest checkpoint is used. A seed is one endless video:
    the same frames come whatever you start at, however many you ask for, and in chunks of any size.

    \b
    Examples:
      lvg-train sample runs/low --out low.mp4
      lvg-train sample runs/low runs/high --frames 900 --seed 7 --out ride.mp4
      lvg-train sample runs/low runs/high --frames 300 --start-frame 100000 --out later.mp4
      lvg-train sample runs/low runs/high --seeds 0-8 --show both --out grid.mp4
      lvg-train sample low.safetensors --frames 150 --out low.webp
    """  # fmt: skip
    from lvg_train.dist import choose_device, set_precision
    from lvg_train.sample import (
        Take,
        build_sampler,
        choose_show,
        frame_rate_of,
        load_model,
        make_movie,
        num_shown,
    )

    if len(models) > 2:
        raise click.UsageError(f"give one or two runs or model files, not {len(models)}")
    if chunk_frames % 32:
        raise click.BadParameter(f"{chunk_frames} is not a multiple of 32", param_hint="--chunk-frames")
    chosen = choose_device(device)
    set_precision(precision, chosen)
    loaded = [load_model(path, chosen) for path in models]
    sampler = build_sampler(loaded, precision, chunk_frames, high_chunk_frames)
    show = choose_show(show, sampler)
    rate = fps or frame_rate_of(loaded)
    take = Take(tuple(seed for group in seeds for seed in group), num_frames, start_frame)

    started = time.monotonic()
    num_made = num_shown(out, num_frames)
    with progress_bar("sampling", num_made, "frames") as report:
        height, width = make_movie(out, sampler, take, show, rate, report)
    seconds = time.monotonic() - started
    if num_made < num_frames:
        click.echo(
            f"wrote {out}: {num_made} of {num_frames:,} frames of {height}x{width}, evenly spaced over "
            f"{float(num_frames / rate):.1f} s; only they were made, in {seconds:.1f} s"
        )
        return
    speed = num_frames / seconds
    click.echo(
        f"wrote {out}: {num_frames:,} frames of {height}x{width} at {float(rate):g} frames/s "
        f"({float(num_frames / rate):.1f} s), made at {speed:.1f} frames/s, {speed / float(rate):.2g} times real time"
    )
