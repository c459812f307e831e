"""`lvg-train describe`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lvg_train.commands.common import SIZE

if TYPE_CHECKING:
    from rich.table import Table

    from lvg_train.describe import Summary

PRESET, LOW_SIZE, HIGH_SIZE = "paper", (36, 64), (144, 256)


@click.command("describe")
@click.argument(
    "model",
    required=False,
    type=click.Path(path_type=Path),
    metavar="[RUN_OR_FILE]",
)
@click.option("--preset", metavar="NAME", help=f"paper or tiny.  [default: {PRESET}]")
@click.option("--low-size", type=SIZE, help="Height and width of low-res frames.  [default: 36x64]")
@click.option("--high-size", type=SIZE, help="Height and width of high-res frames.  [default: 144x256]")
def command(
    model: Path | None,
    preset: str | None,
    low_size: tuple[int, int] | None,
    high_size: tuple[int, int] | None,
) -> None:
    """Shows the networks part by part: what they give, parameters, work.

    Those of a preset; or those of a run's newest checkpoint; or those of a model file, of a checkpoint or of
    `lvg-train convert`. Nothing is trained or loaded; networks are built without memory. Generators make as many
    frames as in the paper's training.

    \b
    Examples:
      lvg-train describe --preset tiny --low-size 64x64 --high-size 256x256
      lvg-train describe runs/low
    """
    from rich.console import Console

    from lvg_train.checkpoint import find_model
    from lvg_train.describe import summarise_file, summarise_preset

    if model and (preset or low_size or high_size):
        raise click.UsageError("a run or a file says its sizes itself; leave out --preset and sizes")
    console = Console()
    if model:
        file = find_model(model)
        console.print(f"Networks of {file}", highlight=False, markup=False, soft_wrap=True)
        summaries = summarise_file(file)
    else:
        summaries = summarise_preset(preset or PRESET, low_size or LOW_SIZE, high_size or HIGH_SIZE)
    for summary in summaries:
        console.print(parts_table(summary))
    console.print(
        "GFLOP: convolutions and matrix products of one sample, forward, a multiply-add as 2; activations and "
        "stage 1's resampling filters are not counted.",
        highlight=False,
    )


def parts_table(summary: Summary) -> Table:
    from rich.table import Table

    table = Table(title=summary.title, title_justify="left", show_footer=True, caption_justify="left")
    table.add_column("part", footer="sum", overflow="fold")
    table.add_column("gives", justify="right")
    table.add_column("parameters", f"{summary.parameters:,}", justify="right")
    table.add_column("GFLOP", gigaflops(summary.flops), justify="right")
    for part in summary.parts:
        shape = " x ".join(map(str, part.shape)) or "one number"
        table.add_row(part.name, shape, f"{part.parameters:,}", gigaflops(part.flops))
    if summary.direct_embedding_flops:
        table.caption = (
            f"the embedding by direct convolution: {gigaflops(summary.direct_embedding_flops)} GFLOP"
        )
    return table


def gigaflops(flops: float) -> str:
    """With three digits or more: 0.0123, 1.23, 1,234."""
    value = flops / 1e9
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
