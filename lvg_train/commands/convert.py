"""`lvg-train convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lvg_train.commands.common import SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from lvg_train.convert import Conversion, Converted


@click.command("convert")
@click.argument(
    "release", metavar="RELEASE.pkl", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.argument("out", metavar="OUT.safetensors", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--size",
    type=SIZE,
    help="Of the frames, as 36x64: all of stage 1, or high-res ones of stage 2. Needed where the file does not say.",
)
@click.option("--low-size", type=SIZE, help="Of stage 2's low-res frames, where the file does not say.")
@click.option(
    "--frames",
    "num_frames",
    type=click.IntRange(min=1),
    metavar="T",
    help="Frames that stage 1's discriminator takes, where the file does not say: 128 in the paper.",
)
@click.option("--verbose", is_flag=True, help="Show what became of every tensor.")
def command(
    release: Path,
    out: Path,
    size: tuple[int, int] | None,
    low_size: tuple[int, int] | None,
    num_frames: int | None,
    verbose: bool,
) -> None:
    """Reads a checkpoint of the official LongVideoGAN release, without executing anything in it.

    A -G-ema.pkl becomes a file with the role generator_ema, a -train.pkl one with generator and discriminator;
    optimizers and augmentation stay behind. `lvg-train sample` takes such files.
    """
    from rich.console import Console

    from lvg_train.convert import Asked, convert_checkpoint, save_conversion

    if out.resolve() == release.resolve():
        raise click.UsageError(f"{out} is the release's file; write to another name")
    conversion = convert_checkpoint(release, Asked(size, low_size, num_frames))
    save_conversion(release, conversion, out)
    console = Console()
    if verbose:
        console.print(*map(rows_table, conversion.networks.values()), sep="\n")
    for line in report(conversion):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"written to {out}", markup=False, highlight=False, soft_wrap=True)


def report(conversion: Conversion) -> Iterator[str]:
    """A line for each network and for each rule that placed its tensors, then what stays behind."""
    for role, converted in conversion.networks.items():
        arguments = ", ".join(f"{name} {value}" for name, value in converted.spec.arguments.items())
        yield f"{role}: {converted.spec.kind}, {converted.num_parameters:,} parameters ({arguments})"
        for (what, rule), count in converted.counts().items():
            yield f"  {count:4} {what} {rule}"
    if conversion.not_carried:
        yield f"not carried: {', '.join(conversion.not_carried)}"


def rows_table(converted: Converted) -> Table:
    from rich.table import Table

    table = Table(
        "in the release", "shape", "rule", "in ours", title=converted.spec.kind, title_justify="left"
    )
    for row in converted.rows:
        shape = " x ".join(map(str, row.shape)) or "one number"
        table.add_row(row.source, shape, row.rule, "same" if row.source == row.target else row.target)
    return table
