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
#: ways to sign an address for a while: the parameters that tell that it is one, and all that belong to it. What is
#: asked for does not depend on them, and whoever signs again gets others.
_SIGNATURES = (
    # AWS signature version 4 and 2, CloudFront
    ({"x-amz-signature", "x-amz-credential"}, re.compile(r"x-amz-.*")),
    ({"signature", "awsaccesskeyid"}, re.compile(r"signature|awsaccesskeyid|expires|x-amz-security-token")),
    ({"signature", "key-pair-id"}, re.compile(r"signature|key-pair-id|policy|expires|hash-algorithm")),
    # Google Cloud Storage version 4 and 2
    ({"x-goog-signature", "x-goog-credential"}, re.compile(r"x-goog-.*")),
    ({"signature", "googleaccessid"}, re.compile(r"signature|googleaccessid|expires")),
    # Azure's shared access signature
    (
        {"sig", "sv"},
        re.compile(r"sig|s[vspret]|srt|sip|spr|si|sdd|ses|skoid|sktid|sk[tesv]|saoid|suoid|scid"),
    ),
)
#: names of parameters that let in whoever has them
_SECRET_NAME = re.compile(
    r"x-(amz|goog)-.*|.*(token|secret|passw(or)?d|signature|credential|api[_-]?key|access[_-]?key).*"
    r"|sig|policy|key-pair-id|googleaccessid|(php)?sess(ion)?[_-]?(id)?|auth(orization)?|jwt|hmac|hdn(ea|ts|tl)"
)
#: shorter pieces of a query are left in messages: they hide nothing, and numbers would lose digits
_SHORTEST_SECRET = 4
_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]{0,20}://[^\s'\"<>)]+", re.IGNORECASE)
#: an address without its scheme, or a path that begins like one
_NETWORK_PATH = re.compile(r"(?<![\w:/])//[^\s'\"<>)]+")


def public_address(url: str) -> str:
    """An address without user, password, port, query and fragment, which may be secret or local."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.hostname or "", parts.path, "", ""))


def address_key(url: str) -> str:
    """A hash of all that says what is asked for: of everything but user, password and a signature of the query.

    So an address that is signed anew is the same one. Other parameters count, also those that look like tokens:
    two addresses may differ in nothing else and lead to two videos.
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2].lower()
    query = _unsigned(parts.query)
    return ids.canonical_hash(["address", parts.scheme, host, parts.path, query, parts.fragment])


def _unsigned(query: str) -> str:
    """A query without the parameters of a signature of a known kind; another is left as it is."""
    fields = query.split("&")
    names = {_name(field) for field in fields}
    for marks, own in _SIGNATURES:
        if marks <= names:
            fields = [field for field in fields if not own.fullmatch(_name(field))]
    return "&".join(fields)


def _name(field: str) -> str:
    return unquote(field.partition("=")[0]).lower()


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


def without_credentials(text: str) -> str:
    """A text whose addresses let nobody in: without users, passwords, signatures and tokens."""
    return _ADDRESS.sub(lambda match: _let_nobody_in(match[0]), text)


def _let_nobody_in(url: str) -> str:
    try:
        parts = urlsplit(bare_address(url))
    except ValueError:  # no address, though it begins like one
        return "…"
    kept = [
        "&".join(field for field in _unsigned(fields).split("&") if not _SECRET_NAME.fullmatch(_name(field)))
        for fields in (parts.query, parts.fragment)
    ]
    return urlunsplit(parts._replace(query=kept[0], fragment=kept[1]))


def hide_addresses(text: str) -> str:
    """A message that quotes what a user wrote, with addresses cut to what may be shown of them."""
    text = hide_network_paths(_ADDRESS.sub(lambda match: _shown(match[0]), text))
    # what is left of those that were written without https://
    text = re.sub(r"(?<![\w/])[^\s/'\"@:]{1,200}:[^\s'\"@]{1,200}@", "…@", text)
    return re.sub(r"(?<=[\w/])\?(?=\S)(v=[\w-]+)?[^\s'\"]*", lambda match: f"?{match[1] or '…'}", text)


def hide_network_paths(text: str) -> str:
    """A text in which what begins with `//` lets nobody in: without user, password and parameters."""

    def shown(match: re.Match[str]) -> str:
        _, at, rest = match[0].removeprefix("//").rpartition("@")
        path, mark, query = rest.partition("?")
        hidden = "?…" if "=" in query else f"{mark}{query}"  # else it is a glob
        return f"//{'…@' if at else ''}{path}{hidden}"

    return _NETWORK_PATH.sub(shown, text)


def without_secrets(text: str, url: str) -> str:
    """A message about `url`, also one of another's making, with nothing that its address may keep secret."""
    text = _ADDRESS.sub(lambda match: _shown(match[0]), text)
    for piece in sorted(_secrets(url), key=len, reverse=True):
        text = text.replace(piece, "…")
    return text


def _shown(url: str) -> str:
    """What may be shown of an address: of a query only a video's id at YouTube."""
    try:
        video = [field for field in urlsplit(url).query.split("&") if _name(field) == "v"]
        known = f"?{video[0]}" if video and site_of(url) == "youtube.com" else ""
        return f"{public_address(url)}{known}"
    except ValueError:  # no address, though it begins like one
        return "…"


def _secrets(url: str) -> set[str]:
    parts = urlsplit(url)
    values = [value for pair in parse_qsl(parts.query, keep_blank_values=True) for value in pair]
    pieces = [parts.query, parts.fragment, *parts.query.split("&"), *parts.query.split("="), *values]
    hidden = {piece for text in pieces for piece in (text, unquote(text)) if len(piece) >= _SHORTEST_SECRET}
    users = {text for text in (parts.username, parts.password) if text}
    return hidden | users | {unquote(text) for text in users}
