"""Plain files over HTTP(S): resumed where they broke off, checked against what was promised.

What an answer is, its first bytes say, not its name or its Content-Type: a page or a playlist (HLS, DASH) is
left to yt-dlp, see `fetch.ways`.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, LocationValueError
from urllib3.util import Timeout, make_headers

from lvg_data.child import Stopped
from lvg_data.errors import Rejected
from lvg_data.fetch import cache, peers, ytdlp
from lvg_data.fetch.addresses import bare_address, credentials, names_a_file, site_of
from lvg_data.fetch.desk import Desk
from lvg_data.fetch.polite import Again, date_in, host_of, persist, retry_after_s
from lvg_data.fetch.sniff import HEAD_BYTES, kind_of
from lvg_data.fetch.watch import Watch
from lvg_data.fetch.way import FILE, NotThisWay, Want, Way, check_size, describe
from lvg_data.store import Key

VERSION = 2
_CHUNK_BYTES = 1 << 20
_MOST_REDIRECTS = 10
_CONNECT_S, _STALL_S = 30.0, 60.0
#: more than any file has; numbers of more digits are not read, which Python refuses from 4,300 on
_ENDLESS_BYTES = 10**30
_REDIRECTS = (301, 302, 303, 307, 308)
#: status -> cause; others of 4xx are `forbidden`, of 5xx `network`
_STATUS_CAUSES = {
    401: "login_required",
    407: "network",
    408: "network",
    421: "network",
    425: "network",
    404: "not_found",
    410: "gone",
    429: "rate_limited",
    451: "blocked",
    503: "rate_limited",
}
#: statuses that may pass within minutes
_PASSING = (408, 421, 425, 429, 500, 502, 503, 504)


def way(want: Want, desk: Desk, stop: threading.Event | None) -> Way:
    """The way to a video that is a plain file."""

    def check_head(head: bytes) -> None:
        kind = kind_of(head)
        if kind == "empty":
            raise Rejected("not_video", f"{want.origin}: an empty answer")
        if kind == "page" and names_a_file(want.url) and not ytdlp.knows(want.url, stop):
            raise Rejected("not_video", f"{want.origin}: a page of text, not the file that its name promises")
        if kind != "file":
            raise NotThisWay

    def make(folder: Path) -> dict[str, Any]:
        if not names_a_file(want.url) and ytdlp.knows(want.url, stop):
            raise NotThisWay
        return download(want, folder, desk, stop, check_head)

    return Way(Key("fetch_http", VERSION, None, want.key), make)


def download(
    want: Want,
    folder: Path,
    desk: Desk,
    stop: threading.Event | None,
    check_head: Callable[[bytes], None] = lambda head: None,
) -> dict[str, Any]:
    """Downloads into `folder`; returns the description of the file.

    Args:
      check_head: looks at the first bytes of each answer, and raises if they are not what is wanted.
    """
    with cache.claim(want.origin, desk, folder) as claim, open(folder / FILE, "wb") as file:
        claim.take(0)
        body = _Body(want, file, desk, claim, check_head, stop)
        persist(body.receive, host_of(site_of(want.url), desk), "file", desk, want.origin, stop)
    return describe(want, folder / FILE)


@dataclass(frozen=True)
class _Version:
    """What a server says of the file that it sends: of another version nothing may be appended."""

    etag: str | None
    modified: str | None
    total_bytes: int | None

    def agrees(self, other: _Version) -> bool:
        return all(a == b for a, b in self._pairs(other) if a is not None and b is not None)

    def joined(self, other: _Version) -> _Version:
        """What either says: an answer with a rest need not say again what the first one did."""
        return _Version(*(b if a is None else a for a, b in self._pairs(other)))

    def _pairs(self, other: _Version) -> list[tuple[Any, Any]]:
        return [(getattr(self, one.name), getattr(other, one.name)) for one in fields(self)]


def _validator(headers: Mapping[str, str]) -> str | None:
    """What tells a version of a file from all others, for If-Range; None where nothing does, RFC 9110 section 8.8.

    A weak ETag is shared by versions of other bytes. So is the time of a change, until the second of it is over.
    """
    etag, modified = headers.get("ETag"), headers.get("Last-Modified")
    if etag and not etag.startswith("W/"):
        return etag
    changed_s, answered_s = date_in(modified), date_in(headers.get("Date"))
    is_strong = changed_s is not None and answered_s is not None and answered_s - changed_s >= 1
    return modified if is_strong else None


class _Body:
    """A file that is received in one answer or several."""

    def __init__(
        self,
        want: Want,
        file: BinaryIO,
        desk: Desk,
        claim: cache.Claim,
        check_head: Callable[[bytes], None],
        stop: threading.Event | None,
    ) -> None:
        self.want, self.file, self.desk, self.claim = want, file, desk, claim
        self.check_head, self.stop = check_head, stop
        self.validator: str | None
        self.version, self.validator, self.head = _Version(None, None, None), None, b""

    def receive(self, deadline: float) -> None:
        """One request from where the file ends; done when the body is whole.

        Raises:
          Again: it broke off, or the server asks to come back.
          Rejected: it will not be had.
        """
        with (
            Watch(deadline, self.stop) as watch,
            peers.pool_of(self.desk.private_addresses, watch) as pool,
        ):
            try:
                response = _ask(pool, self.want, self._headers(), deadline)
                try:
                    self._take(response, watch)
                finally:
                    response.close()
            except peers.PrivateAddressError as err:
                raise Rejected("private_address", f"{self.want.origin}: {err}") from err
            except LocationValueError as err:
                raise Rejected("not_found", f"{self.want.origin}: not an address that can be asked") from err
            except HTTPError as err:
                self._check_time(watch)  # over, it was the watch that broke it off
                raise self._broken(_reason(err)) from err

    def _headers(self) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity"}
        if self.validator is None:  # the rest might be one of another version
            self._begin_again()
            return headers
        have = self.file.tell()
        return headers | {"Range": f"bytes={have}-", "If-Range": self.validator} if have else headers

    def _take(self, response: urllib3.BaseHTTPResponse, watch: Watch) -> None:
        if response.status not in (200, 206):
            if response.status == 416 and self.file.tell():
                self._begin_again()
                raise self._broken("the server cannot go on from there")
            raise self._refusal(response)
        if response.status == 200:  # the whole file: nothing was there, another version, or no ranges here
            self._begin_again()
        self._note_version(response)
        if self.version.total_bytes is not None:
            check_size(self.want.origin, self.version.total_bytes, self.desk.limits)
            self.claim.take(self.version.total_bytes, self.file.tell())
        self._write(response, watch)
        if self.version.total_bytes not in (None, self.file.tell()):
            raise self._broken("cut off")
        if len(self.head) < HEAD_BYTES:
            self.check_head(self.head)

    def _note_version(self, response: urllib3.BaseHTTPResponse) -> None:
        headers, have = response.headers, self.file.tell()
        # An encoded body is decoded as it comes: its ranges and its length are not those of the file.
        is_plain = headers.get("Content-Encoding", "identity") == "identity"
        length = headers.get("Content-Length", "")
        total = _number(length) if length.isdecimal() and is_plain else None
        if response.status == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
            if found is None or _number(found[1]) != have:
                self._begin_again()
                raise self._broken("the server sent another range than it was asked for")
            total = _number(found[2]) if found[2] != "*" else self.version.total_bytes
            if total is None:
                self._begin_again()
                raise self._broken("the server sent a range and did not say of how much")
        version = _Version(headers.get("ETag"), headers.get("Last-Modified"), total)
        if not version.agrees(self.version):
            self._begin_again()
            raise self._broken("the file changed while it was fetched")
        self.version = version.joined(self.version)
        if have == 0:
            self.validator = _validator(headers) if is_plain else None

    def _write(self, response: urllib3.BaseHTTPResponse, watch: Watch) -> None:
        """Appends what comes."""
        limits = self.desk.limits
        # read1 gives what has come, so that a connection that breaks loses none of it
        while chunk := response.read1(_CHUNK_BYTES):
            self.file.write(chunk)
            self._look_at(chunk)
            if self.file.tell() > limits.file_bytes:  # by how much is chance, and no figure for a table
                text = f"{self.want.origin}: more than limits.file_bytes, {limits.file_bytes}"
                raise Rejected("too_large", text, None, limits.file_bytes)
            self._check_time(watch)
            self.claim.follow(self.file.tell())
        self._check_time(watch)  # over, this end is not that of the body

    def _look_at(self, chunk: bytes) -> None:
        """Looks at the first bytes as soon as there are enough, in however many answers they come."""
        if len(self.head) < HEAD_BYTES:
            self.head += chunk
            if len(self.head) >= HEAD_BYTES:
                self.check_head(self.head)

    def _check_time(self, watch: Watch) -> None:
        if self.stop is not None and self.stop.is_set():
            raise Stopped("stopped while downloading")
        if watch.is_over:
            text = f"{self.want.origin}: not done after {self.desk.limits.fetch_wall_s:g} s"
            raise Rejected("network", text)

    def _begin_again(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.version, self.validator, self.head = _Version(None, None, None), None, b""

    def _broken(self, reason: str) -> Again:
        return Again(Rejected("network", f"{self.want.origin}: {reason} at {self.file.tell()} bytes"))

    def _refusal(self, response: urllib3.BaseHTTPResponse) -> Exception:
        status = response.status
        cause = _STATUS_CAUSES.get(status, "forbidden" if status < 500 else "network")
        reject = Rejected(cause, f"{self.want.origin}: HTTP status {status}")
        if status not in _PASSING:
            return reject
        return Again(reject, retry_after_s(response.headers.get("Retry-After")))


def _ask(
    pool: urllib3.PoolManager, want: Want, headers: dict[str, str], deadline: float
) -> urllib3.BaseHTTPResponse:
    """The answer after all redirects. They are followed here, because urllib3 logs where they lead.

    User and password go to the host that the address names, and to no other.
    """
    _hush()
    url, user = _taken_apart(want.url, want), credentials(want.url)
    asked = urlsplit(url)
    left_s = max(0.1, deadline - time.monotonic())
    timeout = Timeout(connect=min(_CONNECT_S, left_s), read=min(_STALL_S, left_s))
    for _ in range(_MOST_REDIRECTS + 1):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise Rejected(
                "unsupported_site", f"{want.origin}: leads to an address of the kind {parts.scheme!r}"
            )
        same = (parts.scheme, parts.netloc) == (asked.scheme, asked.netloc)
        sent = headers | make_headers(basic_auth=user) if user and same else headers
        response = pool.request(
            "GET", url, headers=sent, preload_content=False, redirect=False, timeout=timeout
        )
        target = response.headers.get("Location")
        if response.status not in _REDIRECTS or target is None:
            return response
        response.close()
        url = _taken_apart(target, want, url)
    raise Rejected("network", f"{want.origin}: too many redirects")


def _taken_apart(url: str, want: Want, beside: str = "") -> str:
    """An address without user and password; what a server leads to may be relative to the one `beside` it."""
    try:
        found = bare_address(urljoin(beside, url))
        _ = urlsplit(found)
    except ValueError as err:
        raise Rejected("not_found", f"{want.origin}: not an address that can be asked") from err
    return found


def _number(digits: str) -> int:
    """A number of bytes in a header, at most `_ENDLESS_BYTES`."""
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= 30 else _ENDLESS_BYTES


def _reason(err: HTTPError) -> str:
    """What went wrong, in words of ours: urllib3's name host, port and query."""
    detail = err.__cause__.strerror if isinstance(err.__cause__, OSError) else None
    return f"{type(err).__name__} ({detail})" if detail else type(err).__name__


def _hush() -> None:
    """Keeps urllib3's debugging lines, which name each address whole, out of every log."""
    logging.getLogger("urllib3.connectionpool").addFilter(_above_debug)


def _above_debug(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG
