"""What an address says: what of it may be shown, what must not, and which host it asks."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from lvg_data import ids

#: an address whose path ends so is asked for a file before any site is looked for
MEDIA_SUFFIXES = (
    ".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".mxf", ".ogg", ".ogv", ".ts", ".vob", ".webm", ".wmv",
)  # fmt: skip
#: names of one site share its record of what was asked
_SAME_SITE = {"youtu.be": "youtube.com"}
#: shorter pieces of a query are left in messages: they hide nothing, and numbers would lose digits
_SHORTEST_SECRET = 4


def public_address(url: str) -> str:
    """An address without user, password, port, query and fragment, which may be secret or local."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.hostname or "", parts.path, "", ""))


def address_key(url: str) -> str:
    """A hash of all that says what is asked for: of everything but user and password."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2].lower()
    return ids.canonical_hash(["address", parts.scheme, host, parts.path, parts.query, parts.fragment])


def bare_address(url: str) -> str:
    """An address without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def credentials(url: str) -> str | None:
    """`user:password` of an address, as basic authentication sends it."""
    parts = urlsplit(url)
    if parts.username is None:
        return None
    return f"{unquote(parts.username)}:{unquote(parts.password or '')}"


def site_of(url: str) -> str:
    """Host and port that requests are counted for; names of one site are one."""
    parts = urlsplit(url)
    host = re.sub(r"^(www|m)\.", "", parts.netloc.rpartition("@")[2].lower())
    return _SAME_SITE.get(host, host)


def names_a_file(url: str) -> bool:
    """Whether the path ends like the name of a video file."""
    return PurePosixPath(urlsplit(url).path).suffix.lower() in MEDIA_SUFFIXES


def without_secrets(text: str, url: str) -> str:
    """A message about `url`, also one of another's making, with nothing that its address may keep secret."""
    text = re.sub(r"\bhttps?://[^\s'\"<>)\]]+", lambda match: _shown(match[0]), text)
    for piece in sorted(_secrets(url), key=len, reverse=True):
        text = text.replace(piece, "…")
    return text


def _shown(url: str) -> str:
    try:
        return public_address(url)
    except ValueError:  # no address, though it begins like one
        return "…"


def _secrets(url: str) -> set[str]:
    parts = urlsplit(url)
    values = [value for pair in parse_qsl(parts.query, keep_blank_values=True) for value in pair]
    pieces = [parts.query, parts.fragment, *parts.query.split("&"), *parts.query.split("="), *values]
    hidden = {piece for text in pieces for piece in (text, unquote(text)) if len(piece) >= _SHORTEST_SECRET}
    users = {text for text in (parts.username, parts.password) if text}
    return hidden | users | {unquote(text) for text in users}
