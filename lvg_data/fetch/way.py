"""How one file is asked for: its key in the store, and the function that gets it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lvg_data.config import LimitsConfig
from lvg_data.errors import Rejected
from lvg_data.fetch.addresses import address_key, public_address
from lvg_data.store import Key

#: name of the one file of every artefact of this package
FILE = "video"


@dataclass(frozen=True)
class Want:
    """One file to fetch.

    Attributes:
      origin: what messages call it.
      url: as given; may hold a secret.
      sha256: what the content must hash to, when that was promised.
    """

    origin: str
    url: str = field(repr=False)
    sha256: str | None = None

    @property
    def key(self) -> tuple[str | None, ...]:
        """Inputs of its artefact's key: nothing secret, except in a hash."""
        return public_address(self.url), address_key(self.url), self.sha256


@dataclass(frozen=True)
class Way:
    """A way to a file: `make(folder)` leaves it there as `FILE` and describes it, or raises `NotThisWay`."""

    key: Key
    make: Callable[[Path], dict[str, Any]]


class NotThisWay(Exception):
    """The address is no plain file; yt-dlp is to look at it."""


def describe(want: Want, path: Path) -> dict[str, Any]:
    """sha256 and size of a fetched file.

    Raises:
      Rejected: it is not what was promised.
    """
    found = file_sha256(path)
    if want.sha256 not in (None, found):
        raise Rejected("hash_mismatch", f"{want.origin}: sha256 is {found}, promised {want.sha256}")
    return {"sha256": found, "size_bytes": path.stat().st_size}


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_size(origin: str, size_bytes: int, limits: LimitsConfig) -> None:
    if size_bytes > limits.file_bytes:
        text = f"{origin}: {size_bytes} bytes; limits.file_bytes is {limits.file_bytes}"
        raise Rejected("too_large", text, size_bytes, limits.file_bytes)
