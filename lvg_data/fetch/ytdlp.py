"""Videos of sites, pages and playlists: yt-dlp as a library, in a child process, with options of ours alone."""

from __future__ import annotations

import io
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from lvg_data.child import ChildLimits, run_in_open_child
from lvg_data.errors import Rejected
from lvg_data.fetch import cache, peers
from lvg_data.fetch.addresses import public_address, site_of, without_secrets
from lvg_data.fetch.desk import Desk
from lvg_data.fetch.formats import choose, describe_format
from lvg_data.fetch.polite import Again, host_of, persist, retry_after_s
from lvg_data.fetch.refusals import cause_of, rejected_in, retry_after_of, text_of
from lvg_data.fetch.sniff import HEAD_BYTES, kind_of
from lvg_data.fetch.way import FILE, Want, Way, describe
from lvg_data.store import Key

VERSION = 1
#: of yt-dlp and of the JavaScript runtime that it starts
_MEMORY_BYTES = 2 << 30
#: beside the video: what yt-dlp and its JavaScript runtime write for themselves
_OTHER_FILES_BYTES = 16 << 20
#: causes that another attempt within minutes may not meet
_PASSING = ("rate_limited", "network")
_RETRIES = 3
_STALL_S = 30
_MESSAGE_CHARACTERS = 300
#: causes of `run_in_open_child`, in words of fetching
_CHILD_CAUSES = {
    "decode_timeout": "network",
    "decode_crashed": "site_error",
    "memory_limit": "site_error",
    "cpu_limit": "site_error",
    "output_limit": "too_large",
}
#: what tells yt-dlp of proxies and certificates; no other variable of this process reaches it
_NETWORK_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy",
                      "ssl_cert_file", "ssl_cert_dir", "requests_ca_bundle", "curl_ca_bundle")  # fmt: skip
#: executables of the JavaScript runtimes that yt-dlp knows; no other program is started
_RUNTIMES = ("deno", "node", "bun", "qjs", "quickjs")
_NOT_OVER = ("is_live", "is_upcoming", "post_live")


@dataclass(frozen=True)
class _Order:
    """What the child is told."""

    url: str = field(repr=False)
    folder: str
    min_height: int
    max_frame_rate: float
    file_bytes: int
    room_bytes: int
    free_bytes: int
    cookies: str | None = field(repr=False)
    private_addresses: bool = False


@dataclass(frozen=True)
class _Failure:
    cause: str
    message: str
    value: float | None = None
    retry_after: str | None = None


def knows(url: str, stop: threading.Event | None) -> bool:
    """Whether one of yt-dlp's extractors, other than the generic one, claims an address. Nothing is asked."""
    limits = ChildLimits(wall_s=120, memory_bytes=_MEMORY_BYTES)
    return bool(_in_child(_knows_child, _plain(url), limits, public_address(url), stop))


def _knows_child(url: str) -> bool:
    os.environ["YTDLP_NO_PLUGINS"] = "1"
    from yt_dlp.extractor import gen_extractor_classes

    return any(one.suitable(url) for one in gen_extractor_classes() if one.IE_NAME != "generic")


def _plain(url: str) -> str:
    """An address without a fragment by which yt-dlp's extractors pass each other orders."""
    return url.partition("#")[0] if "__youtubedl_smuggle" in url else url


def way(want: Want, desk: Desk, stop: threading.Event | None) -> Way:
    """The way to a video that a site, a page or a playlist leads to."""

    def make(folder: Path) -> dict[str, Any]:
        with cache.claim(want.origin, desk, folder) as claim:
            host = host_of(site_of(want.url), desk)
            chosen = persist(
                lambda deadline: _attempt(want, folder, desk, claim, deadline, stop),
                host, "video", desk, want.origin, stop,
            )  # fmt: skip
        return {**describe(want, folder / FILE), "downloaded_format": chosen}

    config = {"min_height": desk.min_height, "max_frame_rate": desk.max_frame_rate}
    return Way(Key("fetch_ytdlp", VERSION, config, want.key), make)


