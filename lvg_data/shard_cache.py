"""Shards of remote datasets on this disk: fetched once, named by their content, the least recently used make room."""

from __future__ import annotations

import hashlib
from pathlib import Path

import fsspec
import platformdirs

from lvg_data.cache_folder import CacheFolder, NoRoom
from lvg_data.errors import DatasetError
from lvg_data.records import Shard

DEFAULT_CACHE_BYTES = 64 << 30


def default_folder(kind: str) -> Path:
    """The user's own folder for one kind of files, "shards" or "frames"."""
    return Path(platformdirs.user_cache_dir("lvg")) / kind


class ShardCache:
    """A folder of shards that any number of datasets, threads and processes of a machine may share.

    One shard is fetched at a time. A shard that makes room while it is open stays readable.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._files = CacheFolder(folder, limit_bytes, ".tar")

    def fetch(self, url: str, shard: Shard) -> Path:
        """A local file with the content of the shard at `url`.

        Raises:
          DatasetError: it is not there, larger than the cache may be, or not what its row says.
        """
        try:
            return self._files.get_or_make(
                shard.sha256, shard.size_bytes, lambda path: _download(url, shard, path)
            )
        except NoRoom as err:
            raise DatasetError(
                f"shard {shard.name} has {shard.size_bytes:,} bytes and the cache {self.folder} may hold "
                f"{self.limit_bytes:,}; open the dataset with a larger cache_bytes"
            ) from err


def _download(url: str, shard: Shard, path: Path) -> None:
    fs, remote = fsspec.url_to_fs(url)
    try:
        fs.get_file(remote, str(path))
    except FileNotFoundError as err:
        raise DatasetError(f"{url} does not exist; copy it there again, or build the dataset again") from err
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != shard.sha256:
        raise DatasetError(
            f"{url} has sha256 {digest}, the shards table says {shard.sha256}; copy it there again, or "
            "build the dataset again"
        )
