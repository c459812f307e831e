"""`lvg-train evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lvg_train.commands.common import device_option, precision_option, progress_bar

if TYPE_CHECKING:
    from rich.table import Table

    from lvg_train.metrics import Result


@click.command("evaluate")
@click.argument("model", metavar="RUN_OR_FILE", type=click.Path(path_type=Path))
@click.option("--data", metavar="DATASET", help="A dataset of lvg-data. Default: that of the RUN.")
@click.option(
    "--windows",
    "num_windows",
    default=1000,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Windows of the data, and as many samples.",
)
@click.option(
    "--frames",
    "num_frames",
    type=click.IntRange(min=2),
    metavar="T",
    help="Frames of each. Default: 129, as in the paper, or as many as half of the clips have.",
)
@click.option("--split", default="train", show_default=True, metavar="NAME", help="The split of the data.")
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0, 1 << 32),
    metavar="S",
    help="Of the windows; samples are the videos of the seeds S, S + 1, ...",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="For evaluation.json and colour-similarity.png. Default: RUN/evaluation, or FILE-evaluation.",
)
@click.option(
    "--against",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="JSON",
    help="An earlier evaluation.json to show beside; refused where it was made otherwise.",
)
@precision_option
@device_option
def command(
    model: Path,
    data: str | None,
    num_windows: int,
    num_frames: int | None,
    split: str,
    seed: int,
    out: Path | None,
    against: Path | None,
    precision: str,
    device: str,
) -> None:
    """Compares what a generator makes with the data: colours that last, motion, colours over all.

    The colour similarity S(x, t) is the share of its first frame's colours that a video still has t frames
    later, averaged over windows: 1 for a still, and the closer the samples' curve is to that of the data the
    better. For a super-res generator the high-res frames of the data stand beside their own low-res frames
    enlarged. Of a run the newest checkpoint is used.

    \b
    Examples:
      lvg-train evaluate runs/low
      lvg-train evaluate runs/high --windows 200 --frames 32
      lvg-train evaluate low.safetensors --data rides --out figures
      lvg-train evaluate runs/low --against runs/older/evaluation/evaluation.json
    """  # fmt: skip
    from rich.console import Console

    import lvg_data
    from lvg_data.reach import check_answers
    from lvg_train.dist import choose_device, set_precision
    from lvg_train.evaluate import (
        RESULTS,
        Comparison,
        dataset_of_run,
        evaluate,
        load_results,
        plot_similarity,
        save_results,
        suitable_frames,
    )
    from lvg_train.metrics import check_comparable
    from lvg_train.sample import load_model

    data = data or dataset_of_run(model)
    if data is None:
        raise click.UsageError(f"{model} does not say which data it was trained on; name it with --data")
    folder = out or (model / "evaluation" if model.is_dir() else model.with_name(f"{model.stem}-evaluation"))
    earlier = load_results(against) if against else {}
    check_answers(data)
    dataset = lvg_data.open(data)
    chosen = choose_device(device)
    set_precision(precision, chosen)
    loaded = load_model(model, chosen)
    num_frames = num_frames or suitable_frames(dataset, loaded.network, split)
    comparison = Comparison(dataset, loaded, num_windows, num_frames, split, seed, precision)
    for name, result in earlier.items():
        check_comparable(comparison.recipe().of_metric(name), result.recipe)

    num_clips = len(comparison.windows().clips)
    make_folder(folder)  # now, not after all the work
    click.echo(f"{num_windows:,} windows of {num_frames} frames, of {num_clips:,} clips of {data}")
    with progress_bar("evaluating", num_windows, "windows") as report:
        results = evaluate(comparison, report)
    save_results(folder, results)
    plot = plot_similarity(folder, results["colour_similarity"], earlier.get("colour_similarity"))
    Console().print(_table(results, earlier))
    click.echo(f"wrote {folder / RESULTS}" + (f" and {plot}" if plot else ""))
    if plot is None:
        click.echo("there is no plot, as matplotlib is missing: pip install matplotlib", err=True)


def make_folder(folder: Path) -> None:
    """Raises: TrainError, where the results could not be written."""
    from lvg_train.errors import TrainError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise TrainError(
            f"{folder} cannot be made for the results: {err}; name another folder with --out"
        ) from err


def _table(results: Mapping[str, Result], earlier: Mapping[str, Result]) -> Table:
    from rich.table import Table

    from lvg_train.metrics import compare

    table = Table("metric", "figure", box=None, pad_edge=False)
    for column in ("this", "earlier") if earlier else ("this",):
        table.add_column(column, justify="right")
    for name, result in results.items():
        beside = compare(result, earlier[name]) if name in earlier else {}
        for figure, value in result.figures.items():
            values = beside.get(figure, (value,))
            table.add_row(name, figure, *(f"{value:.4f}" for value in values))
    return table
