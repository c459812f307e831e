"""Getting the bytes of a source: local files in place, HTTP(S) with resume, retries and content checks."""

from __future__ import annotations

import hashlib
import os
import random
import time
from pathlib import Path
from typing import BinaryIO

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, ResponseError
from urllib3.util import Retry, Timeout

from lvg_data import ids
from lvg_data.config import LimitsConfig
from lvg_data.errors import Rejected
from lvg_data.records import Address, Fetched, Source
from lvg_data.sources.urls import public_address
from lvg_data.store import Key, Store

VERSION = 1
_CHUNK_BYTES = 1 << 20
#: HTTP status -> cause; others of 4xx are `forbidden`, of 5xx `network`
_STATUS_CAUSES = {404: "not_found", 410: "gone", 429: "rate_limited", 503: "rate_limited"}


def fetch(source: Source, store: Store, limits: LimitsConfig) -> Fetched:
    """The source's bytes at hand, with their sha256.

    Raises:
      Rejected: not there, refused, cut off, too large, or not what `sha256` promises.
    """
    media = source.media
    assert isinstance(media, Address), "only addresses are fetched"
    fetched = (
        _local(source, media, store, limits)
        if "://" not in media.url
        else _remote(source, media, store, limits)
    )
    if media.sha256 not in (None, fetched.sha256):
        raise Rejected(
            "hash_mismatch", f"{source.origin}: sha256 is {fetched.sha256}, promised {media.sha256}"
        )
    return fetched


def _local(source: Source, media: Address, store: Store, limits: LimitsConfig) -> Fetched:
    path = Path(media.url)
    try:
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
    except PermissionError as err:
        raise Rejected("forbidden", f"{source.origin}: {err}") from err
    except OSError as err:
        raise Rejected("not_found", f"{source.origin}: {err}") from err
    _check_size(source.origin, stat.st_size, limits)
    seen = (str(path), stat.st_size, stat.st_mtime_ns)
    key = Key("hash_file", VERSION, None, seen)
    result = store.get_or_make(key, lambda _: {"sha256": file_sha256(path)}).result
    return Fetched(source, str(path), result["sha256"], stat.st_size)


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_size(origin: str, size: int, limits: LimitsConfig) -> None:
    if size > limits.file_bytes:
        text = f"{origin}: {size} bytes; limits.file_bytes is {limits.file_bytes}"
        raise Rejected("too_large", text, size, limits.file_bytes)


def _remote(source: Source, media: Address, store: Store, limits: LimitsConfig) -> Fetched:
    # The address as given may hold a secret; its hash may be stored, its text may not.
    secret_free = (public_address(media.url), ids.canonical_hash(media.url), media.sha256)
    key = Key("fetch_http", VERSION, None, secret_free)

    def download(folder: Path) -> dict[str, object]:
        with open(folder / "video", "wb") as file:
            _download(source.origin, media.url, file, limits)
        path = folder / "video"
        return {"sha256": file_sha256(path), "size_bytes": path.stat().st_size}

    artefact = store.get_or_make(key, download)
    result = artefact.result
    return Fetched(source, f"{artefact.address}/video", result["sha256"], result["size_bytes"])


def _download(origin: str, url: str, file: BinaryIO, limits: LimitsConfig) -> None:
    """Writes the whole body to `file`, going on where a connection broke off if the server can.

    urllib3 repeats what the server asks to repeat, with jittered back-off and Retry-After. Connections that
    fail are repeated here, because urllib3 logs each of those with the whole address, secrets included.
    """
    retry = Retry(
        total=None, connect=0, read=0, other=0, redirect=10, status=limits.fetch_attempts,
        backoff_factor=0.2, backoff_jitter=0.2, backoff_max=60,
        status_forcelist=(429, 500, 502, 503, 504), respect_retry_after_header=True, raise_on_status=False,
    )  # fmt: skip
    deadline = time.monotonic() + limits.fetch_wall_s
    with urllib3.PoolManager(retries=retry, timeout=Timeout(connect=30, read=60)) as pool:
        for attempt in range(limits.fetch_attempts):
            try:
                if _continue(pool, origin, url, file, limits, deadline):
                    return
            except HTTPError as err:
                if attempt + 1 == limits.fetch_attempts:
                    raise Rejected("network", f"{origin}: {_reason(err)} at {file.tell()} bytes") from err
            time.sleep(min(60.0, 0.2 * 2**attempt) * random.uniform(1, 2))
    raise Rejected("network", f"{origin}: cut off {limits.fetch_attempts} times, last at {file.tell()} bytes")


def _reason(err: HTTPError) -> str:
    """What went wrong, in words of ours: urllib3's name host, port and query."""
    reason = err.reason if isinstance(err, MaxRetryError) and err.reason is not None else err
    if isinstance(reason, ResponseError):
        return str(reason)  # too many redirects
    detail = reason.__cause__.strerror if isinstance(reason.__cause__, OSError) else None
    return f"{type(reason).__name__} ({detail})" if detail else type(reason).__name__


def _continue(
    pool: urllib3.PoolManager, origin: str, url: str, file: BinaryIO, limits: LimitsConfig, deadline: float
) -> bool:
    """One request from where `file` ends; True when the body is complete."""
    have = file.tell()
    headers = {"Range": f"bytes={have}-"} if have else {}
    headers["Accept-Encoding"] = "identity"
    response = pool.request("GET", url, headers=headers, preload_content=False)
    try:
        if have and response.status != 206:  # the server cannot go on from there: begin again
            file.seek(0)
            file.truncate()
        if have and response.status == 416:
            return False
        _check_status(origin, response.status)
        promised = response.headers.get("Content-Length")
        if promised is not None:
            _check_size(origin, file.tell() + int(promised), limits)
        # read1 gives what has come, so that a connection that breaks loses none of it
        while chunk := response.read1(_CHUNK_BYTES):
            file.write(chunk)
            if file.tell() > limits.file_bytes:  # by how much is chance, and no figure for a table
                text = f"{origin}: more than limits.file_bytes, {limits.file_bytes}"
                raise Rejected("too_large", text, None, limits.file_bytes)
            if time.monotonic() > deadline:
                raise Rejected("network", f"{origin}: not done after {limits.fetch_wall_s:g} s")
        return True
    finally:
        response.close()


def _check_status(origin: str, status: int) -> None:
    if status in (200, 206):
        return
    cause = _STATUS_CAUSES.get(status, "forbidden" if status < 500 else "network")
    raise Rejected(cause, f"{origin}: HTTP status {status}")
