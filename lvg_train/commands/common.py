"""Options and a progress bar that commands share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction

import click

device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto: the first GPU if there is one, else the CPU.",
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["fast", "reference"]),
    default="fast",
    show_default=True,
    help="fast: half precision where it is safe, on a GPU; reference: float32 throughout.",
)


class _Seeds(click.ParamType):
    """ "3", "0-8" or "0,3,7-9" to a tuple of numbers; both ends of a range are included."""

    name = "seeds"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(seed for part in value.split(",") for seed in _seed_range(part))
        except ValueError:
            self.fail(f"{value!r} is not a number, a range such as 0-8 or a list such as 0,3,7", param, ctx)


def _seed_range(text: str) -> range:
    first, _, last = text.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    if not seeds or seeds[-1] >= 1 << 64:
        raise ValueError(text)
    return seeds


class _FrameRate(click.ParamType):
    """ "25", "29.97" or "30000/1001" to a Fraction above 0."""

    name = "rate"

    def convert(
        self, value: str | Fraction, param: click.Parameter | None, ctx: click.Context | None
    ) -> Fraction:
        try:
            rate = Fraction(value)
        except (ValueError, ZeroDivisionError):
            rate = Fraction(0)
        if not 0 < rate <= 1000:
            self.fail(f"{value!r} is not a number of frames per second above 0, up to 1000", param, ctx)
        return rate


class _Size(click.ParamType):
    """ "36x64" to (36, 64): height and width."""

    name = "HxW"

    def convert(
        self, value: str | tuple[int, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", value, re.ASCII)
        if not match:
            self.fail(f"{value!r} is not a height and a width such as 36x64", param, ctx)
        return int(match[1]), int(match[2])


SEEDS, FRAME_RATE, SIZE = _Seeds(), _FrameRate(), _Size()


@contextmanager
def progress_bar(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Shows on a terminal how many `unit` are done, how fast, and the time left; gives what counts them."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}  {{task.fields[rate]}}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total, rate="")

        def advance(num: int) -> None:
            progress.advance(task, num)
            speed = progress.tasks[0].speed
            progress.update(task, rate="" if speed is None else f"{speed:.1f} {unit}/s")

        yield advance
