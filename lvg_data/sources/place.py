"""Where the paths and lists of a card are found."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lvg_data.config import Card, Expected, ListedSource
from lvg_data.errors import CardError, Rejected
from lvg_data.fetch.addresses import public_address
from lvg_data.fetch.desk import Desk


@dataclass(frozen=True)
class Place:
    """What an adapter needs beside the card.

    Attributes:
      folder: what relative paths of the card are relative to.
      desk: how lists are fetched; its store keeps them, and what is read out of them once.
    """

    folder: Path
    desk: Desk

    def path(self, text: str) -> Path:
        """A path of the card, whether there is something or not. Raises: CardError, where it can be none."""
        try:
            path = self.folder / Path(text).expanduser()
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                os.stat(path)
        except (OSError, ValueError, RuntimeError) as err:  # too long, with a NUL, of an unknown user
            reason = err.strerror if isinstance(err, OSError) else err
            raise CardError(f"{text[:100]!r} cannot be a path: {reason}; correct it in the card") from err
        return path

    def name(self, path: Path) -> str:
        """A path as the card could say it: relative to the card where it lies below, else whole."""
        path, root = path.absolute(), self.folder.absolute()
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()

    @contextlib.contextmanager
    def open_list(self, config: ListedSource, card: Card) -> Iterator[Path]:
        """A local file with the content of a card's list, for the `with` only.

        Raises:
          CardError: it is not there, cannot be fetched, or is not what the card's `sha256` promises.
        """
        name = list_name(config)
        with contextlib.ExitStack() as stack:
            if is_remote(config.list):
                path = stack.enter_context(self._downloaded(config, card))
            else:
                path = self.path(config.list)
            if not path.is_file():
                raise CardError(f"{card.name}: the list {name} is no file (searched from {self.folder})")
            if config.sha256 is not None and (found := file_sha256(path)) != config.sha256:
                raise CardError(
                    f"{card.name}: the list {name} has sha256 {found}; the card expects {config.sha256}"
                )
            yield path

    @contextlib.contextmanager
    def _downloaded(self, config: ListedSource, card: Card) -> Iterator[Path]:
        from lvg_data.fetch import download_list  # what only remote lists need

        name = list_name(config)
        with contextlib.ExitStack() as stack:
            try:
                path = stack.enter_context(download_list(config.list, name, self.desk, config.sha256))
            except Rejected as err:
                raise CardError(
                    f"{card.name}: the list {name} cannot be had: {err}; `list` can name a copy of it"
                ) from err
            yield path


def is_remote(text: str) -> bool:
    return "://" in text


def list_name(config: ListedSource) -> str:
    """A list as messages call it: without what may be secret in its address."""
    return public_address(config.list) if is_remote(config.list) else config.list


def source_name(config: Any) -> str:
    """One of a card's sources as messages call it: its list, path or kind."""
    if isinstance(config, ListedSource):
        return f"the list {list_name(config)}"
    return str(getattr(config, "path", config.kind))


def list_suffix(config: ListedSource) -> str:
    """Suffix of a list's name in lower case, of an address without its query, e.g. ".csv"."""
    path = urlsplit(config.list).path if is_remote(config.list) else config.list
    return Path(path).suffix.lower()


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_expected(card: Card, what: str, expected: Expected, videos: int, intervals: int) -> None:
    """Compares what a source holds with what its card expects.

    Args:
      what: the list, folder or glob, as messages call it.

    Raises:
      CardError: they differ; the text holds both numbers.
    """
    for noun, found, wanted in (
        ("videos", videos, expected.videos), ("intervals", intervals, expected.intervals)
    ):  # fmt: skip
        if wanted is not None and found != wanted:
            raise CardError(f"{card.name}: {what} holds {found} {noun}; the card expects {wanted}")
