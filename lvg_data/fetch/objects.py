"""Objects of S3, Google Cloud Storage and whatever else fsspec reaches."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec

from lvg_data.child import Stopped
from lvg_data.errors import Rejected
from lvg_data.fetch import cache
from lvg_data.fetch.desk import Desk
from lvg_data.fetch.polite import Again, host_of, persist
from lvg_data.fetch.way import FILE, Want, Way, check_size, describe
from lvg_data.store import Key

VERSION = 1
_CHUNK_BYTES = 8 << 20


def way(want: Want, desk: Desk, stop: threading.Event | None) -> Way:
    """The way to a video in a bucket."""
    return Way(
        Key("fetch_object", VERSION, None, want.key), lambda folder: download(want, folder, desk, stop)
    )


def download(want: Want, folder: Path, desk: Desk, stop: threading.Event | None) -> dict[str, Any]:
    """Downloads into `folder`; returns the description of the file."""
    parts = urlsplit(want.url)
    try:
        fsspec.get_filesystem_class(parts.scheme)
    except ValueError as err:
        raise Rejected("unsupported_site", f"{want.origin}: fsspec knows no {parts.scheme}://") from err
    host = host_of(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", desk)
    with cache.claim(want.origin, desk, folder) as claim:
        claim.take(0)

        def attempt(deadline: float) -> None:
            try:
                _copy(want, folder / FILE, desk, claim, deadline, stop)
            except Exception as err:
                meaning = _meaning(want, err)
                if meaning is None:
                    raise
                raise meaning from err

        persist(attempt, host, "file", desk, want.origin, stop)
    return describe(want, folder / FILE)


def _copy(
    want: Want, path: Path, desk: Desk, claim: cache.Claim, deadline: float, stop: threading.Event | None
) -> None:
    # Not fsspec's `url_to_fs`, by which an address can ask for other kinds of stores too: s3://a::file:///b
    kind = fsspec.get_filesystem_class(urlsplit(want.url).scheme)
    fs, remote_path = kind(**kind._get_kwargs_from_urls(want.url)), kind._strip_protocol(want.url)
    info = fs.info(remote_path)
    if info["type"] == "directory":
        raise Rejected("not_found", f"{want.origin}: no object, but the beginning of others' names")
    size = info.get("size")
    if size is not None:
        check_size(want.origin, size, desk.limits)
        claim.take(size)
    with fs.open(remote_path, "rb") as remote, open(path, "wb") as file:
        while chunk := remote.read(_CHUNK_BYTES):
            file.write(chunk)
            check_size(want.origin, file.tell(), desk.limits)
            if time.monotonic() > deadline:
                raise Rejected("network", f"{want.origin}: not done after {desk.limits.fetch_wall_s:g} s")
            if stop is not None and stop.is_set():
                raise Stopped("stopped while downloading")
            claim.follow(file.tell())
    found = path.stat().st_size
    if size not in (None, found):
        fs.invalidate_cache()  # which may remember the size of an object that was replaced
        raise Again(Rejected("network", f"{want.origin}: cut off at {found} of {size} bytes"))
    if found == 0:
        raise Rejected("not_video", f"{want.origin}: an empty object")


#: of botocore and aiohttp, which are no OSError
_CONNECTION_ERRORS = {"HTTPClientError", "ConnectionError", "ClientError", "IncompleteReadError"}


def _meaning(want: Want, err: Exception) -> Exception | None:
    """What an exception says of the data, or None; each kind of store has exceptions of its own."""
    if isinstance(err, Rejected | Stopped):
        return None
    status = getattr(err, "code", None) or getattr(err, "status", None)
    if isinstance(err, FileNotFoundError | IsADirectoryError):
        return Rejected("not_found", f"{want.origin}: no such object")
    # gcsfs raises OSError("Forbidden: ...") for 403, and HttpError with its code for others
    if isinstance(err, PermissionError) or status in (401, 403) or str(err).startswith("Forbidden"):
        return Rejected("forbidden", f"{want.origin}: the store refuses access")
    kinds = {kind.__name__ for kind in type(err).__mro__}
    if "ParamValidationError" in kinds:  # of botocore: no bucket can have that name
        return Rejected("not_found", f"{want.origin}: not the address of an object")
    if "NoCredentialsError" in kinds:  # of botocore
        return Rejected("login_required", f"{want.origin}: no credentials for this store")
    if isinstance(err, OSError) or isinstance(status, int) or kinds & _CONNECTION_ERRORS:
        return Again(Rejected("network", f"{want.origin}: {type(err).__name__}"))
    return None
