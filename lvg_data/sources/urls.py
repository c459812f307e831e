"""Videos behind plain HTTP(S) addresses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from lvg_data import ids
from lvg_data.config import Card, UrlsSource
from lvg_data.records import Address, Source
from lvg_data.timeline import Interval


def list_sources(config: UrlsSource, card: Card, folder: Path) -> Iterator[Source]:
    """One Source an item. An undeclared id is a hash of the address without what may be secret."""
    for item in config.items:
        origin = public_address(item.url)
        intervals = None
        if item.intervals is not None:
            intervals = tuple(Interval(i.start, i.stop, i.end_inclusive) for i in item.intervals)
        yield Source(
            video_id=item.id if item.id is not None else ids.video_id(["urls", origin]),
            origin=origin,
            media=Address(item.url, item.sha256),
            licence=card.licence,
            attribution=card.attribution,
            split=item.split,
            intervals=intervals,
        )


def public_address(url: str) -> str:
    """An address without user, password, port, query and fragment, which may be secret or local."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.hostname or "", parts.path, "", ""))
