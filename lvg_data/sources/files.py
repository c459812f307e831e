"""Local videos: a file, a folder searched whole, or a glob. They are read in place, never copied."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

from lvg_data import ids
from lvg_data.config import Card, FilesSource
from lvg_data.errors import CardError
from lvg_data.records import Address, Source
from lvg_data.timeline import Interval

#: names that a folder is searched for; a file or glob may have any
VIDEO_SUFFIXES = (".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf",
                  ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m")  # fmt: skip


def list_sources(config: FilesSource, card: Card, folder: Path) -> Iterator[Source]:
    """One Source a file, sorted by name. A video's id is a hash of its path relative to the card.

    Raises:
      CardError: nothing there, or intervals for a file that is not.
    """
    found = _find(folder, config.path)
    if not found:
        raise CardError(f"{card.name}: no video matches {config.path!r} (searched from {folder})")
    names = {_name(path, folder): path for path in found}
    unknown = set(config.intervals) - set(names) - {path.name for path in found}
    if unknown:
        raise CardError(
            f"{card.name}: intervals are given for {sorted(unknown)[0]!r}, which {config.path!r} does not match"
        )
    for name, path in names.items():
        given = config.intervals.get(name, config.intervals.get(path.name))
        intervals = None
        if given is not None:
            intervals = tuple(Interval(i.start, i.stop, i.end_inclusive) for i in given)
        yield Source(
            video_id=ids.video_id(["files", name]),
            origin=name,
            media=Address(str(path)),
            licence=card.licence,
            attribution=card.attribution,
            split=config.split,
            intervals=intervals,
        )


def _find(folder: Path, pattern: str) -> list[Path]:
    path = folder / Path(pattern).expanduser()
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in VIDEO_SUFFIXES)
    if path.is_file():
        return [path]
    return sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())


def _name(path: Path, folder: Path) -> str:
    """The path as the card could say it: relative to the card where it lies below."""
    path = path.absolute()
    root = folder.absolute()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
