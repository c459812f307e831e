"""Shards of remote datasets on this disk: fetched once, named by their content, the least recently used make room."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import platformdirs

from lvg_data.errors import DatasetError
from lvg_data.records import Shard

DEFAULT_CACHE_BYTES = 64 << 30


def default_folder() -> Path:
    return Path(platformdirs.user_cache_dir("lvg")) / "shards"


class ShardCache:
    """A folder of shards that any number of datasets, threads and processes of a machine may share.

    One shard is fetched at a time. A shard that makes room while it is mapped stays readable, and its bytes are
    the disk's again when it is no longer open.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes

    def fetch(self, url: str, shard: Shard) -> Path:
        """A local file with the content of the shard at `url`.

        Raises:
          DatasetError: it is not there, larger than the cache may be, or not what its row says.
        """
        path = self.folder / f"{shard.sha256}.tar"
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if not (path.exists() and path.stat().st_size == shard.size_bytes):
                self._make_room(shard)
                _download(url, shard, path)
            os.utime(path)  # the clock of what was used last
        return path

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in self.folder.glob("*.tmp"):  # of a process that was killed: nobody else is in here
                leftover.unlink()
            yield

    def _make_room(self, shard: Shard) -> None:
        if shard.size_bytes > self.limit_bytes:
            raise DatasetError(
                f"shard {shard.name} has {shard.size_bytes:,} bytes and the cache {self.folder} may hold "
                f"{self.limit_bytes:,}; open the dataset with a larger cache_bytes"
            )
        found = sorted((path.stat().st_mtime_ns, path) for path in self.folder.glob("*.tar"))
        total = sum(path.stat().st_size for _, path in found)
        for _, path in found:
            if total + shard.size_bytes <= self.limit_bytes:
                return
            total -= path.stat().st_size
            path.unlink()


def _download(url: str, shard: Shard, path: Path) -> None:
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    fs, remote = fsspec.url_to_fs(url)
    try:
        try:
            fs.get_file(remote, str(temporary))
        except FileNotFoundError as err:
            raise DatasetError(
                f"{url} does not exist; copy it there again, or build the dataset again"
            ) from err
        with open(temporary, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != shard.sha256:
            raise DatasetError(
                f"{url} has sha256 {digest}, the shards table says {shard.sha256}; copy it there again, or "
                "build the dataset again"
            )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