def _attempt(
    want: Want, folder: Path, desk: Desk, claim: cache.Claim, deadline: float, stop: threading.Event | None
) -> str:
    """One download; returns the description of the chosen format. Nothing but the file is left of it."""
    claim.take(0)
    limits, job = desk.limits, folder / "job"
    job.mkdir()
    order = _Order(
        _plain(want.url), str(job), desk.min_height, desk.max_frame_rate,
        limits.file_bytes, claim.most_bytes(), limits.free_bytes, desk.cookies,
        desk.private_addresses,
    )  # fmt: skip
    try:
        child_limits = ChildLimits(
            max(1.0, deadline - time.monotonic()), _MEMORY_BYTES, limits.file_bytes + _OTHER_FILES_BYTES
        )
        answer = _in_child(_download_child, order, child_limits, want.origin, stop)
        if isinstance(answer, _Failure):
            reject = Rejected(
                answer.cause, f"{want.origin}: {answer.message}", answer.value, _bound(answer, order)
            )
            raise Again(reject, retry_after_s(answer.retry_after)) if answer.cause in _PASSING else reject
        _check_content(want, job / FILE)
        os.replace(job / FILE, folder / FILE)
    finally:
        shutil.rmtree(job)
    claim.take((folder / FILE).stat().st_size, (folder / FILE).stat().st_size)
    return cast(str, answer)


def _in_child(
    function: Callable[[Any], Any],
    argument: Any,
    limits: ChildLimits,
    origin: str,
    stop: threading.Event | None,
) -> Any:
    variables = {name: text for name, text in os.environ.items() if name.lower() in _NETWORK_VARIABLES}
    try:
        return run_in_open_child(function, (argument,), limits, stop, variables)
    except Rejected as err:
        raise Rejected(_CHILD_CAUSES[err.cause], f"{origin}: yt-dlp: {err.message}") from err


def _bound(failure: _Failure, order: _Order) -> float | None:
    return order.file_bytes if failure.cause == "too_large" else None


def _check_content(want: Want, path: Path) -> None:
    with open(path, "rb") as file:
        if kind_of(file.read(HEAD_BYTES)) != "file":
            raise Rejected("not_video", f"{want.origin}: what yt-dlp downloaded is a page of text or empty")


# ---- in the child ---------------------------------------------------------------------------------


def _download_child(order: _Order) -> str | _Failure:
    """Downloads to `FILE` in the order's folder; returns the description of the format."""
    _be_silent()
    home = Path(order.folder) / "home"
    home.mkdir()
    os.environ.update(YTDLP_NO_PLUGINS="1", HOME=str(home), XDG_CACHE_HOME=str(home), TMPDIR=str(home))
    tempfile.tempdir = None  # of before
    peers.guard_process(order.private_addresses, _RUNTIMES)
    if not order.private_addresses:
        sys.modules["curl_cffi"] = None  # type: ignore[assignment]  # it connects where no hook sees it
    import yt_dlp

    options = _options(order)
    try:
        with yt_dlp.YoutubeDL(options) as downloader:
            return _result(downloader.extract_info(order.url, download=True), order)
    except Exception as err:  # noqa: BLE001 - an extractor may fail on a page in any way
        return _failure(err, order)


def _be_silent() -> None:
    """What is said anywhere in this process goes nowhere: it may name addresses and cookies."""
    logging.disable()
    with open(os.devnull, "w") as nowhere:
        for descriptor in (1, 2):
            os.dup2(nowhere.fileno(), descriptor)


def _result(info: dict[str, Any] | None, order: _Order) -> str | _Failure:
    while info and info.get("_type") in ("playlist", "multi_video"):
        info = next(iter(info.get("entries") or ()), None)
    downloads = (info or {}).get("requested_downloads") or [{}]
    expected = Path(order.folder) / FILE
    if downloads[0].get("filepath") != str(expected) or not expected.is_file():
        return _Failure("unsupported_site", "nothing was found to download")
    return describe_format(downloads[0])


def _failure(err: Exception, order: _Order) -> _Failure:
    ours = rejected_in(err)
    if ours is not None:
        return _Failure(ours.cause, ours.message, ours.value)
    cause, text = cause_of(err), text_of(err)
    if cause == "site_error":
        text = f"{type(err).__name__}: {text}"
    if cause == "no_format" and _is_youtube(order.url) and not _has_runtime():
        # yt-dlp#15569: without one, YouTube's formats are there and cannot be had
        cause, text = "site_error", "YouTube needs a JavaScript runtime: pip install 'lvg[youtube]'"
    return _Failure(cause, without_secrets(text, order.url)[:_MESSAGE_CHARACTERS], None, retry_after_of(err))


def _is_youtube(url: str) -> bool:
    return site_of(url).endswith(("youtube.com", "youtube-nocookie.com"))


