"""Videos behind HTTP(S) addresses, written in the card itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

from lvg_data import ids
from lvg_data.config import Card, UrlsSource
from lvg_data.fetch.addresses import address_key, public_address, site_of
from lvg_data.records import Address, Source
from lvg_data.sources.place import Place
from lvg_data.timeline import Interval

_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}", re.ASCII)


def list_sources(config: UrlsSource, card: Card, place: Place) -> Iterator[Source]:
    """One Source an item. An undeclared id is a hash of the address, see `url_id`."""
    for item in config.items:
        intervals = None
        if item.intervals is not None:
            intervals = tuple(Interval(i.start, i.stop, i.end_inclusive) for i in item.intervals)
        yield Source(
            video_id=item.id if item.id is not None else url_id(item.url),
            origin=url_origin(item.url),
            media=Address(item.url, item.sha256),
            licence=card.licence,
            attribution=card.attribution,
            split=item.split,
            intervals=intervals,
        )


def url_id(url: str) -> str:
    """The id of a video that only its address names: user and password do not count, the query does."""
    return ids.video_id(["urls", address_key(url)])


def url_origin(url: str) -> str:
    """An address as the tables show it: without its query, which may be secret, but for a YouTube id."""
    video = youtube_id(url)
    shown = public_address(url)
    return f"{shown}?v={video}" if video and "v" in parse_qs(urlsplit(url).query) else shown


def youtube_id(url: str) -> str | None:
    """The id in the address of a YouTube video, of either form: `/watch?v=<id>` or `youtu.be/<id>`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or site_of(url) != "youtube.com":
        return None
    found = parse_qs(parts.query).get("v", [parts.path.rpartition("/")[2]])[0]
    return found if _YOUTUBE_ID.fullmatch(found) else None
