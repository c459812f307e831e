"""Getting the bytes of a source.

An address is, in this order:

1. a local path or `file://`: used in place, `local`;
2. of a scheme that fsspec knows (`s3://`, `gs://`, ...): an object, `objects`;
3. of HTTP(S): a plain file, `http`, or one that yt-dlp finds, `ytdlp`. A site that one of yt-dlp's extractors
   knows, other than the generic one, is asked through yt-dlp, unless the path ends like a video file's name.
   All others are asked for a plain file first. If the first bytes that come are those of a page, or of an HLS or
   DASH playlist, yt-dlp looks for the video there; a page in place of what is named like a file is
   `not_video`, unless its address is one of a known site.

The answer depends on the address and on what is there, and is kept: the artefact that is found in the store says
which way it came.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lvg_data.errors import Rejected
from lvg_data.fetch import cache, http, local, objects, ytdlp
from lvg_data.fetch.desk import Desk
from lvg_data.fetch.way import FILE, NotThisWay, Want, Way
from lvg_data.records import Address, Fetched, Source
from lvg_data.store import META, Artefact, Key, Store, exists, is_local, local_path, localized

__all__ = ["Desk", "at_hand", "download_list", "drop_damaged", "fetch", "forget"]
_LIST_VERSION = 1


def fetch(source: Source, desk: Desk, stop: threading.Event | None = None) -> Fetched:
    """The source's bytes at hand, with their sha256; only media of type `Address` are fetched.

    Raises:
      Rejected: not there, refused, cut off, too large, no room, or not what `sha256` promises.
      Stopped: `stop` was set meanwhile.
    """
    want = _want(source)
    if is_local(want.url):
        return Fetched(source, *local.find(want, desk))
    artefact = _artefact(want, desk, stop)
    found = artefact.result
    return Fetched(
        source,
        f"{artefact.address}/{FILE}",
        found["sha256"],
        found["size_bytes"],
        found.get("downloaded_format", "{}"),
    )


@contextlib.contextmanager
def at_hand(fetched: Fetched, desk: Desk, stop: threading.Event | None = None) -> Iterator[Path]:
    """A local path of a fetched file; while it is open, nothing evicts it.

    Raises:
      Rejected: it had made room for others, and could not be fetched again as it was.
      Stopped: `stop` was set meanwhile.
    """
    want = _want(fetched.source)
    if is_local(want.url):
        yield local_path(fetched.address)
    elif not is_local(desk.store.root):
        with localized(fetched.address) as path:
            yield path
    else:
        path = local_path(fetched.address)
        cache.begin_run(desk)
        while (file := cache.open_for_use(path)) is None:
            with cache.room_of(desk).refill_lock(fetched.address):
                _refetch(fetched, desk, stop)
        with file:
            yield path


def forget(source: Source, desk: Desk) -> None:
    """Makes the next `fetch` of a remote source ask for it again."""
    if isinstance(source.media, Address) and not is_local(source.media.url):
        for way in _ways(_want(source), desk, None):
            desk.store.forget(way.key)


def drop_damaged(store: Store, address: str) -> None:
    """Removes an artefact that is not what was stored.

    What is known of a fetched file stays: it is asked for again where it is needed alone, and has to be what it was.
    """
    is_fetched = address.rsplit("/", 2)[-2] in cache.KINDS
    if is_fetched and is_local(address) and exists(f"{address}/{META}"):
        store.evict(address)
    else:
        store.forget_address(address)


@contextlib.contextmanager
def download_list(url: str, origin: str, desk: Desk, sha256: str | None = None) -> Iterator[Path]:
    """A local file with the content of a list, for the `with` only; it is kept in the store from then on.

    Args:
      origin: what messages call it.

    Raises:
      Rejected: it could not be fetched, or is not what `sha256` promises.
    """
    want = Want(origin, url, sha256)
    if is_local(url):
        yield local_path(url)
        return
    get = http.download if urlsplit(url).scheme in ("http", "https") else objects.download
    key = Key("fetch_list", _LIST_VERSION, None, want.key)

    def make(folder: Path) -> Any:
        try:
            return get(want, folder, desk, None)
        except Rejected as err:
            raise _NoListError from err  # the store would remember a reject: a list may be there tomorrow

    try:
        artefact = desk.store.get_or_make(key, make)
    except _NoListError as err:
        assert isinstance(err.__cause__, Rejected)
        raise err.__cause__ from None
    with artefact.local(FILE) as path:
        yield path


class _NoListError(Exception):
    """A list could not be fetched; the reject is its cause."""


def _want(source: Source) -> Want:
    assert isinstance(source.media, Address), "only addresses are fetched"
    return Want(source.origin, source.media.url, source.media.sha256)


def _ways(want: Want, desk: Desk, stop: threading.Event | None) -> list[Way]:
    """The ways to an address, in the order in which they are tried."""
    if urlsplit(want.url).scheme in ("http", "https"):
        return [http.way(want, desk, stop), ytdlp.way(want, desk, stop)]
    return [objects.way(want, desk, stop)]


def _artefact(want: Want, desk: Desk, stop: threading.Event | None) -> Artefact:
    cache.begin_run(desk)
    ways = _ways(want, desk, stop)
    for way in ways:
        if (found := desk.store.get(way.key)) is not None:
            return found
    for way in ways:
        with contextlib.suppress(NotThisWay):
            return desk.store.get_or_make(way.key, way.make)
    raise AssertionError("the last way is taken whatever there is")


def _refetch(fetched: Fetched, desk: Desk, stop: threading.Event | None) -> None:
    """Fetches an evicted file again, the same way."""
    if local_path(fetched.address).exists():  # another thread was faster
        return
    want = _want(fetched.source)
    way = next(w for w in _ways(want, desk, stop) if f"{desk.store.address(w.key)}/{FILE}" == fetched.address)
    try:
        if desk.store.get(way.key) is not None:
            desk.store.refill(way.key, way.make)
        found = desk.store.get_or_make(way.key, way.make).result["sha256"]
    except NotThisWay:
        raise Rejected("hash_mismatch", f"{want.origin}: fetched again, and no file any more") from None
    if found != fetched.sha256:
        raise Rejected(
            "hash_mismatch", f"{want.origin}: fetched again, sha256 is {found}, was {fetched.sha256}"
        )