def _has_runtime() -> bool:
    from yt_dlp.globals import supported_js_runtimes

    found = [runtime().info for runtime in supported_js_runtimes.value.values()]
    return any(info is not None and info.supported for info in found)


class _Silence:
    """yt-dlp's messages name addresses and cookies; what went wrong comes as an exception."""

    def debug(self, _: str) -> None: ...

    def warning(self, _: str) -> None: ...

    def error(self, _: str) -> None: ...


def _options(order: _Order) -> dict[str, Any]:
    """All of yt-dlp's options: used as a library it reads no configuration, and no input reaches these."""
    from yt_dlp.globals import supported_js_runtimes

    def select(context: dict[str, Any]) -> list[dict[str, Any]]:
        chosen = choose(context["formats"], order.min_height, order.max_frame_rate)
        return [] if chosen is None else [cast(dict[str, Any], chosen)]

    def back_off(n: int) -> float:  # called by this name
        return min(30.0, 0.25 * 2.0**n)

    return {
        "format": select,
        "match_filter": lambda info, *, incomplete=False: _check_info(info, order),
        "progress_hooks": [lambda progress: _check_progress(progress, order)],
        "outtmpl": {"default": FILE},
        "paths": {"home": order.folder, "temp": order.folder},
        "noplaylist": True,
        "playlist_items": "1:2",  # a second one is enough to say no
        "continuedl": False,
        "updatetime": False,
        "fixup": "never",
        "cachedir": False,
        "quiet": True,
        "noprogress": True,
        "no_warnings": True,
        "color": "never",
        "logger": _Silence(),
        "socket_timeout": _STALL_S,
        "retries": _RETRIES,
        "extractor_retries": _RETRIES,
        "fragment_retries": _RETRIES,
        "file_access_retries": 0,
        "skip_unavailable_fragments": False,
        "retry_sleep_functions": dict.fromkeys(("http", "fragment", "extractor"), back_off),
        # Only what yt-dlp can do by itself: no ffmpeg, no other downloader; JavaScript in the runtimes it knows.
        "external_downloader": dict.fromkeys(("default", "http", "m3u8", "dash"), "native"),
        "ffmpeg_location": os.devnull + "/none",
        "js_runtimes": {name: {} for name in supported_js_runtimes.value},
        "cookiefile": _cookies(order.cookies),
    }


def _cookies(path: str | None) -> io.StringIO | None:
    """The content of the cookies file: yt-dlp would write a file that it is given anew when it ends.

    Raises:
      RuntimeError: it cannot be used; the text shows nothing of it.
    """
    if path is None:
        return None
    from http.cookiejar import LoadError

    from yt_dlp.cookies import YoutubeDLCookieJar

    try:
        text = Path(path).read_text(encoding="utf-8")
        YoutubeDLCookieJar(io.StringIO(text)).load()
    except (OSError, UnicodeDecodeError, LoadError):
        raise RuntimeError("the cookies file cannot be read; it must have Netscape's format") from None
    return io.StringIO(text)


def _check_info(info: dict[str, Any], order: _Order) -> None:
    """Looks at what is known before anything is downloaded.

    Raises:
      Rejected: not one video, not over yet, or too large.
    """
    if (info.get("n_entries") or 1) > 1 or (info.get("playlist_count") or 1) > 1:
        raise Rejected("unsupported_site", "several videos at this address; list each by its own")
    if info.get("is_live") or info.get("live_status") in _NOT_OVER:
        raise Rejected("live", "a broadcast that has not ended")
    size = info.get("filesize") or info.get("filesize_approx") or 0
    if size > order.file_bytes:
        text = f"{size} bytes, exactly or by yt-dlp's estimate; limits.file_bytes is {order.file_bytes}"
        raise Rejected("too_large", text, info.get("filesize"))
    if size > order.room_bytes:
        raise Rejected("no_space", f"no room for {size} bytes in limits.cache_bytes")


def _check_progress(progress: dict[str, Any], order: _Order) -> None:
    """Raises: Rejected, when what has come is too large or fills the disk."""
    have = progress.get("downloaded_bytes") or 0
    if have > order.file_bytes:
        raise Rejected("too_large", f"more than limits.file_bytes, {order.file_bytes}")
    if have > order.room_bytes:
        raise Rejected("no_space", "no more room in limits.cache_bytes")
    if shutil.disk_usage(order.folder).free < order.free_bytes:
        raise Rejected("no_space", "less than limits.free_bytes is free on the disk")
