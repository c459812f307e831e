"""Whether what a card's sources need is installed here: yt-dlp, its JavaScript runtime, and stores' clients."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import fsspec

from lvg_data.fetch.addresses import site_of
from lvg_data.records import Address, Source
from lvg_data.store import is_local

_INSTALL = "pip install 'lvg[youtube]'"
#: scheme -> the extra that brings its client
_EXTRAS = {"s3": "aws", "s3a": "aws", "gs": "gcp", "gcs": "gcp"}


@dataclass(frozen=True)
class _Runtime:
    """A JavaScript runtime that yt-dlp can use.

    Attributes:
      minimum: lowest version that yt-dlp takes.
      version: of the one found, or None.
    """

    name: str
    minimum: str
    version: str | None
    is_supported: bool

    def __str__(self) -> str:
        if self.version is None:
            return f"{self.name}: not found (at least {self.minimum})"
        return (
            f"{self.name}: {self.version}{'' if self.is_supported else f', too old: at least {self.minimum}'}"
        )


def check(sources: Iterable[Source]) -> list[str]:
    """What is missing for these sources, in words; empty when all is there."""
    urls = [s.media.url for s in sources if isinstance(s.media, Address) and not is_local(s.media.url)]
    needs_youtube = any(_is_youtube(url) for url in urls)
    schemes = sorted({urlsplit(url).scheme for url in urls} - {"http", "https"})
    missing = [problem for scheme in schemes if (problem := _client_problem(scheme)) is not None]
    return [*missing, *(problems() if needs_youtube else ())]


def problems() -> list[str]:
    """What is missing for YouTube, in words; empty when all is there."""
    found = []
    runtimes = _runtimes()
    if not any(runtime.is_supported for runtime in runtimes):
        known = "; ".join(str(runtime) for runtime in runtimes)
        found.append(
            f"YouTube needs a JavaScript runtime, and yt-dlp found none that it can use ({known}): {_INSTALL}"
        )
    wanted, version = _wanted_solver(), _version("yt-dlp-ejs")
    if version is None:
        found.append(f"YouTube needs yt-dlp-ejs {wanted}, which is not installed: {_INSTALL}")
    elif (
        version.split(".")[:2] != wanted.split(".")[:2]
    ):  # yt-dlp takes any patch of the version it was made for
        found.append(f"this yt-dlp needs yt-dlp-ejs {wanted}, found {version}: {_INSTALL}")
    return found


def report() -> list[str]:
    """What was found of what YouTube needs, one line each."""
    solver = _version("yt-dlp-ejs") or "not found"
    return [
        f"yt-dlp: {_version('yt-dlp')}",
        f"yt-dlp-ejs: {solver} (this yt-dlp needs {_wanted_solver()})",
        *(str(runtime) for runtime in _runtimes()),
    ]


def _is_youtube(url: str) -> bool:
    return site_of(url).partition(":")[0].endswith(("youtube.com", "youtube-nocookie.com"))


def _client_problem(scheme: str) -> str | None:
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as err:
        remedy = f"pip install 'lvg[{_EXTRAS[scheme]}]'" if scheme in _EXTRAS else str(err)
        return f"{scheme}:// addresses need a client that is not installed: {remedy}"
    except ValueError:
        return f"{scheme}:// addresses: fsspec knows no such store"
    return None


def _runtimes() -> list[_Runtime]:
    """The runtimes that this yt-dlp knows, as it finds them itself."""
    import yt_dlp  # noqa: F401 - registers them
    from yt_dlp.globals import supported_js_runtimes

    found = []
    for name, runtime in supported_js_runtimes.value.items():
        info, minimum = runtime().info, ".".join(map(str, runtime.MIN_SUPPORTED_VERSION))
        version, is_supported = (info.version, info.supported) if info is not None else (None, False)
        found.append(_Runtime(name, minimum, version, is_supported))
    return found


def _wanted_solver() -> str:
    """Version of yt-dlp-ejs that the installed yt-dlp asks for."""
    pins = (re.match(r"yt-dlp-ejs==([\d.]+)", line) for line in importlib.metadata.requires("yt-dlp") or ())
    return next(pin[1] for pin in pins if pin is not None)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
