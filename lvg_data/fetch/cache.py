"""Room for downloads: what they may take of the disk, and which fetched files make place for new ones.

Fetched files are artefacts of the store. In a local one their sum is bounded by `limits.cache_bytes`: before a
download would exceed it, those least recently used are evicted, except files that this run fetched or used and
files that are open. The time of a file's last use is its modification time; an open file is locked
(`flock`), so that other processes see both. A remote store is not bounded.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lvg_data.errors import Rejected
from lvg_data.fetch.desk import Desk
from lvg_data.fetch.way import FILE
from lvg_data.store import is_local, local_path

#: kinds of artefacts that a download makes, and that can be downloaded again
KINDS = ("fetch_http", "fetch_ytdlp", "fetch_object")
#: the disk is looked at again whenever a download has grown by this much
_STEP_BYTES = 64 << 20
_MAKING = threading.Lock()


class Room:
    """What the downloads of this process that are under way take of one store."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.claims: dict[int, int] = {}
        self._refills: dict[str, threading.Lock] = {}

    def refill_lock(self, address: str) -> threading.Lock:
        """Held while an evicted file is fetched again, so that only one of its readers does that."""
        with self.lock:
            return self._refills.setdefault(address, threading.Lock())


@functools.cache
def _room_in(root: str) -> Room:
    return Room()


def room_of(desk: Desk) -> Room:
    with _MAKING:
        return _room_in(desk.store.root)


class Claim:
    """The room of one download into `folder`."""

    def __init__(self, origin: str, desk: Desk, folder: Path) -> None:
        self._origin, self._desk, self._folder = origin, desk, folder
        self._room, self._checked_bytes = room_of(desk), 0
        with self._room.lock:
            self._room.claims[id(self)] = 0

    def release(self) -> None:
        with self._room.lock:
            del self._room.claims[id(self)]

    def take(self, size_bytes: int, have_bytes: int = 0) -> None:
        """Makes room for a file of `size_bytes` in all, of which `have_bytes` are written.

        Raises:
          Rejected: `no_space`; nothing is evicted for it then.
        """
        limits = self._desk.limits
        with self._room.lock:
            self._room.claims[id(self)] = size_bytes
            free = shutil.disk_usage(self._folder).free
            missing = {
                f"limits.cache_bytes is {limits.cache_bytes}": self._claimed() - limits.cache_bytes,
                f"{free} bytes are free, of which {limits.free_bytes} stay": (
                    size_bytes - have_bytes + limits.free_bytes - free
                ),
            }
            reason, most = max(missing.items(), key=lambda item: item[1])
            if most > 0 and not _make_room(most, self._desk):
                self._room.claims[id(self)] = have_bytes
                text = f"{self._origin}: no room for {size_bytes} bytes: {reason}"
                raise Rejected("no_space", text)
            self._checked_bytes = have_bytes

    def follow(self, have_bytes: int) -> None:
        """Says how much is written: looks again now and then, and takes more where that was not foreseen."""
        claimed = self._room.claims[id(self)]
        if have_bytes > claimed:
            self.take(have_bytes + min(_STEP_BYTES, have_bytes // 8), have_bytes)
        elif have_bytes >= self._checked_bytes + _STEP_BYTES:
            self.take(claimed, have_bytes)

    def most_bytes(self) -> int:
        """What a download could take at most, everything evicted that may be."""
        with self._room.lock:
            evictable = sum(file.size_bytes for file in _evictable(self._desk))
            return max(0, self._desk.limits.cache_bytes - self._claimed() + evictable)

    def _claimed(self) -> int:
        """Bytes in the store and promised to downloads; 0 for a store without bounds."""
        if not is_local(self._desk.store.root):
            return 0
        kept = sum(file.size_bytes for file in _kept(self._desk))
        return kept + sum(self._room.claims.values())


@contextlib.contextmanager
def claim(origin: str, desk: Desk, folder: Path) -> Iterator[Claim]:
    """The room of one download, given back when it is done: then the store's files say what is taken."""
    claimed = Claim(origin, desk, folder)
    try:
        yield claimed
    finally:
        claimed.release()


def open_for_use(path: Path) -> BinaryIO | None:
    """A fetched file, locked against eviction until it is closed; None where it was evicted."""
    try:
        file = open(path, "rb")  # noqa: SIM115 - the caller closes it
    except FileNotFoundError:
        return None
    fcntl.flock(file, fcntl.LOCK_SH)
    if os.fstat(file.fileno()).st_nlink == 0:  # evicted between the two
        file.close()
        return None
    os.utime(path)
    return file


def begin_run(desk: Desk) -> None:
    """Notes when this run began to use its store: what was used before may be evicted in it."""
    if is_local(desk.store.root) and not _start_mark(desk).exists():
        _start_mark(desk).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            _start_mark(desk).touch(exist_ok=False)


def _start_mark(desk: Desk) -> Path:
    run = desk.run or f"{socket.gethostname()}-{os.getpid()}"
    return local_path(desk.store.root) / "fetch_runs" / run


@dataclass(frozen=True, order=True)
class _Kept:
    """A fetched file in the store."""

    used_ns: int
    path: Path
    size_bytes: int


def _kept(desk: Desk) -> list[_Kept]:
    """The fetched files of a local store, least recently used first."""
    found = []
    for kind in KINDS:
        for path in (local_path(desk.store.root) / kind).glob(f"*/{FILE}"):
            with contextlib.suppress(FileNotFoundError):  # another process evicts too
                stat = path.stat()
                found.append(_Kept(stat.st_mtime_ns, path, stat.st_size))
    return sorted(found)


def _evictable(desk: Desk) -> list[_Kept]:
    """Files that this run has not used; none before it has begun."""
    if not is_local(desk.store.root) or not _start_mark(desk).exists():
        return []
    began_ns = _start_mark(desk).stat().st_mtime_ns
    return [file for file in _kept(desk) if file.used_ns < began_ns]


def _make_room(num_bytes: int, desk: Desk) -> bool:
    """Evicts until so many bytes are free; where they cannot be had, nothing."""
    unused = _evictable(desk)
    if sum(file.size_bytes for file in unused) < num_bytes:
        return False
    for file in unused:
        if num_bytes > 0 and _evict(file.path, desk):
            num_bytes -= file.size_bytes
    return num_bytes <= 0


def _evict(path: Path, desk: Desk) -> bool:
    """Whether the file is gone; one that is open stays."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            desk.store.evict(str(path.parent))
    except BlockingIOError:
        return False
    except FileNotFoundError:  # another process was faster
        pass
    return True
