"""Why yt-dlp could not have a video, in our causes.

The table is read from the top; the first rule that fits decides. Exceptions are recognised by the names of
their classes, so that it needs no yt-dlp. Texts are those of yt-dlp 2026.10.26: its extractors raise most
refusals as a bare `ExtractorError` with the site's own words.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from lvg_data.errors import Rejected

#: yt_dlp/utils/_utils.py
_CLASSES = {
    "GeoRestrictedError": "blocked",
    "UserNotLive": "live",
    "UnsupportedError": "unsupported_site",
}
#: (pattern in the message, cause); behind each, where yt-dlp or the site says so
_MESSAGES = tuple(
    (re.compile(pattern, re.IGNORECASE), cause)
    for pattern, cause in (
        # youtube/_video.py: "This content isn't available, try again later. The current session has been rate-limited"
        (r"try again later|rate.limited|too many requests", "rate_limited"),
        # youtube: "Sign in to confirm you’re not a bot", "captcha challenge"; generic.py: "anti-bot challenge"
        (r"not a (ro)?bot|captcha|anti-bot challenge|unusual traffic", "blocked"),
        # common.py, raise_geo_restricted: "not available from your location"; youtube: "in your country"
        (r"geo.?restrict|in your (country|region|location)|from your location", "blocked"),
        # youtube: "Private video. Sign in if you've been granted access to this video"
        (r"private video|is private\b|set to private", "private"),
        # youtube: "Sign in to confirm your age", "inappropriate for some users"
        (r"confirm your age|age.restricted|sign in\b", "login_required"),
        # youtube: "Join this channel to get access to members-only content", "Music Premium members"
        (r"members.only|channel's members|join this channel|premium|requires payment|subscri(ber|ption)",
         "login_required"),
        # common.py, raise_login_required: "only available for registered users"
        (r"registered users|\blog ?in\b|logged.in", "login_required"),
        # YoutubeDL.py and common.py: "This video is DRM protected"; hls.py: "This format is DRM protected"
        (r"\bDRM\b", "drm"),
        # youtube: "This live event will begin in", "Premieres in", "Offline."; vimeo.py: "live event is scheduled"
        (r"live event (will|is)|premieres? (in|will)|not currently live|will begin in|^offline\b", "live"),
        # youtube: "has been removed by the uploader", "account ... has been terminated", "Video unavailable"
        (r"removed|deleted|terminated|no longer (available|exists)|does(n't| not) exist", "gone"),
        (r"video (is )?(un|not )available|recording is not available", "gone"),
        # YoutubeDL.py: "Requested format is not available", "No video formats found!"
        (r"requested format is not available|no video formats|only images", "no_format"),
        # generic.py: "is not a valid URL"; YoutubeDL.py: "No suitable extractor"
        (r"is not a valid url|unsupported url|no suitable extractor", "unsupported_site"),
        # downloader/http.py, fragment.py, YoutubeDL.py: bodies that broke off or never came
        (r"timed out|did not get any data blocks|content too short|downloaded file is empty", "network"),
        (r"giving up after|connection (reset|refused|aborted|broken)|fragment not found", "network"),
    )
)  # fmt: skip
#: yt_dlp/networking/exceptions.py, HTTPError.status; others of 5xx are `network`
_STATUSES = {
    401: "login_required", 402: "login_required", 403: "blocked", 404: "not_found", 410: "gone",
    429: "rate_limited", 451: "blocked", 503: "rate_limited",
}  # fmt: skip
_NETWORK_CLASSES = {"TransportError", "ContentTooShortError", "TimeoutError", "ConnectionError"}


def cause_of(err: BaseException) -> str:
    """The cause of whatever yt-dlp raised; `site_error` for what is in no table."""
    chain = list(_chain(err))
    names = [{cls.__name__ for cls in type(one).__mro__} for one in chain]
    for number, cause in ((errno.ENOSPC, "no_space"), (errno.EDQUOT, "no_space"), (errno.EFBIG, "too_large")):
        if any(isinstance(one, OSError) and one.errno == number for one in chain):
            return cause
    by_class = next(
        (cause for name, cause in _CLASSES.items() if any(name in found for found in names)), None
    )
    by_text = next((cause for rule, cause in _MESSAGES if rule.search(text_of(err))), None)
    status = next((one.status for one in chain if type(one).__name__ == "HTTPError"), 0)  # type: ignore[attr-defined]
    by_status = _STATUSES.get(status) or ("network" if status >= 500 else None)
    by_connection = "network" if any(_NETWORK_CLASSES & found for found in names) else None
    return by_class or by_text or by_status or by_connection or "site_error"


def rejected_in(err: BaseException) -> Rejected | None:
    """A reject of ours that yt-dlp wrapped in an error of its own."""
    return next((one for one in _chain(err) if isinstance(one, Rejected)), None)


def retry_after_of(err: BaseException) -> str | None:
    """The Retry-After header of the answer that an error is about."""
    for one in _chain(err):
        if type(one).__name__ == "HTTPError":
            header: str | None = one.response.get_header("Retry-After")  # type: ignore[attr-defined]
            return header
    return None


def text_of(err: BaseException) -> str:
    """The message without what yt-dlp puts around it: names of the site and the video, a plea to report it."""
    own = [one.orig_msg for one in _chain(err) if hasattr(one, "orig_msg")]
    text = str(own[0] if own else err).removeprefix("ERROR: ")
    return " ".join(text.split("; please report this issue")[0].split())


def _chain(err: BaseException) -> Iterator[BaseException]:
    """An error and those behind it, as yt-dlp and Python keep them."""
    waiting, seen = [err], set()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        kept = getattr(one, "exc_info", None)
        behind = (kept[1] if kept else None, getattr(one, "cause", None), one.__cause__, one.__context__,
                  *getattr(one, "unexpected_errors", ()))  # fmt: skip
        waiting.extend(e for e in behind if isinstance(e, BaseException))
