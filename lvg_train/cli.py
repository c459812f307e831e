"""The command `lvg-train`. Each command is a file of `lvg_train.commands`, loaded when it is called."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

import click

#: exit status after Ctrl-C, as shells use it
INTERRUPTED = 130
#: name -> what `lvg-train --help` says of it; its module has the same name
COMMANDS = {
    "lowres": "Train stage 1: long videos at low resolution.",
    "superres": "Train stage 2: from low to high resolution.",
    "sample": "Make videos of any length.",
    "evaluate": "Compare samples with the data.",
    "convert": "Read a checkpoint of the official release, without executing it.",
    "describe": "Show the networks: shapes, parameters and work.",
}


class _Group(click.Group):
    """Loads a command when it is used; shows what users can mend as one message instead of a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return importlib.import_module(f"lvg_train.commands.{name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        from lvg_data.errors import DatasetError
        from lvg_train.errors import TrainError

        try:
            with _warnings_in_words():
                return super().invoke(ctx)
        except (TrainError, DatasetError) as err:
            raise click.ClickException(str(err)) from err
        except KeyboardInterrupt:
            click.echo("\nstopped", err=True)
            ctx.exit(INTERRUPTED)


@contextlib.contextmanager
def _warnings_in_words() -> Iterator[None]:
    """Shows our own warnings as errors are shown, without the line of code that gave them."""
    from lvg_train.errors import TrainWarning

    with warnings.catch_warnings():
        shown_before = warnings.showwarning

        def show(
            message: Warning | str, category: type[Warning], filename: str, lineno: int,
            file: TextIO | None = None, line: str | None = None,
        ) -> None:  # fmt: skip
            if issubclass(category, TrainWarning):
                click.echo(f"Warning: {message}", err=True)
            else:
                shown_before(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lvg")
def main() -> None:
    """Trains both stages of LongVideoGAN from a dataset of lvg-data, and makes videos with them.

    \b
    Start here:
      lvg-data build demo --out rides
      lvg-train lowres --data rides --out runs/low --preset tiny
      lvg-train superres --data rides --out runs/high --preset tiny
      lvg-train sample runs/low runs/high --frames 300 --out movie.mp4
    """


if __name__ == "__main__":
    main()
