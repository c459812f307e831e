"""Decoded high-res frames on this disk: each is decoded once, and copied whenever it is wanted again.

    dataset = lvg_data.open(DATASET, frame_cache="/nvme/frames", frame_cache_bytes=300 << 30)

Training draws each frame some hundred times, and nearly all of its time goes into the JPEG. The price is disk:
frames x height x width x 3 bytes, three to four times the JPEGs; and the first time a frame is read costs two thirds
more than decoding it alone. It pays where training goes over the footage more than a few times, on a local disk (never
a network's) that reads faster than JPEGs decode: some 300 MB/s a core.

A file holds the frames of one part that no later part of its clip has, and is filled frame by frame:

    CRC-32 of each frame, 0 while it is not there | ... 4,096 | frame 0 | frame 1 | ...

A frame's CRC is written behind the frame, and compared the first time a process reads it. So processes may fill a file
at the same time (they write the same bytes), and what a killed process or a crash leaves half-written is made again.
"""

from __future__ import annotations

import errno
import importlib.metadata
import os
import threading
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from lvg_data import ids
from lvg_data.cache_folder import CacheFolder, NoRoom, mark_used

#: of the files; part of their names
_LAYOUT = 1
_PAGE_BYTES = 4096
_CRC_BYTES = 4
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class CachedPart:
    """Frames of one part, [0, num_frames), and all that their decoded bytes depend on."""

    shard_sha256: str
    key: str
    num_frames: int
    height: int
    width: int

    @property
    def frame_bytes(self) -> int:
        return self.height * self.width * 3

    @property
    def first_offset(self) -> int:
        return -(-_CRC_BYTES * self.num_frames // _PAGE_BYTES) * _PAGE_BYTES

    @property
    def size_bytes(self) -> int:
        return self.first_offset + self.num_frames * self.frame_bytes

    def offset(self, number: int) -> int:
        return self.first_offset + number * self.frame_bytes

    def make_empty(self, path: Path) -> None:
        """A file without frames; the disk gives it space as they come."""
        with open(path, "wb") as file:
            file.truncate(self.size_bytes)


#: writes the frame of a number into uint8 [H, W, 3]
Decode = Callable[[int, np.ndarray], None]


class FrameCache:
    """A folder of decoded frames that any number of datasets, threads and processes of a machine may share.

    Parts that nobody has used since this cache was opened make room, the least recently used first; the others
    never do. An epoch comes back to a part only after all others, so that parts that took turns would seldom be there
    when they are wanted: of a dataset twice as large as the limit, half is cached and stays.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Raises OSError where the folder cannot be made or written."""
        self.folder, self.limit_bytes = folder, limit_bytes
        self._files = CacheFolder(folder, limit_bytes, ".frames")
        self._versions = [_LAYOUT, importlib.metadata.version("simplejpeg")]
        self._opened_ns = time.time_ns()
        self._intact: dict[str, np.ndarray] = {}
        self._filling, self._lock = True, threading.Lock()
        with self._files.locked():
            pass

    def fill(self, part: CachedPart, numbers: range, out: np.ndarray, decode: Decode) -> None:
        """Writes frames of a part into uint8 [T, H, W, 3]; those that are not there yet by `decode`."""
        file = self._open(part)
        if file is None:
            for number, slot in zip(numbers, out, strict=True):
                decode(number, slot)
            return
        with file:
            for number, slot in zip(numbers, out, strict=True):
                if not file.read(number, slot):
                    decode(number, slot)
                    self._write(file, number, slot)

    def _open(self, part: CachedPart) -> _PartFile | None:
        """The file of a part; None where it is not there and there is no room for it."""
        name = ids.canonical_hash([part, *self._versions])
        found = self._open_found(name, part)
        if found is None and self._filling:
            found = self._make(name, part)
        return found

    def _open_found(self, name: str, part: CachedPart) -> _PartFile | None:
        try:
            file = os.open(self._files.path(name), os.O_RDWR)
        except FileNotFoundError:
            return None
        if os.fstat(file).st_size != part.size_bytes:
            os.close(file)
            return None
        intact = self._intact.get(name)
        if intact is None:
            mark_used(file)
            intact = self._intact[name] = np.zeros(part.num_frames, bool)
        return _PartFile(file, part, intact)

    def _make(self, name: str, part: CachedPart) -> _PartFile | None:
        try:
            self._files.get_or_make(name, part.size_bytes, part.make_empty, self._opened_ns)
        except NoRoom:
            self._stop_filling("it is full; give it more frame_cache_bytes")
        except OSError as err:
            self._disk_full(err)
        return self._open_found(name, part)

    def _write(self, file: _PartFile, number: int, frame: np.ndarray) -> None:
        if not self._filling:
            return
        try:
            file.write(number, frame)
        except OSError as err:
            self._disk_full(err)

    def _disk_full(self, err: OSError) -> None:
        if err.errno not in _NO_SPACE:
            raise err
        self._stop_filling(f"its disk is ({err.strerror}); make space, or choose another folder")

    def _stop_filling(self, cause: str) -> None:
        with self._lock:
            was_filling, self._filling = self._filling, False
        if was_filling:
            warnings.warn(
                f"frame cache {self.folder} takes no more frames ({self.limit_bytes:,} bytes allowed): {cause}. "
                "Frames that it does not have are decoded each time",
                RuntimeWarning,
                stacklevel=2,
            )


class _PartFile:
    """The open file of a part. It stays whole for who has it open when it is removed meanwhile.

    `intact` remembers over all openings in this process whose CRC was compared, bool [num_frames].
    """

    def __init__(self, file: int, part: CachedPart, intact: np.ndarray) -> None:
        self._file, self._part, self._intact = file, part, intact
        self._crcs = np.frombuffer(os.pread(file, _CRC_BYTES * part.num_frames, 0), "<u4")

    def __enter__(self) -> _PartFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def read(self, number: int, out: np.ndarray) -> bool:
        """Copies a frame into uint8 [H, W, 3]; False where it is not there, or not whole."""
        if not self._crcs[number]:
            return False
        if os.preadv(self._file, [out.data], self._part.offset(number)) != self._part.frame_bytes:
            return False
        if not self._intact[number]:
            self._intact[number] = _crc(out) == self._crcs[number]
        return bool(self._intact[number])

    def write(self, number: int, frame: np.ndarray) -> None:
        """Puts a frame in its place, and then its CRC."""
        _write_all(self._file, frame.data.cast("B"), self._part.offset(number))
        crc = np.array([_crc(frame)], "<u4")
        _write_all(self._file, crc.data.cast("B"), _CRC_BYTES * number)


def _crc(frame: np.ndarray) -> int:
    """CRC-32 of a frame; never 0, which stands for none."""
    return zlib.crc32(frame.data) or 1


def _write_all(file: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
