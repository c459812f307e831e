"""Videos on disk or in a bucket: a file, a folder searched whole, or a glob. Local ones are read in place."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import fsspec

from lvg_data import ids
from lvg_data.config import Card, FilesSource
from lvg_data.errors import CardError
from lvg_data.records import Address, Source
from lvg_data.sources.lists import VIDEO_SUFFIXES
from lvg_data.sources.place import Place, is_remote
from lvg_data.timeline import Interval

#: scheme of each object store, with the extra that reads it
_STORES = {"s3": "aws", "gs": "gcp"}


def list_sources(config: FilesSource, card: Card, place: Place) -> Iterator[Source]:
    """One Source a file, sorted by name. A video's id is a hash of its path relative to the card, or address.

    Raises:
      CardError: nothing there, or intervals for a file that is not.
    """
    names = _find_remote(config.path, card) if is_remote(config.path) else _find_local(config.path, place)
    if not names:
        searched = "" if is_remote(config.path) else f" (searched from {place.folder})"
        raise CardError(f"{card.name}: no video matches {config.path!r}{searched}")
    short = {name: name.rsplit("/", 1)[-1] for name in names}
    unknown = sorted(set(config.intervals) - set(names) - set(short.values()))
    if unknown:
        raise CardError(
            f"{card.name}: intervals are given for {unknown[0]!r}, which {config.path!r} does not match"
        )
    for name, address in names.items():
        given = config.intervals.get(name, config.intervals.get(short[name]))
        intervals = None
        if given is not None:
            intervals = tuple(Interval(i.start, i.stop, i.end_inclusive) for i in given)
        yield Source(
            video_id=ids.video_id(["files", name]),
            origin=name,
            media=Address(address),
            licence=card.licence,
            attribution=card.attribution,
            split=config.split,
            intervals=intervals,
        )


def _find_local(pattern: str, place: Place) -> dict[str, str]:
    """Paths of the videos by name, sorted."""
    path = place.path(pattern)
    if path.is_dir():
        found = [p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in VIDEO_SUFFIXES]
    elif path.is_file():
        found = [path]
    else:
        found = [p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file()]
    return {place.name(p): str(p) for p in sorted(found)}


def _find_remote(pattern: str, card: Card) -> dict[str, str]:
    """Addresses of the objects, by themselves, sorted."""
    scheme, bucket = urlsplit(pattern).scheme, urlsplit(pattern).netloc
    if scheme not in _STORES or not bucket or "@" in bucket:
        raise CardError(
            f"{card.name}: files are listed at a path, s3://<bucket>/... or gs://<bucket>/..., got {scheme}://; "
            "for other addresses use urls or a table, and keep keys out of the card"
        )
    try:
        fs, path = fsspec.url_to_fs(pattern)
        if glob.has_magic(path):
            found = [name for name, entry in fs.glob(path, detail=True).items() if entry["type"] == "file"]
        elif fs.isfile(path):
            found = [path]
        else:
            found = [name for name in fs.find(path) if name.lower().endswith(VIDEO_SUFFIXES)]
    except ImportError as err:
        raise CardError(f"{card.name}: {pattern}: {err}; pip install 'lvg[{_STORES[scheme]}]'") from err
    except OSError as err:
        raise CardError(f"{card.name}: {pattern} cannot be listed: {err}") from err
    return {address: address for address in sorted(f"{scheme}://{name}" for name in found)}
