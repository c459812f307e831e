"""A folder of files that can be made again, together under a limit of bytes: the least recently used make room."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

#: of the limit is freed at once, so that a folder of many files is not listed for each new one
_SPARE = 1 / 64


class NoRoom(Exception):
    """A file is larger than what the folder may still hold."""


class CacheFolder:
    """Files with one suffix, shared by any number of threads and processes of a machine.

        lock               held while a file is made or removed; inside, the bytes of all files
        <name><suffix>     there whole or not at all; its access time is the clock of its last use
        <name>.<hex>.tmp   being made

    A file that makes room while it is open stays readable, and its bytes are the disk's again when it is closed.
    """

    def __init__(self, folder: Path, limit_bytes: int, suffix: str) -> None:
        self.folder, self.limit_bytes, self.suffix = folder, limit_bytes, suffix
        self._listed = False

    def path(self, name: str) -> Path:
        return self.folder / f"{name}{self.suffix}"

    def get_or_make(
        self, name: str, size_bytes: int, make: Callable[[Path], None], kept_since_ns: int | None = None
    ) -> Path:
        """The file `name`, made by `make(temporary path)` where it is missing or has another size.

        Args:
          kept_since_ns: files that were used at this time or later do not make room.

        Raises:
          NoRoom: it does not fit beside the files that are kept.
        """
        path = self.path(name)
        with self.locked() as lock:
            if not has_size(path, size_bytes):
                path.unlink(missing_ok=True)
                self._make_room(lock, size_bytes, kept_since_ns)
                temporary = path.with_name(f"{name}.{uuid.uuid4().hex}.tmp")
                try:
                    make(temporary)
                    os.replace(temporary, path)
                finally:
                    temporary.unlink(missing_ok=True)
            mark_used(path)
        return path

    @contextlib.contextmanager
    def locked(self) -> Iterator[IO[str]]:
        """Alone in the folder, which is made where there is none; yields the open lock file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock

    def _make_room(self, lock: IO[str], size_bytes: int, kept_since_ns: int | None) -> None:
        total = self._noted_total(lock)
        if total is None or total + size_bytes > self.limit_bytes:
            total = self._evict(size_bytes, kept_since_ns)
        fits = total + size_bytes <= self.limit_bytes
        lock.truncate(0)
        lock.write(str(total + size_bytes if fits else total))
        if not fits:
            raise NoRoom

    def _noted_total(self, lock: IO[str]) -> int | None:
        """Bytes of all files as the last process noted them; None where the folder has to be listed once."""
        lock.seek(0)
        text = lock.read()
        return int(text) if self._listed and text.isdecimal() else None

    def _evict(self, size_bytes: int, kept_since_ns: int | None) -> int:
        """Lists the folder, removes what was used least recently, and what killed processes left behind.

        Returns:
          Bytes of the files that stay.
        """
        for leftover in self.folder.glob("*.tmp"):  # nobody else is in here
            leftover.unlink()
        self._listed = True
        found = sorted((stat.st_atime_ns, stat.st_size, path) for path, stat in self._stats())
        total = sum(size for _, size, _ in found)
        if total + size_bytes <= self.limit_bytes:
            return total
        goal = self.limit_bytes * (1 - _SPARE) - size_bytes
        for used_ns, size, path in found:
            if total <= goal or size_bytes > self.limit_bytes:
                break
            if kept_since_ns is None or used_ns < kept_since_ns:
                path.unlink(missing_ok=True)
                total -= size
        return total

    def _stats(self) -> Iterator[tuple[Path, os.stat_result]]:
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(self.suffix):
                    with contextlib.suppress(FileNotFoundError):  # removed by hand
                        yield Path(entry.path), entry.stat()


def has_size(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except FileNotFoundError:
        return False


def mark_used(path: Path | int) -> None:
    """Sets the clock of a file's last use, and not that of its last change; by path or open descriptor."""
    now = time.time_ns()  # the kernel's own, coarser one may lie before a time that was just read
    os.utime(path, ns=(now, os.stat(path).st_mtime_ns))
